"""What the benchmarks share: the command line, the last line, the machine, and the reference problem."""
