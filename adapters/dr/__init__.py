"""Demand response: one file for each channel by which events arrive, behind `EventChannel`."""
