"""The linear model of a plan, in Pyomo: one small function for each family of constraints.

Why in Pyomo and not in arrays: a person must be able to read what the plan promises, next to its formula and units.
It is compiled to arrays once (`compiled.py`) and solved by HiGHS from there, so that readability costs little time.
"""
