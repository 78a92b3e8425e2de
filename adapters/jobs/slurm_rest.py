"""Slurm through slurmrestd: reading, and those orders that it takes. The rest goes by the commands.

No version of it can suspend or move one task of an array, and few can requeue or make a reservation: those need
`scontrol` on this machine, and `lacks` says where that is missing. It answers some errors with 200 and ignores fields
that it doesn't know with a warning, so the body is always read. Its forms are chosen from what it offers
(`/openapi/v3`), the latest of them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import requests

from adapters.context import AdapterContext
from adapters.jobs.slurm_cli import REST_S, UNREACHED, Slurm, SlurmSilent
from adapters.jobs.slurm_config import RestConfig
from adapters.jobs.slurm_nodes import Node, nodes_of
from adapters.ports import AdapterError
from adapters.unix_http import UnixAdapter
from adapters.workers import Worker

BY_COMMANDS = ("licences", "suspend", "requeue", "drain")
"""Rungs that slurmrestd has no order for, in all versions from 22.05 on."""
LATEST_TEXT = 38
"""The last form whose times are texts; later ones take numbers in objects."""
_FORM = re.compile(r"^/slurm/v0\.0\.(\d+)/jobs/?$")
_HOLD = {"hold": True, "release": False}


class SlurmRest(Slurm):
    """One slurmrestd. `conf`: slurm.conf for the commands."""

    def __init__(self, rest: RestConfig, context: AdapterContext, conf: Path | None, timeout_s: float) -> None:
        super().__init__(conf, timeout_s, context.permit)
        self._rest, self._context = rest, context
        self._session = requests.Session()
        self._session.trust_env = False
        self._base = rest.url.rstrip("/")
        if rest.url.startswith("unix://"):
            self._session.mount("http://", UnixAdapter(rest.url.removeprefix("unix://")))
            self._base = "http://localhost"
        elif rest.ca is not None:
            self._session.verify = str(context.path(rest.ca))
        self._worker = Worker("slurmrestd")
        self._form: int | None = None

    def lacks(self, rungs: Iterable[str]) -> str:
        """What of these rungs can't be done here, in words; "" nothing."""
        if shutil.which("scontrol", path=self._env.get("PATH")):
            return ""
        needed = [*(rung for rung in rungs if rung in BY_COMMANDS), "orders to tasks of arrays"]
        return f"slurmrestd can't do {', '.join(needed)}, and scontrol is not on this machine: not done"

    def queue(self) -> Mapping[str, Any]:
        """Every job, in the form of `squeue --json`. Raises AdapterError."""
        return self._get("jobs")

    def nodes(self) -> list[Node]:
        """Each node of each partition; empty where they can't be had."""
        try:
            return nodes_of(self._get("nodes"))
        except AdapterError:
            return []

    def each(self, verb: str, jobs: Iterable[str]) -> dict[str, str]:
        """Hold and release, one job after another; other verbs by `scontrol`."""
        if verb not in _HOLD:
            return super().each(verb, jobs)
        whole, tasks = _split(jobs)
        return super().each(verb, tasks) | self._update(whole, lambda: {"hold": _HOLD[verb]})

    def begin(self, jobs: Iterable[str], at: datetime) -> dict[str, str]:
        """Have these start at `at`, and not before: what was said of each for which it did not work."""
        whole, tasks = _split(jobs)
        return super().begin(tasks, at) | self._update(whole, lambda: {"begin_time": self._time(at)})

    def start_now(self, jobs: Iterable[str]) -> None:
        """As by the commands."""
        rested = monotonic() - REST_S
        whole, tasks = _split(jobs)
        super().start_now(tasks)
        due = [job for job in whole if self._requeued.get(job, rested) <= rested]
        self._update(due, lambda: {"begin_time": self._time(datetime.now(UTC))})

    def _update(self, jobs: list[str], change: Callable[[], Mapping[str, Any]]) -> dict[str, str]:
        """`change` may raise AdapterError too: its form is the server's, which may not answer."""
        failed: dict[str, str] = {}
        for place, job in enumerate(jobs):
            try:
                self._permit()
                self._ask("POST", f"job/{job}", change())
            except SlurmSilent as error:
                return failed | dict.fromkeys(jobs[place:], str(error))
            except AdapterError as error:
                failed[job] = str(error)
        return failed

    def _time(self, at: datetime) -> Any:
        """A start in this form; a text is read in the server's own zone, so it says how long from now."""
        if self._latest() > LATEST_TEXT:
            return {"set": True, "infinite": False, "number": int(at.timestamp())}
        seconds = int((at - datetime.now(UTC)).total_seconds())
        return f"now+{seconds}" if seconds > 0 else "now"

    def _get(self, what: str) -> Mapping[str, Any]:
        try:
            return self._ask("GET", what)
        except AdapterError:
            self._form = None  # it may be another version by now
            raise

    def _latest(self) -> int:
        """The latest form that it offers. Raises AdapterError."""
        if self._form is None:
            answer = self._call("GET", "/openapi/v3", None)
            found = [int(match[1]) for path in answer.get("paths", ()) if (match := _FORM.match(str(path)))]
            if not found:
                raise AdapterError(f"{self._rest.url}: offers no /slurm/v0.0.…/jobs; is it slurmrestd?")
            self._form = max(found)
        return self._form

    def _ask(self, method: str, what: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        answer = self._call(method, f"/slurm/v0.0.{self._latest()}/{what}", body)
        ignored = [_said(one) for one in answer.get("warnings") or () if "gnoring unknown" in _said(one)]
        errors = [_said(one) for one in answer.get("errors") or ()]
        if errors or ignored:
            text = f"slurmrestd: {what}: {(errors + ignored)[0][:300]}"
            raise SlurmSilent(text) if any(sign in text.lower() for sign in UNREACHED) else AdapterError(text)
        return answer

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        try:
            return self._worker.answer(
                lambda: self._exchange(method, path, body), self._timeout_s, f"slurmrestd {self._rest.url}"
            )
        except (requests.RequestException, OSError) as error:
            raise SlurmSilent(f"slurmrestd {self._rest.url}: {str(error) or type(error).__name__}") from None

    def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        headers = {}
        if self._rest.user is not None:
            headers["X-SLURM-USER-NAME"] = self._rest.user
        if self._rest.token is not None:  # read anew for each request, so that a renewed one counts at once
            headers["X-SLURM-USER-TOKEN"] = self._rest.token.reveal(self._context.base_dir)
        answer = self._session.request(
            method, self._base + path, json=body, headers=headers, timeout=self._timeout_s, allow_redirects=False
        )
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict) or (answer.status_code >= 400 and not found.get("errors")):
            raise AdapterError(f"slurmrestd {self._rest.url}: HTTP {answer.status_code}: {answer.text[:200]}")
        return found


def _split(jobs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Whole jobs, and tasks of arrays: 24.11 and later refuse an order to one of those, and 22.05 does it with an
    error, so they go by the commands."""
    names = list(jobs)
    return [job for job in names if "_" not in job], [job for job in names if "_" in job]


def _said(one: Any) -> str:
    """An error or a warning in words."""
    if not isinstance(one, Mapping):
        return str(one)
    return ": ".join(str(one[key]) for key in ("error", "description") if one.get(key)) or str(dict(one))
