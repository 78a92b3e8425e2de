"""One plan for several daemons: jobs go where power is cheap and their owners allow it, and words grow old."""

from dataclasses import replace
from datetime import timedelta

import pytest
import requests

from optimizer.assets import Battery, CoincidentCharge, Generator, ReserveOffer
from optimizer.check import check_plan
from optimizer.domain import Rung, Work
from optimizer.reasons import Reason
from optimizer.solve import solve_problem
from optimizer.timegrid import TimeGrid
from scheduler.config.errors import ConfigError
from scheduler.coordination.config import load_coordinator
from scheduler.coordination.coordinator import Coordinator
from scheduler.coordination.joint import Movable, Terms, joint_problem, shares
from scheduler.coordination.messages import Home, Share, SiteReport
from scheduler.coordination.shares import Shares, Stale
from scheduler.store.codec import pack, unpack
from scheduler.store.store import Store
from tests.support.problems import HOUR, START, event, hourly, inputs, job, pool, problem, site

BATCH = pool("batch", Work.BATCH, count=100)
NOW = START


def report(name, price=50.0, jobs=(), movable=None, away=None, guests=None, count=4, **more):
    """A daemon with one site `dc`, one batch pool of 100 GPUs and these jobs."""
    made = problem(hourly(count), [site(count, price=price, **more)], [inputs(BATCH, count)], jobs)
    return SiteReport(name, "USD", made, movable or {}, away or {}, guests or {})


def decided(reports, terms=None):
    made, movable = joint_problem(reports, terms or Terms(), NOW)
    plan = solve_problem(made)
    return shares(made, plan, movable, reports), made, plan


def homes(found, owner):
    return {name: home.site for name, home in found[owner].items()}


def test_work_goes_to_the_cheap_site_when_it_may_and_nowhere_when_its_data_must_stay():
    jobs = [job("free", work=50.0, gpus=50), job("bound", work=50.0, gpus=50), job("other", work=10.0, gpus=10)]
    texas = report("texas", 200.0, jobs, movable={"free": ("california",), "other": ("nevada",)})
    found, _, plan = decided([texas, report("california", 20.0), report("oregon", 1.0)])
    assert homes(found, "texas") == {"free": "california"}, "oregon is cheaper, and nobody allowed it"
    assert plan.jobs["texas/bound"].pool == plan.jobs["texas/other"].pool == "texas/batch"
    assert found["texas"]["free"].why == (
        "power in its hours costs 20.00 USD/MWh at california, carbon included, 200.00 at texas; moving it from texas "
        "counts 0.00 USD"
    )
    assert found["california"] == found["oregon"] == {}


def test_moving_is_weighed_against_what_it_costs():
    """50 GPU-hours draw, at low caps 0.2 kWh for each: moving saves 50 * 0.2 * 0.18 = 1.8."""
    heavy = job("j", work=50.0, gpus=50, data_gb=100.0)
    pair = [report("texas", 200.0, [heavy], movable={"j": ("california",)}), report("california", 20.0)]
    assert homes(decided(pair, Terms(per_gb=0.01))[0], "texas") == {"j": "california"}
    assert homes(decided(pair, Terms(per_gb=0.2))[0], "texas") == {"j": "texas"}
    assert homes(decided(pair, Terms(least_gain=0.5))[0], "texas") == {"j": "texas"}


def test_carbon_counts_at_each_daemons_own_price_of_it():
    pair = [
        report("texas", 50.0, [job("j", work=50.0, gpus=50)], movable={"j": ("california",)}, carbon=500.0),
        report("california", 60.0, carbon=50.0),
    ]
    assert homes(decided(pair)[0], "texas") == {"j": "texas"}
    dear = [replace(one, problem=replace(one.problem, prices=replace(one.problem.prices, carbon_per_tonne=100.0)))
            for one in pair]  # fmt: skip
    assert homes(decided(dear)[0], "texas") == {"j": "california"}


def test_a_full_site_an_event_and_a_limit_send_the_rest_elsewhere():
    jobs = [job(f"j{k}", hours=(0, 1), work=50.0, gpus=50) for k in range(3)]
    texas = report("texas", 50.0, jobs, movable={one.id: ("california",) for one in jobs}, count=1)
    california = report("california", 60.0, count=1)
    assert sorted(homes(decided([texas, california])[0], "texas").values()) == ["california", "texas", "texas"]
    called = replace(texas, problem=replace(texas.problem, events=(event("e", (0, 1), 10.0),)))
    found = decided([called, california])[0]["texas"]
    assert sorted(home.site for home in found.values()) == ["california", "california", "texas"]
    assert [home.why for home in found.values() if home.site == "texas"] == [
        "stays at texas: the plan gives it no work yet"
    ], "two fill the other site, and the event leaves this one nothing but idle cards"


