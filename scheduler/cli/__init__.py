"""The command `gridpace`.

Why so little here: the agent shares this entry point and must stay small, so it is started before anything else is
imported; every other command is in a file of its own, and imports what it needs only when it runs.
"""

from __future__ import annotations

import sys

from scheduler.guard import MixedInstallationError, same_installation

WRONG_CONFIG = 2


def main() -> int:
    """Run one command; returns its exit code (0 done, 1 failed, 2 wrong use or config, 3 another daemon runs)."""
    try:
        same_installation()
    except MixedInstallationError as error:
        sys.stderr.write(f"gridpace: {error}\n")
        return WRONG_CONFIG
    if sys.argv[1:2] == ["agent"]:
        from scheduler.agent.process import main as agent

        return agent(sys.argv[2:])
    from scheduler.cli.app import app

    app(prog_name="gridpace")
    return 0
