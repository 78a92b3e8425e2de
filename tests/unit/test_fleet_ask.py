"""How long answers of many nodes are waited for, in virtual time: as long as they come, and no second for the dead."""

import asyncio
import selectors

import pytest
from nats.errors import Error as NatsError

from adapters.ports import GpuInfo, Lease
from adapters.power import fleet_wire, wire
from adapters.power.fleet import FleetPower
from benchmarks.support.storm_bus import LocalBus, LocalClient, Wires
from optimizer.reasons import Reason

STATUS = {"phase": "free", "epoch": 1, "sequence": 0, "lease_left_s": 9.0, "found_w": {}, "reasserted": 0,
          "yielded_w": {}}  # fmt: skip
NEVER = None
DEADLINE_S = 3.0


class Skipping(selectors.DefaultSelector):
    """Time passes where somebody waits for it, at once."""

    now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0.0
        return super().select(0)


class Fleet:
    """A daemon's side over nodes that answer after `after[node]` seconds."""

    def __init__(self, monkeypatch, count):
        self.time = Skipping()
        self.loop = asyncio.SelectorEventLoop(self.time)
        self.loop.time = lambda: self.time.now
        monkeypatch.setattr("adapters.power.fleet_ask.monotonic", self.loop.time)
        self.wires, self.after = Wires(self.loop), {f"n{number}": 0.02 for number in range(count)}
        self.free_at, self.asked = dict.fromkeys(self.after, 0.0), dict.fromkeys(self.after, 0)
        bus = self.bus = LocalBus(self.wires, "daemon")
        self.power = FleetPower(bus.settings, DEADLINE_S, bus=bus, clock=self.loop.time)
        for node in self.after:
            self.tells(node)
            subject = fleet_wire.ask_subject(node)
            self.wires.run(LocalClient(self.wires, node).subscribe(subject, cb=self._hearing(node)))
        self.sequence = 0

    def _hearing(self, node):
        async def ask(message):
            asked = wire.decode(message.data)
            limits_w = asked.get("caps_w") or asked.get("limits_w") or {}
            body = {"enforced_w": limits_w, "failures": {}, "notes": [], "seconds": 0.0, "clock_mhz": {}}
            answer = wire.encode({"ok": True, "result": body})
            self.asked[node] += 1
            if self.after[node] is not NEVER:  # one after the other, as an agent does
                self.free_at[node] = max(self.free_at[node], self.time.now) + self.after[node]
                self.loop.call_at(self.free_at[node], lambda: self.loop.create_task(message.respond(answer)))

        return ask

    def tells(self, node):
        """A node tells its state."""
        info = GpuInfo(f"GPU-{node}", "H100", 200, 700, 700, 700, 700, 400.0)
        self.power._take(fleet_wire.state_out(node, {info.id: info}, STATUS, whole=False), node)

    def order(self, *nodes):
        """Who did not obey, and how long that took."""
        began, self.sequence = self.time.now, self.sequence + 1
        caps = {f"GPU-{node}": 300 + self.sequence for node in nodes or self.after}
        receipt = self.power.apply(caps, Lease(1, self.sequence, 60.0))
        assert receipt.enforced_w == {gpu: cap for gpu, cap in caps.items() if gpu not in receipt.failures}
        assert set(receipt.failures.values()) <= {Reason.NODE_LOST}
        return {gpu.removeprefix("GPU-") for gpu in receipt.failures}, self.time.now - began

    def wait(self, seconds):
        self.wires.run(asyncio.sleep(seconds))

    def heard(self):
        return {gpu.removeprefix("GPU-") for gpu in self.power.heard([f"GPU-{node}" for node in self.after])}


@pytest.fixture
def fleet(monkeypatch, request):
    made = Fleet(monkeypatch, getattr(request, "param", 20))
    yield made
    for task in asyncio.all_tasks(made.loop):
        task.cancel()
    made.loop.close()


def test_nodes_that_die_one_after_the_other_cost_half_a_second_each(fleet):
    assert fleet.order() == (set(), pytest.approx(0.02))
    dead = set()
    for node in [*fleet.after][:-1]:  # in the end half of two, which is all that is waited for
        fleet.after[node] = NEVER
        dead.add(node)
        lost, seconds = fleet.order()
        assert lost == dead
        assert seconds < 0.6
        assert fleet.order() == (dead, pytest.approx(0.02))


