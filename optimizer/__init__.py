"""Decides: the same problem always gives the same plan.

Kept free of I/O, clock, network and configuration, so that a plan can be replayed, compared and checked long after
the moment it was made for. It owns the domain types that the adapters and the scheduler speak.
"""
