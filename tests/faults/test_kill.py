"""kill -9 at random moments: nothing that was acknowledged is lost, and every card gets back the limit found first.

The real daemon steers eight fake cards; a client sends events, jobs, progress and orders and writes down every
acknowledgement. GRIDPACE_KILLS says how often it is killed; the seed of a failing run is printed.
"""

import os
import random
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.daemon import Machine

KILLS = int(os.environ.get("GRIDPACE_KILLS", "5"))
SEED = int(os.environ.get("GRIDPACE_KILL_SEED", "20220906"))
SITE_FULL_KW = 6.2
MOST_RECONCILE_S = 5.0


class Client:
    """Sends things, and remembers what was acknowledged (`held`) beside what may have arrived unheard (`tried`)."""

    def __init__(self, rng):
        self.rng, self.count = rng, 0
        self.events, self.jobs, self.orders = {}, {}, {}
        self.tried = {}

    def act(self, life):
        """One thing at random; False when nobody answered any more."""
        self.count += 1
        return self.rng.choice((self.event, self.event, self.job, self.progress, self.progress, self.order))(life)

    def heard(self, store, key, value, answer):
        """Book an acknowledgement, or that nobody knows whether it arrived."""
        if answer is None:
            self.tried[key] = value
            return False
        assert answer[0] in {200, 201}, answer
        assert answer[1].get("opt", "in") == "in", answer
        store[key] = value
        return True

    def event(self, life):
        """A new event, or a newer version of one."""
        known = self.rng.random() < 0.5 and self.events
        event_id = self.rng.choice(sorted(self.events)) if known else f"event-{self.count}"
        version = self.tried.get(event_id, self.events.get(event_id, (0, 0)))[0] + 1
        cap_kw = round(self.rng.uniform(3.0, 5.5), 3)
        answer = life.event(id=event_id, version=version, duration="PT40S", limit_kw=cap_kw)
        return self.heard(self.events, event_id, (version, cap_kw), answer)

    def job(self, life):
        """A new job that takes a long time."""
        body = {"id": f"job-{self.count}", "work_gpu_h": 4.0, "max_gpus": self.rng.choice((1, 2)),
                "deadline": (datetime.now(UTC) + timedelta(hours=8)).isoformat()}  # fmt: skip
        return self.heard(self.jobs, body["id"], 0.0, life.call("POST", "/api/v1/jobs", body))

    def progress(self, life):
        """A worker reports a little more."""
        if not self.jobs:
            return self.job(life)
        job_id = self.rng.choice(sorted(self.jobs))
        done = round(max(self.jobs[job_id], self.tried.get(job_id, 0.0)) + 0.01, 3)
        answer = life.call("POST", f"/api/v1/jobs/{job_id}/progress", {"done_gpu_h": done})
        return self.heard(self.jobs, job_id, done, answer)

    def order(self, life):
        """The operator limits the site, or takes that back."""
        limit_kw = self.rng.choice((None, round(self.rng.uniform(4.0, 6.0), 2)))
        body = {"action": "limit", "site": "lab", "limit_kw": limit_kw}
        return self.heard(self.orders, "limit:lab", limit_kw, life.call("POST", "/api/v1/operator", body))

    # ------------------------------------------------------------ after a restart
    def check(self, life, machine):
        """Everything acknowledged is there, in its newest version."""
        listed = sorted(every_event(life), key=lambda event: event["version"])
        shown = {event["id"]: event for event in listed}  # an event that ran again under a new version shows both
        books = {body["event"]["id"] for body in machine.records("event").values()}
        for event_id, (version, cap_kw) in self.events.items():
            allowed = {(version, cap_kw), self.tried.get(event_id, (version, cap_kw))}
            assert event_id in books, f"{event_id} was acknowledged and is not in the store"
            assert event_id in shown, f"{event_id} is in the store, and no page of the list shows it"
            assert (shown[event_id]["version"], shown[event_id]["target_kw"]) in allowed, event_id
            by_id = life.get(f"/api/v1/events/{event_id}")  # what is delivered is counted on between two questions
            assert (by_id["version"], by_id["number"]) == (shown[event_id]["version"], shown[event_id]["number"])
            self.events[event_id] = (shown[event_id]["version"], shown[event_id]["target_kw"])
        jobs = {job["id"]: round(job["progress"] * 4.0, 3) for job in life.get("/api/v1/jobs")["jobs"]}
        for job_id, done in self.jobs.items():
            assert jobs[job_id] in {done, self.tried.get(job_id, done)}, job_id
            self.jobs[job_id] = jobs[job_id]
        if self.orders:
            limit_kw = machine.records("order")["limit:lab"]["order"]["limit_kw"]
            allowed = {self.orders["limit:lab"], self.tried.get("limit:lab", self.orders["limit:lab"])}
            assert limit_kw in allowed
            self.orders["limit:lab"] = limit_kw
        self.tried.clear()


