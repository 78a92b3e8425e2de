"""One turn of the coordinator on one screen: gather the sites' problems, plan for all, give each site its share.

Why it keeps no books: what is moved is written down by those who move it. It may be killed at any moment, started
again elsewhere, or run twice; sites that hear nothing go on by themselves, and so do those that don't answer here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests

from optimizer.check import check_plan
from optimizer.domain import Plan, Rung
from scheduler.coordination.config import CoordinatorConfig, MemberConfig
from scheduler.coordination.joint import Terms, joint_problem, shares
from scheduler.coordination.messages import Home, SiteReport
from scheduler.engine import Planner
from scheduler.store.codec import unpack

TRUSTED = (Rung.OPTIMUM, Rung.INCUMBENT, Rung.COARSE)
"""Rungs whose choice of a site is one; the others only keep promises."""


@dataclass(frozen=True)
class Turn:
    """What came of a turn: who was heard, who was not and why, where jobs should run, and why there is no word."""

    heard: tuple[str, ...]
    silent: Mapping[str, str]
    homes: Mapping[str, Mapping[str, Home]]
    moving: int = 0
    trouble: str = ""

    def sentence(self) -> str:
        """One line for the log and for `systemctl status`."""
        known = sum(map(len, self.homes.values()))
        parts = [f"{', '.join(self.heard) or 'no site'} heard", f"{known} movable jobs, {self.moving} to move"]
        parts += [f"{name} goes on by itself ({why})" for name, why in self.silent.items()]
        return "; ".join(parts + ([self.trouble] if self.trouble else []))


class Coordinator:
    """Plans for all sites of its config."""

    def __init__(self, config: CoordinatorConfig, planner: Planner) -> None:
        self._config, self._planner = config, planner
        self._last: Plan | None = None
        self._pool = ThreadPoolExecutor(len(config.sites), thread_name_prefix="site")
        self._tokens = {site.name: site.token.reveal(config.base_dir) for site in config.sites}

    def turn(self, now: datetime) -> Turn:
        """Gather, plan, tell. Never raises for a site that fails."""
        answers = dict(
            zip((s.name for s in self._config.sites), self._pool.map(self._ask, self._config.sites), strict=True)
        )
        reports = [answer for answer in answers.values() if isinstance(answer, SiteReport)]
        silent = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
        if not reports:
            return Turn((), silent, {})
        names = tuple(report.name for report in reports)
        try:
            homes, moving = self._planned(reports, now)
        except ValueError as error:
            return Turn(names, silent, {}, trouble=f"no word is given: {error}")
        silent |= self._tell(homes, now)
        return Turn(names, silent, homes, moving)

    def close(self) -> None:
        """End the planner's process."""
        self._pool.shutdown(cancel_futures=True)
        self._planner.close()

    def _planned(self, reports: Sequence[SiteReport], now: datetime) -> tuple[dict[str, dict[str, Home]], int]:
        """Where jobs should run. ValueError where no plan can be trusted to say it."""
        terms = Terms(self._config.move_per_gb, self._config.least_gain_per_gpu_h)
        problem, movable = joint_problem(reports, terms, now)
        plan = self._planner.plan(problem, self._last)
        if plan.rung not in TRUSTED:
            raise ValueError(f"the plan is of the rung {plan.rung.value}")
        if broken := check_plan(problem, plan):
            raise ValueError(f"the plan breaks a promise: {broken[0].text}")
        self._last = plan
        found = shares(problem, plan, movable, reports)
        return found, sum(found[one.owner][one.job].site != one.here for one in movable.values())

    # ---------------------------------------------------------------- talking
    def _ask(self, site: MemberConfig) -> SiteReport | str:
        """A site's report, or why there is none."""
        try:
            answer = self._call("GET", site, "/api/v1/coordination/report")
            report = unpack(SiteReport, answer.content)
        except (requests.RequestException, ValueError) as error:
            return _short(error)
        if report.name != site.name:
            return f"calls itself {report.name!r}"
        return report

    def _tell(self, homes: Mapping[str, Mapping[str, Home]], now: datetime) -> dict[str, str]:
        """Give each site its share; who did not take it, and why."""
        mine = [site for site in self._config.sites if site.name in homes]

        def tell(site: MemberConfig) -> str:
            body = {
                "made_at": now.isoformat(),
                "lease_s": self._config.lease.total_seconds(),
                "homes": {job: {"site": home.site, "why": home.why} for job, home in homes[site.name].items()},
            }
            try:
                self._call("PUT", site, "/api/v1/coordination/share", json=body)
            except requests.RequestException as error:
                return _short(error)
            return ""

        return {site.name: why for site, why in zip(mine, self._pool.map(tell, mine), strict=True) if why}

    def _call(self, method: str, site: MemberConfig, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._tokens[site.name]}"}
        wait_s = self._config.timeout.total_seconds()
        url = site.url.rstrip("/") + path
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no netrc: the token goes to the daemon that the file names
            answer = session.request(method, url, headers=headers, timeout=wait_s, allow_redirects=False, **more)
        answer.raise_for_status()
        return answer


def _short(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}: {response.text[:200]}"
    return f"{type(error).__name__}: {error}"[:200]
