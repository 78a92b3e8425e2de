"""What the node agent must not forget: the limits found before its first write, the epoch, the lease, the trajectory.

Two files, because they are written at different rates. `found.json` is synced to disk before the write that it guards
and then stays as it is until a release was read back: whatever crashes in between, the limit to restore is the first
one. `lease.json` changes with every renewal and is only renamed into place: it must survive the death of the process,
not of the machine, since after a reboot its clock means nothing anyway.

Times are of the clock that runs through a suspension, and the files say so: those of an agent of before, whose clock
stood still then, are read as that one would have read them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from adapters.ports import AdapterError, GpuId
from scheduler.agent import shapes
from scheduler.agent.trouble import Unkept
from scheduler.boottime import boottime

FORMAT = 1
CLOCK = "boottime"
"""The clock of all times in the files, by name; one without a name is CLOCK_MONOTONIC."""

PATIENCE_S = 3.0
"""Who was heard so shortly before a step of the trajectory is still waited for after it; see `overtaken`."""


@dataclass
class Found:
    """Limits in W found before the first write, by GPU, the newest epoch obeyed, and the trajectory for the time after
    the lease: (monotonic second, caps in W), until `hold_until`, in the boot named; and SM clocks (MHz) that are
    locked, written down before the lock: what is owed there is to let them go free."""

    limits_w: dict[GpuId, float] = field(default_factory=dict)
    epoch: int = 0
    boot: str = ""
    hold_until: float = 0.0
    steps: list[tuple[float, dict[GpuId, int]]] = field(default_factory=list)
    clocks_mhz: dict[GpuId, int] = field(default_factory=dict)
    told: tuple[int, int] = (0, -1)
    """Epoch and number of the order that brought the trajectory."""
    more: dict[str, Any] = field(default_factory=dict)
    """What a newer agent wrote beside: kept for it, and not understood."""

    def follow(
        self,
        told: tuple[int, int],
        steps: Iterable[tuple[float, Mapping[GpuId, int]]],
        at: float,
        until: float,
        now: float,
    ) -> None:
        """From now on these steps count, which `told` brought, in seconds from `at`; of those that have passed, the
        last."""
        due = [(at + offset, dict(caps)) for offset, caps in steps]
        self.told, self.steps = told, due[max(0, sum(begins <= now for begins, _ in due) - 1) :]
        self.hold_until = until if due else 0.0


@dataclass(frozen=True)
class Held:
    """The lease in force: monotonic second at which it ends, in the boot named, the last order's number, and the second
    in which it was renewed last (-1: not known); the caps in W that were ordered under it, and whether the trajectory
    took their place before its end (`AgentCore._overtaken`)."""

    expires_at: float = 0.0
    sequence: int = -1
    boot: str = ""
    heard_at: float = -1.0
    ordered: dict[GpuId, int] = field(default_factory=dict)
    early: bool = False
    yielded: dict[GpuId, float] = field(default_factory=dict)
    """GPUs that are left to another writer, with the limit in W that it holds there."""
    yielded_mhz: dict[GpuId, float] = field(default_factory=dict)
    """GPUs whose locked clocks are left to who freed them, with the clock in MHz at which they ran."""


def overtaken(found: Found, heard_at: float, spoken_at: float, in_force: Mapping[GpuId, float], now: float) -> bool:
    """Whether the trajectory has fallen below the caps in force (W) since anybody was heard. A lease says how long an
    order holds that nobody repeats, not that it may hold through a step that was promised: who is there repeats himself
    about then, and whoever spoke (`spoken_at`) so shortly before is waited for a little."""
    return any(
        heard_at < at and max(at, spoken_at + PATIENCE_S) <= now < found.hold_until
        and any(cap < in_force.get(gpu, cap) for gpu, cap in caps.items())
        for at, caps in found.steps
    )  # fmt: skip


def said_at(now: float, age_s: float, heard_at: float, older: bool) -> float:
    """Monotonic second in which a word was said that is taken `now`, and is so old by the wall clocks of two machines.
    By its number it is `older` than the word heard last at `heard_at` (below 0: not known), or not: whatever the clocks
    say, and however long it waited to be taken, it was said before that or since."""
    at = now - age_s
    if heard_at < 0:
        return at
    return min(at, heard_at) if older else max(at, heard_at)


def boot_id() -> str:
    """Names this boot of the machine; a monotonic time is comparable only inside one. Where the kernel doesn't tell,
    every start counts as one, and a lease or trajectory of before has ended."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or os.urandom(16).hex()
    except OSError:
        return os.urandom(16).hex()


