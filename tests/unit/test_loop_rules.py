"""Rules of the loops that a reviewer once found broken: each of these was a defect before it was a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.hall import SimulatedHall
from adapters.ports import EventTarget
from adapters.power.simulated import SimulatedPower
from optimizer.reasons import Reason, Severity
from scheduler.clock import VirtualClock
from scheduler.dispatch import Dispatcher
from scheduler.explaining import explain_target
from scheduler.orders import PoolOrder
from scheduler.service import OperatorOrder, Refused
from scheduler.store.store import Store
from tests.support.loops import START, lab, order

OUT_OF_REACH = {Reason.EVENT_UNREACHABLE, Reason.LIMIT_UNREACHABLE}
TWO_SITES = (
    "sites:",
    "sites:\n  - {id: west, timezone: America/Denver, price: energy}",
)


def test_the_plan_knows_the_operators_limit_until_it_ends(tmp_path):
    with lab(tmp_path) as made:
        made.plan()
        free = made.state.plan.sites["lab"].import_kw
        assert min(free[:12]) > 31
        until = START + timedelta(hours=1)
        made.facade.order(OperatorOrder("limit", site="lab", limit_kw=30.0, until=until, by="me"))
        made.plan()
        planned = made.state.plan
        imports = dict(zip(planned.grid.starts, planned.sites["lab"].import_kw, strict=True))
        inside = [kw for at, kw in imports.items() if START + timedelta(minutes=10) <= at < until]
        assert max(inside) <= 30.0 + 1e-6
        assert max(kw for at, kw in imports.items() if until <= at < until + timedelta(hours=3)) > 31


def test_a_program_speaks_for_its_own_site_alone(tmp_path):
    with lab(tmp_path, lambda text: text.replace(*TWO_SITES)) as made:
        made.plan()
        made.tick()
        with pytest.raises(Refused, match="site: program elrp is for lab") as refused:
            made.facade.accept(order(START, START + timedelta(hours=1), site="west"))
        assert refused.value.status == 422
        assert not made.ctx.ledger.statuses()


def test_explain_tells_what_holds_a_pool_now_and_not_what_the_plan_once_meant(tmp_path):
    with lab(tmp_path) as made:
        made.run(timedelta(minutes=6))
        assert "full power" in explain_target(made.ctx, made.state, "train")
        made.state.operator["limit:lab"] = OperatorOrder("limit", site="lab", limit_kw=30.0)
        for _ in range(120):
            made.tick()
            made.clock.sleep(1.0)
        assert made.state.orders["train"].cap_w < 400
        told = explain_target(made.ctx, made.state, "train")
        assert f"{made.state.orders['train'].cap_w} W" in told
        assert "the operator's limit holds lab at 0.03 MW" in told


def test_a_first_plan_that_breaks_a_promise_is_never_in_force(tmp_path):
    with lab(tmp_path) as made:
        solve = made.ctx.planner.plan

        def spoiled(problem, last=None):
            plan = solve(problem, last)
            site = replace(plan.sites["lab"], import_kw=tuple(kw / 2 for kw in plan.sites["lab"].import_kw))
            return replace(plan, sites={"lab": site})

        made.ctx.planner.plan = spoiled
        made.plan()
        assert made.state.plan.rung.value == "safe"
        alert = next(note for note in made.state.report.notes if note.code is Reason.PLAN_REFUSED)
        assert "every pool goes to its floor" in alert.text


def test_a_job_of_the_config_that_the_queue_refuses_is_an_alert(tmp_path):
    with lab(tmp_path, lambda text: text.replace("2022-09-07T00:00:00Z", "2022-09-06T20:00:00Z")) as made:
        made.plan()
        alert = next(note for note in made.state.report.notes if note.subject == "fixed")
        assert alert.severity is Severity.ALERT
        assert "gridpace.yaml:" in alert.text
        assert "deadline" in alert.text


def test_the_place_of_a_broken_price_file_stays_on_every_surface(tmp_path):
    (tmp_path / "p.csv").write_text("start,price\n2022-09-06T20:00:00Z,40\n2022-09-06T21:00:00Z,41,9\n")
    source = (
        "{id: energy, type: constant, unit: USD/MWh, value: 60}",
        "{id: energy, type: csv, path: p.csv, time_column: start, value_column: price, unit: USD/MWh}",
    )
    with lab(tmp_path, lambda text: text.replace(*source)) as made:
        made.plan()
        assert any("p.csv:3" in note.text for note in made.state.report.notes)


def test_no_gpu_is_set_above_the_limit_found_on_it_unless_the_operator_says_so(tmp_path):
    with lab(tmp_path) as made:
        pool = made.ctx.pools["train"].pool
    hall = SimulatedHall([pool], VirtualClock(START))
    gpus, power, books = hall.gpus_of["train"], SimulatedPower(hall), Store.in_memory()
    power.release({gpus[0]: 310.0})
    for raisable, expected in ((frozenset(), 310.0), (frozenset(gpus), 400.0)):
        dispatcher = Dispatcher(books, power, {"train": gpus}, writes=True, raisable=raisable)
        dispatcher.adopt()
        dispatcher.apply({"train": PoolOrder(400, 32)}, 60.0, START)
        found = power.discover()
        assert (found[gpus[0]].limit_w, found[gpus[1]].limit_w) == (expected, 400.0)
        assert dispatcher.verify(START) == ()
    dispatcher.release(START)
    assert power.discover()[gpus[0]].limit_w == 310.0


def test_a_job_that_was_just_taken_can_be_asked_about(tmp_path):
    with lab(tmp_path) as made:
        made.plan()
        made.ctx.jobs.submit(replace_request(made), START)
        assert "queued and not planned yet" in explain_target(made.ctx, made.state, "fresh")


def replace_request(made):
    from scheduler.service import JobRequest

    return JobRequest("fresh", "tune", 4.0, 4, START + timedelta(hours=5))


def test_health_is_bad_when_only_the_fast_loop_turns(tmp_path):
    with lab(tmp_path) as made:
        made.plan()
        made.tick()
        assert made.facade.health()["ok"]
        for _ in range(20):
            made.clock.sleep(60)
            made.tick()
        assert not made.facade.health()["ok"]


def test_the_loops_hold_a_job_back_until_the_one_before_it_is_done_and_keep_a_gang_whole(tmp_path):
    from scheduler.service import JobRequest

    with lab(tmp_path) as made:
        first = JobRequest("first", "tune", 1.0, 4, START + timedelta(hours=2), min_gpus=4, data_gb=10.0)
        made.ctx.jobs.submit(first, START)
        made.ctx.jobs.submit(replace(first, id="then", after=("first",)), START)
        made.plan()
        made.tick()
        held = {job.id: job.gpus for job in made.ctx.jobs.snapshot()}
        assert (held["first"] in {0, 4}, held["then"]) == (True, 0)
        assert made.state.plan.jobs["then"].reasons[0] is Reason.PREDECESSOR
        assert next(job for job in made.state.problem.jobs if job.id == "first").data_site == "lab"
        made.ctx.jobs.report("first", 1.0, finished=True)
        made.plan()
        assert made.state.plan.jobs["then"].reasons[0] is not Reason.PREDECESSOR


def test_a_job_system_that_shows_it_hears_when_the_plan_starts_each_job(tmp_path):
    dear, cheap = ((START + timedelta(hours=k)).isoformat() for k in (0, 4))
    (tmp_path / "prices.csv").write_text(f"start,price\n{dear},900\n{cheap},10\n{cheap.replace('T01', 'T11')},10\n")
    told = {}
    csv = "type: csv, path: prices.csv, unit: USD/MWh}"
    with lab(tmp_path, lambda text: text.replace("type: constant, unit: USD/MWh, value: 60}", csv)) as made:
        made.ctx.jobs.expect = told.update
        made.plan()
    assert told["soft"] == START + timedelta(hours=4)
    assert told["fixed"] == START


WEST = (
    "  - {id: west-chat, site: west, gpu_model: A100-400W, count: 16, work: interactive,"
    "\n     curve: A100-400W/infer_llama_8b, value_per_gpu_h: 5, floor: 0.8, load: 0.95, tokens_per_gpu_h: 3.0e+6}\n"
    "  - {id: west-train, site: west, gpu_model: A100-400W, count: 16, work: training,"
    "\n     curve: A100-400W/pt_mpt_7b_fast, value_per_gpu_h: 0.8, floor: 0.6}\n"
)


def two(text):
    """The lab under a limit that binds, and a smaller site with its own PUE, limit and ramp."""
    west = "{id: west, timezone: America/Denver, price: energy, limit_kw: 12.5, pue: {base: 1.3}, other_it_kw: 0.5,"
    sites = f"sites:\n  - {west}\n     ramp_kw_per_min: {{up: 2, down: 40}}}}"
    return text.replace("limit_kw: 100", "limit_kw: 36").replace("sites:", sites).replace("signals:", f"{WEST}signals:")


def test_two_sites_of_one_daemon_keep_each_its_own_limit_and_none_pays_for_the_other(tmp_path):
    """In every second: an event at one, an order of the operator at the other, and one that is out of reach."""
    with lab(tmp_path, two) as made:
        made.run(timedelta(minutes=2))
        limits, ticks = {"lab": 36.0, "west": 12.5}, []

        def spend(minutes):
            made.plan()
            passed = made.run(timedelta(minutes=minutes))
            over = {site: max(tick.import_kw[site] for tick in passed[3:]) - kw for site, kw in limits.items()}
            assert max(over.values()) <= 0.01, over
            ticks.extend(passed)
            return passed

        free = spend(3)[-1]
        assert {site: free.import_kw[site] > 0.97 * kw for site, kw in limits.items()} == {"lab": True, "west": True}
        made.facade.order(OperatorOrder("limit", site="west", limit_kw=9.0, by="me"))
        limits["west"] = 9.0
        held = spend(3)[-1]
        assert {pool: held.cap_w[pool] for pool in ("chat", "train")} == {
            pool: free.cap_w[pool] for pool in ("chat", "train")
        }, "nothing changed at the lab"
        begin = made.clock.now()
        target = EventTarget(begin, begin + timedelta(hours=1), limit_kw=34.0)
        made.facade.accept(order(begin, begin + timedelta(hours=1), targets=(target,), ramp_in_s=0.0))
        limits["lab"] = 34.0
        asked = spend(3)[-1]
        assert asked.cap_w["west-chat"] == held.cap_w["west-chat"]
        assert not [note for tick in ticks for note in tick.notes if note.code in OUT_OF_REACH]
        made.facade.order(OperatorOrder("limit", site="west", limit_kw=None, by="me"))
        limits["west"], low_kw = 12.5, asked.import_kw["west"]
        rising = spend(1)[-1]
        assert rising.import_kw["west"] == pytest.approx(low_kw + 2.0, abs=0.2), "by its own ramp"
        assert rising.import_kw["lab"] > 0.97 * 34.0
        made.facade.order(OperatorOrder("limit", site="west", limit_kw=2.0, by="me"))
        del limits["west"]
        told = [note for tick in spend(1) for note in tick.notes if note.code in OUT_OF_REACH]
        assert {(note.code, note.subject) for note in told} == {(Reason.LIMIT_UNREACHABLE, "west")}
