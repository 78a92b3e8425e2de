"""The store under broken files, full and read-only disks. What was acknowledged is there, or is said to be gone; it
never comes back as something else."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from optimizer.reasons import Reason, Severity
from scheduler.ledger.ledger import Ledger
from scheduler.service import OperatorOrder
from scheduler.store.store import NewerStore, Record, Store, StoreDegraded
from tests.faults.test_store_kills import HOUR, NOON

# ------------------------------------------------------------ broken files
JOBS = {f"job-{number:03d}": {"n": number, "text": "x" * 200} for number in range(120)}
LIMITS = {f"GPU-{number}": 400.0 + number for number in range(8)}


def fill(path, close=True):
    store = Store.open(path, wall=lambda: NOON)
    store.put_all([Record("job", key, value) for key, value in JOBS.items()])
    store.remember_first_limits({gpu: (limit, "H100") for gpu, limit in LIMITS.items()}, NOON)
    store.save_order(OperatorOrder("pause", by="ann"), NOON)
    store.raise_peak("summer", "2022-09", 4200.0)
    if close:
        store.close()
    return store


def check_after_damage(folder, database):
    """Opening works; limits and orders are whole; each job is as written or absent and then it is said."""
    store = Store.open(database, wall=lambda: NOON)
    try:
        assert store.first_limits() == LIMITS, folder
        assert store.orders() == (OperatorOrder("pause", by="ann"),), folder
        jobs = store.all("job")
        assert all(JOBS[key] == value for key, value in jobs.items())
        store.put("job", "new", {"works": True})
        return len(jobs), store.notes()
    finally:
        store.close()


def killed_with_a_log(tmp_path, change):
    """Books whose daemon was killed with twenty commits in its log, after `change` to the log's bytes, opened again."""
    store = fill(tmp_path / "live.db", close=False)
    for number in range(20):
        store.put("event", f"late-{number}", {"n": number})
    path = tmp_path / "gridpace.db"
    shutil.copyfile(tmp_path / "live.db", path)
    log = bytearray((tmp_path / "live.db-wal").read_bytes())
    store.close()
    path.with_name("gridpace.db-wal").write_bytes(change(log))
    again = Store.open(path, wall=lambda: NOON)
    notes = [note for note in again.notes() if note.code is Reason.STORE_DEGRADED]
    kept = len(again.all("event"))
    again.close()
    return kept, notes, list(tmp_path.glob("gridpace.db-wal.damaged-*"))


def test_a_log_damaged_in_its_middle_is_said_and_kept_aside(tmp_path):
    whole = []

    def flip(log):
        log[len(log) * 2 // 3] ^= 1
        whole.append(bytes(log))
        return log

    kept, notes, aside = killed_with_a_log(tmp_path, flip)
    assert kept < 20
    assert [note.severity for note in notes] == [Severity.ALERT]
    assert "changes behind the damage can't be read" in notes[0].text
    assert [file.read_bytes() for file in aside] == whole


def test_a_log_that_ends_in_a_torn_write_is_no_damage(tmp_path):
    assert killed_with_a_log(tmp_path, lambda log: log[:-1000]) == (19, [], [])


def test_a_last_change_that_a_power_cut_tore_is_told_as_what_it_is(tmp_path):
    """Its commit is on disk, one of the pages before it isn't: the disk wrote them in another order."""
    page = 4096 + 24

    def tear(log):
        ends = [at for at in range(32, len(log), page) if int.from_bytes(log[at + 4 : at + 8], "big")]
        first = ends[-2] + page
        assert ends[-1] > first, "a change of one page can't be torn"
        log[first + 24 : first + page] = bytes(page - 24)
        return log

    kept, notes, aside = killed_with_a_log(tmp_path, tear)
    assert kept == 19
    assert [note.severity for note in notes] == [Severity.WARNING]
    assert "the last change" in notes[0].text
    assert len(aside) == 1


@pytest.mark.parametrize("ends", [True, False])
def test_a_log_that_another_process_is_looking_at_is_not_called_damaged(tmp_path, monkeypatch, ends):
    """SQLite counts -1 frames while somebody else recovers the log, as `gridpace doctor` may."""
    held = []

    class Looked(sqlite3.Connection):
        def execute(self, query, *values):
            if "wal_checkpoint" in query and (not ends or len(held) < 3):
                held.append(query)
                return super().execute("SELECT 1, -1, -1")
            return super().execute(query, *values)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **{"factory": Looked, **k}))
    monkeypatch.setattr("scheduler.store.wal.PAUSE_S", 0.001)
    assert killed_with_a_log(tmp_path, lambda log: log) == (20, [], [])
    assert len(held) >= 3


