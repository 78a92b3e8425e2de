"""The simulated hall: exact integration at any step, the measured curves, faults seen and never read as zero."""

from datetime import UTC, datetime, timedelta

import pytest

from adapters.hall import SimulatedHall
from adapters.hall_state import HallFaults, HallPhysics
from adapters.jobs.simulated import SimulatedJobs
from adapters.meters.simulated import SimulatedMeter
from adapters.ports import AdapterError, Lease
from adapters.power.simulated import SimulatedPower
from optimizer.curves import draw_at_cap
from optimizer.domain import BatchJob, CurvePoint, GpuPool, JobState, PowerCurve, Work
from optimizer.reasons import Reason
from scheduler.clock import VirtualClock

START = datetime(2022, 9, 6, 21, 0, tzinfo=UTC)
LEASE = Lease(1, 1, 60.0)
CURVE = PowerCurve("test", 60.0, (CurvePoint(100, 95, 0.4), CurvePoint(200, 190, 0.8), CurvePoint(400, 330, 1.0)))


def pool(name="serve", count=10, work=Work.INTERACTIVE):
    return GpuPool(name, "north", "A100", count, work, CURVE, 2.0, 0.9, 100.0, 400.0, tokens_per_gpu_h=1e6)


def hall_of(*pools, **options):
    clock = VirtualClock(START)
    return clock, SimulatedHall(pools, clock, **options)


def job(name="j", gpu_h=10.0, **changes):
    values = {"release": START, "deadline": START + timedelta(hours=9), "work_gpu_h": gpu_h, "max_gpus": 10}
    return BatchJob(name, ("batch",), **(values | changes))


def caps(hall, watts):
    return dict.fromkeys(hall.pool_of, watts)


def stepwise_load(moment):
    return 0.2 + 0.01 * moment.minute


def test_steps_of_any_length_give_the_same_books():
    books = []
    for step_s in (1.0, 7.3, 900.0):
        clock, hall = hall_of(
            pool(), pool("batch", work=Work.BATCH),
            load={"serve": stepwise_load}, pue={"north": lambda moment: 1.1 + 0.001 * moment.minute},
            other_it_kw={"north": lambda _: 3.0},
        )  # fmt: skip
        jobs = SimulatedJobs(hall, [job(gpu_h=3.21), job("k", 9.0)])
        jobs.apply({"j": 7, "k": 3})
        SimulatedPower(hall).apply(caps(hall, 250), LEASE)
        while clock.now() < START + timedelta(hours=2):
            clock.sleep(min(step_s, (START + timedelta(hours=2) - clock.now()).total_seconds()))
            SimulatedMeter(hall).read()
        books.append((hall.counters(), jobs.finished_at()["j"], jobs.all_jobs()["k"].done_gpu_h))
    for counters, finished, done in books[1:]:
        assert counters.energy_kwh == pytest.approx(books[0][0].energy_kwh, rel=1e-9)
        assert counters.import_kwh == pytest.approx(books[0][0].import_kwh, rel=1e-9)
        assert counters.work_gpu_h == pytest.approx(books[0][0].work_gpu_h, rel=1e-6)
        assert abs(finished - books[0][1]) < timedelta(milliseconds=1)
        assert done == pytest.approx(books[0][2], rel=1e-6)


def test_energy_of_a_step_is_the_integral_of_its_power():
    clock, hall = hall_of(pool(), physics=HallPhysics(settle_down_s=6.0, settle_up_s=6.0))
    SimulatedPower(hall).apply(caps(hall, 200), LEASE)
    samples = []
    for _ in range(2000):
        samples.append(SimulatedMeter(hall).read().pool_kw["serve"])
        clock.sleep(0.005)
    middle = (sum(samples) - samples[0] / 2 + SimulatedMeter(hall).read().pool_kw["serve"] / 2) * 0.005 / 3600
    assert hall.counters().energy_kwh["serve"] == pytest.approx(middle, rel=1e-6)


