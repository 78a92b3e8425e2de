"""Slurm's own commands, each with a deadline. They work on every version, and can suspend, which its REST API can't.

Many jobs in one call: `scontrol` takes lists, and a call costs some 15 ms whatever its length.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from adapters.jobs.slurm_nodes import COLUMNS, Node, nodes_in
from adapters.permit import NotPermitted, Permit
from adapters.ports import AdapterError

MOST_AT_ONCE = 200

REST_S = 5.0
"""Seconds for which a requeued job is left alone: its node cleans up, and would take the new run's script away."""

UNREACHED = ("unable to contact", "connection refused", "timed out", "communication connection failure")
"""What the commands print when the controller does not answer."""


class SlurmSilent(AdapterError):
    """The controller does not answer: asking about the next job would only wait once more."""


class Slurm:
    """The commands of one cluster. `conf`: its slurm.conf (None: as the commands find it)."""

    def __init__(self, conf: Path | None, timeout_s: float, permit: Permit | None = None) -> None:
        self._timeout_s, self._permit = timeout_s, permit or Permit()
        self._requeued: dict[str, float] = {}
        # Times are given in UTC, whatever the zone of this machine.
        self._env = {**os.environ, "LC_ALL": "C", "TZ": "UTC", **({"SLURM_CONF": str(conf)} if conf else {})}

    def queue(self) -> Mapping[str, Any]:
        """`squeue --json`. Raises AdapterError."""
        text = self._run("squeue", "--json")
        try:
            found = json.loads(text)
        except ValueError as error:
            raise AdapterError(f"squeue --json: not JSON: {error}") from None
        if not isinstance(found, dict):
            raise AdapterError("squeue --json: not an object")
        return found

    def nodes(self) -> list[Node]:
        """Each node of each partition; empty where they can't be had."""
        try:
            return nodes_in(self._run("sinfo", "-h", "-N", "-O", COLUMNS))
        except AdapterError:
            return []

    def ask(self, *words: str) -> str:
        """What `scontrol` says. Raises AdapterError, SlurmSilent where the controller does not answer."""
        return self._run("scontrol", *words)

    def accounted(self, job: str) -> str:
        """STATE|END of a job in the site's accounting, empty where that does not know it. Raises AdapterError, also
        where a site keeps none."""
        return self._run("sacct", "-n", "-P", "-X", "-j", job, "-o", "State,End")

    def each(self, verb: str, jobs: Iterable[str]) -> dict[str, str]:
        """`scontrol VERB` (hold, release, suspend, resume, requeuehold) of these jobs: what was said of each for which
        it did not work."""
        names = list(jobs)
        if verb == "requeuehold":
            self.rest(names)
        return self._lists(names, lambda some: ("scontrol", verb, some))

    def rest(self, jobs: Iterable[str]) -> None:
        """These were requeued just now, or by a daemon before us, who knows when."""
        now = monotonic()
        fresh = {job: at for job, at in self._requeued.items() if now - at < REST_S}
        self._requeued = fresh | dict.fromkeys(jobs, now)

    def begin(self, jobs: Iterable[str], at: datetime) -> dict[str, str]:
        """Have these start at `at`, and not before: what was said of each for which it did not work."""
        start = f"StartTime={at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
        return self._lists(list(jobs), lambda some: ("scontrol", "update", f"JobId={some}", start))

    def start_now(self, jobs: Iterable[str]) -> None:
        """A requeued job would wait two minutes more. One that is gone is no matter. One that was requeued just now is
        left for a later call: it would fail where its node still cleans up after it."""
        rested = monotonic() - REST_S
        for job in [job for job in jobs if self._requeued.get(job, rested) <= rested]:
            with suppress(NotPermitted):  # it is the next leader's to start
                self._run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)

    def _lists(self, names: Sequence[str], command: Callable[[str], tuple[str, ...]]) -> dict[str, str]:
        """One command for many jobs; a list of which one fails tells not which, so that each is then tried alone."""
        failed: dict[str, str] = {}
        for start in range(0, len(names), MOST_AT_ONCE):
            some = names[start : start + MOST_AT_ONCE]
            try:
                self._run(*command(",".join(some)))
            except SlurmSilent as error:
                return failed | dict.fromkeys(names[start:], str(error))
            except AdapterError:
                failed |= self._one_by_one(some, command)
        return failed

    def _one_by_one(self, names: Sequence[str], command: Callable[[str], tuple[str, ...]]) -> dict[str, str]:
        failed: dict[str, str] = {}
        for place, job in enumerate(names):
            try:
                self._run(*command(job))
            except SlurmSilent as error:
                return failed | dict.fromkeys(names[place:], str(error))
            except AdapterError as error:
                failed[job] = str(error)
        return failed

    def _run(self, *command: str, check: bool = True) -> str:
        if command[0] == "scontrol" and command[1] != "show":
            self._permit()
        try:
            done = subprocess.run(
                command, env=self._env, capture_output=True, text=True, timeout=self._timeout_s, check=False
            )
        except FileNotFoundError:
            raise AdapterError(f"{command[0]}: not found; install Slurm's commands (slurm-client)") from None
        except subprocess.TimeoutExpired:
            raise SlurmSilent(f"{command[0]}: no answer within {self._timeout_s:g} s") from None
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            kind = SlurmSilent if any(sign in said.lower() for sign in UNREACHED) else AdapterError
            last = said.splitlines()[-1] if said else f"exit code {done.returncode}"
            raise kind(f"{' '.join(command[:2])}: {last}")
        return done.stdout
