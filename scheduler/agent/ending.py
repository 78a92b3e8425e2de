"""One agent at a time over a state folder, and what becomes of a folder whose agent has been stopped for good.

Why that is needed: an agent that is stopped leaves its caps to its successor, as one that is killed does. A machine
that shall have none any more gives its limits back by `gridpace agent --release`. A card that died for good takes
nothing back: it would be owed for ever, and each stop would wait for it, so an operator may strike it off (`--forget`).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path

from adapters.ports import AdapterError, GpuId, PowerActuator
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.state import AgentFiles, Found

_log = logging.getLogger("gridpace.agent")


def release_alone(power: PowerActuator, state_dir: Path, settings: AgentSettings) -> int:
    """Give back what lies in a state folder that no agent uses; the exit status: 1 where some could not be.
    AdapterError as long as an agent runs there, and where none ever did."""
    with _left_here(state_dir):
        core = AgentCore(power, AgentFiles(state_dir), settings)
        if not core.outstanding:
            _log.info("%s: nothing is to be given back", state_dir)
        core.give_back(hurry=False)
        if core.outstanding:
            status = core.status()
            left = ", ".join(sorted({**status["found_w"], **status["clocks_mhz"]}))
            _log.error("%s: not given back, and still written down: %s; try again", state_dir, left)
            _log.error("a GPU that died for good is struck off by --forget, one by one")
    return int(core.outstanding)


def forget_alone(power: PowerActuator, state_dir: Path, gpus: Collection[GpuId], unseen: bool = False) -> None:
    """Owe these GPUs nothing any more, in a state folder that no agent uses. AdapterError, with nothing changed, where
    one of them answers or is owed nothing, where it can't be known which answer (unless `unseen`: by the operator's
    word alone), and as for `release_alone`."""
    with _left_here(state_dir):
        files = AgentFiles(state_dir)
        found, _ = files.load()
        owed = found.limits_w.keys() | found.clocks_mhz.keys()
        if unknown := sorted(set(gpus) - owed):
            raise AdapterError(
                f"--forget {unknown[0]}: owed nothing here; owed are: {', '.join(sorted(owed)) or 'none'}"
            )
        if alive := sorted(set(gpus).intersection(_answering(power, gpus, unseen))):
            raise AdapterError(f"--forget {alive[0]}: it answers; --release gives it back, with all others")
        files.save_found(_without(found, gpus))
    for gpu in sorted(set(gpus)):
        had = f"{found.limits_w[gpu]:g} W" if gpu in found.limits_w else "free clocks"
        _log.warning("%s is forgotten; it had %s before Gridpace, should it ever come back", gpu, had)


def _answering(power: PowerActuator, gpus: Collection[GpuId], unseen: bool) -> Collection[GpuId]:
    """Who answers. Where none does, a driver that isn't loaded looks the same as cards that are dead."""
    try:
        return power.discover().keys()
    except AdapterError as error:
        if unseen:
            _log.warning("no GPU answers here: %s", error)
            return ()
        text = f"no GPU answers here, so that nothing tells who is dead ({error}); if it surely is, add --unseen"
        raise AdapterError(f"--forget {min(gpus)}: {text}") from error


def _without(found: Found, gpus: Collection[GpuId]) -> Found:
    """What is owed, but for these GPUs."""
    left = replace(found)
    for name in (item.name for item in fields(left)):
        if isinstance(value := getattr(left, name), dict):
            setattr(left, name, {gpu: kept for gpu, kept in value.items() if gpu not in gpus})
    return left


@contextmanager
def _left_here(state_dir: Path) -> Iterator[None]:
    """Hold the folder of an agent that ran here and doesn't any more."""
    if not state_dir.is_dir():
        raise AdapterError(f"{state_dir}: no such folder; name the one of the agent: --state-dir")
    with only_one(state_dir):
        yield


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock; the kernel lets it go with the process, however that ends. AdapterError where
    another agent has it, or this user may not. A disk that takes no writes keeps nobody from giving limits back: the
    lock counts, and whose it is is only told."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _opened(state_dir / "agent.lock")
    except OSError as error:
        raise AdapterError(f"{state_dir}: {error}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(file, 32, 0).decode(errors="replace").strip() or "?"
            raise AdapterError(f"{state_dir}: another agent (pid {pid}) runs here") from None
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def _opened(path: Path) -> int:
    """The lock file; only to be read where the disk is, as after an error of it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
