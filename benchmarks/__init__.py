"""Benchmarks: what Gridpace costs and how fast it answers, as ratios that another machine can repeat.

Each module here is one benchmark: `python -m benchmarks.NAME [--quick]` prints what a person reads and, as its last
line, one JSON object for a program. `python -m benchmarks` runs them all. They are not shipped with the package.
"""
