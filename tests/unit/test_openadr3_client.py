"""Our OpenADR 3 client against a server of ours that behaves like those in use, one wart at a time."""

import json
import threading
from datetime import timedelta

import pytest
import requests

from adapters.dr.openadr3.feed import notification
from adapters.dr.openadr3.http import ServerError
from adapters.dr.vtn.vtn import Vtn
from adapters.dr.vtn.warts import MEANING, Wart
from adapters.ports import EventRefused
from optimizer.reasons import Reason, Severity
from scheduler.store.store import Store
from tests.support.openadr3 import HOUR, MINUTE, NOON, USERS, capacity, feed, payload, period, server, simple


@pytest.fixture(autouse=True)
def _secrets(monkeypatch):
    monkeypatch.setenv("VEN_SECRET", "ven-secret")
    monkeypatch.setenv("CALL_SECRET", "call-me")


def said(event):
    return {key: value for key, value in event.items() if key not in {"id", "programID"}}


def put(running, event):
    return running.vtn.put_event("p1", event["id"], **said(event))


def ids(news):
    return sorted(message.id for message in news.messages)


def texts(news, code):
    return [note.text for note in news.notes if note.code is code]


def test_events_are_read_and_a_request_is_a_page_until_nothing_is_new():
    with server() as running, feed(running.url) as vtn:
        for number in range(120):
            put(running, capacity(4000) | {"id": f"e{number:03}"})
        news = vtn.poll(NOON)
        assert ids(news) == [f"e{number:03}" for number in range(120)]
        assert (news.complete, news.notes) == (True, ())
        asked = [path for method, path in running.vtn.log if "/events?" in path]
        assert len(asked) == 4
        assert all("limit=50" in path and "programID=p1" in path for path in asked)


@pytest.mark.parametrize("wart", [None, *Wart])
def test_a_server_with_any_wart_is_understood(wart):
    with server(*([wart] if wart else [])) as running, feed(running.url) as vtn:
        for number in range(7):
            put(running, capacity(4000) | {"id": f"e{number}"})
        put(running, simple(2) | {"id": "level"})
        assert ids(vtn.poll(NOON)) == [*(f"e{number}" for number in range(7)), "level"], MEANING.get(wart)
        running.vtn.drop_event("e3")
        assert ids(vtn.poll(NOON)) == ["e0", "e1", "e2", "e4", "e5", "e6", "level"]


def test_all_warts_that_can_stand_together_do():
    together = set(Wart) - {Wart.BASIC_ONLY, Wart.NO_PAGES}
    with server(*together) as running, feed(running.url) as vtn:
        put(running, capacity(4000))
        assert ids(vtn.poll(NOON)) == ["e1"]


def test_case_05_of_servers_a_filter_that_is_ignored_brings_no_strangers_event():
    with server(Wart.NO_FILTER) as running, feed(running.url) as vtn:
        other = running.vtn.put_program("other")
        running.vtn.put_event(other, "foreign", **said(capacity(1)))
        put(running, capacity(4000))
        assert ids(vtn.poll(NOON)) == ["e1"]


def test_case_14_what_is_missing_from_a_failed_or_partial_poll_is_not_withdrawn(monkeypatch):
    with server(Wart.SHORT_PAGES) as running, feed(running.url) as vtn:
        for number in range(8):
            put(running, capacity(4000) | {"id": f"e{number}"})
        before = ids(vtn.poll(NOON))
        answer = running.vtn.answer

        def second_page_fails(method, target, headers, body):
            if "/events?" in target and "skip=0" not in target:
                return type(answer(method, target, headers, body))(500, {"title": "no"})
            return answer(method, target, headers, body)

        monkeypatch.setattr(running.vtn, "answer", second_page_fails)
        for number in range(8):
            running.vtn.drop_event(f"e{number}")
        put(running, capacity(4000) | {"id": "new"})
        news = vtn.poll(NOON + MINUTE)
        assert ids(news) == before


def test_case_14_an_event_that_slips_between_two_pages_is_not_withdrawn(monkeypatch):
    with server(Wart.SHORT_PAGES) as running, feed(running.url) as vtn:
        for number in range(8):
            put(running, capacity(4000) | {"id": f"e{number}"})
        assert len(vtn.poll(NOON).messages) == 8
        answer, dropped = running.vtn.answer, []

        def while_it_is_read(method, target, headers, body):
            if "/events?" in target and "skip=3" in target and not dropped:
                dropped.append(running.vtn.drop_event("e0"))
            return answer(method, target, headers, body)

        monkeypatch.setattr(running.vtn, "answer", while_it_is_read)
        assert set(ids(vtn.poll(NOON))) >= {f"e{number}" for number in range(1, 8)}
        assert ids(vtn.poll(NOON)) == [f"e{number}" for number in range(1, 8)]


