"""A node of simulated cards whose agent can be killed."""

from datetime import UTC, datetime

from adapters.hall import SimulatedHall
from adapters.ports import Lease
from adapters.power.simulated import SimulatedPower
from scheduler.agent.core import AgentCore, AgentSettings
from scheduler.agent.state import AgentFiles
from scheduler.clock import VirtualClock
from tests.support.power_worlds import POOL

SETTINGS = AgentSettings(tick_s=1.0, release_w_per_s=10.0, stop_s=5.0)


class Node:
    """A simulated node with an agent that can be killed: what it had in memory is gone, its files stay."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = VirtualClock(datetime(2022, 9, 6, tzinfo=UTC))
        self.hall = SimulatedHall([POOL], self.clock)
        self.power = SimulatedPower(self.hall)
        self.gpus = list(self.hall.pool_of)
        self.kill_and_restart()

    def kill_and_restart(self):
        self.core = AgentCore(self.power, AgentFiles(self.folder), SETTINGS, self.clock.monotonic)

    def cap(self, watts, sequence=1, seconds=30.0, epoch=1, gpus=None):
        return self.core.apply(dict.fromkeys(gpus or self.gpus, watts), Lease(epoch, sequence, seconds))

    def live(self, seconds):
        """Let time pass, a tick a second; returns the limit of the first GPU after each."""
        seen = []
        for _ in range(seconds):
            self.clock.sleep(1)
            self.core.tick()
            seen.append(self.limit())
        return seen

    def limit(self, place=0):
        return self.hall.infos()[self.gpus[place]].limit_w

    def limits(self):
        return {info.limit_w for info in self.hall.infos().values()}
