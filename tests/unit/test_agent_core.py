"""The agent's judgement on a clock of its own: leases, trajectories, ramps, fences, and the limit found first."""

import asyncio
import json

import pytest

from adapters.ports import AdapterError, Lease
from adapters.power.fleet_wire import trajectory_out
from adapters.power.wire import BAD_REQUEST
from benchmarks.support.storm_bus import LocalClient, Wires
from optimizer.reasons import Reason
from scheduler.agent.bus import Ear
from scheduler.agent.fencing import Fenced
from scheduler.agent.process import answer
from tests.support.agent_node import SETTINGS, Node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_a_cap_holds_while_its_lease_is_renewed_even_by_an_empty_order(node):
    node.cap(400, seconds=5)
    for sequence in range(2, 12):
        assert set(node.live(4)) == {400}
        node.core.apply({}, Lease(1, sequence, 5.0))


def test_without_a_daemon_the_caps_ramp_back_to_what_was_found(node):
    node.power.release(dict.fromkeys(node.gpus, 650.0))
    node.cap(400, seconds=5)
    seen = node.live(40)
    assert set(seen[:4]) == {400}
    assert seen[4:29] == [410.0 + 10 * step for step in range(25)]
    assert set(seen[29:]) == {650}
    assert node.core.status()["phase"] == "free"
    assert not node.core.outstanding


def test_after_the_lease_the_trajectory_is_followed_and_only_then_released(node):
    node.cap(500, seconds=5)
    steps = ((10.0, dict.fromkeys(node.gpus, 300)), (20.0, dict.fromkeys(node.gpus, 450)))
    node.core.hold(steps, 30.0, Lease(1, 2, 5.0))
    seen = node.live(70)
    assert set(seen[:9]) == {500}, "before its first step nothing changes"
    assert set(seen[9:19]) == {300}
    assert set(seen[19:29]) == {450}
    assert seen[29:53] == [460.0 + 10 * step for step in range(24)]
    assert seen[-1] == 700


def test_the_trajectory_caps_gpus_that_were_free_until_then(node):
    node.core.hold(((10.0, {node.gpus[3]: 300}),), 20.0, Lease(1, 1, 5.0))
    node.live(15)
    assert (node.limit(3), node.limit(0)) == (300, 700)
    node.live(60)
    assert node.limits() == {700}


def test_a_cap_that_was_reset_while_nobody_renews_comes_back(node):
    node.core.hold(((0.0, dict.fromkeys(node.gpus, 300)),), 60.0, Lease(1, 1, 2.0))
    node.live(5)
    node.hall.reset_limit(node.gpus[0])
    assert node.live(1) == [300]


def test_a_gpu_that_was_lost_and_came_back_at_its_default_is_capped_again_within_a_tick(node):
    node.cap(400, seconds=100)
    node.live(2)
    node.hall.fail(node.gpus[2], Reason.GPU_LOST)
    node.live(5)
    node.hall.reset_limit(node.gpus[2])
    node.hall.fail(node.gpus[2], None)
    assert node.limits() == {400, 700}
    node.live(1)
    assert node.limits() == {400}
    assert node.core.status()["found_w"] == dict.fromkeys(node.gpus, 700.0)


def test_a_daemon_that_returns_takes_over_from_the_ramp_and_the_first_limit_stays(node):
    node.cap(400, seconds=5)
    node.live(10)
    assert 400 < node.limit() < 700
    node.cap(350, sequence=2)
    assert set(node.live(5)) == {350}
    node.live(90)
    assert node.limits() == {700}


def test_a_replaced_daemon_is_fenced_off(node):
    node.cap(400, epoch=7)
    for refused in (
        lambda: node.cap(300, epoch=6, sequence=99),
        lambda: node.core.hold((), 1.0, Lease(6, 99, 9.0)),
        lambda: node.core.release(dict.fromkeys(node.gpus, 700.0), epoch=6),
    ):
        with pytest.raises(Fenced, match="replaced by 7"):
            refused()
    node.kill_and_restart()
    with pytest.raises(Fenced):
        node.cap(300, epoch=6)
    assert node.limits() == {400}


