"""Signals in: prices, carbon, weather, loads and limits, each source a file of its own.

A source reports what is known and leaves gaps as gaps; the gate and the forecast of the optimizer package decide what
to make of them.
"""
