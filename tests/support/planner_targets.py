"""What a solver process may do wrong, as functions that the planner's child can import: hang, die, lie, eat memory."""

import os
import signal
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from threading import Lock

from optimizer.fallback import greedy_plan
from optimizer.solve import SolveError, SolveFault, solve_problem
from scheduler.planner import Warm


def hang(problem, _limit_s):
    time.sleep(3600)


def crash(problem, _limit_s):
    os.abort()


def leave(problem, _limit_s):
    sys.exit(3)


def raise_odd(problem, _limit_s):
    raise RuntimeError("solver licence expired")


def refuse(problem, _limit_s):
    raise SolveError(SolveFault.INFEASIBLE, "no point")


def nonsense(problem, _limit_s):
    return {"caps": "all of them"}


def unpicklable(problem, _limit_s):
    return Lock()


def stop_half_way(problem, limit_s):
    """Write half of an answer, then stand still."""

    def half(pipe, buffer):
        os.write(pipe.fileno(), bytes(buffer)[: len(buffer) // 2])
        os.kill(os.getpid(), signal.SIGSTOP)

    Connection._send = half
    return solve_problem(problem, time_limit_s=limit_s)


def eat_memory(problem, _limit_s):
    hoard = [bytearray(1 << 20) for _ in range(100_000)]
    return hoard[0]


def over_the_limit(problem, limit_s):
    plan = solve_problem(problem, time_limit_s=limit_s)
    sites = {
        name: replace(orders, import_kw=tuple(kw + 500.0 for kw in orders.import_kw))
        for name, orders in plan.sites.items()
    }
    return replace(plan, sites=sites)


def chatty(problem, limit_s):
    print("solver says hello")
    os.write(1, b"solver says hello again\n")
    return greedy_plan(problem)


def tell_pid(problem, _limit_s):
    raise SolveError(SolveFault.FAILED, str(os.getpid()))


def hang_and_tell(problem, _limit_s):
    with open(problem.currency, "w", encoding="ascii") as stream:
        stream.write(str(os.getpid()))
    time.sleep(3600)


class Idle(Warm):
    """Between plans it tells that it has begun, and when somebody wants the next one."""

    def __init__(self, told: str) -> None:
        super().__init__(apart=True)
        self._told = told

    def spare(self, wanted):
        """Do nothing until the next plan is wanted."""
        self._say("begun")
        while not wanted():
            time.sleep(0.005)
        self._say("ended")

    def _say(self, word: str) -> None:
        with open(self._told, "a", encoding="ascii") as stream:
            stream.write(word)