def test_what_a_site_has_beside_its_grid_counts():
    """At equal prices: the sun, a battery, reserve that pays for idle readiness, a peak of the system."""

    def where(there=None, here=None):
        jobs = [job("j", hours=(0, 2), work=100.0, gpus=100)]
        texas = report("texas", 50.0, jobs, movable={"j": ("california",)}, count=4, **(here or {}))
        found, made, plan = decided([texas, report("california", 50.1, count=4, **(there or {}))])
        assert not check_plan(made, plan)
        return homes(found, "texas")["j"]

    sun = Generator("sun", (0.0,) * 4, (25.0,) * 4, must_take=True)
    full = Battery("b", 80.0, 0.0, 80.0, 20.0, 40.0, end_value_per_kwh=0.01)
    ready = ReserveOffer("r", (0.5, 0.5, 0.0, 0.0), 20.0, 60.0, 600.0)
    peak = CoincidentCharge("4cp", 100.0, (0.3, 0.3, 0.0, 0.0))
    assert where() == "texas"
    assert where(there={"generators": (sun,)}) == "california"
    assert where(there={"batteries": (full,)}) == "california"
    assert where(there={"reserves": (ready,)}) == "california", "what runs there can be shed, and is paid for it"
    assert where(here={"coincident": (peak,)}) == "california"


def test_what_a_site_has_is_put_on_the_common_grid():
    quarter = TimeGrid(tuple(START + HOUR / 4 * k for k in range(13)))
    fine = problem(quarter, [site(12)], [inputs(BATCH, 12)])
    units = {
        "generators": (Generator("sun", (0.0,) * 3, (4.0, 8.0, 12.0), must_take=True),),
        "batteries": (Battery("b", 8.0, 0.0, 8.0, 2.0, 4.0),),
        "reserves": (ReserveOffer("r", (1.0, 2.0, 3.0), 9.0, 60.0, 600.0),),
        "coincident": (CoincidentCharge("4cp", 10.0, (0.4, 0.0, 0.2)),),
    }
    rough = report("b", count=3, **units)
    users = replace(inputs(pool("chat", count=10), 3), floors=(0.5, 0.9, 0.6))
    rough = replace(rough, problem=replace(rough.problem, pools=(*rough.problem.pools, users)))
    made, _ = joint_problem([SiteReport("a", "USD", fine, {}, {}, {}), rough], Terms(), NOW)
    found = made.sites[1]
    assert (found.generators[0].id, found.generators[0].high_kw) == ("b/sun", (4.0,) * 4 + (8.0,) * 4 + (12.0,) * 4)
    assert (found.batteries[0].id, found.batteries[0].stored_now_kwh) == ("b/b", 8.0)
    assert found.reserves[0].price_per_kw_h == (1.0,) * 4 + (2.0,) * 4 + (3.0,) * 4
    assert found.coincident[0].probability == pytest.approx((0.1,) * 4 + (0.0,) * 4 + (0.05,) * 4), "one peak is one"
    assert made.pools[-1].floors == (0.5,) * 4 + (0.9,) * 4 + (0.6,) * 4
    assert not check_plan(made, solve_problem(made))


def test_a_guest_is_its_owners_and_goes_home_or_stays_by_his_word():
    guest = job("batch_9", work=50.0, gpus=50)
    texas = report("texas", 20.0, movable={"j": ("california",)}, away={"j": "california"})
    california = report("california", 200.0, [guest], guests={"batch_9": "texas/j"})
    assert homes(decided([texas, california])[0], "texas") == {"j": "texas"}
    found, _, plan = decided([california])  # its owner is silent: nobody can say what it may
    assert (found["california"], plan.jobs["california/batch_9"].pool) == ({}, "california/batch")
    stranger = replace(texas, away={"j": "oregon"})
    assert decided([stranger, california])[0]["texas"] == {}, "what its owner does not know is not sent about"


def test_jobs_that_cannot_be_handed_over_stay():
    fixed = job("fixed", work=50.0, gpus=50, preemptible=False)
    first, second = job("first", work=5.0, gpus=5), job("second", work=5.0, gpus=5, after=("first",))
    may = dict.fromkeys(("fixed", "first", "second"), ("california",))
    texas = report("texas", 200.0, [fixed, first, second], movable=may)
    assert decided([texas, report("california", 20.0)])[0]["texas"] == {}


def test_sites_whose_grids_differ_are_put_on_one():
    quarter = TimeGrid(tuple(START + HOUR / 4 * k for k in range(13)))
    fine = problem(quarter, [site(12, price=[10.0] * 4 + [90.0] * 8, limit=[80.0] * 2 + [60.0] * 10)],
                   [inputs(BATCH, 12)])  # fmt: skip
    made, _ = joint_problem([SiteReport("a", "USD", fine, {}, {}, {}), report("b", [1.0, 2.0, 3.0, 4.0])], Terms(), NOW)
    assert made.grid.edges == quarter.edges
    assert made.sites[1].price_per_mwh == (1.0,) * 4 + (2.0,) * 4 + (3.0,) * 4
    late, _ = joint_problem([SiteReport("a", "USD", fine, {}, {}, {}), report("b")], Terms(), NOW + HOUR * 1.1)
    assert (late.grid.start, late.grid.end) == (START + HOUR, START + 3 * HOUR)
    coarse = replace(report("c"), problem=problem(hourly(2), [site(2)], [inputs(BATCH, 2)]))
    rough, _ = joint_problem([coarse, replace(report("d"), problem=replace(fine, grid=quarter))], Terms(), NOW)
    assert rough.grid.edges == tuple(START + HOUR / 4 * k for k in range(9))
    with pytest.raises(ValueError, match="no time in common"):
        joint_problem([report("a"), report("b")], Terms(), NOW + 5 * HOUR)
    with pytest.raises(ValueError, match="different currencies"):
        joint_problem([report("a"), replace(report("b"), currency="EUR")], Terms(), NOW)


