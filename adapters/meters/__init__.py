"""Meters: one file for each way to read power and energy, behind `Meter`."""