def test_case_17_the_same_truth_gives_the_same_messages_however_often_it_is_read():
    with server(Wart.LOCAL_DATES) as running, feed(running.url) as vtn:
        put(running, capacity(4000, start="0001-01-01"))
        first = vtn.poll(NOON)
        put(running, capacity(4000, start="0001-01-01"))
        assert vtn.poll(NOON + 10 * MINUTE).messages == first.messages, "a modification date is no change"
        put(running, capacity(3000, start="0001-01-01"))
        (changed,) = vtn.poll(NOON + 10 * MINUTE).messages
        assert changed.start == NOON + 10 * MINUTE, "said anew, it begins anew"


def test_case_18_one_malformed_event_hides_no_other_and_keeps_what_was_right():
    with server(Wart.STORES_ANYTHING) as running, feed(running.url) as vtn:
        put(running, capacity(4000))
        put(running, capacity(3000) | {"id": "e2"})
        assert ids(vtn.poll(NOON)) == ["e1", "e2"]
        running.vtn.objects["events"]["e1"]["intervals"] = "none of your business"
        put(running, simple(1) | {"id": "e3"})
        news = vtn.poll(NOON)
        assert ids(news) == ["e1", "e2", "e3"], "the last word that could be read stays"
        assert "e1" in news.unread
        (note,) = [note for note in news.notes if note.code is Reason.EVENT_UNREAD]
        assert note.severity is Severity.ALERT
        assert "intervals" in note.text


@pytest.mark.parametrize("nonsense", [17, None, "event", [], {"id": 5}, {"id": ""}, {}, {"id": "x" * 200}])
def test_case_18_what_is_no_event_at_all_hides_no_other(nonsense, monkeypatch):
    with server() as running, feed(running.url) as vtn:
        put(running, capacity(4000))
        listed = Vtn._list
        monkeypatch.setattr(
            Vtn, "_list",
            lambda self, kind, *args: [nonsense] * (kind == "events") + listed(self, kind, *args),
        )  # fmt: skip
        news = vtn.poll(NOON)
        assert ids(news) == ["e1"]
        assert news.notes


def test_case_19_a_lost_server_changes_nothing_is_told_and_is_found_again():
    with server() as running, feed(running.url, timeout="1s") as vtn:
        put(running, capacity(4000))
        before = vtn.poll(NOON).messages
        port, state = running._server.server_address[1], running.vtn
        running.stop()
        news = vtn.poll(NOON + MINUTE)
        assert news.messages == before
        assert "what was ordered before stays in force" in texts(news, Reason.CHANNEL_LOST)[0]
        with server(port=port, vtn=state) as again:
            put(again, capacity(3000) | {"id": "e2"})
            news = vtn.poll(NOON + 2 * MINUTE)
            assert ids(news) == ["e1", "e2"]
            assert news.notes == ()


def test_case_19_what_has_no_end_goes_on_without_the_server_and_over_a_restart(tmp_path):
    standing = capacity(240, kind="IMPORT_CAPACITY_SUBSCRIPTION", start="0001-01-01", each="P9999Y")
    store = Store.open(tmp_path / "books.db")
    with server() as running, feed(running.url, store) as vtn:
        put(running, standing)
        (first,) = vtn.poll(NOON).messages
        address = running.url
    with feed(address, store, timeout="1s") as vtn:
        news = vtn.poll(NOON + MINUTE)
        assert news.messages == (first,)
        assert not news.complete, "nothing may be withdrawn before the server was heard"
        (tomorrow,) = vtn.poll(NOON + timedelta(days=1)).messages
        assert tomorrow.end == first.end + timedelta(days=1)
        assert tomorrow.start == NOON.replace(hour=0) + timedelta(days=1)
    store.close()


def test_case_08_and_02_what_was_drawn_and_when_it_was_first_seen_outlive_a_restart(tmp_path):
    event = simple(2, start="0001-01-01", each="PT4H")
    event["intervalPeriod"]["randomizeStart"] = "PT10M"
    store = Store.open(tmp_path / "books.db")
    with server() as running:
        put(running, event)
        with feed(running.url, store) as vtn:
            first = vtn.poll(NOON).messages
        store.close()
        store = Store.open(tmp_path / "books.db")
        with feed(running.url, store) as vtn:
            assert vtn.poll(NOON + HOUR).messages == first
    store.close()