def test_a_truncated_file_is_moved_aside_and_what_reads_is_carried_over(tmp_path):
    path = tmp_path / "gridpace.db"
    fill(path)
    whole = path.read_bytes()
    rest = whole[: len(whole) * 9 // 10]
    path.write_bytes(rest)
    kept, notes = check_after_damage("truncated", path)
    assert 0 < kept <= len(JOBS)
    (aside,) = [file for file in tmp_path.glob("gridpace.db.damaged-*") if not file.name.endswith(("-wal", "-shm"))]
    assert aside.read_bytes() == rest
    assert notes[0].code is Reason.STORE_DEGRADED
    assert notes[0].severity is Severity.ALERT
    assert aside.name in notes[0].text


@pytest.mark.parametrize(
    "content", [b"\0" * 40_000, b"not a database at all, but text", b"SQLite format 3\0" + b"\xff" * 8000]
)
def test_a_file_that_is_no_database_is_moved_aside(tmp_path, content):
    path = tmp_path / "gridpace.db"
    fill(path)
    path.write_bytes(content)
    kept, notes = check_after_damage("rubbish", path)
    assert kept == 0
    assert "was damaged" in notes[0].text


def flips(dice, size, count):
    return [(dice.randrange(size), 1 << dice.randrange(8)) for _ in range(count)]


def damage(file, changes):
    content = bytearray(file.read_bytes())
    for place, bit in changes:
        content[place] ^= bit
    file.write_bytes(content)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_never_come_back_as_something_else(tmp_path, seed):
    dice = random.Random(seed)
    path = tmp_path / "gridpace.db"
    fill(path)
    damage(path, flips(dice, path.stat().st_size, 1 + seed % 4))
    kept, notes = check_after_damage(f"seed {seed}", path)
    assert kept == len(JOBS) or notes, "what is gone is said"


@pytest.mark.parametrize(
    ("place", "by"),
    [
        (b'{"n":42,', b'{"n":4\xff,'),  # no text any more
        (b'{"n":42,', b'{"n":43,'),  # another value
        (b"jobjob-042{", b"kobjob-042{"),  # out of sight of its kind
        (b"jobjob-042{", b"jobjob-\xff42{"),
    ],
)
def test_one_flipped_row_is_lost_alone_and_said(tmp_path, place, by):
    path = tmp_path / "gridpace.db"
    fill(path)
    content = path.read_bytes()
    assert place in content
    path.write_bytes(content.replace(place, by))
    kept, notes = check_after_damage(place, path)
    assert kept == len(JOBS) - 1
    assert notes


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_log_loses_nothing_that_the_copy_holds(tmp_path, seed):
    dice = random.Random(seed)
    source = tmp_path / "source"
    store = fill(source / "gridpace.db", close=False)
    crashed = tmp_path / "crashed"
    shutil.copytree(source, crashed)
    store.close()
    log = crashed / "gridpace.db-wal"
    if seed % 2:
        log.write_bytes(log.read_bytes()[: dice.randrange(log.stat().st_size)])
    else:
        damage(log, flips(dice, log.stat().st_size, 3))
    check_after_damage(f"seed {seed}", crashed / "gridpace.db")


def test_a_flipped_first_limit_shows_as_damage_and_not_as_a_number(tmp_path):
    path = tmp_path / "gridpace.db"
    fill(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(
            "UPDATE records SET body = replace(body, '407.0', '188.0') WHERE kind = 'first_limit' AND key = 'GPU-7'"
        )
        assert raw.execute("SELECT changes()").fetchone() == (1,)
    store = Store.open(path)
    assert store.first_limits() == LIMITS, "the copy knows better"
    assert any("GPU-7" in note.text for note in store.notes())
    store.close()


def test_the_copy_alone_brings_limits_orders_and_epoch_back(tmp_path):
    path = tmp_path / "gridpace.db"
    fill(path)
    for file in tmp_path.glob("gridpace.db*"):
        if not file.name.endswith(".copy.json"):
            file.unlink()
    store = Store.open(path)
    assert (store.first_limits(), store.epoch(), len(store.orders())) == (LIMITS, 2, 1)
    assert "restored from the copy" in store.notes()[0].text
    store.close()


def test_a_damaged_copy_is_not_believed(tmp_path):
    path = tmp_path / "gridpace.db"
    fill(path)
    copy = tmp_path / "gridpace.db.copy.json"
    copy.write_text(copy.read_text().replace("407.0", "188.0").replace('"generation": 2', '"generation": 9'))
    assert Store.open(path).first_limits() == LIMITS
    path.unlink()
    copy.write_text(copy.read_text()[:-20])
    assert Store.open(path).first_limits() == {}


# ------------------------------------------------------------ versions
def test_a_newer_file_is_refused_untouched(tmp_path):
    path = tmp_path / "gridpace.db"
    fill(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("CREATE TABLE from_the_future (x)")
        newer.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
        newer.execute("PRAGMA user_version = 99")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.suffix in {".db", ".json"}}
    with pytest.raises(NewerStore, match=r"gridpace\.db has schema version 99, .* up to 1: .*Nothing was changed"):
        Store.open(path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not list(tmp_path.glob("*damaged*"))


# ------------------------------------------------------------ disks that take no writes
FULL = """
import json, resource, sys
from datetime import timedelta
from pathlib import Path
from scheduler.ledger.ledger import Ledger
from scheduler.store.store import Store, StoreDegraded
from tests.faults.test_store_kills import HOUR, NOON, event, tell

path = Path(sys.argv[1])
store = Store.open(path)
ledger = Ledger(store)
tell(ledger, event(0))
store.remember_first_limits({"GPU-1": (700.0, "H100")}, NOON)
largest = max(file.stat().st_size for file in path.parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
refused = []
for number in range(1, 200):
    try:
        tell(ledger, event(number))
    except StoreDegraded as error:
        refused.append(number)
    store.add_sample("sv", NOON + number * timedelta(minutes=1), float(number), None, None, None, None)
    store.journal_result(store.journal_intent({"n": number}), {})
    ledger.record(NOON + HOUR + timedelta(seconds=number), "sv", 900.0)
try:
    store.remember_first_limits({"GPU-2": (1.0, "H100")}, NOON)
except StoreDegraded:
    pass
facts = {"refused": refused, "state": dict(store.state()), "notes": [note.text for note in store.notes()],
         "limits": store.first_limits(), "active": len(ledger.active(NOON)),
         "samples": len(store.samples("sv", NOON, NOON + 9 * HOUR)["at"])}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
facts["later"] = tell(ledger, event(refused[0] if refused else 0)).opt
facts["healed"] = store.state()["ok"]
store.close()
print(json.dumps(facts))
"""


def test_a_full_disk_refuses_acknowledgements_keeps_control_and_heals(tmp_path):
    path = tmp_path / "gridpace.db"
    run = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    facts = json.loads(run.stdout)
    assert facts["refused"], "the limit was never reached"
    assert facts["refused"] == list(range(facts["refused"][0], 200)), "once full, nothing slips through"
    assert facts["active"] == 200 - len(facts["refused"]), "what was refused does not act"
    assert facts["limits"] == {"GPU-1": 700.0}
    assert facts["samples"] == 199, "samples wait in memory"
    assert facts["state"]["ok"] is False
    assert [text for text in facts["notes"] if "not acknowledged" in text]
    assert len(facts["notes"]) <= 3, "each thing is said once"
    assert (facts["later"], facts["healed"]) == ("in", True)
    store = Store.open(path)
    held = {held.id for held in Ledger(store).active(NOON)}
    assert held == {f"event-{number}" for number in range(facts["refused"][0] + 1)}
    assert len(store.samples("sv", NOON, NOON + 9 * HOUR)["at"]) == 199
    store.close()


READ_ONLY = """
import json, os, sys
from pathlib import Path
from scheduler.service import OperatorOrder
from scheduler.store.store import Store, StoreDegraded
from tests.faults.test_store_kills import NOON

warm = Store.in_memory()  # what is imported late must be readable, and nobody may read root's Python
warm.remember_first_limits({"GPU": (1.0, "")}, NOON)
warm.save_order(OperatorOrder("pause"), NOON)
warm.orders()
if os.geteuid() == 0:  # root may write anywhere
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
store = Store.open(Path(sys.argv[1]))
try:
    store.put("job", "new", {})
    acknowledged = True
except StoreDegraded as error:
    acknowledged = str(error)
store.add_sample("sv", NOON, 1.0, None, None, None, None)
print(json.dumps({"acknowledged": acknowledged, "jobs": len(store.all("job")), "limits": store.first_limits(),
                  "orders": len(store.orders()), "ok": store.state()["ok"], "epoch": store.epoch(),
                  "samples": store.mean_import_kw("sv", NOON, NOON.replace(hour=20)),
                  "notes": [note.text for note in store.notes()]}))
store.close()
"""


@pytest.mark.parametrize("crashed", [False, True])
def test_a_read_only_disk_is_read_and_control_goes_on_from_memory(tmp_path, crashed):
    source, folder = tmp_path / "source", tmp_path / "state"
    store = fill(source / "gridpace.db", close=not crashed)
    shutil.copytree(source, folder)
    if crashed:
        store.close()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and len(parent.parts) > 2:  # below /tmp, for the user that root becomes
            parent.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    try:
        command = [sys.executable, "-c", READ_ONLY, str(folder / "gridpace.db")]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        folder.chmod(0o755)
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert "can't be written" in facts["acknowledged"]
    assert (facts["jobs"], facts["limits"], facts["orders"], facts["ok"]) == (len(JOBS), LIMITS, 1, False)
    assert facts["epoch"] == 2
    assert facts["samples"] == 1.0
    assert "control goes on from memory" in facts["notes"][0]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_store_that_another_process_holds_is_said(tmp_path):
    path = tmp_path / "gridpace.db"
    fill(path)
    store = Store.open(path)
    store._database._connection.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreDegraded, match="locked"):
            store.put("job", "x", {})
    store.put("job", "x", {})
    store.close()