def first_of(gpus: Collection[GpuId]) -> tuple[int, GpuId]:
    """How many there are, and one of them, for the log."""
    return len(gpus), next(iter(gpus))


def _in_our_time(second: float, clock: object) -> float:
    """A moment by the clock of a file, by ours; one that is not set (0 or below) stays so."""
    known = clock == CLOCK or float(second) <= 0
    return float(second) if known else float(second) + boottime() - time.monotonic()


class AgentFiles:
    """The two files in the agent's state folder."""

    torn = False
    """Whether a lease could not be read: nobody knows what was ordered under it."""

    behind = False
    """Whether `found.json` still tells what is no longer so, since the disk did not take it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.boot = boot_id()

    def load(self) -> tuple[Found, Held]:
        """What an earlier agent left. AdapterError when `found.json` is unreadable: guessing limits is not allowed."""
        found, held = Found(), Held()
        document = self._read("found.json")
        if document is not None:
            try:
                if (written := document.pop("format", None)) != FORMAT:
                    raise ValueError(f"its format is {written}, this agent knows {FORMAT}; install the other one again")
                shapes.check_found(document)
                clock = document.pop("clock", None)
                known = {item.name for item in fields(Found)} - {"more"}
                found = Found(**{name: value for name, value in document.items() if name in known})
                found.more = {name: value for name, value in document.items() if name not in known}
                found.steps = [(_in_our_time(at, clock), dict(caps)) for at, caps in found.steps]
                found.hold_until = _in_our_time(found.hold_until, clock)
                found.told = (int(found.told[0]), int(found.told[1]))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise AdapterError(f"{self._folder / 'found.json'}: not written by this agent: {error}") from error
        try:
            kept, known = self._read("lease.json") or {}, {item.name for item in fields(Held)}
            held = Held(**{name: value for name, value in kept.items() if name in known})
            yielded = {str(gpu): float(limit) for gpu, limit in held.yielded.items()}
            held = replace(held, ordered={str(g): int(cap) for g, cap in held.ordered.items()}, yielded=yielded)
            held = replace(held, yielded_mhz={str(gpu): float(mhz) for gpu, mhz in held.yielded_mhz.items()})
            seconds = [_in_our_time(at, kept.get("clock")) for at in (held.expires_at, held.heard_at)]
            held = replace(held, expires_at=seconds[0], heard_at=seconds[1], sequence=int(held.sequence))
        except (TypeError, ValueError, OverflowError, AttributeError, AdapterError):
            held, self.torn = Held(), True  # an unreadable lease has ended
        if held.boot != self.boot:
            held = Held()
        if found.boot != self.boot:
            found.steps, found.hold_until = [], 0.0
        return found, held

    def save_found(self, found: Found) -> None:
        """Put it on disk, synced, before this returns. Unkept when that fails: then nothing may be written to a GPU."""
        found.boot = self.boot
        held = asdict(found)
        self._write("found.json", {"format": FORMAT, **held.pop("more"), "clock": CLOCK, **held}, sync=True)
        self.behind = False

    def keep(self, found: Found) -> None:
        """Put on disk what is so already (a limit was given back); where the disk doesn't take it, `catch_up` does."""
        self.behind = True
        with suppress(AdapterError):
            self.save_found(found)

    def catch_up(self, found: Found) -> None:
        """Write what the disk did not take. Unkept when it still does not."""
        if self.behind:
            self.save_found(found)

    def save_lease(self, held: Held) -> None:
        """Remember the lease for a successor in the same boot. A full disk leaves the last one, which ends earlier: the
        successor then releases too soon rather than never."""
        with suppress(AdapterError):
            self._write("lease.json", {**asdict(held), "clock": CLOCK}, sync=False)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._folder / name
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise AdapterError(f"{path}: {error}") from error
        if not isinstance(document, dict):
            raise AdapterError(f"{path}: not an object")
        return document

    def _write(self, name: str, document: dict[str, Any], *, sync: bool) -> None:
        """Replace a file whole: a reader, or a successor after a kill, sees the old one or the new one."""
        path, draft = self._folder / name, self._folder / f"{name}.new"
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(json.dumps(document))  # ten times as quick as `dump`, which encodes in Python
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            draft.replace(path)
            if sync:
                folder = os.open(self._folder, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise Unkept(f"{path}: {error}") from error