def test_where_nobody_answers_it_may_be_the_server_and_the_deadline_counts(fleet):
    fleet.order()
    fleet.after["n1"] = NEVER
    assert fleet.order("n1") == ({"n1"}, pytest.approx(DEADLINE_S, abs=0.1))
    fleet.after = dict.fromkeys(fleet.after, 2.5) | {"n1": NEVER}
    assert fleet.order() == ({"n1"}, pytest.approx(2.5)), "a machine that stood still lost nobody"


@pytest.mark.parametrize("slow", [1, 10, 20])
def test_nodes_that_take_two_seconds_are_lost_once_and_not_while_orders_change_each_second(fleet, slow):
    for _ in range(3):
        fleet.order()
    fleet.after |= dict.fromkeys([*fleet.after][:slow], 2.0)
    lost = []
    for _ in range(20):
        began = fleet.time.now
        lost.append(len(fleet.order()[0]))
        fleet.wait(max(0.0, began + 1.0 - fleet.time.now))
    assert set(lost[3:]) == {0}, f"lost by tick: {lost}"
    behind_s = max(fleet.free_at.values()) - fleet.time.now
    assert behind_s < 2.5, "nobody is given orders faster than it obeys them"


def test_who_tells_its_state_has_nothing_before_it_and_is_ordered_again_at_once(fleet):
    fleet.order()
    fleet.after["n3"] = NEVER
    assert fleet.order()[0] == {"n3"}
    asked = fleet.asked["n3"]
    assert (fleet.order()[0], fleet.asked["n3"]) == ({"n3"}, asked), "it may still be at work"
    fleet.after["n3"] = 0.02
    fleet.tells("n3")
    assert fleet.heard() == {"n3"}
    assert fleet.order() == (set(), pytest.approx(0.02))
    fleet.after["n3"] = NEVER
    assert fleet.order()[0] == {"n3"}
    fleet.wait(DEADLINE_S)
    asked = fleet.asked["n3"]
    assert (fleet.order()[0], fleet.asked["n3"]) == ({"n3"}, asked + 1), "else it is asked again after the deadline"


def test_who_would_get_no_order_now_does_not_count_as_there(fleet):
    """Who commands reckons with those who are heard: the others make up for nobody who has an order to come."""
    fleet.order()
    fleet.after["n3"] = NEVER
    fleet.order()
    fleet.wait(DEADLINE_S + 0.5)
    fleet.loop.call_later(0.1, lambda: fleet.tells("n3"))  # perhaps told before it had read the order
    assert fleet.order()[0] == {"n3"}
    fleet.wait(0.2)
    asked = fleet.asked["n3"]
    assert (fleet.heard(), fleet.order()[0], fleet.asked["n3"]) == (set(), {"n3"}, asked)
    fleet.wait(0.2)
    fleet.after["n3"] = 0.02
    fleet.tells("n3")
    assert fleet.heard() == {"n3"}
    assert fleet.order() == (set(), pytest.approx(0.02))


def test_an_order_about_clocks_is_none_about_caps(fleet):
    fleet.order()
    fleet.after["n4"] = 0.9
    fleet.order()
    fleet.wait(0.5)
    fleet.after["n4"] = 0.02
    fleet.power.lock({"GPU-n4": 1000}, Lease(1, 1000, 60.0))
    assert fleet.heard() == {"n4"}, "its cap is still to be ordered"
    fleet.order("n4")
    assert fleet.heard() == set()


def test_the_servers_word_that_nobody_listens_tells_nothing_of_those_who_do(fleet):
    fleet.order()
    gone, living = [*fleet.after][:11], [*fleet.after][11:]
    for node in gone:
        fleet.wires.leave(node)
    fleet.after |= dict.fromkeys(living, 0.8)
    assert fleet.order() == (set(gone), pytest.approx(0.8)), "half of those who can answer are waited for"
    fleet.after[living[0]] = NEVER
    assert fleet.order() == ({*gone, living[0]}, pytest.approx(0.8 + 0.8, abs=0.1)), "and the rest as long again"