@pytest.mark.parametrize(
    "word",
    [
        lambda core: core.release(dict.fromkeys(("none of ours",), 700.0), epoch=5),
        lambda core: core.unlock((), epoch=5),
        lambda core: core.take_back(epoch=5),
    ],
    ids=["release", "unlock", "take_back"],
)
def test_any_word_of_a_new_daemon_fences_the_old_one_off_and_its_numbers_begin_anew(node, word):
    """It may have nothing to cap: what it gave back is not capped again by a daemon that hangs and goes on."""
    node.cap(400, seconds=60, sequence=90)
    word(node.core)
    for refused in (
        lambda: node.cap(300, sequence=91),
        lambda: node.core.hold(((0.0, dict.fromkeys(node.gpus, 300)),), 60.0, Lease(1, 92, 60.0)),
        lambda: node.core.release(dict.fromkeys(node.gpus, 700.0), epoch=1),
    ):
        with pytest.raises(Fenced, match="epoch 1 was replaced by 5"):
            refused()
    node.kill_and_restart()
    with pytest.raises(Fenced, match="epoch 1 was replaced by 5"):
        node.cap(300, sequence=93)
    assert set(node.live(50)) == {400}, "the lease runs on, and nobody renews it"
    node.cap(350, sequence=0, epoch=5)
    assert node.limits() == {350}


def test_who_stops_with_nothing_to_give_back_takes_nothing_over(node):
    """A daemon that only observes says so too, and its number may be higher."""
    node.cap(400, epoch=3)
    node.core.release({}, epoch=7)
    node.cap(300, epoch=3, sequence=2)
    assert node.limits() == {300}


@pytest.mark.parametrize("epoch", [True, 2**63, -1, 1.5, "7"])
@pytest.mark.parametrize(
    "word", [{"op": "release", "limits_w": {"a": 700}}, {"op": "unlock", "gpus": []}, {"op": "take_back"}]
)
def test_an_epoch_that_no_lease_may_have_is_refused_and_not_kept(node, word, epoch):
    node.cap(400, seconds=60)
    assert answer(node.core, word | {"epoch": epoch}, True)["code"] == BAD_REQUEST
    node.kill_and_restart()
    assert node.core.status()["epoch"] == 1


def test_an_overtaken_order_is_refused_a_repeated_one_is_not(node):
    node.cap(400, sequence=5)
    with pytest.raises(Fenced, match="overtaken by 5"):
        node.cap(300, sequence=4)
    node.cap(400, sequence=5)
    node.kill_and_restart()
    with pytest.raises(Fenced, match="overtaken"):
        node.cap(300, sequence=4)
    node.cap(300, sequence=0, epoch=2)
    assert node.limits() == {300}


def test_the_limit_found_first_survives_any_number_of_deaths(node):
    node.power.release({gpu: 600.0 + place for place, gpu in enumerate(node.gpus)})
    first = {gpu: info.limit_w for gpu, info in node.hall.infos().items()}
    for death in range(5):
        node.cap(300 + 10 * death, sequence=death, gpus=node.gpus[: 4 + death])
        node.kill_and_restart()
    receipt = node.core.release(dict.fromkeys(node.gpus, 310.0), epoch=1)
    assert {gpu: info.limit_w for gpu, info in node.hall.infos().items()} == first
    assert {note.code for note in receipt.notes} == {Reason.CAP_DRIFT}, "the daemon is told that it remembered wrongly"
    assert not node.core.outstanding


def test_a_lease_outlives_a_kill_but_is_not_prolonged_by_it(node):
    node.cap(400, seconds=20)
    node.live(10)
    node.kill_and_restart()
    assert set(node.live(9)) == {400}
    assert node.live(2)[-1] > 400
    node.kill_and_restart()
    node.live(60)
    assert node.limits() == {700}


def test_lease_and_trajectory_outlive_a_kill_but_not_a_reboot(node, monkeypatch):
    node.core.hold(((0.0, dict.fromkeys(node.gpus, 300)),), 100.0, Lease(1, 1, 2.0))
    node.live(3)
    node.kill_and_restart()
    assert set(node.live(10)) == {300}
    node.core.apply({}, Lease(1, 2, 1000.0))
    monkeypatch.setattr("scheduler.agent.state.boot_id", lambda: "another boot")
    node.kill_and_restart()
    assert node.core.status()["phase"] == "releasing"
    node.live(60)
    assert node.limits() == {700}


def test_a_gpu_that_is_away_is_given_back_when_it_returns(node):
    node.cap(400, seconds=2)
    node.hall.fail(node.gpus[7], Reason.GPU_LOST)
    node.live(60)
    assert node.limits() == {700}
    assert node.core.outstanding
    node.hall.fail(node.gpus[7], None)
    assert node.limit(7) == 400
    node.live(10)
    assert node.limit(7) == 500, "it ramps like the others did"
    node.live(30)
    assert node.limits() == {700}
    assert not node.core.outstanding


