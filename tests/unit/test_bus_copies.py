"""When streams are brought to the number of copies that the config says, how often that is tried, and what is told."""

import asyncio
import json
from itertools import pairwise
from types import SimpleNamespace

import pytest

from adapters import bus_copies
from adapters.bus_copies import AGAIN_S, FIRST_S, LATER_S, PAUSE_S, STREAM_NOT_FOUND, TOLD, Copies
from adapters.ports import AdapterError
from adapters.power.fleet_post import TrajectoryPost
from optimizer.reasons import Note, Reason
from scheduler.running import App, note_standby
from tests.support.loops import lab


class Travel(asyncio.SelectorEventLoop):
    """Time is what is waited for."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


class Servers:
    """Streams and their copies; more than `most` are refused; `silent` ones say nothing."""

    def __init__(self, most, **has):
        self.has, self.most, self.silent, self.asked, self.loop = has, most, set(), [], Travel()
        self.connected, self.settings = True, SimpleNamespace(place="here")

    async def ask(self, _, what, data):
        verb, _, stream = what.partition(".")
        self.asked.append((round(self.loop.now, 3), verb, stream))
        if stream in self.silent:
            raise TimeoutError
        if stream not in self.has:
            return {"error": {"err_code": STREAM_NOT_FOUND}}
        wanted = json.loads(data)["num_replicas"] if data else 0
        if wanted > self.most:
            return {"error": {"description": "too few"}}
        self.has[stream] = wanted or self.has[stream]
        return {"config": {"num_replicas": self.has[stream], "kept": "as it was"}}

    def times(self, verb):
        return [at for at, what, _ in self.asked if what == verb]


@pytest.fixture
def servers(monkeypatch, request):
    made = Servers(*request.param[:1], **request.param[1])
    monkeypatch.setattr(bus_copies, "_ask", made.ask)
    monkeypatch.setattr(bus_copies, "monotonic", made.loop.time)
    yield made
    made.loop.close()


def of(most, **has):
    return pytest.mark.parametrize("servers", [(most, has)], indirect=True)


def play(servers, copies, seconds, every=None):
    """Let so much time pass, with a `look` now and then."""

    async def run():
        ends = servers.loop.now + seconds
        while servers.loop.now < ends:
            if every:
                copies.look(servers)
            await asyncio.sleep(every or seconds)

    servers.loop.run_until_complete(run())


@of(1, a=1)
def test_what_is_refused_is_asked_for_after_ever_longer_pauses_without_a_write_while_it_may(servers):
    allowed = [True]

    def may():
        if not allowed[0]:
            raise AdapterError("another one leads")

    copies = Copies(3, "a", may=may, by_itself=True)
    copies.renew()
    servers.loop.call_soon(copies.look, servers)
    play(servers, copies, 3.0 * AGAIN_S)
    at = servers.times("UPDATE")
    pauses = [round(later - sooner - LATER_S, 3) for sooner, later in pairwise(at)]
    assert pauses[:6] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, 16 * FIRST_S, AGAIN_S]

    allowed[0], before = False, len(servers.asked)
    play(servers, copies, 3.0 * AGAIN_S)
    assert len(servers.asked) == before
    allowed[0], servers.most = True, 3
    play(servers, copies, AGAIN_S + 1.0)
    assert (servers.has["a"], copies.notes) == (3, ())


@of(1, a=1)
def test_without_a_permit_to_ask_only_writes_make_it_look_and_never_twice_at_once(servers):
    copies = Copies(3, "a")
    copies.renew()
    play(servers, copies, 10.0, every=0.5)
    assert servers.times("UPDATE") == [0.0, 2.0, 6.0]
    play(servers, copies, 300.0)
    assert len(servers.times("UPDATE")) == 3
    copies.renew()
    play(servers, copies, 2.0)
    assert len(servers.times("UPDATE")) == 3, "with the next look"
    play(servers, copies, 1.0, every=0.5)
    assert len(servers.times("UPDATE")) == 4, "a new connection or lead is asked at once"


@of(3, a=1, b=1)
def test_who_lost_the_lead_while_it_asked_changes_nothing(servers, monkeypatch):
    lost, changed = [False], []

    async def ask(bus, what, data):
        changed.extend([what] if data else [])
        lost[0] = True
        return await servers.ask(bus, what, data)

    def may():
        if lost[0]:
            raise AdapterError("another one leads")

    monkeypatch.setattr(bus_copies, "_ask", ask)
    copies = Copies(3, "a", "b", may=may)
    copies.renew()
    play(servers, copies, AGAIN_S, every=1.0)
    assert lost[0]
    assert (changed, copies.notes) == ([], ())
    monkeypatch.setattr(bus_copies, "_ask", servers.ask)
    lost[0] = False
    copies.renew()
    play(servers, copies, 5.0, every=1.0)
    assert servers.has == {"a": 3, "b": 3}


@of(1, a=1)
def test_it_is_told_from_the_third_refusal_until_it_is_known_to_be_mended(servers, caplog):
    copies = Copies(3, "a")
    copies.renew()
    noted = []
    for _ in range(TOLD + 1):
        play(servers, copies, AGAIN_S, every=AGAIN_S)
        noted.append(len(copies.notes))
    assert noted == [0] * (TOLD - 1) + [1, 1]
    assert "too few" in copies.notes[0].text
    copies.renew()
    for servers.silent in ({"a"}, set()):  # a moment without an answer, then a refusal: nothing is mended
        play(servers, copies, AGAIN_S, every=AGAIN_S)
        assert len(copies.notes) == 1
    assert len(caplog.records) == 1
    servers.most = 3
    play(servers, copies, AGAIN_S, every=AGAIN_S)
    assert copies.notes == ()


@of(3, a=1, b=1, d=3, e=5)
def test_one_stream_after_the_other_takes_nothing_and_whats_not_there_is_nobodys(servers):
    copies = Copies(3, "a", "b", "c", "d", "e")
    copies.renew()
    play(servers, copies, 60.0, every=0.25)
    changed = [(at, stream) for at, verb, stream in servers.asked if verb == "UPDATE"]
    assert changed == [(0.0, "a"), (PAUSE_S, "b"), (2 * PAUSE_S, "e")]
    assert servers.has == {"a": 3, "b": 3, "d": 3, "e": 3}
    assert len([one for one in servers.asked if one[2] == "c"]) == 1, "nor is it asked for again"


@of(3, KV_a=1)
def test_the_post_looks_anew_on_each_connection(servers, monkeypatch):
    monkeypatch.setattr("adapters.power.fleet_wire.BUCKET", "a")

    async def exchange(messages, _share):
        return []

    post = TrajectoryPost(3, exchange, lambda: None)
    for was in (1, 2):
        servers.has["KV_a"] = was
        post.renew()
        post._bucket = object()
        servers.loop.run_until_complete(post.hand_over(servers, [], lambda _: b"", 1.0))
        play(servers, post.copies, 1.0)
        assert servers.has["KV_a"] == 3


class Told:
    """Copies as the loops see them."""

    def __init__(self, *streams):
        self.streams, self.notes = streams, tuple(Note(Reason.REPLICAS_REFUSED, s, "too few") for s in streams)


def test_what_is_mended_is_told_no_more_with_the_next_plan(tmp_path):
    with lab(tmp_path) as site:
        trajectories = site.parts.hardware.power.copies = Told("KV_a")
        shared, app = Told("books", "KV_b"), App(site.parts)
        lead = SimpleNamespace(copies=shared, followed=lambda: True)

        def told():
            app.cycle()
            note_standby(site.parts, lead)
            return sorted(note.subject for note in site.state.notes if note.code is Reason.REPLICAS_REFUSED)

        assert told() == ["KV_a", "KV_b", "books"]
        shared.notes = shared.notes[1:]
        assert told() == ["KV_a", "KV_b"]
        trajectories.notes = ()
        assert told() == ["KV_b"]
        shared.notes = ()
        assert told() == []
