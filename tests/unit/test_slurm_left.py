"""What Gridpace stopped in Slurm is let go when it is no longer Gridpace's to pace."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_config import SlurmConfig
from adapters.jobs.slurm_mover import Mover, Wish
from adapters.jobs.slurm_picture import Reader
from adapters.jobs.slurm_read import HELD_BY_ADMIN, PENDING, SUSPENDED, SlurmJob
from scheduler.clock import VirtualClock

NOW = datetime(2026, 11, 27, 2, tzinfo=UTC)
OURS = SlurmJob("7", "train", "ann", "gridpace deadline=8h pause=suspend", "batch", PENDING, HELD_BY_ADMIN, 8,
                NOW, NOW, None, timedelta(hours=1), timedelta())  # fmt: skip


@pytest.mark.parametrize("change", [{"comment": ""}, {"comment": "gridpace deadline=soon"}, {"partition": "debug"}])
@pytest.mark.parametrize(("did", "state"), [("held", PENDING), ("suspended", SUSPENDED)])
def test_a_job_whose_owner_or_config_takes_the_word_back_is_let_go(change, did, state):
    config = SlurmConfig(type="slurm", partitions={"batch": "tune"})
    mover = Mover(Slurm(None, 1.0), config, None, VirtualClock(NOW))
    reader = Reader(config, mover.book, mover.runs)
    mover.book.ordering({"7": did}, NOW)
    mover.book.stands(["7"])
    ours = replace(OURS, state=state)
    assert mover.orders(reader.picture([ours], [], NOW), Wish({"7": 0})).go == {}
    picture = reader.picture([replace(ours, **change)], [], NOW)
    assert picture.jobs == {}
    assert mover.orders(picture, Wish()).go == {"7": did}
    mover.book.give_up("7")
    assert mover.orders(picture, Wish()).go == {}, "by now it is somebody else who stops it"
