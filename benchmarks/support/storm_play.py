"""Plays one script in one world: what is due happens, a second passes, the judge looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.support.storm_judge import Findings, Judge
from benchmarks.support.storm_script import Deed, Script
from benchmarks.support.storm_world import World
from optimizer.reasons import Reason

LONGEST_END_S = 1800
"""A dead daemon's fleet has given everything back after this (lease, trajectory, ramp), or holds a limit that binds."""


@dataclass
class Player:
    """The world, the judge, and what must be undone when."""

    world: World
    judge: Judge
    unsent: list[Deed] = field(default_factory=list)
    undo: list[tuple[int, Deed]] = field(default_factory=list)
    fights: list[tuple[int, Deed]] = field(default_factory=list)

    def turn(self, due: list[Deed]) -> None:
        """One second."""
        now_s = self.world.at_s
        over, self.undo = [u for u in self.undo if u[0] <= now_s], [u for u in self.undo if u[0] > now_s]
        for _, deed in over:
            self.mend(deed)
        for deed in due:
            self.do(deed)
        self.fights = [fight for fight in self.fights if fight[0] > now_s]
        for _, deed in self.fights:
            if (now_s - deed.at_s) % 3 == 0:
                self.raise_limits(deed, 3)
        if self.world.parts is not None and self.unsent:
            waiting, self.unsent = self.unsent, []
            for deed in waiting:
                self.do(deed)
        self.world.second()
        self.judge.second()

    def do(self, deed: Deed) -> None:
        """Let it happen."""
        if deed.message is not None:
            self.message(deed)
            return
        done = getattr(self, f"do_{deed.what}")(deed)
        if done is False:
            return
        self.judge.broke()
        if deed.lasts_s and deed.what not in {"raise_once", "fight"}:
            self.undo.append((self.world.at_s + deed.lasts_s, deed))

    def mend(self, deed: Deed) -> None:
        """Let it be over."""
        getattr(self, f"mend_{deed.what}")(deed)
        self.judge.broke()

    def message(self, deed: Deed) -> None:
        """A message of the utility; what nobody answers is sent again. What is acknowledged must be in the books."""
        assert deed.message is not None
        answer = self.world.tell(deed.message)
        if answer is None:
            self.unsent.append(deed)
            return
        self.judge.broke()
        self.judge.acknowledged(deed.message, answer)

    # ------------------------------------------------------------ what breaks, and how it ends
    def node(self, deed: Deed) -> int:
        return deed.target % len(self.world.nodes)

    def do_cut(self, deed: Deed) -> bool:
        node = self.world.nodes[self.node(deed)]
        if node.name in self.world.wires.cut:
            return False
        self.world.wires.cut.add(node.name)
        return True

    def mend_cut(self, deed: Deed) -> None:
        node = self.world.nodes[self.node(deed)]
        self.world.wires.cut.discard(node.name)
        node.reconnect()

    def do_kill_agent(self, deed: Deed) -> bool:
        node = self.world.nodes[self.node(deed)]
        if node.core is None:
            return False
        node.kill()
        return True

    def mend_kill_agent(self, deed: Deed) -> None:
        self.world.nodes[self.node(deed)].start()

    def do_crash_machine(self, deed: Deed) -> bool:
        node = self.world.nodes[self.node(deed)]
        if node.core is None:
            return False
        node.crash()
        return True

    def mend_crash_machine(self, deed: Deed) -> None:
        node = self.world.nodes[self.node(deed)]
        node.boot()
        self.judge.rebooted(node)
        self.judge.returned(node.cards.gpus)

    def gpu(self, deed: Deed) -> str:
        gpus = [gpu for node in self.world.nodes for gpu in node.cards.gpus]
        return gpus[deed.target % len(gpus)]

    def do_lose_gpu(self, deed: Deed) -> bool:
        gpu = self.gpu(deed)
        if gpu not in self.world.view.infos():
            return False
        self.world.hall.fail(gpu, Reason.GPU_LOST)
        self.world.view.touched()
        return True

    def mend_lose_gpu(self, deed: Deed) -> None:
        if self.world.node_of(self.gpu(deed)).core is not None:  # a machine that is down brings its own cards back
            self.world.hall.fail(self.gpu(deed), None)
            self.world.view.touched()
            self.judge.returned([self.gpu(deed)])

    def do_lose_pool_meter(self, deed: Deed) -> None:
        self.world.lost.add(self.pool(deed))

    def mend_lose_pool_meter(self, deed: Deed) -> None:
        self.world.lost.discard(self.pool(deed))

    def pool(self, deed: Deed) -> str:
        pools = list(self.world.models)
        return pools[deed.target % len(pools)]

    def do_lose_site_meter(self, _deed: Deed) -> None:
        self.world.lost.add("site")

    def mend_lose_site_meter(self, _deed: Deed) -> None:
        self.world.lost.discard("site")

    def do_lose_meters(self, _deed: Deed) -> None:
        self.world.lost.update({"site", "cards"})

    def mend_lose_meters(self, _deed: Deed) -> None:
        self.world.lost.difference_update({"site", "cards"})

    def do_kill_daemon(self, _deed: Deed) -> bool:
        if self.world.parts is None:
            return False
        self.judge.remember()
        self.world.kill()
        return True

    def mend_kill_daemon(self, _deed: Deed) -> None:
        self.world.begin()
        self.judge.remembered()

    def do_raise_once(self, deed: Deed) -> None:
        self.raise_limits(deed, 1 + deed.target % 8)

    def do_fight(self, deed: Deed) -> None:
        self.fights.append((self.world.at_s + deed.lasts_s, deed))

    def raise_limits(self, deed: Deed, count: int) -> None:
        """Another program puts limits back to their default."""
        gpus = self.world.nodes[self.node(deed)].cards.gpus[:count]
        for gpu in gpus:
            self.world.hall.reset_limit(gpu)
        if deed.what == "fight":
            self.judge.foreign.update(gpus)
        self.world.view.touched()
        self.judge.broke()

    def do_lower(self, deed: Deed) -> None:
        """A board controller protects something for a while."""
        for gpu in self.world.nodes[self.node(deed)].cards.gpus[:3]:
            self.world.hall.limit_out_of_band(gpu, 150.0)
        self.world.view.touched()

    def mend_lower(self, deed: Deed) -> None:
        gpus = self.world.nodes[self.node(deed)].cards.gpus[:3]
        infos = self.world.view.infos()
        self.judge.returned(gpus, {gpu: infos[gpu].draw_w for gpu in gpus if gpu in infos})
        for gpu in gpus:
            self.world.hall.limit_out_of_band(gpu, None)
        self.world.view.touched()

    def do_operator_limit(self, deed: Deed) -> bool:
        return self.world.operator_limit(deed.kw)

    def mend_operator_limit(self, deed: Deed) -> None:
        if not self.world.operator_limit(None):
            self.undo.append((self.world.at_s + 5, deed))


def play(script: Script, folder: Path) -> Findings:
    """One case from its start to the last limit given back."""
    world = World(folder, script)
    try:
        player = Player(world, Judge(world))
        deeds = list(script.deeds)
        while world.at_s < script.end_s or player.undo or player.unsent:
            due = [deed for deed in deeds if deed.at_s <= world.at_s]
            deeds = deeds[len(due) :]
            player.turn(due)
        _end(world, player.judge)
        return player.judge.found
    finally:
        world.close()


def _end(world: World, judge: Judge) -> None:
    """The daemon stops in order, or never comes back: then the agents give everything back by themselves. A limit that
    binds they would keep for a day, till an operator says otherwise."""
    if not world.script.killed_at_end:
        world.stop()
        for _ in range(5):
            world.second()
    else:
        judge.remember()
        world.kill()
        for _ in range(LONGEST_END_S):
            world.second()
            judge.second()
            if all(node.core is not None and node.core.status()["phase"] == "free" for node in world.nodes):
                break
    world.release()
    judge.restored()
