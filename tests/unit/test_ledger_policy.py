"""What a program may ask: how often, how long before, how much; and what the site offers instead."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.building import program_rules
from scheduler.config import load_config
from scheduler.ledger.ledger import Ledger
from scheduler.ledger.policy import Calls
from scheduler.store.store import Store
from tests.support.loops import SITE
from tests.unit.test_ledger_rules import HOUR, MINUTE, event, tell

JULY = datetime(2026, 7, 1, 19, tzinfo=UTC)
DAY = timedelta(days=1)
SUMMER = Calls(per_day=1, per_season=3, months=(6, 7, 8, 9), zone="America/Los_Angeles")


@pytest.fixture
def ledger():
    return Ledger(Store.in_memory())


def call(ledger, name, start, now=JULY, version=1, calls=SUMMER, **fields):
    terms = {"calls": calls, "max_ahead_s": 400 * 86_400.0}
    return tell(ledger, event(version, start, start + HOUR, name, **fields), now=now, **terms)


def test_calls_are_counted_by_the_sites_day_and_season_and_more_are_refused_with_the_next_one(ledger):
    late = datetime(2026, 7, 2, 3, tzinfo=UTC)  # still the first of July in California
    assert call(ledger, "a", JULY + HOUR).opt == "in"
    refused = call(ledger, "b", late)
    assert (refused.state, refused.opt) == ("refused", "out")
    assert "1 a day are taken on 2026-07-01; from 2026-07-02 on it can be had" in refused.reason
    assert call(ledger, "c", late + DAY).opt == "in"
    assert call(ledger, "d", late + 2 * DAY).opt == "in"
    refused = call(ledger, "e", late + 3 * DAY)
    assert "3 of the season are taken; from 2027-06-01 on it can be had" in refused.reason
    assert call(ledger, "f", datetime(2027, 6, 1, 20, tzinfo=UTC)).opt == "in"
    assert "outside the program's season" in call(ledger, "g", datetime(2026, 10, 2, 20, tzinfo=UTC)).reason


def test_a_change_of_a_call_that_was_taken_is_no_new_one_and_a_withdrawn_one_is_given_back(ledger):
    assert call(ledger, "a", JULY + HOUR).opt == "in"
    assert call(ledger, "a", JULY + 2 * HOUR, version=2).opt == "in"
    assert call(ledger, "a~20260701T230000Z", JULY + 4 * HOUR).opt == "in", "a part of the same event"
    assert call(ledger, "b", JULY + 3 * HOUR).opt == "out"
    for name in ("a", "a~20260701T230000Z"):
        tell(ledger, event(3, JULY + HOUR, JULY + 2 * HOUR, name, cancelled=True, targets=()), now=JULY)
    assert call(ledger, "c", JULY + 3 * HOUR).opt == "in"


def test_the_numbered_parts_of_an_event_with_a_gap_are_one_call(ledger):
    later = JULY + 3 * HOUR
    assert call(ledger, "e", JULY + HOUR, source="openadr2 https://vtn").opt == "in"
    assert call(ledger, "e.1", later, source="openadr2 https://vtn").opt == "in"
    assert call(ledger, "f.1", later, source="openadr2 https://vtn").opt == "out", "no part of any event that is held"
    assert call(ledger, "e.2", later, source="webhook").opt == "out", (
        "where ids are the utility's own, a dot says nothing"
    )
    assert call(ledger, "g", JULY + DAY).opt == "in"
    assert call(ledger, "h", JULY + 2 * DAY).opt == "in"


def test_an_emergency_is_always_taken(ledger):
    call(ledger, "a", JULY + HOUR)
    assert call(ledger, "b", JULY + HOUR, emergency=True).opt == "in"


def test_calls_outlive_a_restart(tmp_path):
    store = Store.open(tmp_path / "books.db")
    call(Ledger(store), "a", JULY + HOUR)
    store.close()
    store = Store.open(tmp_path / "books.db")
    assert call(Ledger(store), "b", JULY + 2 * HOUR).opt == "out"
    store.close()


def test_a_winter_begins_in_its_first_month(ledger):
    winter = Calls(per_season=1, months=(11, 12, 1, 2))
    begin = datetime(2026, 12, 30, 12, tzinfo=UTC)
    assert call(ledger, "a", begin + DAY, now=begin, calls=winter).opt == "in"
    assert "from 2027-11-01" in call(ledger, "b", begin + 3 * DAY, now=begin, calls=winter).reason


def test_too_short_a_notice_is_refused_with_the_first_time_that_would_do(ledger):
    terms = {"least_notice_s": 600.0}
    short = event(1, JULY + 5 * MINUTE, JULY + HOUR, "a")
    refused = tell(ledger, short, now=JULY, **terms)
    assert "notice is 10 min; from 2026-07-01 19:10Z on it can be had" in refused.reason
    assert tell(ledger, event(2, JULY + 10 * MINUTE, JULY + HOUR, "a"), now=JULY, **terms).opt == "in"


def test_what_the_site_can_not_shed_is_refused_with_what_it_can(ledger):
    asked = replace(event(1, JULY + HOUR, JULY + 2 * HOUR, "a", reduce_kw=2500.0))
    refused = tell(ledger, asked, now=JULY, shortfall="refuse")
    assert "500 kW more than the 2000 kW" in refused.reason
    assert refused.reason.endswith("2000 kW can be had")
    assert (refused.opt, refused.available_kw) == ("out", 2000.0)
    again = tell(ledger, asked, now=JULY, shortfall="refuse")
    assert (again.duplicate, again.available_kw) == (True, 2000.0)


def test_the_config_says_all_of_it(tmp_path):
    (tmp_path / "secret").write_text("a-secret-for-tests-only")
    terms = "short_notice: refuse, notice: 10m, shortfall: refuse, calls: {per_day: 1, per_season: 5, months: [6, 7]},"
    text = SITE.replace("{id: elrp, site: lab,", f"{{id: elrp, site: lab, {terms}")
    (tmp_path / "gridpace.yaml").write_text(text)
    found = program_rules(load_config(tmp_path / "gridpace.yaml"))["elrp"].terms
    assert found.calls == Calls(1, 5, (6, 7), "America/Los_Angeles")
    assert (found.least_notice_s, found.shortfall) == (600.0, "refuse")