def every_event(life, limit=50):
    """All pages of the list; none comes twice."""
    found, before = [], ""
    while True:
        page = life.get(f"/api/v1/events?limit={limit}{before}")
        found += page["events"]
        if page["next_before"] is None:
            assert len({event["number"] for event in found}) == len(found)
            return found
        before = f"&before={page['next_before']}"


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    made.close()


LEAST_ACTS = 5
"""What a client does in a life at least, however slow the machine is."""


def until_the_axe(life, client, rng, kind):
    """Let the daemon live for a while of this kind; then it is to be killed."""
    if kind == "at the start":
        time.sleep(rng.uniform(0.0, 6.0))
        return
    life.wait(lambda: life.said("started"))
    if kind == "inside an event":
        client.event(life)
        life.wait(lambda: min(life.machine.fake.limits_w().values()) < 600)
        time.sleep(rng.uniform(0.0, 0.5))
        return
    ends, acts = time.monotonic() + rng.uniform(0.1, 2.0), 0
    while (time.monotonic() < ends or acts < LEAST_ACTS) and client.act(life):
        acts += 1


@pytest.mark.kill
@pytest.mark.timeout(120 + 30 * KILLS)
def test_kill_at_any_moment_loses_nothing_and_restores_the_limits_found_first(machine):
    rng = random.Random(SEED)
    client, walls, cpus, caught = Client(rng), [], [], 0
    kinds = ("at work", "inside an event", "at work", "at the start")
    for death in range(KILLS):
        kind = kinds[death % len(kinds)]
        print(f"GRIDPACE_KILL_SEED={SEED}, life {death}, killed {kind}")
        life = machine.start()
        if kind != "at the start":
            wall_s, cpu_s = life.reconciled_s()
            walls.append(wall_s)
            cpus.append(cpu_s)
            life.wait(lambda life=life: life.said("started"))
            client.check(life, machine)
        until_the_axe(life, client, rng, kind)
        life.kill()
        caught += machine.fake.limits_w() != machine.first
        books = (machine.state / "gridpace.db").exists()
        kept = {gpu: body["limit_w"] for gpu, body in machine.records("first_limit").items()} if books else {}
        assert kept in ({}, machine.first), "what is to be restored changed, or was only half kept"
        assert kept or machine.fake.limits_w() == machine.first, "a card was written before its limit was kept"
    last = machine.start().serving()
    client.check(last, machine)
    assert last.stop() == 0
    assert machine.fake.limits_w() == machine.first
    assert not machine.records("first_limit"), "nothing is left to restore"
    assert caught > KILLS // 4, "the cards were hardly ever capped; the test tests nothing"
    assert len(client.events) + len(client.jobs) > KILLS
    reconciled_in_time(walls, cpus)


def reconciled_in_time(walls, cpus):
    """Reconciled within 5 s of the start. On a machine too busy to give a process its core, its own CPU time counts."""
    middle = sorted(walls)[len(walls) // 2]
    print(
        f"reconciled after {min(walls):.1f} to {max(walls):.1f} s, {middle:.1f} s in the middle; CPU {max(cpus):.1f} s"
    )
    assert middle <= MOST_RECONCILE_S or (sorted(cpus)[len(cpus) // 2] < 0.7 * middle and max(cpus) <= MOST_RECONCILE_S)
