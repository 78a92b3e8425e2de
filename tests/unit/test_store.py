"""The books: what comes back is what went in, and what was acknowledged stays."""

import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from optimizer.domain import JobPlan, Plan, PoolPlan, Rung, SitePlan
from optimizer.reasons import Note, Reason
from optimizer.timegrid import planning_grid
from scheduler.service import OperatorOrder
from scheduler.status import CycleReport, SiteStatus
from scheduler.store.schema import MIGRATIONS, migrate
from scheduler.store.store import Record, Store, StoreDegraded

NOON = datetime(2022, 9, 6, 19, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "gridpace.db"


@pytest.fixture
def store(path):
    opened = Store.open(path)
    yield opened
    opened.close()


def reopened(store, path):
    store.close()
    return Store.open(path)


def test_records_come_back_oldest_first_and_whole(store, path):
    store.put("job", "b", {"x": 0.1 + 0.2, "at": NOON, "name": "é\u2028"})
    store.put("job", "a", {"x": float("inf")})
    store.put("job", "b", {"x": 2, "nested": {"k": [1, None, True]}})
    store.put("other", "b", {})
    store = reopened(store, path)
    assert list(store.all("job").items()) == [
        ("b", {"x": 2, "nested": {"k": [1, None, True]}}),
        ("a", {"x": float("inf")}),
    ]
    assert store.get("job", "c") is None
    store.close()


def test_what_is_kept_once_stays_as_it_was_first_said(store):
    assert store.put_once("nonce", "a", {"n": 1})
    assert not store.put_once("nonce", "a", {"n": 2})
    store.put("nonce", "b", {"n": 3})
    assert not store.put_once("nonce", "b", {"n": 4})
    assert store.all("nonce") == {"a": {"n": 1}, "b": {"n": 3}}


def test_several_records_are_kept_together_or_not_at_all(store):
    with pytest.raises(TypeError):
        store.put_all([Record("job", "a", {"x": 1}), Record("job", "b", {"x": object()})])
    store._database._connection.execute(
        "CREATE TRIGGER stop BEFORE INSERT ON records WHEN NEW.key = 'b' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(StoreDegraded):
        store.put_all([Record("job", "a", {"x": 1}, log_at=NOON), Record("job", "b", {"x": 2})])
    assert store.all("job") == {}
    assert store.log("job") == []
    assert store.state()["ok"] is False
    store.put("job", "a", {})
    assert store.state()["ok"] is True
    assert not store.notes()


def test_the_log_only_grows(store):
    store.put_all(
        [Record("event", "a", {"v": 1}, log_at=NOON), Record("event", "a", {"v": 2}, log_at=NOON, log_only=True)]
    )
    assert store.get("event", "a") == {"v": 1}
    assert store.log("event", "a") == [(NOON, {"v": 1}), (NOON, {"v": 2})]
    for statement in ("DELETE FROM log", "UPDATE log SET body = '{}'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store._database._connection.execute(statement)


def test_a_record_is_forgotten_when_its_real_time_has_passed(path):
    moment = [NOON]
    store = Store.open(path, wall=lambda: moment[0])
    store.put("nonce", "one", {"forget_after_s": 600})
    store.put("nonce", "kept", {})
    moment[0] += timedelta(seconds=599)
    store.put("nonce", "two", {"forget_after_s": 600})
    assert set(store.all("nonce")) == {"one", "kept", "two"}
    moment[0] += timedelta(seconds=2)
    store.put("nonce", "three", {"forget_after_s": 600})
    assert set(store.all("nonce")) == {"kept", "two", "three"}
    store.close()


def test_the_limit_found_first_is_never_overwritten(store, path):
    store.remember_first_limits({"GPU-1": (700.0, "H100"), "GPU-2": (699.5, "H100")}, NOON)
    store.remember_first_limits({"GPU-1": (300.0, "H100"), "GPU-3": (400.0, "A100")}, NOON + MINUTE)
    store = reopened(store, path)
    store.remember_first_limits({"GPU-1": (250.0, "H100")}, NOON + 2 * MINUTE)
    assert store.first_limits() == {"GPU-1": 700.0, "GPU-2": 699.5, "GPU-3": 400.0}
    assert store.first_limit_rows()[0].found_at == NOON
    store.forget_first_limits(["GPU-1", "unknown"])
    store.remember_first_limits({"GPU-1": (650.0, "H100")}, NOON + 3 * MINUTE)
    store = reopened(store, path)
    assert store.first_limits()["GPU-1"] == 650.0
    store.close()


def test_every_opening_has_a_higher_epoch_even_after_the_file_is_gone(path):
    epochs = []
    for turn in range(4):
        store = Store.open(path)
        epochs.append(store.epoch())
        store.close()
        if turn == 1:
            path.unlink()
    assert epochs == [1, 2, 3, 4]


def test_the_journal_knows_what_was_left_open(store, path):
    done, left = store.journal_intent({"pool": [400, 8]}), store.journal_intent({"pool": [300, 8]})
    store.journal_result(done, {"failed": 0})
    store = reopened(store, path)
    assert [(intent.id, intent.epoch, intent.orders) for intent in store.open_intents()] == [
        (left, 1, {"pool": [300, 8]})
    ]
    assert [intent.result for intent in store.journal(2)] == [None, {"failed": 0}]
    store.close()


def test_the_latest_order_of_each_kind_holds_and_history_keeps_all(store, path):
    orders = [
        OperatorOrder("pause", by="ann"),
        OperatorOrder("limit", site="a", limit_kw=900.5, until=NOON),
        OperatorOrder("limit", site="b", limit_kw=1.0),
        OperatorOrder("resume", by="ann"),
        OperatorOrder("limit", site="a", limit_kw=None),
        OperatorOrder("pause", by="bob"),
    ]
    for order in orders:
        store.save_order(order, NOON)
    store = reopened(store, path)
    assert store.orders() == tuple(orders[index] for index in (2, 3, 4, 5))
    assert [order for _, order in store.order_history()] == orders
    store.close()


def test_samples_are_minute_means_and_gaps_stay_gaps(store, path):
    for second in range(0, 180, 10):
        import_kw = None if 60 <= second < 120 else 1000.0 + second
        store.add_sample(
            "a", NOON + timedelta(seconds=second), import_kw, 1500.0 - second, float("inf"), float("nan"), -3.0
        )
    store.add_sample("b", NOON, 1.0, None, None, None, None)
    expected = {
        "at": [NOON, NOON + MINUTE, NOON + 2 * MINUTE],
        "import_kw": [1025.0, None, 1145.0],
        "target_kw": [1450.0, 1390.0, 1330.0],
        "limit_kw": [None] * 3,
        "planned_kw": [None] * 3,
        "price_per_mwh": [-3.0] * 3,
    }
    assert store.samples("a", NOON, NOON + 5 * MINUTE) == expected
    store = reopened(store, path)
    assert store.samples("a", NOON, NOON + 5 * MINUTE) == expected
    assert store.mean_import_kw("a", NOON, NOON + 3 * MINUTE) == pytest.approx(1085.0)
    assert store.mean_import_kw("a", NOON + MINUTE, NOON + 2 * MINUTE) is None
    assert store.samples("a", NOON + MINUTE, NOON + 2 * MINUTE)["at"] == [NOON + MINUTE]
    store.close()


def test_old_samples_go(store):
    store.add_sample("a", NOON, 1.0, None, None, None, None)
    store.add_sample("a", NOON + timedelta(days=401), 1.0, None, None, None, None)
    store._history.close()
    assert store.samples("a", NOON, NOON + timedelta(days=500))["at"] == [NOON + timedelta(days=401)]


def test_a_peak_only_rises_within_its_period(store, path):
    assert store.peak_kw("summer", "2022-09") == 0.0
    assert store.raise_peak("summer", "2022-09", 4200.0)
    assert not store.raise_peak("summer", "2022-09", 4100.0)
    assert not store.raise_peak("summer", "2022-09", float("nan"))
    store = reopened(store, path)
    assert (store.peak_kw("summer", "2022-09"), store.peak_kw("summer", "2022-10")) == (4200.0, 0.0)
    store.close()


def a_plan():
    grid = planning_grid(NOON, timedelta(hours=30))
    count = len(grid)
    pools = {
        "p": PoolPlan((0.1 + 0.2,) * count, (1e-17,) * count, (400,) * count, (3,) * count, (Reason.CARBON,) * count)
    }
    jobs = {"j": JobPlan((1.0,) * count, "p", 0.0, 0.0, NOON + timedelta(microseconds=1), (Reason.DEADLINE,) * count)}
    sites = {"s": SitePlan((float("inf"),) * count, (0.0,) * count, (0.0,) * count, (-12.5,) * count)}
    return Plan(NOON, grid, Rung.GREEDY, pools, jobs, sites, -1 / 3, 0.25, (Note(Reason.HELD, "x", "why", at=NOON),))


def test_a_plan_and_a_report_come_back_exactly(store, path):
    site = SiteStatus("s", None, 1.0, float("inf"), float("inf"), -30.0, 1.1, "USD", "UTC")
    report = CycleReport(7, NOON, "control", "greedy", 0.5, 0.1, 1 / 3, NOON, (site,), (), (), (), ())
    assert store.load_plan() is None
    store.save_plan(a_plan())
    store.save_report(report)
    store = reopened(store, path)
    assert store.load_plan() == a_plan()
    assert store.last_report() == report
    store.close()


def test_a_plan_of_another_shape_is_said_and_made_again(store):
    store.save_plan(a_plan())
    store._database._connection.execute("UPDATE latest SET body = x'00'")
    assert store.load_plan() is None
    assert "last plan does not read" in store.notes()[0].text


def test_an_older_file_is_backed_up_before_it_is_migrated(store, path, monkeypatch):
    store.put("job", "a", {"x": 1})
    store.close()
    monkeypatch.setattr("scheduler.store.opening.open_file.__defaults__", ((*MIGRATIONS, ("CREATE TABLE more (x)",)),))
    newer = Store.open(path)
    assert newer.get("job", "a") == {"x": 1}
    newer._database._connection.execute("SELECT x FROM more")
    newer.close()
    (backup,) = path.parent.glob("gridpace.db.schema1-*")
    with closing(sqlite3.connect(backup)) as held:
        assert held.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_migration_that_fails_changes_nothing():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, 0)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, 1, (*MIGRATIONS, ("CREATE TABLE more (x)", "CREATE nonsense")))
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
    connection.close()


def test_threads_share_one_store(store):
    def work(name):
        for number in range(25):
            store.put("job", f"{name}-{number}", {"n": number})
            store.add_sample(name, NOON + number * MINUTE, 1.0, None, None, None, None)

    threads = [threading.Thread(target=work, args=(f"t{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.all("job")) == 100
    assert len(store.samples("t3", NOON, NOON + timedelta(hours=1))["at"]) == 25


def test_writers_that_wait_are_written_together_and_each_is_on_disk_when_it_is_told(store, path):
    """Sixteen writers wait while another holds the disk: one commit for all of them, before the first returns."""
    commits, unseen = [], []
    store._database._connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)

    def write(number):
        store.put("event", f"e{number}", {"number": number})
        with closing(sqlite3.connect(path)) as other:
            if not other.execute("SELECT 1 FROM records WHERE key = ?", (f"e{number}",)).fetchall():
                unseen.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    with store._database.lock:
        for thread in threads:
            thread.start()
        while len(store._records._waiting) < len(threads):
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert unseen == []
    assert len(commits) == 1
    assert len(store.all("event")) == 16


def test_what_is_committed_is_not_written_again_where_its_copy_fails(store, monkeypatch):
    def unread(kind):
        raise StoreDegraded("the file can't be read")

    monkeypatch.setattr(store._records, "all", unread)
    told = []

    def write(key, kind):
        store.put_all([Record(kind, key, {}, log_at=NOON)])
        told.append(key)

    threads = [threading.Thread(target=write, args=one) for one in (("a", "event"), ("b", "first_limit"))]
    with store._database.lock:
        for thread in threads:
            thread.start()
        while len(store._records._waiting) < len(threads):
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert sorted(told) == ["a", "b"]
    assert len(store.log("event")) == len(store.log("first_limit")) == 1
    assert any("can't be written" in note.text for note in store.notes())


def test_nobody_fails_for_what_another_wanted_written(store):
    store._database._connection.execute(
        "CREATE TRIGGER stop BEFORE INSERT ON records WHEN NEW.key = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    refused = []

    def write(key):
        try:
            store.put("event", key, {})
        except StoreDegraded:
            refused.append(key)

    threads = [threading.Thread(target=write, args=(key,)) for key in ("a", "bad", "b")]
    with store._database.lock:
        for thread in threads:
            thread.start()
        while len(store._records._waiting) < len(threads):
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert refused == ["bad"]
    assert set(store.all("event")) == {"a", "b"}
