"""Deferrable work: one file for each system in which it waits and runs, behind `JobSystem`."""
