"""GPU power: one file for each way to set a limit, behind `PowerActuator`."""
