"""A job that is requeued keeps what it ran before: in the plan, for its tier, and over a crash."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from adapters.jobs.held import Held
from adapters.jobs.runs import Runs
from adapters.jobs.slurm_config import SlurmConfig
from adapters.jobs.slurm_picture import Reader, batch_job
from adapters.jobs.slurm_read import PENDING, RUNNING, SlurmJob
from optimizer.domain import JobState
from optimizer.reasons import Reason
from scheduler.store.store import Store, StoreDegraded

NOW = datetime(2026, 11, 27, 4, tzinfo=UTC)
H, S = timedelta(hours=1), timedelta(seconds=1)
WORDS = "gridpace tier=3 runtime=6h pause=requeue checkpoint=1h"
JOB = SlurmJob("7", "train", "ann", WORDS, "batch", PENDING, "", 8, NOW, NOW, None, 12 * H, timedelta())
CONFIG = SlurmConfig(type="slurm", partitions={"batch": "tune"})


class Site:
    """Readings of one job, by a daemon that may be another one each time."""

    def __init__(self, store=None):
        self.store = store if store is not None else Store.in_memory()
        self.daemon()

    def daemon(self):
        self.runs = Runs("slurm", self.store, NOW)
        self.reader = Reader(CONFIG, Held("slurm", None, NOW), self.runs)

    def read(self, at, gpus=0, **more):
        picture = self.reader.picture([replace(JOB, **more)], [], at)
        self.reader.seat(picture, [], {"7": gpus})
        job, terms = picture.jobs["7"]
        return batch_job(job, terms, "tune", picture, gpus, at), picture


def run(start, ran):
    return {"state": RUNNING, "started": start, "ran": ran}


def test_runs_add_up_less_half_a_checkpoint_each_from_the_first_start_on():
    site = Site()
    job, _ = site.read(NOW)
    assert (job.state, job.started_at, job.done_gpu_h) == (JobState.WAITING, None, 0.0)
    job, _ = site.read(NOW + 2 * H, **run(NOW, 2 * H))
    assert (job.done_gpu_h, job.checkpoint_gpu_h) == (16.0, 4.0)
    for _ in range(2):
        job, _ = site.read(NOW + 3 * H)
        assert (job.state, job.started_at, job.done_gpu_h, job.work_gpu_h) == (JobState.SUSPENDED, NOW, 12.0, 48.0)
    job, _ = site.read(NOW + 4 * H, **run(NOW + 3.5 * H, 0.5 * H))
    assert (job.state, job.started_at, job.done_gpu_h) == (JobState.RUNNING, NOW, 16.0)
    # Requeued between two readings by somebody else, and running again; a second's rounding is no other run.
    job, _ = site.read(NOW + 5.5 * H, **run(NOW + 4.5 * H, H))
    assert (job.started_at, job.done_gpu_h) == (NOW, 20.0), "half an hour was no more than the way back"
    job, _ = site.read(NOW + 6 * H, **run(NOW + 4.5 * H + S, 1.5 * H))
    assert job.done_gpu_h == 24.0


def test_the_next_daemon_knows_what_was_run_also_where_it_was_requeued_while_none_was_there():
    site = Site()
    site.read(NOW, **run(NOW, timedelta()))
    site.read(NOW + 2 * H, **run(NOW, 2 * H))
    site.daemon()
    job, _ = site.read(NOW + 3 * H)
    assert (job.started_at, job.done_gpu_h) == (NOW, 12.0)
    site.reader.picture([], [], NOW + 4 * H)
    site.daemon()
    job, _ = site.read(NOW + 5 * H)
    assert (job.started_at, job.done_gpu_h) == (None, 0.0), "its id may be another job's by then"


def test_a_job_that_does_not_say_it_checkpoints_begins_anew():
    site, words = Site(), "gridpace tier=3 runtime=6h pause=suspend"
    site.read(NOW + 2 * H, comment=words, **run(NOW, 2 * H))
    job, _ = site.read(NOW + 3 * H, comment=words)
    assert (job.state, job.done_gpu_h) == (JobState.WAITING, 0.0)


def test_a_full_disk_costs_no_job():
    class Full(Store):
        def put(self, *_):
            raise StoreDegraded("disk full")

    site = Site(Full.in_memory())
    site.read(NOW + 2 * H, **run(NOW, 2 * H))
    assert site.read(NOW + 3 * H)[0].done_gpu_h == 12.0


@pytest.mark.parametrize(("gpus", "reason", "said"), [(8, "Resources", 1), (0, "Resources", 0), (8, "BeginTime", 0)])
def test_who_took_the_gpus_of_a_begun_job_of_a_tier_is_said(gpus, reason, said):
    site = Site()
    site.read(NOW + H, **run(NOW, H))
    _, picture = site.read(NOW + 2 * H, gpus, reason=reason)
    assert [(note.code, note.subject) for note in picture.lacking] == [(Reason.POOL_FULL, "7")] * said
    _, picture = Site().read(NOW + 2 * H, gpus, reason=reason)
    assert picture.lacking == (), "one that has not begun was promised nothing yet"


def test_a_job_that_waits_for_several_partitions_is_paced_as_one_of_the_first_that_has_a_pool():
    site = Site()
    for waits, placed in (("batch,debug", "batch"), ("debug,batch", "batch"), ("debug", None), ("debug,other", None)):
        picture = site.reader.picture([replace(JOB, partition=waits)], [], NOW)
        site.reader.seat(picture, [], {})
        assert [job.partition for job, _ in picture.jobs.values()] == ([placed] if placed else [])
