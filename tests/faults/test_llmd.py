"""llm-d's dispatch gate under the plan, over a real Redis: followed, lost, left by a dead daemon, given back."""

import math
import shutil
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from adapters.context import AdapterContext
from adapters.jobs.llmd import LlmdConfig, LlmdJobs, _clients, budget_of
from adapters.ports import AdapterError
from optimizer.domain import JobState
from optimizer.reasons import Reason
from scheduler.clock import WallClock
from scheduler.store.store import Store
from tests.support import system
from tests.support.batch_site import CONSTANT, BatchSite
from tests.support.llmd import BUDGET_KEY, QUEUE, Processor
from tests.support.ports import free_port

KEY = BUDGET_KEY


class Broker:
    """A Redis of the test's own, with llm-d's reading of the gate."""

    def __init__(self):
        system.require("redis-server")
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="redis-")), free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client, self.processors = redis.Redis.from_url(self.url), []
        self.start()
        self.processor()

    def start(self):
        command = ("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        self.process = subprocess.Popen((*command, "--save", "", "--appendonly", "yes"), stdout=subprocess.DEVNULL)
        self.wait(self.answers)

    def answers(self):
        try:
            return self.client.ping()
        except redis.RedisError:
            return False

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def close(self):
        self.client.close()
        for one in self.processors:
            one.close()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processor(self, batch_size=16):
        """One that has this queue and gate."""
        made = Processor(self.url, f"127.0.0.1:{self.port}", batch_size)
        self.processors.append(made)
        return made

    def budget(self):
        """As the processor reads it."""
        return self.processors[0].budget()

    def send(self, number, due, database=0):
        with redis.Redis(port=self.port, db=database) as client:
            client.zadd(QUEUE, {f"{due:%H%M}-{k}": due.timestamp() for k in range(number)})

    def wait(self, true, seconds=30.0):
        ends = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < ends, "it did not happen"
            time.sleep(0.02)
        return found


@pytest.fixture
def broker():
    made = Broker()
    yield made
    made.close()


@pytest.fixture
def gate(broker):
    made = []

    def make(store=None, **more):
        fields = {"pool": "tune", "gpus": 16, "requests_per_gpu_h": 100, "batch_size": 16, "refresh": "0.2s",
                  "timeout": "1s", "url": broker.url} | more  # fmt: skip
        jobs = LlmdJobs(LlmdConfig(type="llmd", **fields), AdapterContext(WallClock(), Path(), store))
        made.append(jobs)
        return jobs

    yield make
    for jobs in made:
        jobs.close()
        jobs._redis.close()
        jobs._gate.close()


def test_what_waits_is_work_by_hours_of_deadlines_and_the_budget_follows_the_grants(broker, gate):
    now = datetime.now(UTC)
    broker.send(400, now + timedelta(hours=3))
    broker.send(100, now - timedelta(minutes=2))
    broker.send(50, now + timedelta(days=3))
    jobs = gate()
    soon, later, last = sorted(jobs.snapshot(), key=lambda job: job.deadline)
    assert (soon.work_gpu_h, later.work_gpu_h, last.work_gpu_h) == (1.0, 4.0, 0.5)
    assert now < soon.deadline < now + timedelta(minutes=2), "over, and to be done at once"
    assert timedelta(hours=2) - timedelta(minutes=1) < later.deadline - now <= timedelta(hours=3)
    assert all(job.preemptible and job.release < job.deadline and job.state is JobState.WAITING for job in (soon, last))
    assert broker.budget() == 1.0, "nobody has planned: nothing is touched"

    assert jobs.apply({soon.id: 4, "nobody": 4}) == {"nobody": Reason.WORK_DONE}
    broker.wait(lambda: broker.budget() == 0.25)
    jobs.apply({later.id: 8})
    broker.wait(lambda: broker.budget() == 0.75)
    assert {job.id: job.gpus for job in jobs.snapshot()} == {soon.id: 4, later.id: 8, last.id: 0}
    broker.client.zremrangebyscore(QUEUE, "-inf", now.timestamp())
    broker.wait(lambda: broker.budget() == 0.5)  # what is dispatched holds no GPUs here any more
    jobs.apply({later.id: 16})
    broker.wait(lambda: broker.client.get(KEY) is None)
    assert jobs.held() == {}
    jobs.apply({later.id: 0})
    broker.wait(lambda: broker.budget() == 0.0)
    assert jobs.held() == {KEY: "budget"}
    assert jobs.release() == ()
    assert broker.client.get(KEY) is None


@pytest.mark.parametrize(
    ("gpus", "batch_size"), [(16, 16), (64, 10), (64, 64), (49, 49), (30, 30), (7, 100), (1000, 3)]
)
def test_the_processor_takes_as_many_requests_a_poll_as_gpus_are_granted(gpus, batch_size):
    """It rounds down: no grant is rounded to nothing, none by the last digit of a fraction to one request less."""
    for granted in range(gpus + 1):
        told = repr(budget_of(granted, gpus, batch_size))
        taken, due = math.floor(batch_size * float(told)), granted * batch_size / gpus
        assert abs(taken - due) <= 0.5 or (taken, granted > 0) == (1, True), (granted, told)
        assert (taken > 0) == (granted > 0)


def test_what_the_processor_dispatches_follows_the_plan_the_nearest_deadline_first(broker, gate):
    now, processor = datetime.now(UTC), broker.processor()
    for k in range(60):
        processor.submit(f"r{k:02}", now + timedelta(minutes=90 + k))
    processor.submit("late", now - timedelta(minutes=2))
    jobs = gate()
    assert sum(job.work_gpu_h for job in jobs.snapshot()) == pytest.approx(0.61)
    job = max(jobs.snapshot(), key=lambda one: one.work_gpu_h)
    jobs.apply({job.id: 4})
    broker.wait(lambda: broker.budget() == 0.25)
    assert (processor.poll(), processor.dropped) == (3, ["late"]), "four are taken, and one of them is late"
    assert (processor.poll(), processor.sent) == (4, [f"r{k:02}" for k in range(7)])
    jobs.apply({job.id: 0})
    broker.wait(lambda: broker.budget() == 0.0)
    assert processor.poll() == 0
    jobs.release()
    assert processor.poll() == 16, "wide open"


def test_the_gate_reads_database_0_whatever_the_queues_is_and_may_be_another_redis(broker, gate):
    broker.send(400, datetime.now(UTC) + timedelta(hours=3), database=5)
    jobs = gate(url=f"redis://127.0.0.1:{broker.port}/5")
    (job,) = jobs.snapshot()
    jobs.apply({job.id: 4})
    broker.wait(lambda: broker.budget() == 0.25)
    assert jobs.release() == ()
    assert broker.client.get(KEY) is None
    other = gate(url=f"redis://127.0.0.1:{broker.port}/5", gate_address=f"127.0.0.1:{free_port()}")
    (job,) = other.snapshot()
    other.apply({job.id: 4})
    broker.wait(other.notes)
    assert f"gate at {other._config.gate_address}" in other.notes()[0].text
    assert "queue" not in other.notes()[0].text


def test_the_gates_client_keeps_what_the_address_says_of_tls_but_not_its_database():
    url = "rediss://redis.llm-d:6380/5?ssl_ca_certs=/etc/our%20ca.pem&db=7"
    config = LlmdConfig(type="llmd", url=url, pool="tune", gpus=16, requests_per_gpu_h=100)
    queue, gate = (
        one.connection_pool.connection_kwargs for one in _clients(config, AdapterContext(WallClock(), Path()))
    )
    assert (queue["db"], gate["db"]) == (7, 0)
    assert queue["ssl_ca_certs"] == gate["ssl_ca_certs"] == "/etc/our ca.pem"


def test_while_we_only_look_the_gate_stays_open_with_an_empty_queue_too(broker, gate):
    jobs = gate()
    jobs.quiet(True)
    assert jobs.snapshot() == []
    jobs.apply({})
    threading.Event().wait(0.6)  # some turns of the hand
    assert broker.client.get(KEY) is None
    jobs.quiet(False)  # an operator's `mode control`
    broker.wait(lambda: broker.budget() == 0.0)
    jobs.quiet(True)
    broker.wait(lambda: broker.client.get(KEY) is None)
    assert jobs.held() == {}


def test_a_redis_that_goes_is_an_alert_and_the_budget_is_set_when_it_is_back(broker, gate):
    broker.send(400, datetime.now(UTC) + timedelta(hours=3))
    jobs = gate()
    (job,) = jobs.snapshot()
    jobs.apply({job.id: 4})
    broker.wait(lambda: broker.budget() == 0.25)
    broker.stop()
    broker.wait(jobs.notes)
    assert jobs.notes()[0].code is Reason.JOBS_LOST
    assert jobs.snapshot(), "the last picture stands"
    jobs.apply({job.id: 12})
    broker.start()
    broker.wait(lambda: broker.budget() == 0.75)
    broker.wait(lambda: not jobs.notes())
    broker.stop()
    assert "still ours" in jobs.release()[0].text
    broker.start()


def test_a_dead_daemons_budget_ends_by_itself_and_the_next_one_knows_it(broker, gate, tmp_path):
    broker.send(400, datetime.now(UTC) + timedelta(hours=3))
    store = Store.open(tmp_path / "books.db")
    dead = gate(store, lease="6s")
    (job,) = dead.snapshot()
    dead.apply({job.id: 4})
    broker.wait(lambda: broker.budget() == 0.25)
    left_ms = broker.client.pttl(KEY)
    broker.wait(lambda: broker.client.pttl(KEY) < left_ms - 50)
    broker.wait(lambda: broker.client.pttl(KEY) > left_ms - 50)  # renewed while it lives
    dead.close()
    again = gate(store)
    assert again.held() == {KEY: "budget"}
    broker.wait(lambda: broker.client.get(KEY) is None)
    assert again.release() == ()
    assert again.held() == {}
    store.close()


def test_a_redis_that_was_never_read_is_an_error(broker, gate):
    broker.stop()
    with pytest.raises(AdapterError, match=f"llm-d: .*{broker.port}"):
        gate().snapshot()
    broker.start()


SYSTEM = (
    "{{type: llmd, url: '{url}', pool: tune, gpus: 16, requests_per_gpu_h: 100, value_per_gpu_h: 5, refresh: 0.5s}}"
)


@pytest.mark.timeout(180)
def test_the_gate_opens_for_work_shuts_for_an_event_and_is_left_wide_open(broker, tmp_path):
    lab = BatchSite(tmp_path, SYSTEM.format(url=broker.url), CONSTANT)
    daemon = lab.start()
    try:
        daemon.serving()
        broker.send(40_000, datetime.now(UTC) + timedelta(hours=4))
        daemon.wait(lambda: daemon.get("/api/v1/jobs")["jobs"])
        daemon.wait(lambda: broker.budget() > 0.9)
        body = {"id": "e1", "version": 1, "site": "lab", "start": "now", "duration": "PT30M", "limit_kw": 1.3,
                "ramp_in_s": 1, "ramp_out_s": 1, "rebound_s": 1}  # fmt: skip
        assert daemon.call("POST", "/api/v1/events", body)[0] in {200, 201}
        daemon.wait(lambda: broker.budget() < 0.1)
        assert broker.processor(10).poll() == 0
        daemon.kill()
        code, said = daemon.command("doctor")
        assert (code, f"job {KEY}: budget in llm-d" in said) == (1, True), said
        code, said = daemon.command("release")
        assert (code, broker.client.get(KEY)) == (0, None), said
    finally:
        lab.end()