def test_draw_and_work_follow_the_measured_curve_between_its_points():
    clock, hall = hall_of(pool(), load={"serve": lambda _: 0.5})
    SimulatedPower(hall).apply(caps(hall, 150), LEASE)
    clock.sleep(3600)
    reading = SimulatedMeter(hall).read()
    assert reading.pool_kw["serve"] == pytest.approx(10 * (60 + 0.5 * ((95 + 190) / 2 - 60)) / 1000)
    assert hall.counters().work_gpu_h["serve"] == pytest.approx(10 * 0.5 * 0.6)
    assert hall.counters().tokens["serve"] == pytest.approx(3e6)
    assert hall.counters().asked_gpu_h["serve"] == pytest.approx(5.0)


def test_an_order_to_some_cards_moves_those_as_their_curve_says_and_no_others():
    clock, hall = hall_of(pool("a", 3), pool("b", 1), pool("c", 4))
    watts = caps(hall, 400.0)
    for chosen, cap_w in (([0, 2], 150), ([3], 100), ([4, 7], 250), ([2, 4], 400), ([], 100), ([0, 3, 7], 120)):
        order = {list(watts)[place]: float(cap_w) for place in chosen}
        SimulatedPower(hall).apply(order, LEASE)
        watts |= order
        clock.sleep(60.0)
        settled = {gpu: draw_at_cap(CURVE, cap_w) for gpu, cap_w in watts.items()}
        assert {gpu: info.draw_w for gpu, info in hall.infos().items()} == pytest.approx(settled)


def test_power_falls_faster_than_it_rises():
    clock, hall = hall_of(pool())
    power, meter = SimulatedPower(hall), SimulatedMeter(hall)
    power.apply(caps(hall, 100), LEASE)
    clock.sleep(0.05)
    assert meter.read().pool_kw["serve"] == pytest.approx(0.95 + 0.05 * (3.30 - 0.95), rel=0.01)
    clock.sleep(60)
    power.apply(caps(hall, 400), LEASE)
    clock.sleep(0.05)
    assert meter.read().pool_kw["serve"] < 2.0
    clock.sleep(0.35)
    assert meter.read().pool_kw["serve"] == pytest.approx(3.30, rel=0.05)


def test_a_lost_gpu_is_named_and_counts_like_its_peers_never_as_zero():
    _, hall = hall_of(pool())
    meter = SimulatedMeter(hall)
    before = meter.read().pool_kw["serve"]
    gpus = hall.gpus_of["serve"]
    hall.fail(gpus[3], Reason.GPU_LOST)
    assert meter.read().pool_kw["serve"] == pytest.approx(before)
    assert meter.read().lost == (gpus[3],)
    for gpu in gpus[:4]:
        hall.fail(gpu, Reason.GPU_LOST)
    reading = meter.read()
    assert "serve" not in reading.pool_kw
    assert {"serve", *gpus[:4]} == set(reading.lost)
    assert "north" in reading.import_kw


def test_a_meter_of_which_nothing_is_left_says_so():
    _, hall = hall_of(pool(), faults=HallFaults(telemetry_loss=1.0))
    with pytest.raises(AdapterError, match="no meter answered"):
        SimulatedMeter(hall).read()


def test_faults_come_from_the_seed():
    def run(seed):
        clock, hall = hall_of(pool(count=200), faults=HallFaults(seed, 0.02, 0.05, 0.2, 0.5, 0.01))
        power, meter, seen = SimulatedPower(hall), SimulatedMeter(hall), []
        for _ in range(30):
            seen.append((dict(power.apply(caps(hall, 200), LEASE).failures), meter.read()))
            clock.sleep(60)
        return seen, hall.infos()

    first, infos = run(7)
    assert run(7) == (first, infos)
    assert run(8)[0] != first
    assert {Reason.CAP_REFUSED, Reason.GPU_LOST} <= {why for failures, _ in first for why in failures.values()}
    assert any(info.limit_w > 200 for info in infos.values()), "no cap was reset by chance"


def test_jobs_run_at_the_speed_of_their_caps_and_free_their_gpus_at_the_moment_they_end():
    clock, hall = hall_of(pool("batch", work=Work.BATCH))
    jobs = SimulatedJobs(hall, [job(gpu_h=4.0)])
    SimulatedPower(hall).apply(caps(hall, 200), LEASE)
    assert jobs.apply({"j": 10}) == {}
    clock.sleep(3600)
    assert jobs.snapshot() == []
    assert jobs.finished_at()["j"] - START == pytest.approx(timedelta(minutes=30), abs=timedelta(milliseconds=1))
    assert hall.counters().work_gpu_h["batch"] == pytest.approx(4.0, rel=1e-6)
    # Half an hour busy at 190 W, half an hour idle at 60 W; the step down takes 17 ms of 130 W.
    assert hall.counters().energy_kwh["batch"] == pytest.approx(10 * (0.095 + 0.030), rel=1e-4)


