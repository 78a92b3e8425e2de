"""What a daemon and the coordinator tell each other: a site's problem, and where its movable jobs should run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from optimizer.domain import Problem

MOVED_FROM = "moved_from"
"""Metadata of a job that was taken over from another site: SITE/JOB."""


@dataclass(frozen=True)
class SiteReport:
    """A daemon as the coordinator sees it. `problem` is the one that its plan in force answers. `movable`: other sites
    that may run each of its own jobs; `away`: those of them that another site works on; `guests`: jobs here that belong
    to another site, as SITE/JOB."""

    name: str
    currency: str
    problem: Problem
    movable: dict[str, tuple[str, ...]]
    away: dict[str, str]
    guests: dict[str, str]


@dataclass(frozen=True)
class Home:
    """Where a job should run, and why."""

    site: str
    why: str


@dataclass(frozen=True)
class Share:
    """A site's share of the joint plan: homes of its movable jobs. It holds for `lease_s` from its arrival."""

    made_at: datetime
    lease_s: float
    homes: dict[str, Home]
