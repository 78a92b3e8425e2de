"""Carries moves out, a few at once, each on the version that it was decided on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import structlog

from adapters.jobs.kube_api import CONFLICT, JOBS, NOT_FOUND, WORKLOADS, KubeApi, KubeLost, KubeRefused
from adapters.jobs.kube_moves import BACK, Paced, patch_of, theirs
from adapters.jobs.kube_read import KubeJob, workload_of
from adapters.ports import AdapterError, Clock

log = structlog.get_logger("gridpace.kubernetes")
AT_ONCE, TRIES = 8, 4


class Mover:
    """The writer of one cluster. `sent`: by job, the version on which something was done; it is not done again before
    the watch tells of a later one."""

    def __init__(
        self, api: KubeApi, read: Callable[[Mapping[str, Any]], KubeJob | None], check: str, clock: Clock
    ) -> None:
        self._api, self._read, self._check, self._clock = api, read, check, clock
        self.sent: dict[str, str] = {}

    def forget(self, but: Iterable[str]) -> None:
        """Keep what is known of these jobs alone."""
        known = set(but)
        self.sent = {job: version for job, version in self.sent.items() if job in known}

    def each(self, moves: Sequence[tuple[str, Paced]], still: Callable[[str, Paced], bool]) -> dict[str, str]:
        """What was said of each for which it did not work. After one that the server did not answer the others are not
        tried. `still`: whether the move is right for what the job has become, asked after a conflict."""
        failed: dict[str, str] = {}
        lost = threading.Event()

        def one(pair: tuple[str, Paced]) -> None:
            move, paced = pair
            try:
                if lost.is_set():
                    raise KubeLost("the API server does not answer")
                self._do(move, paced, still)
            except AdapterError as error:
                if isinstance(error, KubeLost):
                    lost.set()
                failed[paced.job.id] = str(error)

        if moves:
            with ThreadPoolExecutor(AT_ONCE, "gridpace-kubernetes") as hands:
                list(hands.map(one, moves))
        return failed

    def _do(self, move: str, paced: Paced, still: Callable[[str, Paced], bool]) -> None:
        for _ in range(TRIES):
            kind, name, body, status = patch_of(move, paced, self._clock.now(), self._check)
            try:
                self._api.patch(kind, paced.job.namespace, name, body, status)
            except KubeRefused as error:
                if error.status == NOT_FOUND:
                    return  # gone meanwhile
                if error.status != CONFLICT:
                    raise
                fresh = self._again(paced)
                if fresh is None or theirs(fresh) is not (move == "yield") or not still(move, fresh):
                    return
                paced = fresh
            else:
                self.sent[paced.job.id] = paced.version
                log.info("kubernetes.moved", job=paced.job.id, move=move)
                return
        raise KubeRefused(f"kubernetes: {paced.job.id} changes faster than it can be moved", CONFLICT)

    def _again(self, paced: Paced) -> Paced | None:
        """The job as it is now; None when it is over, another one of the same name, or taken from us and marked so."""
        namespace, workload = paced.job.namespace, None
        try:
            job = self._read(self._api.get(JOBS, namespace, paced.job.name))
            if paced.workload is not None:
                workload = workload_of(self._api.get(WORKLOADS, namespace, paced.workload.name))
        except KubeRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise
        if job is None or job.uid != paced.job.uid or (workload is None) is not (paced.workload is None):
            return None
        fresh = replace(paced, job=job, workload=workload)
        return None if theirs(fresh) and fresh.past.held not in BACK else fresh