def test_job_states():
    clock, hall = hall_of(pool("batch", work=Work.BATCH))
    later = job("later", release=START + timedelta(hours=1))
    jobs = SimulatedJobs(hall, [job(gpu_h=40), job("fixed", 4, preemptible=False, max_gpus=6), later])
    assert [known.id for known in jobs.snapshot()] == ["j", "fixed"]
    assert jobs.apply({"j": 6, "fixed": 6}) == {"fixed": Reason.POOL_FULL}
    assert jobs.all_jobs()["fixed"].state is JobState.WAITING
    assert jobs.apply({"fixed": 2, "j": 3, "later": 1}) == {"later": Reason.NOT_RELEASED}
    assert jobs.all_jobs()["fixed"].gpus == 6, "a job that is not preemptible starts at its full width"
    assert jobs.apply({"fixed": 0, "j": 0}) == {"fixed": Reason.NOT_PREEMPTIBLE}
    assert [known.state for known in jobs.snapshot()] == [JobState.SUSPENDED, JobState.RUNNING]
    clock.sleep(7200)
    assert {known.id for known in jobs.snapshot()} == {"j", "later"}
    assert jobs.all_jobs()["fixed"].done_gpu_h == 4
    jobs.cancel("later")
    assert jobs.apply({"later": 1}) == {"later": Reason.WORK_DONE}


def test_progress_is_reported_seldom_but_ends_are_exact():
    clock, hall = hall_of(pool("batch", work=Work.BATCH))
    told, left = [], {"j": 5.0}

    def progress(name, gpu_h):
        told.append(gpu_h)
        left[name] -= gpu_h

    hall.attach_work(lambda: {name: ("batch", 10, gpu_h) for name, gpu_h in left.items()}, progress, report_s=600.0)
    for _ in range(3600):
        clock.sleep(1)
        hall.advance()
    assert len(told) <= 5
    assert left["j"] == pytest.approx(0.0, abs=1e-9)
    assert hall.counters().work_gpu_h["batch"] == pytest.approx(5.0, rel=1e-5)


def test_the_twin_never_passes_for_hardware():
    _, hall = hall_of(pool())
    assert all("simulated" in info.model for info in SimulatedPower(hall).discover().values())
    assert "simulated" in SimulatedMeter(hall).describe().text


def test_a_clock_that_steps_back_changes_nothing():
    _, hall = hall_of(pool())
    hall.advance(START + timedelta(hours=1))
    counters = hall.counters()
    hall.advance(START)
    assert hall.counters() == counters
    assert hall.now == START + timedelta(hours=1)


def test_twelve_thousand_gpus_take_their_orders_in_one_go():
    clock, hall = hall_of(*(pool(f"p{k}", 3072) for k in range(4)))
    power, meter = SimulatedPower(hall), SimulatedMeter(hall)
    full_kw = sum(meter.read().pool_kw.values())
    receipt = power.apply(caps(hall, 200), LEASE)
    clock.sleep(1)
    assert len(receipt.enforced_w) == 12_288
    assert set(receipt.enforced_w.values()) == {200.0}
    assert not receipt.failures
    assert sum(meter.read().pool_kw.values()) < 0.6 * full_kw


def test_a_suspend_and_a_restart_undo_their_gpu_hours():
    clock, hall = hall_of(pool("batch", work=Work.BATCH))
    jobs = SimulatedJobs(hall, [job(gpu_h=100.0, checkpoint_gpu_h=1.0, restart_gpu_h=2.0)])
    jobs.apply({"j": 10})
    clock.sleep(3600)
    assert jobs.snapshot()[0].done_gpu_h == pytest.approx(10.0)
    jobs.apply({"j": 0})
    assert jobs.snapshot()[0].done_gpu_h == pytest.approx(9.0)
    jobs.apply({"j": 10})
    assert jobs.snapshot()[0].done_gpu_h == pytest.approx(7.0)
    assert jobs.snapshot()[0].running_since == START + timedelta(hours=1)
