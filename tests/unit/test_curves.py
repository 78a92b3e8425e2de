"""Caps, draw and throughput of measured cards: what the numbers say, and what noise must not do to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.curves import (
    cap_for_draw,
    cap_for_throughput,
    clipped,
    draw_at_cap,
    envelope,
    hull_from_idle,
    hull_of_caps,
    knee_w,
    parse_curves,
    throughput_at_cap,
    throughput_at_draw,
)
from optimizer.domain import CurvePoint, PowerCurve
from tests.support.problems import SIMPLE, curves

HEADER = "source,gpu,workload,batch,cap_w,power_w,throughput,unit,rel_throughput,licence\n"


def curve(*points, idle=50.0):
    return PowerCurve("c", idle, tuple(CurvePoint(*point) for point in points))


def test_measured_inference_curve_says_what_was_measured():
    chat = curves()["A100-400W/infer_llama_8b"]
    assert draw_at_cap(chat, 350) == pytest.approx(332.906)
    assert throughput_at_cap(chat, 350) == pytest.approx(0.975976)
    assert throughput_at_cap(chat, 325) == pytest.approx((0.930931 + 0.975976) / 2)


def test_lowest_sensible_cap_is_never_100_watts():
    for name, measured in curves().items():
        if name.startswith("A100"):
            assert 190 < knee_w(measured) < 200


def test_envelope_starts_idle_falls_in_slope_and_touches_the_measured_points():
    widths = [(part.width_w, part.slope_per_w) for part in envelope(SIMPLE)]
    assert widths == [(100.0, pytest.approx(0.005)), (100.0, pytest.approx(0.003)), (100.0, pytest.approx(0.002))]
    hull = hull_from_idle(SIMPLE)
    assert [hull.throughput(w) for w in (100, 150, 300, 999)] == pytest.approx([0, 0.25, 0.8, 1.0])
    assert [hull.draw_w(x) for x in (0, 0.25, 0.8, 1.0)] == pytest.approx([100, 150, 300, 400])


def test_pool_that_must_keep_a_pace_has_no_slower_gpu_in_its_hull():
    hull = hull_from_idle(SIMPLE, 0.8)
    assert [(part.width_w, part.slope_per_w) for part in hull.segments] == [
        (200.0, pytest.approx(0.004)), (100.0, pytest.approx(0.002))
    ]  # fmt: skip
    assert hull_of_caps(SIMPLE).base_throughput == 0.5


def test_draw_above_the_cap_is_believed_and_a_cap_that_does_not_bind_is_no_reduction():
    over = curve((100, 120, 0.3), (200, 205, 0.9), (300, 210, 1.0), (400, 210, 1.0))
    assert draw_at_cap(over, 100) == 120
    assert cap_for_draw(over, 210) == 400
    assert cap_for_draw(over, 150) < 200


def test_noise_never_makes_a_lower_cap_draw_more():
    noisy = curve((100, 100, 0.5), (200, 210, 1.01), (300, 205, 1.0), (400, 300, 1.02))
    assert draw_at_cap(noisy, 300) == 210
    assert throughput_at_cap(noisy, 300) == 1.01
    assert all(a.slope_per_w >= b.slope_per_w > 0 for a, b in zip(envelope(noisy), envelope(noisy)[1:], strict=False))


points = st.lists(
    st.tuples(st.integers(60, 500), st.floats(55, 520), st.floats(0.01, 1.05)), min_size=1, max_size=8,
    unique_by=lambda point: point[0],
)  # fmt: skip


@given(points, st.floats(0, 600))
def test_a_cap_for_a_draw_never_draws_more_and_one_watt_more_would(raw, draw):
    made = curve(*sorted(raw))
    cap = cap_for_draw(made, max(draw, 50.0))
    assert isinstance(cap, int)
    assert draw_at_cap(made, cap) <= max(draw, 50.0) * (1 + 1e-6)
    if cap < made.points[-1].cap_w:
        assert draw_at_cap(made, cap + 1) > draw * (1 - 1e-6)


@given(points, st.floats(0, 1))
def test_a_cap_for_a_throughput_keeps_it_where_it_can_be_kept(raw, wanted):
    made = curve(*sorted(raw))
    best = throughput_at_cap(made, 1000)
    assert throughput_at_cap(made, cap_for_throughput(made, wanted)) >= min(wanted, best) - 1e-6


@given(points)
def test_hull_lies_on_or_above_every_point_and_is_concave(raw):
    made = curve(*sorted(raw))
    hull = hull_from_idle(made)
    slopes = [part.slope_per_w for part in hull.segments]
    assert slopes == sorted(slopes, reverse=True)
    for cap, draw, _ in raw:
        assert hull.throughput(draw_at_cap(made, cap)) >= throughput_at_cap(made, cap) - 1e-6
        assert hull.throughput(draw) >= throughput_at_draw(made, draw) - 1e-6


def test_orders_stay_between_the_lowest_and_the_highest_cap():
    part = clipped(SIMPLE, 250, 350)
    assert [point.cap_w for point in part.points] == [250, 300, 350]
    assert cap_for_draw(part, 999) == 350
    assert throughput_at_cap(part, 400) == pytest.approx(0.9)


def test_card_that_never_works_is_refused():
    with pytest.raises(ValueError, match="no point draws more than idle"):
        envelope(curve((100, 40, 0.5)))


@pytest.mark.parametrize(
    ("row", "says"),
    [("a,G,w,,100,x,1,u,0.5,L", "c.csv:2"), ("a,G,w,,100", "c.csv:2"), ("a,G,w,,100,-5,1,u,0.5,L", "c.csv:2"),
     ("a,G,w,,100,nan,1,u,0.5,L", "c.csv:2")],
)  # fmt: skip
def test_broken_rows_of_a_curve_file_are_named(row, says):
    with pytest.raises(ValueError, match=says):
        parse_curves(HEADER + row + "\n", place="c.csv")


def test_idle_draw_comes_from_the_caller_first():
    text = HEADER + "a,G,w,8,100,90,1,u,0.5,L\na,G,w,16,100,90,1,u,0.5,L\n"
    assert set(parse_curves(text)) == {"G/w@8", "G/w@16"}
    assert parse_curves(text, {"G": 33.0})["G/w@8"].idle_w == 33.0


def test_a_cap_that_does_not_bind_gives_its_throughput_to_the_tightest_job_too():
    """A V100 draws no more above 125 W and yet works faster: a job at full pace counts on the last per cent of it."""
    noisy = PowerCurve(
        "v100", 35.0, (CurvePoint(125, 37.6, 0.995), CurvePoint(175, 36.2, 1.011), CurvePoint(250, 36.2, 1))
    )
    for pace in (0.0, 0.9, 0.999, 1.0):
        assert hull_from_idle(noisy, pace).top_throughput == pytest.approx(1.011)