def test_a_report_comes_through_the_wire_as_it_was():
    found = report("texas", 50.0, [job("j")], movable={"j": ("california",)}, limit=float("inf"))
    assert unpack(SiteReport, pack(found)) == found


# ---------------------------------------------------------------- the daemon's side
def share(made_at=NOW, lease_s=60.0, **homes_of):
    return Share(made_at, lease_s, {name: Home(where, "why") for name, where in homes_of.items()})


def test_a_word_holds_for_its_lease_also_over_a_restart_and_an_older_one_changes_nothing():
    store = Store.in_memory()
    book = Shares("texas", store)
    assert book.notes(NOW)[0].code is Reason.COORDINATOR_LOST
    book.accept(share(j="california"), NOW)
    for one in (book, Shares("texas", store)):
        assert one.homes(NOW + timedelta(seconds=59))["j"].site == "california"
        assert one.notes(NOW + timedelta(seconds=59)) == ()
        assert one.homes(NOW + timedelta(seconds=60)) == {}
        assert "goes on by itself" in one.notes(NOW + timedelta(seconds=60))[0].text
        assert one.last("j").site == "california", "why it is where it is can still be told"
        with pytest.raises(Stale):
            one.accept(share(NOW - timedelta(seconds=1), j="texas"), NOW)
        assert one.homes(NOW)["j"].site == "california"
    book.accept(
        share(NOW - HOUR, j="texas"), NOW + HOUR
    )  # a coordinator whose clock was ahead is not the last for long
    assert book.homes(NOW + HOUR)["j"].site == "texas"
    store.close()


# ---------------------------------------------------------------- the coordinator
CONFIG = """
sites:
  - {name: texas, url: "http://127.0.0.1:1", token: "file:token"}
  - {name: california, url: "http://127.0.0.1:2", token: "file:token"}
"""


class Planner:
    """The optimum, without a process; `rung` says that it is another one."""

    rung = Rung.OPTIMUM

    def plan(self, asked, last_plan=None):
        return replace(solve_problem(asked), rung=self.rung)

    def close(self):
        pass


class Answer:
    def __init__(self, content):
        self.content = content


@pytest.fixture
def wire(tmp_path, monkeypatch):
    """A coordinator, and what its sites say; they hear into `told`."""
    (tmp_path / "token").write_text("t")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "coordinator.yaml").write_text(CONFIG)
    made = Coordinator(load_coordinator(tmp_path / "coordinator.yaml"), Planner())
    made.told, made.reports = {}, {}

    def call(method, site, path, **more):
        if site.name not in made.reports:
            raise requests.ConnectionError("no route")
        if method == "PUT":
            made.told[site.name] = more["json"]
        return Answer(pack(made.reports[site.name]))

    monkeypatch.setattr(made, "_call", call)
    yield made
    made.close()


def test_a_silent_site_is_left_alone_and_the_others_are_planned(wire):
    jobs = [job("j", work=50.0, gpus=50)]
    wire.reports = {"texas": report("texas", 200.0, jobs, movable={"j": ("california",)})}
    turn = wire.turn(NOW)
    assert (turn.heard, list(turn.silent)) == (("texas",), ["california"])
    assert wire.told["texas"]["homes"] == {}, "there is nowhere to go, so nothing is said of the job"
    assert "california goes on by itself" in turn.sentence()
    wire.reports["california"] = report("california", 20.0)
    turn = wire.turn(NOW)
    assert (turn.moving, turn.silent) == (1, {})
    assert wire.told["texas"]["homes"]["j"]["site"] == "california"
    assert wire.told["texas"]["lease_s"] == 600.0


def test_no_word_is_given_on_a_plan_that_only_keeps_promises_or_by_who_is_somebody_else(wire):
    wire.reports = {"texas": report("texas"), "california": report("nevada")}
    assert wire.turn(NOW).silent == {"california": "calls itself 'nevada'"}
    wire.told.clear()
    wire._planner.rung = Rung.GREEDY
    turn = wire.turn(NOW)
    assert (turn.homes, wire.told) == ({}, {})
    assert "greedy" in turn.trouble


def test_the_file_is_checked_by_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("california, url", "texas, url") + "lease: 30s\n")
    with pytest.raises(ConfigError) as found:
        load_coordinator(path)
    assert "two of them have the same name" in str(found.value)


def test_names_of_movable_jobs_say_whose_they_are():
    texas = report("texas", jobs=[job("j")], movable={"j": ("california",)})
    _, movable = joint_problem([texas, report("california")], Terms(), NOW)
    assert movable == {"texas/j": Movable("texas", "j", "texas")}
