"""One suite for every channel of demand response: whatever brings an event, the same facts hold in the one ledger.

A protocol that cannot say a kind of target (DSX Flex knows caps alone) is left out of that fact, by the table of its
peer; nothing else is left out.
"""

import time
from datetime import timedelta

import pytest

from adapters.ports import EventTarget
from scheduler.store.store import Store
from tests.support.dr_peers import PEERS, enrolled, now, peer
from tests.support.loops import order as message
from tests.support.power_worlds import wait_until

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
pytestmark = pytest.mark.xdist_group("openadr2")
VALUES = {"limit": 40.0, "reduce": 6.0, "percent": 25.0}


@pytest.fixture(params=PEERS)
def utility(request, tmp_path):
    with peer(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def site(utility, tmp_path):
    with enrolled(utility, tmp_path) as made:
        yield made


def rows(site):
    """Events that were not refused, oldest first."""
    return [event for event in reversed(site.facade.events()) if event.state != "refused"]


def held(site, true=lambda event: True):
    """The one event, once it is as it should be; the fast loop turns meanwhile, and with it the ledger's time."""
    wait_until(lambda: site.tick() and len(rows(site)) == 1 and true(rows(site)[0]))
    return rows(site)[0]


def caps(site):
    """Caps in kW that bind now or later, from the ledger."""
    return [span.value for event in site.ctx.ledger.active(now()) for span in event.targets]


@pytest.mark.parametrize(
    ("utility", "kind"), [(name, kind) for name, spoken in PEERS.items() for kind in spoken.kinds], indirect=["utility"]
)
def test_a_target_of_each_kind_becomes_one_row_and_one_cap(site, utility, kind):
    start = now() + HOUR
    utility.order([(start, start + HOUR, kind, VALUES[kind])])
    event = held(site, lambda event: event.state == "scheduled")
    base_kw = event.baseline_kw
    wanted = {"limit": 40.0, "reduce": base_kw - 6.0, "percent": 0.75 * base_kw}[kind]
    assert (event.start, event.end) == (start, start + HOUR)
    assert event.target_kw == pytest.approx(wanted)
    assert caps(site) == pytest.approx([wanted])


def test_targets_that_follow_each_other_are_caps_without_a_gap_between(site, utility):
    start = now() + HOUR
    utility.order([(start, start + HOUR, "limit", 42.0), (start + HOUR, start + 2 * HOUR, "limit", 38.0)])
    wait_until(lambda: caps(site) == [42.0, 38.0])
    (event,) = site.ctx.ledger.active(now())
    assert [span.start for span in event.targets] == [start, start + HOUR]
    assert event.end == start + 2 * HOUR


def test_the_site_ramps_in_holds_and_is_told_to_leave_by_its_ramp(site, utility):
    start = now()
    utility.order([(start, start + HOUR, "limit", 40.0)])
    held(site, lambda event: event.state in {"ramping_in", "active"})
    wait_until(lambda: site.tick().target_kw["lab"] == 40.0)
    held(site, lambda event: event.state == "active")
    wait_until(lambda: site.tick() and site.state.reading and site.tick().import_kw["lab"] <= 40.0 * 1.01)
    utility.cancel()
    held(site, lambda event: event.state in {"ramping_out", "cancelled", "done"})
    wait_until(lambda: site.tick().target_kw["lab"] > 1000)
    assert held(site).state in {"cancelled", "done"}


def test_what_is_said_twice_is_one(site, utility):
    start = now() + HOUR
    utility.order([(start, start + HOUR, "limit", 40.0)])
    version = held(site).version
    utility.again()
    time.sleep(1.5)
    assert held(site).version == version
    assert caps(site) == [40.0]


def test_a_change_in_flight_moves_the_cap_and_never_releases_it(site, utility):
    start = now()
    utility.order([(start, start + HOUR, "limit", 42.0)])
    wait_until(lambda: site.tick().target_kw["lab"] == 42.0)
    utility.change([(start, start + 2 * HOUR, "limit", 38.0)])
    seen = []
    wait_until(lambda: seen.append(site.tick().target_kw["lab"]) or seen[-1] == 38.0)
    assert max(seen) <= 42.0
    wait_until(lambda: {event.end for event in site.ctx.ledger.active(now())} == {start + 2 * HOUR})


def test_a_cancellation_before_the_start_leaves_nothing_that_binds(site, utility):
    start = now() + HOUR
    utility.order([(start, start + HOUR, "limit", 40.0)])
    held(site, lambda event: event.state == "scheduled")
    utility.cancel()
    held(site, lambda event: event.state == "cancelled")
    assert caps(site) == []


def test_where_events_overlap_the_stricter_cap_holds(site, utility):
    start = now()
    other = message(start, start + HOUR, id="phone", program="phone", ramp_in_s=0.0, targets=(
        EventTarget(start, start + HOUR, limit_kw=41.0),))  # fmt: skip
    site.facade.accept(other)
    utility.order([(start, start + HOUR, "limit", 39.0)])
    wait_until(lambda: site.tick().target_kw["lab"] == 39.0)
    utility.cancel()
    wait_until(lambda: site.tick().target_kw["lab"] == 41.0)


def test_what_cannot_be_followed_is_refused_aloud_and_changes_nothing(site, utility):
    start = now() + HOUR
    utility.order([(start, start + HOUR, "limit", 40.0)])
    held(site)
    before = site.ctx.ledger.active(now())
    utility.bad()
    wait_until(utility.refused)
    assert site.ctx.ledger.active(now()) == before
    utility.change([(start, start + HOUR, "limit", 39.0)])  # and the next good one counts
    wait_until(lambda: caps(site) == [39.0])


def test_an_acknowledged_event_outlives_the_daemon_and_is_still_one(utility, tmp_path):
    start = now() + HOUR
    with enrolled(utility, tmp_path, Store.open(tmp_path / "books.db")) as site:
        utility.order([(start, start + HOUR, "limit", 40.0)])
        version = held(site).version
    with enrolled(utility, tmp_path, Store.open(tmp_path / "books.db")) as site:
        assert caps(site) == [40.0]
        utility.again()
        time.sleep(1.5)
        assert held(site, lambda event: event.target_kw == 40.0).version == version