def test_nothing_is_capped_when_the_first_limit_cannot_be_written_down(node, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scheduler.agent.state.os.fsync", full)
    with pytest.raises(AdapterError, match="No space left"):
        node.cap(300)
    assert node.limits() == {700}
    assert not node.core.outstanding


def test_a_torn_lease_has_ended_and_a_torn_baseline_is_refused(node):
    node.cap(400, seconds=1000)
    (node.folder / "lease.json").write_text('{"expires_at": 9', encoding="ascii")
    node.kill_and_restart()
    assert node.core.status()["phase"] == "releasing"
    (node.folder / "found.json").write_text('{"format": 1, "lim', encoding="ascii")
    with pytest.raises(AdapterError, match=r"found\.json"):
        node.kill_and_restart()


def test_an_older_agent_reads_what_a_newer_one_wrote_and_keeps_what_it_does_not_know(node):
    node.cap(400, seconds=1000)
    path = node.folder / "found.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"invented_later": {"GPU": 7}}))
    node.kill_and_restart()
    node.core.hold((), 0.0, Lease(1, 9, 60.0))  # which is written down
    assert json.loads(path.read_text())["invented_later"] == {"GPU": 7}
    assert set(json.loads(path.read_text())["limits_w"].values()) == {700.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    before = path.read_bytes()
    with pytest.raises(AdapterError, match=r"its format is 2, this agent knows 1; install the other one again"):
        node.kill_and_restart()
    assert path.read_bytes() == before


def test_an_orderly_release_ends_lease_and_trajectory(node):
    node.cap(400)
    node.core.hold(((1.0, dict.fromkeys(node.gpus, 300)),), 100.0, Lease(1, 2, 2.0))
    node.core.release(dict.fromkeys(node.gpus, 700.0), epoch=1)
    assert set(node.live(20)) == {700}
    assert node.core.status()["phase"] == "free"


def test_nobody_may_cap_for_ever(node):
    node.cap(400, seconds=1e9)
    assert node.core.status()["lease_left_s"] == SETTINGS.longest_lease_s
    node.core.hold(((0.0, dict.fromkeys(node.gpus, 300)),), 1e9, Lease(1, 2, 1.0))
    node.clock.sleep(SETTINGS.longest_hold_s)
    node.live(60)
    assert node.limits() == {700}


def test_a_trajectory_that_waited_counts_though_a_younger_renewal_was_heard_first(node):
    """A node that comes back hears the next renewal before it reads what was put into the bucket meanwhile."""
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 300))], 100.0, Lease(1, 3, 5.0))
    node.cap(400, sequence=9, seconds=20.0)
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 350))], 100.0, Lease(1, 7, 1.0))
    assert node.core.status()["sequence"] == 9
    assert node.core.status()["lease_left_s"] == pytest.approx(20.0), "an old lease shortens no younger one"
    with pytest.raises(Fenced):
        node.core.hold([(0.0, dict.fromkeys(node.gpus, 500))], 100.0, Lease(1, 5, 5.0))
    node.kill_and_restart()
    with pytest.raises(Fenced):
        node.core.hold([(0.0, dict.fromkeys(node.gpus, 500))], 100.0, Lease(1, 5, 5.0))
    assert node.live(25)[-1] == 350
    node.core.hold([(0.0, dict.fromkeys(node.gpus, 450))], 100.0, Lease(2, 1, 1.0))
    assert node.live(5)[-1] == 450, "a new daemon begins to count anew"


def test_a_rebooted_node_follows_what_waits_in_the_bucket_at_once_and_not_when_an_old_lease_ends(node):
    """Its cards came back at their default; the caps that the lease stood for are gone."""
    wires = Wires(asyncio.new_event_loop())
    client, wall = LocalClient(wires, "n1"), node.clock.now().timestamp()
    wires.kept["n1"] = trajectory_out(((0.0, dict.fromkeys(node.gpus, 300)),), 600.0, Lease(1, 7, 30.0), wall)

    async def at_once(work):
        return work()

    ear = Ear(node.core, "n1", answer, 1.0, at_once, lambda: node.clock.now().timestamp())
    node.clock.sleep(5)
    wires.at_once(ear.catch_up(client))
    wires.loop.close()
    assert node.live(1) == [300]


def test_a_step_that_falls_while_nobody_is_heard_is_followed_though_the_lease_lasts(node):
    node.cap(500, seconds=60)
    node.core.hold(((0.0, dict.fromkeys(node.gpus, 500)), (10.0, dict.fromkeys(node.gpus, 300))), 90.0, Lease(1, 2, 60))
    assert node.live(12) == [500] * 9 + [300] * 3, "the lease would last a minute"
    node.core.apply({}, Lease(1, 3, 60.0))
    assert node.limit() == 500, "who ordered 500 W is there after all, and has not said otherwise"
    assert set(node.live(20)) == {500}


