"""Market years that are lived in pieces: as one piece would, kept when done, and never taken for another question."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import plan_quality
from benchmarks.support import controllers_rivals, pieces, weighing
from benchmarks.support.controllers_rivals import WITHOUT_PRICES, Watched, rivals, threshold
from benchmarks.support.market import walk
from benchmarks.support.pieces import CASES, Piece, Source, lived
from optimizer.rivals import RIVALS
from optimizer.rivals.rule import share_now

DAYS = 19


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Hourly prices of some days, with day-ahead prices beside them, that are no surprise on the whole."""
    rng, start = np.random.default_rng(4), datetime(2024, 3, 1, tzinfo=UTC)
    usual = np.tile(30.0 + 15.0 * np.sin(np.arange(24) / 4.0), DAYS)
    for name, values in {"real": usual + rng.normal(0.0, 6.0, len(usual)), "ahead": usual}.items():
        rows = [f"{start + n * timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ},{value:.4f}" for n, value in enumerate(values)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["interval_start_utc,price", *rows, ""]), encoding="utf-8")
    return Source("m", "UTC", (tmp_path / "real.csv",), tmp_path / "ahead.csv", False)


def asked(source: Source, first: int, last: int, *examples: int) -> Piece:
    days = tuple(source.load().days())
    return Piece(source, days[first:last], tuple(days[number] for number in examples), (2,), 1)


def test_a_year_in_pieces_is_the_year(source):
    together = plan_quality._together
    whole = [asked(source, 14, DAYS, 16)]
    parts = [asked(source, 14, 16), asked(source, 16, DAYS, 16)]
    one, two = (together(some, list(lived(some, 1, None))) for some in (whole, parts))
    assert one.runs.keys() == two.runs.keys()
    assert {"gridpace", "gridpace_lagged", "planned", "planned_lagged", "coarse", "fine", "2h"} < one.runs.keys()
    for name, run in one.runs.items():
        assert np.array_equal(run, two.runs[name]), name
    for name, ceilings in one.best.items():
        assert np.array_equal(ceilings, two.best[name])
    for tail in CASES:
        assert {f"rival {rule}{tail}" for rule in RIVALS} < one.runs.keys()
    share = one.made.share(one.runs["gridpace"], one.days)
    assert one.made.share(one.runs["gridpace_lagged"], one.days) < share < 1.0
    assert one.made.share(one.runs["fine"], one.examples) == pytest.approx(1.0, abs=1e-3)
    assert one.made.share(one.runs["2h"], one.days) < 1.0
    assert 0.0 < np.array(one.best["best_lagged"]).reshape(-1, 2)[:, 0].sum() < one.best["best"].sum()


def test_rules_of_a_year_are_the_planners_that_are_shipped(source, monkeypatch):
    """Asked in every interval of some days, not in every 97th; and where another rule answers under the name of one, it
    is seen. Rules that look at no price run as it comes, here where no limit makes them differ."""
    made, days = source.load(), source.load().days()[15:17]
    made.price[days[0][0]] += 100.0  # of the cheapest half, as it was expected
    rules = rivals(made, False, lambda index, last: made.day_ahead[index:last])
    watched = {
        name: rule.__self__ for name, rule in rules.items() if isinstance(getattr(rule, "__self__", None), Watched)
    }
    assert {rule.planner for rule in watched.values()} | set(WITHOUT_PRICES) == set(RIVALS)
    runs = {name: walk(made, replace(rule, ask_every=1).choose, days) for name, rule in watched.items()}
    assert {name: rule.share for name, rule in watched.items()} == {
        "price_threshold": threshold, "order_of_expected": share_now, "cheapest_remaining": share_now,
        "greedy": share_now}  # fmt: skip
    assert np.array_equal(runs["greedy"], runs["order_of_expected"])  # both saw the prices of the day before
    for name in ("price_threshold", "cheapest_remaining"):
        assert not np.array_equal(runs[name], runs["order_of_expected"]), name
    for name in WITHOUT_PRICES:
        assert walk(made, rules[name], days)[days[0][0] : days[1][1]] == pytest.approx(([1.0] * 12 + [0.0] * 12) * 2), (
            name
        )
    for name, rule in watched.items():
        monkeypatch.setattr(controllers_rivals, "RIVALS", {**RIVALS, rule.planner: RIVALS["do_nothing"]})
        with pytest.raises(RuntimeError, match=f"the rule {rule.planner} runs at"):
            walk(made, replace(rule, ask_every=1).choose, days)
        monkeypatch.undo()
        assert walk(made, rules[name], days).sum() == pytest.approx(24.0)


def test_a_piece_that_is_kept_is_not_lived_again_unless_anything_changed(source, tmp_path, monkeypatch):
    question, keep = asked(source, 14, 15), tmp_path / "kept"
    (found,) = lived([question], 1, keep)
    times = []
    live = pieces.live
    monkeypatch.setattr(pieces, "live", lambda piece: times.append(piece) or live(piece))
    (again,) = lived([question], 1, keep)
    assert not times
    assert found.keys() == again.keys()
    assert all(np.array_equal(found[name], again[name]) for name in found)
    for other in (asked(source, 15, 16), replace(question, seed=2)):
        list(lived([other], 1, keep))
        assert times.pop() == other
    monkeypatch.setattr(pieces, "code_digest", lambda: "changed")
    list(lived([question], 1, keep))
    assert times.pop() == question
    prices = source.prices[0]
    prices.write_text(prices.read_text(encoding="utf-8").replace(",", ",-"), encoding="utf-8")
    (other,) = lived([question], 1, keep)
    assert times.pop() == question
    assert not np.array_equal(other["gridpace"], found["gridpace"])
    assert not list(keep.glob("*.part.npz"))


def test_repeats_of_a_weighing_that_are_kept_are_not_timed_again(tmp_path, monkeypatch):
    timed, timed_by = [], weighing.Planned.timed
    monkeypatch.setattr(weighing.Planned, "timed", lambda self, asked: timed.append(asked) or timed_by(self, asked))
    ratio = partial(weighing.scenario_ratio, 2, 2, seed=1, count=2, keep=tmp_path)
    first = ratio(1)
    assert len(timed) == 2
    assert ratio(3) > 0.0
    assert [len(asked.scenarios) for asked in timed] == [2, 0] * 3
    assert len({asked.sites[0].price_per_mwh for asked in timed}) == 3
    assert ratio(3) == ratio(3)
    assert ratio(1) == first
    assert len(timed) == 6
    monkeypatch.setattr(weighing, "code_digest", lambda: "changed")
    ratio(1)
    assert len(timed) == 8
    assert not list(tmp_path.glob("*.part"))


def test_a_market_whose_prices_are_not_shipped_is_refused(capsys):
    with pytest.raises(SystemExit):
        plan_quality.main(["--market", "ercot_2024"])
    assert "prices of ercot_2024 are not shipped: --data DIR" in capsys.readouterr().err
