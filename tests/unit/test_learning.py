"""Learned curves: what noise, nonsense, slack caps and a changed world must and must not do to them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.curves import clipped, draw_at_cap, hull_from_idle, throughput_at_cap, throughput_at_draw
from optimizer.domain import CurvePoint, PowerCurve, Work
from optimizer.learned_curve import (
    MOST_OVER,
    MOST_STEP,
    advanced,
    departure,
    error_at,
    fit,
    in_force,
    mean_error,
)
from optimizer.learning import SETTLE_S, Observation, Prior, begin, learn
from optimizer.library import FOREIGN_SPREAD, LIKE_SPREAD, NoCurve, nearest
from scheduler.config import shipped_curves
from scheduler.store.codec import plain_values, typed_value

START = datetime(2026, 5, 4, tzinfo=UTC)
LIBRARY = shipped_curves()["A100-400W/infer_llama_8b"]
PRIOR = Prior(LIBRARY, 100.0, 400.0)


def seen(cap_w, draw_w, **changes):
    return replace(Observation(START, cap_w, draw_w, 1.0, 60.0), **changes)


def taught(truth, caps_w, count=360, noise=0.0, outliers=0.0, seed=3, state=None, start=START, *, prior=PRIOR):
    """What `count` observations, one every 10 s, teach of a card that draws `truth(cap)`; the caps in turn, each as
    long as the others; the curve in force follows every five minutes."""
    random = np.random.default_rng(seed)
    state = state or begin(prior)
    for k in range(count):
        cap_w = caps_w[k * len(caps_w) // count]
        draw_w = truth(cap_w) * (1 + noise * random.normal())
        draw_w *= random.uniform(0, 2) if random.random() < outliers else 1.0
        state = learn(state, prior, seen(cap_w, draw_w, at=start + timedelta(seconds=10 * (k + 1))))
        if k % 30 == 29:
            state = advanced(state, prior)
    return state


def told(state, cap_w, prior=PRIOR):
    return draw_at_cap(in_force(state, prior), cap_w)


def lower(cap_w):
    return 0.9 * draw_at_cap(LIBRARY, cap_w)


def test_before_anything_is_seen_the_curve_is_the_librarys_and_its_error_the_libraries_spread():
    state = advanced(begin(PRIOR), PRIOR)
    assert in_force(state, PRIOR) is LIBRARY
    assert mean_error(state, PRIOR) == pytest.approx(PRIOR.spread)
    assert fit(state, PRIOR).draw_w == pytest.approx([draw_at_cap(LIBRARY, cap) for cap in PRIOR.knots_w])


@pytest.mark.parametrize("seed", range(5))
def test_in_an_hour_of_noisy_readings_it_comes_to_the_truth_at_every_cap_that_was_held(seed):
    caps = (400.0, 350.0, 300.0, 250.0, 200.0, 400.0)
    state = taught(lower, caps, noise=0.03, outliers=0.05, seed=seed)
    for cap_w in caps:
        assert told(state, cap_w) == pytest.approx(lower(cap_w), rel=0.015)
        assert error_at(state, PRIOR, cap_w) < 0.02
    cap_w, gap = departure(state, PRIOR)
    assert gap == pytest.approx(-0.1, abs=0.015)


def test_a_few_samples_hardly_move_it():
    state = taught(lambda cap: 1.2 * draw_at_cap(LIBRARY, cap), (300.0,), count=15)
    assert in_force(advanced(state, PRIOR), PRIOR) is LIBRARY
    few = learn(begin(PRIOR), PRIOR, seen(300.0, 1.05 * draw_at_cap(LIBRARY, 300.0)))
    moved = fit(few, PRIOR).draw_w[PRIOR.knots_w.index(300.0)] / draw_at_cap(LIBRARY, 300.0)
    assert 1.0 < moved < 1.045


def test_a_cap_that_does_not_bind_tells_of_no_cap_below_the_draw():
    state = taught(lambda cap: min(250.0, draw_at_cap(LIBRARY, cap)), (400.0,), count=720)
    assert [told(state, cap) for cap in (300.0, 350.0, 400.0)] == pytest.approx([250.0] * 3, rel=0.01)
    assert error_at(state, PRIOR, 350.0) < 0.04, "known from the cap above"
    for cap_w in (100.0, 150.0, 200.0):
        assert told(state, cap_w) == pytest.approx(draw_at_cap(LIBRARY, cap_w), rel=1e-6)
        assert error_at(state, PRIOR, cap_w) == pytest.approx(PRIOR.spread, rel=0.01)
    assert throughput_at_cap(in_force(state, PRIOR), 350.0) == pytest.approx(1.0, abs=0.002), "nothing given, none lost"


def test_cards_that_never_draw_all_of_a_cap_rise_between_two_caps_that_were_held():
    """Nine tenths of a cap, and more under a higher one: each of the caps binds. Held at two of them only, the curve is
    no terrace between them, on which a cap that is raised would cost nothing."""
    prior = Prior(LIBRARY, 200.0, 400.0)
    state = taught(lower, (350.0, 400.0, 350.0, 400.0), prior=prior)
    for cap_w in (350.0, 375.0, 400.0):
        assert told(state, cap_w, prior) == pytest.approx(lower(cap_w), rel=0.02)


def test_points_that_are_not_monotone_are_pooled():
    state = taught(lambda cap: {300.0: 300.0, 350.0: 290.0}[cap], (300.0, 350.0))
    assert told(state, 300.0) == pytest.approx(295.0, abs=3.0)
    assert told(state, 350.0) >= told(state, 300.0)


def test_readings_that_say_nothing_change_nothing():
    state = taught(lower, (300.0,))
    for useless in (
        seen(300.0, 200.0, settled_s=SETTLE_S - 1),
        seen(300.0, 200.0, busy_share=0.2),
        seen(600.0, 200.0),
        seen(nan, 200.0),
        seen(300.0, inf),
    ):
        assert learn(state, PRIOR, useless) is state
    broken = learn(state, PRIOR, seen(300.0, 5000.0))
    assert (broken.draw, broken.refused) == (state.draw, state.refused + 1)


def test_the_curve_in_force_never_jumps():
    state, before = taught(lower, (400.0, 300.0, 200.0)), LIBRARY
    state = replace(state, curve=None)
    for _ in range(12):
        state = advanced(state, PRIOR)
        now = in_force(state, PRIOR)
        for cap_w in PRIOR.knots_w:
            assert draw_at_cap(now, cap_w) == pytest.approx(draw_at_cap(before, cap_w), rel=MOST_STEP + 1e-9)
            assert throughput_at_cap(now, cap_w) == pytest.approx(throughput_at_cap(before, cap_w), abs=0.0301)
        before = now
    assert advanced(state, PRIOR) is state, "a curve that fits stays the same object"


def test_when_the_work_changes_the_curve_follows_within_an_hour():
    state = taught(lower, (400.0,), count=1000, noise=0.03, outliers=0.05)
    later = START + timedelta(hours=4)
    state = taught(lambda cap: 1.1 * lower(cap), (400.0,), noise=0.03, outliers=0.05, state=state, start=later)
    assert told(state, 400.0) == pytest.approx(1.1 * lower(400.0), rel=0.02)


def test_what_has_not_been_seen_for_months_is_forgotten():
    state = taught(lower, (200.0, 400.0))
    later = START + timedelta(days=90)
    state = taught(lambda cap: draw_at_cap(LIBRARY, cap), (400.0,), state=state, start=later)
    assert told(state, 200.0) == pytest.approx(draw_at_cap(LIBRARY, 200.0), rel=0.01)


def test_metered_throughput_is_learned_and_scaled_to_the_highest_cap():
    state = begin(PRIOR)
    for k in range(300):
        cap_w = (400.0, 300.0)[k % 2]
        at = START + timedelta(seconds=10 * k)
        state = learn(
            state, PRIOR, seen(cap_w, draw_at_cap(LIBRARY, cap_w), at=at, throughput={400: 0.8, 300: 0.56}[cap_w])
        )
    for _ in range(20):
        state = advanced(state, PRIOR)
    assert throughput_at_cap(in_force(state, PRIOR), 400.0) == pytest.approx(1.0)
    assert throughput_at_cap(in_force(state, PRIOR), 300.0) == pytest.approx(0.7, abs=0.02)


def test_without_it_throughput_follows_the_share_of_power_above_idle():
    found = fit(taught(lower, (400.0, 350.0, 300.0, 250.0, 200.0)), PRIOR)
    for draw_w, work in zip(found.draw_w, found.throughput, strict=True):
        share = (draw_w - 55.0) / (found.draw_w[-1] - 55.0)
        assert work == pytest.approx(throughput_at_draw(LIBRARY, 55.0 + share * (draw_at_cap(LIBRARY, 400.0) - 55.0)))


def test_it_comes_back_from_the_books_the_same():
    state = taught(lower, (400.0, 300.0), noise=0.03)
    assert state.curve is not None
    assert typed_value(type(state), plain_values(state)) == state


def test_what_was_learned_from_another_start_does_not_apply():
    state = taught(lower, (400.0, 300.0))
    other = Prior(replace(LIBRARY, idle_w=70.0), 100.0, 400.0)
    assert in_force(state, other) is other.library
    assert advanced(state, other) is state


# ---------------------------------------------------------------- whatever comes
numbers = st.floats(allow_nan=False, allow_infinity=False)
plausible = st.floats(-50.0, 1500.0)
any_number = st.one_of(plausible, numbers)
observations = st.builds(
    Observation,
    at=st.integers(0, 10**8).map(lambda s: START + timedelta(seconds=s)),
    cap_w=st.one_of(st.floats(90.0, 760.0), numbers),
    draw_w=any_number,
    busy_share=st.one_of(st.floats(0.0, 1.0), numbers),
    settled_s=st.one_of(st.floats(0.0, 100.0), numbers),
    throughput=st.one_of(st.none(), st.floats(0.0, 1.5), numbers),
)
bounds = st.tuples(st.sampled_from(sorted(shipped_curves())), st.floats(0.0, 1.0), st.floats(0.0, 1.0))


def prior_of(name, low, high):
    curve = shipped_curves()[name]
    first, last = curve.points[0].cap_w, curve.points[-1].cap_w
    ends = sorted((first + low * (last - first), first + high * (last - first)))
    return Prior(curve, *ends)


@given(bounds, st.lists(st.tuples(observations, st.integers(1, 40)), max_size=12))
def test_any_observations_give_a_valid_monotone_curve_within_the_cards_range(chosen, readings):
    prior = prior_of(*chosen)
    state = begin(prior)
    for reading, times in readings:
        for _ in range(times):
            state = learn(state, prior, reading)
        state = advanced(state, prior)
    curve = in_force(state, prior)
    if curve is prior.library:
        return
    draws = [point.draw_w for point in curve.points]
    works = [point.throughput for point in curve.points]
    assert [point.cap_w for point in curve.points] == list(prior.knots_w)
    assert all(np.isfinite([*draws, *works]))
    assert draws == sorted(draws)
    assert works == sorted(works)
    assert draws[0] > curve.idle_w
    assert works[0] >= 0
    assert works[-1] == pytest.approx(throughput_at_cap(prior.curve, prior.max_cap_w), rel=0.05)
    most = max(MOST_OVER * prior.max_cap_w, draw_at_cap(prior.library, prior.max_cap_w))
    assert draws[-1] <= max(most, curve.idle_w + 1.0) + 1e-6
    assert hull_from_idle(clipped(curve, prior.min_cap_w, prior.max_cap_w)).segments
    assert np.isfinite(mean_error(state, prior))


# ---------------------------------------------------------------- where it starts
@pytest.mark.parametrize(
    ("model", "work", "name"),
    [
        ("A100-400W", Work.INTERACTIVE, "A100-400W/infer_llama_8b"),
        ("NVIDIA A100-SXM4-80GB", Work.TRAINING, "A100-400W/pt_mpt_13b_lg"),
        ("A100-400W", Work.BATCH, "A100-400W/ft_llama_8b_dolly"),
        ("V100-300W", Work.INTERACTIVE, "V100-300W/inference_memory_bound"),
        ("A40", Work.TRAINING, "A40-300W/train:cifar100/shufflenetv2/adadelta"),
    ],
)
def test_a_pool_without_a_curve_starts_from_the_nearest_of_its_card(model, work, name):
    start = nearest(shipped_curves(), model, work)
    assert (start.curve.name, start.spread) == (name, LIKE_SPREAD)
    assert name in start.text


def test_a_card_of_which_no_curve_is_known_starts_from_a_scaled_one_and_says_so():
    start = nearest(shipped_curves(), "H100-700W", Work.INTERACTIVE)
    assert start.curve.points[-1] == CurvePoint(700.0, pytest.approx(1.75 * LIBRARY.points[-1].draw_w), 1.0)
    assert start.spread == FOREIGN_SPREAD
    assert "scaled by 1.75 to 700 W because no measured curve is of a H100-700W" in start.text
    assert nearest(shipped_curves(), "H200", Work.BATCH, 700.0).curve.points[-1].cap_w == 700.0
    with pytest.raises(NoCurve, match='of a "H200"'):
        nearest(shipped_curves(), "H200", Work.BATCH)


def test_knots_are_the_curves_own_and_halves_of_the_largest_gaps():
    assert PRIOR.knots_w == (100, 125, 150, 175, 200, 250, 300, 350, 400)
    few = PowerCurve("few", 50.0, (CurvePoint(200, 190, 0.7), CurvePoint(400, 380, 1.0)))
    assert Prior(few, 200.0, 400.0).knots_w == tuple(200.0 + 25 * k for k in range(9))
    assert Prior(few, 300.0, 300.0).knots_w == (300.0,)