def test_who_is_heard_about_a_falling_step_is_waited_for_and_a_rising_one_waits_for_the_leases_end(node):
    node.cap(400, seconds=30)
    steps = ((0.0, 400), (10.0, 300), (25.0, 500))
    node.core.hold(tuple((at, dict.fromkeys(node.gpus, cap)) for at, cap in steps), 90.0, Lease(1, 2, 30.0))
    assert set(node.live(9)) == {400}
    node.core.apply({}, Lease(1, 3, 30.0))
    assert set(node.live(2)) == {400}, "heard a second before the step"
    node.core.apply({}, Lease(1, 4, 30.0))
    seen = node.live(32)
    assert set(seen[:29]) == {400}, "heard after it: the order counts, and nothing falls any more"
    assert set(seen[30:]) == {500}


@pytest.mark.parametrize("away_s", [0, 6])
def test_a_step_that_falls_is_followed_by_an_agent_that_restarted_before_or_over_it(node, away_s):
    """The lease, the orders in force and the second in which somebody was heard last outlive the process."""
    node.cap(500, seconds=60)
    node.core.hold(((0.0, dict.fromkeys(node.gpus, 500)), (10.0, dict.fromkeys(node.gpus, 300))), 90.0, Lease(1, 2, 60))
    assert set(node.live(6)) == {500}
    node.clock.sleep(away_s)
    node.kill_and_restart()
    seen = node.live(8)
    assert seen[:2] == [500] * 2, "who ordered 500 W is waited for"
    assert seen[4:] == [300] * 4, "the lease would last a minute"
    node.core.apply({}, Lease(1, 3, 60.0))
    assert node.limit() == 500, "who ordered 500 W is there after all, and has not said otherwise"


def test_a_cap_that_was_raised_while_the_agent_was_dead_is_set_again_when_it_is_back(node):
    """What it had ordered is on disk: what it finds is not taken for it, and whoever insists gets the GPU."""
    node.cap(400)
    node.cap(90, sequence=2, gpus=node.gpus[5:6])  # below what the card takes: clamped, which is no drift
    node.live(2)
    lowest = node.limit(5)
    node.hall.reset_limit(node.gpus[0])
    node.kill_and_restart()
    node.live(1)
    assert node.limits() == {400, lowest}
    assert node.core.status()["reasserted"] == 1
    for _ in range(4):
        node.hall.reset_limit(node.gpus[0])
        node.live(1)
    assert node.core.status()["yielded_w"] == {node.gpus[0]: 700.0}
    assert {node.limit(place) for place in (1, 2, 3, 4)} == {400}


def test_the_trajectory_s_caps_are_what_an_agent_looks_for_that_restarts_while_it_follows(node):
    node.cap(300, seconds=3)
    node.core.hold(((0.0, dict.fromkeys(node.gpus, 500)),), 90.0, Lease(1, 2, 3.0))
    assert node.live(6)[-1] == 500
    node.kill_and_restart()
    assert node.live(3) == [500] * 3
    assert node.core.status()["reasserted"] == 0, "500 W is no 300 W that came back raised"


def test_what_the_trajectory_outlasted_is_brought_back_by_an_agent_that_restarted(node):
    node.cap(500, seconds=60)
    node.core.hold(((10.0, dict.fromkeys(node.gpus, 300)),), 90.0, Lease(1, 2, 60))
    assert node.live(15)[-1] == 300
    node.kill_and_restart()
    assert node.live(2)[-1] == 300
    node.core.apply({}, Lease(1, 3, 60.0))
    assert node.limits() == {500}
    node.kill_and_restart()
    node.core.apply({}, Lease(1, 4, 60.0))
    assert set(node.live(5)) == {500}


WRONG = ([], {"GPU": "warm"}, None)
NONSENSE = [{name: one} for name in ("ordered", "yielded") for one in WRONG] + [{"ordered": {"GPU": float("inf")}}]


@pytest.mark.parametrize("wrong", [*NONSENSE, {"expires_at": "late"}, {"heard_at": None}])
def test_a_lease_of_nonsense_ends_the_lease_and_not_the_agent(node, wrong):
    node.cap(400, seconds=100)
    path = node.folder / "lease.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    node.kill_and_restart()
    assert node.core.status()["phase"] == "releasing"
    assert node.live(1)[-1] > 400


def test_a_lease_that_a_newer_agent_wrote_is_read(node):
    node.cap(400, seconds=10)
    path = node.folder / "lease.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}))
    node.kill_and_restart()
    assert node.live(5)[-1] == 400
