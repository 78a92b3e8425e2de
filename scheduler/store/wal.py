"""Whether the log beside a database holds commits that SQLite no longer reads.

SQLite reads its log up to the first frame whose checksum is wrong, and is silent about what lies behind: after a torn
write nothing that counts, after damage in the middle commits that were acknowledged. The frames' headers tell the two
apart: behind what was read there is another commit of the same log. (Format: https://sqlite.org/fileformat2.html#walformat)
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from optimizer.reasons import Note, Reason, Severity

HEADER, FRAME = 32, 24
MAGIC = {0x377F0682, 0x377F0683}


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
        read = int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
        lost = [number for number in before if number > max(read, 0)]
        if lost:
            log = path.with_name(path.name + "-wal")
            aside = log.with_name(f"{log.name}.damaged-{now:%Y%m%dT%H%M%S.%fZ}")
            shutil.copyfile(log, aside)
            aside.chmod(0o600)
            text = (
                f"{log.name} was damaged: at least {len(lost)} changes behind the damage can't be read any more; "
                f"it was copied to {aside.name}. Ask utilities and clients for what they sent last"
            )
            return [Note(Reason.STORE_DEGRADED, "store", text, Severity.ALERT, now)]
    return []
