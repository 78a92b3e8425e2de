"""`python -m scheduler.cli`: the command `gridpace` without its script."""

import sys

from scheduler.cli import main

if __name__ == "__main__":
    sys.exit(main())