def test_case_21_a_renamed_program_is_known_by_its_id_and_a_deleted_one_is_told():
    with server() as running, feed(running.url) as vtn:
        put(running, capacity(4000))
        assert len(vtn.poll(NOON).messages) == 1
        running.vtn.objects["programs"]["p1"]["programName"] = "renamed"
        assert len(vtn.poll(NOON).messages) == 1
        running.vtn._delete("programs", "p1")
        news = vtn.poll(NOON)
        assert (news.messages, news.complete) == ((), True)
        assert "gone from the server" in texts(news, Reason.CHANNEL_LOST)[0]


def test_case_21_a_program_that_was_never_shown_is_told_with_those_that_are():
    with server() as running, feed(running.url, program="nobody") as vtn:
        news = vtn.poll(NOON)
        assert not news.complete
        assert 'no program "nobody" for us; it shows: dr' in texts(news, Reason.CHANNEL_LOST)[0]


@pytest.mark.parametrize("wart", [None, Wart.FORBIDDEN, Wart.NO_EXPIRY])
def test_case_22_a_token_that_runs_out_is_renewed_once_for_a_request(wart):
    with server(*([wart] if wart else [])) as running, feed(running.url) as vtn:
        put(running, capacity(4000))
        vtn.poll(NOON)
        running.vtn.tokens.clear()
        news = vtn.poll(NOON)
        assert news.notes == ()
        logins = [path for _, path in running.vtn.log if path.endswith("/auth/token")]
        assert len(logins) == 2


def test_case_22_a_login_that_is_refused_is_told_without_the_secret(monkeypatch):
    monkeypatch.setenv("VEN_SECRET", "wrong-and-secret")
    with server() as running, feed(running.url) as vtn:
        news = vtn.poll(NOON)
        (text,) = texts(news, Reason.CHANNEL_LOST)
        assert "the login was refused with HTTP 401" in text
        assert "wrong-and-secret" not in text
        assert len([path for _, path in running.vtn.log if path.endswith("/auth/token")]) <= 4


def test_an_address_without_credentials_is_asked_without_a_login(monkeypatch):
    with server() as running, feed(running.url, login=False) as vtn:
        monkeypatch.setattr(Vtn, "_client", lambda self, headers: "ven")
        put(running, capacity(4000))
        assert ids(vtn.poll(NOON)) == ["e1"]
        assert not [path for _, path in running.vtn.log if "/auth/" in path]


def test_case_27_targets_are_granted_by_the_utility_and_asked_for_by_name():
    with server() as running:
        for name in ("group-a", "group-b"):
            put(running, capacity(4000, targets=[name]) | {"id": name})
        put(running, capacity(4000) | {"id": "for-all"})
        with feed(running.url) as vtn:
            assert ids(vtn.poll(NOON)) == ["for-all"]
            running.vtn.objects["vens"][vtn.party.ven_id]["targets"] = ["group-a"]
            assert ids(vtn.poll(NOON)) == ["for-all", "group-a"]
        with feed(running.url, targets=["group-a"]) as vtn:
            assert ids(vtn.poll(NOON)) == ["group-a"]


def test_case_21_a_ven_that_the_utility_made_first_is_found_by_its_name():
    with server() as running, feed(running.url) as vtn:
        made = running.vtn._create("vens", {"venName": "ven-np15", "clientID": "ven"}, "bl")
        vtn.poll(NOON)
        assert vtn.party.ven_id == made["id"]
        assert [r["resourceName"] for r in running.vtn.objects["resources"].values()] == ["ven-np15"]
        vtn.poll(NOON)
        assert len(running.vtn.objects["resources"]) == 1


def test_case_12_a_clock_that_differs_is_told(monkeypatch):
    monkeypatch.setattr(
        "http.server.BaseHTTPRequestHandler.date_time_string", lambda *_: "Wed, 01 Jul 2026 12:00:00 GMT"
    )
    with server() as running, feed(running.url) as vtn:
        news = vtn.poll(NOON)
        (text,) = texts(news, Reason.CLOCK_STEP)
        assert "the server's clock is" in text


def test_a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do(tmp_path):
    from scheduler.fleet.init import FleetPlan, init_fleet  # makes a certificate authority of its own
    from scheduler.fleet.leaves import peer

    init_fleet(tmp_path, FleetPlan(("n1",), (peer("nats=localhost"),), ("localhost", "127.0.0.1"), tmp_path))
    from adapters.dr.vtn.server import VtnServer

    running = VtnServer(Vtn(USERS), certificate=(tmp_path / "server.pem", tmp_path / "server.key"))
    running.vtn._create("programs", {"programName": "dr"}, "bl", "p1")
    running.start()
    try:
        address = running.url.replace("127.0.0.1", "localhost")
        with feed(address) as vtn:
            assert "its certificate is not accepted; name its authority" in vtn.poll(NOON).notes[0].text
        for settings in ({"ca": str(tmp_path / "ca.pem")}, {"verify": False}):
            with feed(address, **settings) as vtn:
                news = vtn.poll(NOON)
                assert news.complete
                assert [note.severity for note in news.notes] == ([] if "ca" in settings else [Severity.WARNING])
    finally:
        running.stop()


