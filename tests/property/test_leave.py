"""A job that a person started is never stopped unless its owner says so, whatever is planned, read or in the books."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.jobs.held import YIELDED
from adapters.jobs.kube_moves import BACK, GOES, Paced, move_of, patch_of, theirs
from adapters.jobs.kube_moves import STOPS as STOPS_KUBE
from adapters.jobs.kube_read import KubeJob, Past, Workload
from adapters.jobs.kube_terms import KubeTerms
from adapters.jobs.queue import JobQueue
from adapters.jobs.slurm_cli import Slurm
from adapters.jobs.slurm_config import SlurmConfig
from adapters.jobs.slurm_mover import Mover, Wish
from adapters.jobs.slurm_nodes import Node
from adapters.jobs.slurm_picture import Reader
from adapters.jobs.slurm_read import PENDING, RUNNING, SUSPENDED, SlurmJob
from adapters.jobs.slurm_terms import PAUSES, Terms
from optimizer.domain import JobState
from scheduler.clock import VirtualClock
from scheduler.service import JobRequest
from scheduler.store.store import Store

NOW = datetime(2026, 11, 26, 18, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALL = ("licences", "defer", "hold", "suspend", "requeue", "drain")
DID = (None, "held", "suspended", "requeued", YIELDED, "deferred to=2026-11-26T20:00:00Z",
       "deferred to=2026-11-26T20:00:00Z last=2026-11-26T19:00:00Z own=2026-11-26T18:30:00Z")  # fmt: skip
COMMENTS = ("", "mine", "gridpace deadline=soon", "gridpace deadline=8h",
            *(f"gridpace deadline=8h pause={pause}" for pause in PAUSES), "gridpace deadline=8h pause=kill",
            "xgridpace deadline=8h pause=requeue")  # fmt: skip
STOPS = {"suspend": "suspend", "requeuehold": "requeue"}
"""scontrol's verbs that stop what runs, with the owner's word that each needs."""
DRAINS = {("NodeName=g0", "State=DRAIN", "Reason=gridpace: emergency"), ("NodeName=g0", "State=RESUME")}
POOLS = {"batch": "tune"}
PASTS = ((timedelta(), None), (3 * HOUR, NOW - 4 * HOUR), (HOUR / 4, NOW - 4 * HOUR))
NODES = [Node("g0", "batch", "mixed", 8, 4), Node("g1", "other", "idle", 8, 0), Node("g2", "batch", "down", 8, 0)]


class Commands(Slurm):
    """Takes every command down, and says that it was done."""

    def __init__(self):
        super().__init__(None, 1.0)
        self.given = []

    def _run(self, *command, check=True):
        self.given.append(command)
        return "Total=40" if command[1:3] == ("show", "licenses") else ""


def every_slurm_job():
    """Job and what the books say of it: one for each state, reason, comment, record and start."""
    states = [(PENDING, reason) for reason in ("None", "BeginTime", "JobHeldUser", "JobHeldAdmin")]
    states += [(RUNNING, "None"), (RUNNING, "JobHeldAdmin"), (SUSPENDED, "None"), ("COMPLETING", "None")]
    places = (("batch", ""), ("batch", "power_kw:4"), ("other", ""))
    table = product(states, COMMENTS, DID, (-1.0, 2.0), places)
    for number, ((state, reason), comment, did, begins, (partition, licences)) in enumerate(table):
        job = SlurmJob(
            str(number), "", "ann", comment, partition, state, reason, 8, NOW - HOUR, NOW + begins * HOUR,
            None if state == PENDING else NOW - HOUR / 2, None, timedelta(), licences,
        )  # fmt: skip
        yield job, did


JOBS = {job.id: (job, did) for job, did in every_slurm_job()}


@pytest.mark.parametrize(("rungs", "default"), [
    (ALL, None), (ALL, "24h"), (("hold",), "24h"), (("defer", "suspend"), None), (("hold", "requeue"), "24h"),
])  # fmt: skip
@pytest.mark.parametrize(("writes", "drain"), [(True, True), (False, True)])
def test_in_slurm_only_its_owners_word_stops_what_runs(rungs, default, writes, drain):
    licence = "power_kw" if "licences" in rungs else None
    config = SlurmConfig(type="slurm", partitions=POOLS, rungs=rungs, licence=licence, default_deadline=default)
    verbs = Counter()
    for first in range(0, len(JOBS), 60):
        verbs += check_slurm(dict(list(JOBS.items())[first : first + 60]), config, Wish({}, {}, writes, drain))
    if rungs == ALL and writes:
        assert min(verbs[verb] for verb in ("suspend", "requeuehold", "update", "release", "resume")) > 0, verbs


def check_slurm(jobs, config, wish):
    """How often each verb was given, to whom it may be."""
    slurm, rungs, writes = Commands(), config.rungs, wish.writes
    mover = Mover(slurm, config, None, VirtualClock(NOW))
    mover.book._did = {name: did for name, (_, did) in jobs.items() if did is not None}
    reader = Reader(config, mover.book, mover.runs)
    for gpus in (0, 8, None):
        picture = reader.picture([job for job, _ in jobs.values()], (), NOW)
        mover.carry_out(picture, NODES, replace(wish, gpus={} if gpus is None else dict.fromkeys(jobs, gpus)))
    mover.release(picture)
    ours = {name for name, (_, did) in jobs.items() if did not in {None, YIELDED}}
    for tool, verb, what, *more in slurm.given:
        if tool == "sinfo" or verb in {"show", "create", "delete"}:
            continue
        if what.startswith("NodeName="):
            assert (what, *more) in DRAINS
            continue
        for name in what.removeprefix("JobId=").split(","):
            job = jobs[name][0]
            if verb in STOPS:
                assert (job.state, job.partition, writes) == (RUNNING, "batch", True)
                assert job.comment.split()[0] == "gridpace"
                assert f"pause={STOPS[verb]}" in job.comment.split()
                assert STOPS[verb] in rungs
            elif verb == "hold" or (verb == "update" and name not in ours):
                assert (job.state, job.partition, writes) == (PENDING, "batch", True)
                assert {"hold": "hold", "update": "defer"}[verb] in rungs
            else:
                assert verb in {"release", "resume", "update"}
                assert name in ours, "what is not ours is not let go"
            ours.add(name)
    return Counter(verb for _, verb, *_ in slurm.given)


def every_kube_job():
    """One for each state, record, owner's word, and Kueue's side of it."""
    pasts = [Past(held, ran, started) for held in ("", "yielded", *sorted(BACK)) for ran, started in PASTS]
    pods = ((0, 0), (1, 0), (1, 1))
    owners = product(("no", "requeue"), (None, 0, 1, 3), (2 * HOUR, 9 * HOUR))
    for (pause, tier, runtime), past, (active, ready) in product(list(owners), pasts, pods):
        terms = KubeTerms(Terms(NOW + 8 * HOUR, pause), tier, runtime, HOUR / 4)
        base = ("work", "j", "u", "7")
        rest = (8, ready, active, NOW - HOUR, NOW - HOUR, None)
        for suspended, generation in product((True, False), (1, 3)):
            yield Paced(KubeJob(*base, generation, NOW - 5 * HOUR, "", suspended, *rest, past), terms)
        job = KubeJob(*base, 1, NOW - 5 * HOUR, "lq", not active, *rest, Past())
        for flags, check in product(product((True, False), repeat=3), ("", "Pending", "Ready")):
            asked = [{"name": "gridpace", "state": check}] if check else []
            yield Paced(job, terms, Workload("work", "w", "u", "9", "u", *flags, past, asked))


@pytest.mark.parametrize("gpus", [0, 8])
def test_in_kubernetes_only_its_owners_word_stops_what_runs(gpus):
    moves = Counter(check_move(paced, gpus) for paced in every_kube_job() if not theirs(paced))
    assert min(moves[move] for move in (STOPS_KUBE if gpus == 0 else GOES)) > 10, moves


def check_move(paced, gpus):
    """The move, which is one that its owner allows."""
    move = move_of(paced, gpus, NOW, "gridpace")
    if move is None:
        return None
    kind, _, body, status = patch_of(move, paced, NOW, "gridpace")
    stops = body.get("spec", {}).get("suspend") is True or body.get("spec", {}).get("active") is False
    at_work = (paced.workload is not None and paced.workload.admitted) or (
        paced.job.active > 0 if paced.workload is not None else not paced.job.suspended
    )
    if stops and at_work:
        assert paced.terms.terms.pause == "requeue"
        assert gpus == 0
        assert paced.may_pause(NOW), "its tier leaves room for a pause"
    if paced.workload is not None:
        assert kind.plural == "workloads", "spec.suspend is Kueue's there"
        assert not (status and at_work and move == "recall")
    if gpus > 0:
        assert not stops
    assert body["metadata"]["resourceVersion"] == paced.version
    return move


@given(
    leaves=st.lists(st.booleans(), min_size=2, max_size=5),
    turns=st.lists(st.lists(st.sampled_from([0, 4, 8]), min_size=5, max_size=5), min_size=2, max_size=6),
)
def test_in_the_queue_what_may_not_be_stopped_keeps_its_gpus(leaves, turns):
    queue = JobQueue(Store.in_memory(), {"tune": 16}, VirtualClock(NOW))
    made = [
        queue.submit(JobRequest(None, "tune", 8.0, 8, NOW + 8 * HOUR, preemptible=leave), NOW).id for leave in leaves
    ]
    started = {}
    for turn in turns:
        queue.apply(dict(zip(made, turn, strict=False)))
        for job in queue.snapshot():
            if not job.preemptible and job.gpus:
                started.setdefault(job.id, job.gpus)
            if job.id in started:
                assert (job.gpus, job.state) == (started[job.id], JobState.RUNNING)
    assert sum(started.values()) <= 16


def test_the_words_that_stop_are_the_ones_that_owners_may_say():
    assert set(STOPS.values()) | {"no"} == set(PAUSES)
    with pytest.raises(ValueError, match="rungs"):
        SlurmConfig(type="slurm", partitions={"batch": "tune"}, rungs=("cancel",))
