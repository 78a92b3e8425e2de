"""What an owner may write into the comment of a Slurm job, and what becomes of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from adapters.jobs.ends import Ends
from adapters.jobs.slurm_cli import SlurmSilent
from adapters.jobs.slurm_picture import Picture, batch_job
from adapters.jobs.slurm_read import RUNNING, SlurmJob
from adapters.jobs.slurm_terms import Terms, TermsError, terms_of
from adapters.ports import AdapterError

NOW = datetime(2026, 11, 27, 4, tzinfo=UTC)
H = timedelta(hours=1)
JOB = SlurmJob("7", "train", "ann", "", "batch", RUNNING, "", 8, NOW - 4 * H, NOW - 4 * H, NOW - 3 * H, 12 * H, 2 * H)
SAID = """JobId=7 JobName=train
   UserId=ann(1000) GroupId=ann(1000) MCS_label=N/A
   JobState={state} Reason=None Dependency=(null)
   RunTime=00:00:02 TimeLimit=01:00:00 TimeMin=N/A
   StartTime=2026-11-27T03:59:00 EndTime=2026-11-27T04:10:07 Deadline=N/A
"""


@pytest.mark.parametrize(("comment", "said"), [
    ("gridpace tier=2 runtime=6h", Terms(NOW + 8 * H, "no", 0.0, 2, 6 * H)),
    ("gridpace tier=3 pause=suspend", Terms(NOW + 24 * H, "suspend", 0.0, 3, None)),
    ("gridpace tier=0 runtime=6h deadline=5h", Terms(NOW + 5 * H, "no", 0.0, 0, 6 * H)),
    ("gridpace deadline=5h runtime=90m", Terms(NOW + 5 * H, "no", 0.0, None, 1.5 * H)),
    ("gridpace tier=1 runtime=9h pause=requeue checkpoint=30m", Terms(NOW + 10 * H, "requeue", 0.0, 1, 9 * H, H / 2)),
])  # fmt: skip
def test_a_tier_is_a_deadline_by_the_runtime_or_the_time_limit(comment, said):
    assert terms_of(comment, NOW, None, 12 * H) == said
    assert terms_of(comment, NOW, Terms(NOW + 2 * H), 12 * H) == said, "also where the site has a default"


@pytest.mark.parametrize(("comment", "why"), [
    ("gridpace tier=4 runtime=6h", "write 0, 1, 2 or 3"), ("gridpace tier=1", "tier= needs runtime="),
    ("gridpace deadline=5h pause=suspend checkpoint=5m", "goes with pause=requeue"),
    ("gridpace deadline=5h pause=requeue checkpoint=0m", "checkpoint=0m"),
    ("gridpace deadline=5h runtime=long", "runtime=long"),
    ("gridpace deadline=5h runtime=0m", "runtime=0m"), ("gridpace deadline=5h flex=2", "'flex=2' is not one of"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_its_word(comment, why):
    with pytest.raises(TermsError, match=why):
        terms_of(comment, NOW, None)


def test_a_job_that_outlives_what_its_owner_said_has_some_left_to_do():
    terms = Terms(NOW + 8 * H, "suspend", runtime=6 * H)
    seen = batch_job(JOB, terms, "tune", Picture(NOW), 8, NOW)
    assert (seen.work_gpu_h, seen.done_gpu_h, seen.tier) == (48.0, 16.0, None)
    late = batch_job(replace(JOB, ran=7 * H), terms, "tune", Picture(NOW), 8, NOW)
    assert late.done_gpu_h == 56.0
    assert late.left_gpu_h > 1, "one without work would be given nothing, and stay suspended for ever"
    tiered = batch_job(replace(JOB, ran=7 * H), replace(terms, tier=2), "tune", Picture(NOW), 8, NOW)
    assert (tiered.work_gpu_h, tiered.done_gpu_h, tiered.tier) == (48.0, 56.0, 2), "what it lost is counted elsewhere"


@pytest.mark.parametrize(("state", "end"), [
    ("COMPLETED", (True, NOW + timedelta(minutes=10, seconds=7))),
    ("CANCELLED", (False, NOW + timedelta(minutes=10, seconds=7))),
    ("COMPLETING", None), ("RUNNING", None),
])  # fmt: skip
def test_how_a_job_ended_is_asked_until_it_is_known(state, end):
    class Slurm:
        asked = 0

        def ask(self, *words):
            assert words == ("show", "job", "7")
            self.asked += 1
            return SAID.format(state=state)

    slurm, ends = Slurm(), Ends()
    ends.ask_slurm(["7"], {"7"}, slurm)
    assert (slurm.asked, ends.of("7")) == (0, None), "it is in the queue"
    for _ in range(2):
        ends.ask_slurm([], set(), slurm)
    assert ends.of("7") == end
    assert slurm.asked == (2 if end is None else 1)


def test_a_job_that_an_earlier_life_followed_is_asked_for_once():
    asked = []

    class Slurm:
        def ask(self, _show, _job, name):
            asked.append(name)
            if name == "8":
                raise AdapterError("scontrol show: Invalid job id specified")
            return SAID.format(state="COMPLETED")

        def accounted(self, name):
            assert name == "8", "asked where the controller has forgotten it"
            raise AdapterError("sacct: Slurm accounting storage is disabled")

    slurm, ends = Slurm(), Ends()
    for _ in range(3):
        assert ends.wanted("8") is None
        ends.wanted("7")
        ends.ask_slurm([], {"9"}, slurm)
    assert asked == ["7", "8"]
    assert ends.wanted("7") == (True, NOW + timedelta(minutes=10, seconds=7))


@pytest.mark.parametrize(("said", "end"), [
    ("COMPLETED|2026-11-27T04:10:07\n", (True, NOW + timedelta(minutes=10, seconds=7))),
    ("CANCELLED by 1000|2026-11-27T04:10:07\n", (False, NOW + timedelta(minutes=10, seconds=7))),
    ("RUNNING|Unknown\n", None), ("", None),
])  # fmt: skip
def test_a_job_that_the_controller_has_forgotten_is_looked_up_in_the_accounting(said, end):
    class Slurm:
        def ask(self, *_):
            raise AdapterError("scontrol show: Invalid job id specified")

        def accounted(self, _name):
            return said

    ends = Ends()
    ends.ask_slurm(["7"], set(), Slurm())
    assert ends.of("7") == end


def test_an_accounting_that_hangs_is_waited_for_once_whatever_number_of_jobs_is_gone():
    asked = []

    class Slurm:
        def ask(self, *_):
            raise AdapterError("scontrol show: Invalid job id specified")

        def accounted(self, name):
            asked.append(name)
            raise SlurmSilent("sacct: no answer within 10 s")

    ends = Ends()
    for _ in range(2):
        ends.ask_slurm([], set(), Slurm())
        for name in ("7", "8", "9"):
            assert ends.wanted(name) is None
    ends.ask_slurm([], set(), Slurm())
    assert asked == ["7"], "each wait would hold up everything that is to be held or released"
