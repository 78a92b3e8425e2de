"""`gridpace coordinate`: turns until it is told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from scheduler.coordination.config import load_coordinator
from scheduler.coordination.coordinator import Coordinator, Turn
from scheduler.logs import configure_logs
from scheduler.planner import ChildPlanner
from scheduler.sdnotify import notify
from scheduler.stopsignals import stop_event

log = structlog.get_logger("gridpace.coordinator")

BEAT_S = 5.0


def run(file: Path, once: Callable[[Turn], None] | None = None) -> int:
    """Plan for all until SIGTERM; with `once` a single turn, which it is shown. The exit status: 1 where a site was not
    heard in that turn. Raises ConfigError."""
    config = load_coordinator(file)
    configure_logs(config.log_format)
    solver = config.solver
    planner = ChildPlanner(solver.time_limit.total_seconds(), solver.hard_deadline.total_seconds(), solver.memory_mb)
    coordinator = Coordinator(config, planner)
    try:
        if once is not None:
            turn = coordinator.turn(datetime.now(UTC))
            once(turn)
            return int(bool(turn.silent or turn.trouble))
        stop = stop_event()
        notify("READY=1")
        _work(coordinator, stop, config.interval.total_seconds())
    finally:
        notify("STOPPING=1")
        coordinator.close()
    return 0


def _work(coordinator: Coordinator, stop: threading.Event, every_s: float) -> None:
    while not stop.is_set():
        turn = coordinator.turn(datetime.now(UTC))
        (log.warning if turn.silent or turn.trouble else log.info)("coordinator.turn", said=turn.sentence())
        ends = time.monotonic() + every_s
        while not stop.is_set() and (left := ends - time.monotonic()) > 0:
            notify(f"WATCHDOG=1\nSTATUS={turn.sentence()}")
            stop.wait(min(BEAT_S, left))
