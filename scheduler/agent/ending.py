"""One agent at a time over a state folder, and what becomes of a folder whose agent has been stopped for good.

Why that is needed: an agent that is stopped leaves its caps to its successor, as one that is killed does. A machine
that shall have none any more gives its limits back by `gridpace agent --release`.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.ports import AdapterError, PowerActuator
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.state import AgentFiles

_log = logging.getLogger("gridpace.agent")


def release_alone(power: PowerActuator, state_dir: Path, settings: AgentSettings) -> int:
    """Give back what lies in a state folder that no agent uses; the exit status: 1 where some could not be.
    AdapterError as long as an agent runs there, and where none ever did."""
    if not state_dir.is_dir():
        raise AdapterError(f"{state_dir}: no such folder; name the one of the agent: --state-dir")
    with only_one(state_dir):
        core = AgentCore(power, AgentFiles(state_dir), settings)
        if not core.outstanding:
            _log.info("%s: nothing is to be given back", state_dir)
        core.give_back(hurry=False)
        if core.outstanding:
            _log.error("%s: not everything could be given back; it stays written down, try again", state_dir)
    return int(core.outstanding)


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock; the kernel lets it go with the process, however that ends. AdapterError where
    another agent has it, or this user may not."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state_dir / "agent.lock").open("a+")
    except OSError as error:
        raise AdapterError(f"{state_dir}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AdapterError(f"{state_dir}: another agent (pid {file.read().strip() or '?'}) runs here") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
