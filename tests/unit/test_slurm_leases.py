"""What Slurm keeps for us for a while is renewed in time: a reservation of licences, a start that was put off."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_defer import Deferral, next_deferral
from adapters.jobs.slurm_licences import LicenceBudget
from adapters.jobs.slurm_read import PENDING, SlurmJob
from scheduler.store.store import Store

NOW = datetime(2026, 11, 27, 4, tzinfo=UTC)
S, H = timedelta(seconds=1), timedelta(hours=1)
JOB = SlurmJob(
    "7", "train", "ann", "gridpace deadline=8h", "batch", PENDING, "Licenses", 8, NOW, NOW, None, 12 * H, timedelta(),
    "power_kw:8",
)  # fmt: skip


class Commands(Slurm):
    """Takes down what is written, and says that it was done. `gone`: the reservation has ended."""

    def __init__(self):
        super().__init__(None, 1.0)
        self.written, self.gone = [], False

    def _run(self, *command, check=True):
        if command[1] == "show":
            return "LicenseName=power_kw\n    Total=40 Used=0 Free=40 Reserved=0 Remote=no"
        self.written.append(command[1:])
        return ""


def kept(command):
    """Licences that a command keeps, and until when it says that Slurm ends that."""
    words = dict(word.partition("=")[::2] for word in command if "=" in word)
    return words["Licenses"], words.get("EndTime") or f"now+{words['Duration']}minutes"


@pytest.mark.parametrize(("lease", "ends"), [(timedelta(minutes=10), 10), (timedelta(minutes=1), 1), (12 * S, 1)])
def test_a_reservation_that_nothing_changes_is_renewed_long_before_it_ends(lease, ends):
    slurm, step, renewals = Commands(), lease / 60, []
    budget = LicenceBudget(slurm, "power_kw", lease, Store.in_memory(), NOW)
    for turn in range(5 * 60):
        budget.keep([JOB], ["7"], NOW + turn * step)
        if slurm.written:
            renewals.append((turn * step, *slurm.written))
            slurm.written.clear()
    assert [kept(command) for _, command in renewals] == [("power_kw:40", f"now+{ends}minutes")] * len(renewals)
    assert [command[0] for _, command in renewals] == ["create"] + ["update"] * (len(renewals) - 1)
    gaps = [later - at for (at, _), (later, _) in pairwise(renewals)]
    assert max(gaps) <= lease / 3 + step, "two renewals that fail still leave a third of it"
    assert 5 * lease - renewals[-1][0] <= lease / 3 + step, "up to the end"
    assert min(gaps) >= lease / 3, "and Slurm isn't asked at each turn"


def test_what_changes_is_kept_at_once_and_renewed_from_then_on():
    slurm, lease = Commands(), timedelta(minutes=9)
    budget = LicenceBudget(slurm, "power_kw", lease, None, NOW)
    at = NOW
    for seconds, refused, count in (
        (0, ["7"], 1),
        (179, ["7"], 0),
        (1, ["7"], 1),
        (60, [], 1),
        (120, [], 0),
        (60, [], 1),
    ):
        at += seconds * S
        slurm.written.clear()
        budget.keep([JOB], refused, at)
        assert len(slurm.written) == count, at - NOW
    assert kept(slurm.written[0])[0] == "power_kw:32"


LEASE = timedelta(minutes=10)


@pytest.mark.parametrize("expected", [None, NOW + timedelta(minutes=2)], ids=["unplanned", "planned soon"])
def test_a_start_that_was_put_off_is_renewed_before_half_of_its_lease_is_left(expected):
    """So a daemon that hangs for five minutes of ten finds its jobs waiting still."""
    job, given, written = replace(JOB, begin=NOW), None, []
    for turn in range(3 * 600):
        at = NOW + turn * S
        new = next_deferral(job, given, at, expected, LEASE)
        if new is not None:
            given, job = new, replace(job, begin=new.to)
            written.append(at)
        assert job.begin >= at + LEASE / 2, "it is never nearer than that"
        assert job.begin <= at + LEASE, "nor is a dead daemon's job kept any longer"
    gaps = {later - at for at, later in pairwise(written)}
    assert gaps == {LEASE / 2 + S}, "and no command is given in between"


def test_a_start_far_ahead_is_renewed_only_as_it_comes_near():
    planned = NOW + 3 * H
    given = next_deferral(JOB, None, NOW, planned, LEASE)
    assert given == Deferral(planned)
    job, half = replace(JOB, begin=planned), planned - LEASE / 2
    for before in (2 * LEASE, LEASE, timedelta(0)):
        assert next_deferral(job, given, half - before, planned, LEASE) is None
    assert next_deferral(job, given, half + S, planned, LEASE) == Deferral(half + S + LEASE, planned)
