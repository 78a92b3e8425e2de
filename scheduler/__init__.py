"""Runs: wires adapters to the optimizer, decides when each acts, keeps the books and shows them.

The only package that reads the configuration and the clock, and the only one that may order a change of power.
"""
