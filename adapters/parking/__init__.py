"""How idle GPUs are parked and woken."""