def test_limits_are_given_back_to_those_too_who_may_be_at_work(fleet):
    fleet.order()
    fleet.after["n3"] = 2.0
    assert fleet.order()[0] == {"n3"}
    asked = fleet.asked["n3"]
    fleet.power.release({"GPU-n3": 700.0})
    assert fleet.asked["n3"] == asked + 1


@pytest.mark.parametrize("fleet", [300], indirect=True)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "after",
    [
        lambda number: 0.01 * number,  # as a server and two cores serve them, one by one
        lambda number: 2.9 if number > 150 else 2.0,  # in two bursts
        lambda number: 0.5 + 0.4 * (number % 5),
    ],
)
def test_a_fleet_that_is_slow_as_a_whole_loses_nobody(fleet, after, before):
    if before:
        fleet.order("n7")
    fleet.after = {node: after(number) for number, node in enumerate(fleet.after)}
    assert fleet.order() == (set(), pytest.approx(max(fleet.after.values()), abs=0.01))


def test_one_that_is_late_is_taken_back_when_it_answers_and_waited_for_from_then_on(fleet):
    fleet.order()
    fleet.after["n4"] = 0.9
    lost, seconds = fleet.order()
    assert (lost, fleet.heard(), seconds < 0.6) == ({"n4"}, set(), True)
    fleet.wait(0.5)
    assert fleet.heard() == {"n4"}, "its late answer was heard, though nobody waited for it any more"
    assert fleet.order("n4") == (set(), pytest.approx(0.9))
    assert fleet.order() == (set(), pytest.approx(0.9))
    fleet.after["n5"] = NEVER
    assert fleet.order() == ({"n5"}, pytest.approx(0.9 + 0.4, abs=0.15))
    fleet.after["n4"] = 0.02
    assert fleet.order() == ({"n5"}, pytest.approx(0.02))
    fleet.after["n4"] = NEVER
    lost, seconds = fleet.order()
    assert (lost, seconds < 0.6) == ({"n4", "n5"}, True), "once it was as quick as the others, it is one of them"


def test_a_process_that_stood_still_takes_nobody_for_dead(fleet):
    fleet.order()
    fleet.after = dict.fromkeys(fleet.after, 2.1)  # what came meanwhile is read a moment later

    def stand_still():
        fleet.time.now += 2.0

    fleet.loop.call_later(0.04, stand_still)
    assert fleet.order()[0] == set()


@pytest.mark.parametrize("word_s", [0.0, 0.001, 0.3])
def test_a_mute_node_that_is_there_again_is_heard_though_the_server_speaks_for_the_others(fleet, monkeypatch, word_s):
    """A real server's word that nobody listens comes when the wait has begun."""
    deliver = fleet.wires._deliver

    async def later(subject, data, reply, headers):
        if word_s and headers and headers.get("Status") == "503":
            fleet.loop.call_later(word_s, lambda: fleet.loop.create_task(deliver(subject, data, reply, headers)))
            return True
        return await deliver(subject, data, reply, headers)

    fleet.order()
    fleet.after["n3"] = NEVER
    assert fleet.order()[0] == {"n3"}
    fleet.wait(DEADLINE_S + 0.5)
    monkeypatch.setattr(fleet.wires, "_deliver", later)
    fleet.wires.leave("n4")
    fleet.after["n3"] = word_s + 0.02
    assert fleet.order("n3", "n4") == ({"n4"}, pytest.approx(word_s + 0.1)), "and nobody is waited for any longer"


def test_half_of_those_who_can_answer_is_counted_anew_when_others_turn_out_not_to_be_asked(fleet, monkeypatch):
    """Two can't be sent to, by when one of the other two has answered: half of all have, so no deadline is waited out
    for the one that is dead."""
    fleet.order()
    publish = fleet.bus.client.publish

    async def slowly(subject, *rest, **more):
        if subject in {fleet_wire.ask_subject("n2"), fleet_wire.ask_subject("n3")}:
            await asyncio.sleep(0.05)
            raise NatsError
        await publish(subject, *rest, **more)

    monkeypatch.setattr(fleet.bus.client, "publish", slowly)
    fleet.after["n1"] = NEVER
    lost, seconds = fleet.order("n0", "n1", "n2", "n3")
    assert (lost, seconds < 0.1 + 0.6) == ({"n1", "n2", "n3"}, True), seconds