def test_a_secret_never_goes_to_an_address_without_tls_that_a_server_names(monkeypatch):
    with server() as running, feed(running.url) as vtn:
        object.__setattr__(vtn.config, "url", running.url.replace("http://", "https://"))
        monkeypatch.setattr(
            vtn.client, "_exchange", lambda *_: (200, {}, json.dumps({"tokenURL": "http://evil.example.net/"}).encode())
        )
        with pytest.raises(ServerError, match="not encrypted"):
            vtn.client.get("/programs")


# ---------------------------------------------------------------- calls
def test_case_23_a_call_is_only_believed_with_its_token_and_only_says_that_there_is_news():
    with feed("https://vtn.example.net/x", callback="https://me", callback_secret="env:CALL_SECRET") as vtn:
        body = json.dumps({"objectType": "EVENT", "operation": "DELETE", "object": {"id": "e1"}}).encode()
        good = {"Authorization": "Bearer call-me"}
        vtn.cue(good, body)
        vtn.cue(good, json.dumps(body.decode()).encode())
        for headers, sent, status in [({}, body, 401), ({"Authorization": "Bearer nope"}, body, 401),
                                      (good, b"no json", 400), (good, b" " * 2_000_000, 413)]:  # fmt: skip
            with pytest.raises(EventRefused) as refused:
                vtn.cue(headers, sent)
            assert refused.value.status == status
    with feed("https://vtn.example.net/x") as vtn, pytest.raises(EventRefused, match="not authenticated"):
        vtn.cue({"Authorization": "Bearer "}, body)


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"\xff", b'"' + b"[" * 100_000, b"[" * 100_000])
def test_case_23_what_is_no_notification_is_none(body):
    assert notification(body) is None


def test_events_of_another_thread_do_not_mix_a_reading():
    with server() as running, feed(running.url) as vtn:
        stop = threading.Event()

        def churn():
            number = 0
            while not stop.is_set():
                put(running, capacity(4000) | {"id": f"c{number % 5}"})
                number += 1

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(10):
                news = vtn.poll(NOON)
                assert news.notes == ()
        finally:
            stop.set()
            thread.join()


def test_the_twin_answers_strangers_as_the_text_says():
    with server() as running:
        assert requests.get(running.url + "/events", timeout=5).status_code == 401
        assert requests.get(running.vtn.address + "/elsewhere", timeout=5).status_code == 404
        form = {"grant_type": "client_credentials", "client_id": "ven", "client_secret": "ven-secret"}
        token = requests.post(running.url + "/auth/token", data=form, timeout=5).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        event = {"programID": "p1", "intervals": [{"id": 0, "payloads": [payload("PRICE", 1)]}]} | period(NOON, "PT1H")
        assert requests.post(running.url + "/events", json=event, headers=headers, timeout=5).status_code == 403
        problem = requests.get(running.url + "/events/none", headers=headers, timeout=5)
        assert (problem.status_code, problem.json()["status"]) == (404, 404)


def test_case_28_unknown_ids_and_taken_names_are_told_with_a_problem():
    with server() as running, requests.Session() as session:
        form = {"grant_type": "client_credentials", "client_id": "bl", "client_secret": "bl-secret"}
        token = session.post(running.url + "/auth/token", data=form, timeout=5).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        event = {"programID": "p1", "intervals": [{"id": 0, "payloads": [payload("PRICE", 1)]}]} | period(NOON, "PT1H")
        session.post(running.url + "/programs", json={"programName": "taken"}, timeout=5)
        answers = [
            session.put(running.url + "/events/none", json=event, timeout=5),
            session.delete(running.url + "/events/none", timeout=5),
            session.post(running.url + "/programs", json={"programName": "taken"}, timeout=5),
        ]
        assert [answer.status_code for answer in answers] == [404, 404, 409]
        for answer in answers:
            assert answer.json()["status"] == answer.status_code
            assert answer.json()["title"]


def test_check_reads_once_and_says_what_there_is():
    with server() as running, feed(running.url) as vtn:
        put(running, capacity(4000))
        assert vtn.check() == 'program "dr" with 1 events'
        assert running.vtn.objects["vens"] == {}, "a check changes nothing there"
