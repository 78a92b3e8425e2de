"""Whether the log beside a database holds commits that SQLite no longer reads.

SQLite reads its log up to the first frame whose checksum is wrong, and is silent about what lies behind: after a torn
write nothing that counts, after damage in the middle commits that were acknowledged. The frames' headers tell the two
apart: behind what was read there is another commit of the same log. One alone may be what was being written when the
power failed, its pages in the wrong order: each commit is on disk before the next one begins, so never two.
(Format: https://sqlite.org/fileformat2.html#walformat)
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import sleep

from optimizer.reasons import Note, Reason, Severity

HEADER, FRAME = 32, 24
MAGIC = {0x377F0682, 0x377F0683}
TRIES, PAUSE_S = 20, 0.05


def commits(path: Path) -> list[int]:
    """Numbers (from 1) of the frames that end a commit in the log beside the database at `path`, of its present run,
    read by their headers alone. Empty where there is no log."""
    found: list[int] = []
    try:
        with path.with_name(path.name + "-wal").open("rb") as log:
            head = log.read(HEADER)
            if len(head) < HEADER:
                return found
            magic, _, page, _, *salts = struct.unpack(">6I8x", head)
            size = log.seek(0, 2)
            for number in range(1, (size - HEADER) // (FRAME + page) + 1 if magic in MAGIC and page else 0):
                log.seek(HEADER + (number - 1) * (FRAME + page))
                _, pages, *mine = struct.unpack(">4I8x", log.read(FRAME))
                if mine == salts and pages:
                    found.append(number)
    except (OSError, struct.error):
        return []
    return found


def unread(connection: sqlite3.Connection, path: Path, before: list[int], now: datetime) -> list[Note]:
    """Say it, and keep the log aside, where `before` (what `commits` told before anything was opened) has commits
    behind what this connection reads. To be asked before anything is written."""
    with suppress(sqlite3.Error, OSError):
        read = _read_frames(connection)
        lost = [number for number in before if number > read] if read is not None else []
        if lost:
            log = path.with_name(path.name + "-wal")
            aside = log.with_name(f"{log.name}.damaged-{now:%Y%m%dT%H%M%S.%fZ}")
            shutil.copyfile(log, aside)
            aside.chmod(0o600)
            if len(lost) == 1:
                what = f"the last change in {log.name} can't be read: torn when the machine stopped, or damaged since"
            else:
                what = f"{log.name} was damaged: at least {len(lost)} changes behind the damage can't be read any more"
            text = f"{what}; it was copied to {aside.name}. Ask utilities and clients for what they sent last"
            severity = Severity.ALERT if len(lost) > 1 else Severity.WARNING
            return [Note(Reason.STORE_DEGRADED, "store", text, severity, now)]
    return []


def _read_frames(connection: sqlite3.Connection) -> int | None:
    """How many frames this connection reads from the log; None while another process (one that only looks, such as
    `gridpace doctor`) is itself finding out, which proves nothing."""
    for _ in range(TRIES):
        busy, read, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if read >= 0:
            return int(read)
        if not busy:
            break
        sleep(PAUSE_S)
    return None
