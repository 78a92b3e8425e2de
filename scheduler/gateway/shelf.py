"""Where files, batches and answers lie: contents as files in one folder, facts about them as records of a store.

Why durable before it answers: a client that was told an id may forget its data. A content is on disk, with its folder,
before the record that names it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from adapters.ports import RecordStore
from scheduler.gateway.disk import DISK_ERRORS
from scheduler.gateway.intake import Incoming
from scheduler.gateway.model import ApiError, Batch, StoredFile, read_batch, read_file, written

FILE, BATCH = "gateway_file", "gateway_batch"


class Shelf:
    """Files and batches of all tenants. The records of the store are the truth, served from memory."""

    def __init__(self, folder: Path, store: RecordStore, now: Callable[[], datetime]) -> None:
        self.folder, self.store, self._now = folder, store, now
        self._adding = threading.Lock()
        self._coming: set[Incoming] = set()
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._files = {key: read_file(plain) for key, plain in store.all(FILE).items() if "id" in plain}
        self._batches = {key: read_batch(plain) for key, plain in store.all(BATCH).items() if "id" in plain}
        for left in (folder / "files").glob("*.part"):  # uploads that a crash cut off
            left.unlink()

    # ---------------------------------------------------------------- files
    @contextmanager
    def incoming(self, tenant: str, room: Callable[[int], int]) -> Iterator[Incoming]:
        """A content that comes in: counted as the tenant's while it does, and gone with the block unless `keep` has
        taken it. `room`: bytes that it may have, of which so many are here. Raises OSError."""
        coming = Incoming(self.folder / f"files/{secrets.token_hex(12)}.part", tenant, room, self._adding)
        self._coming.add(coming)
        try:
            yield coming
        finally:
            self._coming.discard(coming)
            coming.discard()

    def keep(self, coming: Incoming, filename: str, name: str | None = None, keep_s: int | None = None) -> StoredFile:
        """Store what came (blocking), as `name` where one is given: what stands there already stays. It ends after
        `keep_s`. Raises OSError and StoreDegraded; then it keeps nothing."""
        coming.seal()
        name = name or f"file-{secrets.token_hex(12)}"
        place = f"files/{name}"
        path = self.folder / place
        with self._adding:  # the same may come twice at once: no content without its record is ever another's
            if name in self._files:
                return self._files[name]
            coming.path.rename(path)
            try:
                _sync(path.parent)
                now, whose = self._now(), coming.tenant
                ends = _ends(now, keep_s)
                kept = self._add(StoredFile(name, whose, filename, coming.size, "batch", now, place, ends))
            except DISK_ERRORS:
                path.unlink(missing_ok=True)  # nobody was told its name
                raise
            self._coming.discard(coming)
            return kept

    def publish(self, batch: Batch, path: Path, kind: str) -> str | None:
        """A file of answers as something to download; None when it is empty."""
        size = path.stat().st_size if path.exists() else 0
        if not size:
            return None
        name = f"file-{batch.id.removeprefix('batch_')}-{kind}"
        place, now, shown = str(path.relative_to(self.folder)), self._now(), f"{batch.id}_{kind}.jsonl"
        ends = _ends(now, batch.output_keep_s)
        self._add(StoredFile(name, batch.tenant, shown, size, "batch_output", now, place, ends))
        return name

    def _add(self, file: StoredFile) -> StoredFile:
        self.store.put(FILE, file.id, written(file))
        self._files[file.id] = file
        return file

    def file(self, tenant: str, name: str) -> StoredFile:
        """A tenant's file. Raises ApiError (404)."""
        found = self._files.get(name)
        if found is None or found.tenant != tenant:
            raise ApiError(404, f"No such File object: {name}", "not_found", "id")
        return found

    def held(self, name: str) -> StoredFile | None:
        """A file of whichever tenant."""
        return self._files.get(name)

    def files(self, tenant: str) -> list[StoredFile]:
        """A tenant's files, oldest first."""
        return [one for one in list(self._files.values()) if one.tenant == tenant]  # threads add some meanwhile

    def path(self, file: StoredFile) -> Path:
        """Where its content lies."""
        return self.folder / file.place

    def drop(self, file: StoredFile) -> None:
        """Delete a file. Raises ApiError (409) while a batch that is not over reads it."""
        user = next((one for one in self._batches.values() if one.input_file == file.id and not one.over), None)
        if user is not None:
            raise ApiError(409, f"{file.id} is the input of {user.id}, which is not over", "file_in_use")
        self._forget(file)

    def strays(self) -> tuple[Path, ...]:
        """Contents that no record names: a crash came between the two, or the records were lost. They stay where they
        are, since of the second kind somebody may still want them."""
        named = {self.path(file) for file in self._files.values()}
        found = [path for path in sorted((self.folder / "files").iterdir()) if path not in named and path.is_file()]
        answers = self.folder / "answers"
        lost = (
            [path for path in sorted(answers.iterdir()) if path.name not in self._batches] if answers.exists() else []
        )
        return (*found, *lost)

    # ---------------------------------------------------------------- batches
    def put(self, batch: Batch) -> Batch:
        """Keep a batch as it is now. Raises StoreDegraded, with nothing changed."""
        self.store.put(BATCH, batch.id, written(batch))
        self._batches[batch.id] = batch
        return batch

    def batch(self, tenant: str, name: str) -> Batch:
        """A tenant's batch. Raises ApiError (404)."""
        found = self._batches.get(name)
        if found is None or found.tenant != tenant:
            raise ApiError(404, f"No batch found with id '{name}'.", "not_found", "id")
        return found

    def batches(self, tenant: str | None = None) -> list[Batch]:
        """Batches, oldest first."""
        return [one for one in self._batches.values() if tenant is None or one.tenant == tenant]

    def known(self, name: str) -> Batch | None:
        """A batch of whichever tenant."""
        return self._batches.get(name)

    def answers_of(self, batch: str) -> Path:
        """Folder of a batch's answers."""
        return self.folder / "answers" / batch

    def show(self, batch: Batch) -> None:
        """Show a batch's counts without writing them down: its files tell them again after a restart."""
        self._batches[batch.id] = batch

    # ---------------------------------------------------------------- tidying
    def tidy(self, keep: timedelta) -> None:
        """Forget batches that have been over for `keep`, with their answers, and files as old that none needs; and
        files that are to end by now, unless a batch that is not over reads them."""
        now = self._now()
        before, read = now - keep, {one.input_file for one in self._batches.values() if not one.over}
        for file in [one for one in self._files.values() if one.expires_at is not None and one.expires_at <= now]:
            if file.id not in read:
                self._forget(file)
        for batch in [one for one in self._batches.values() if one.over and _ended(one) < before]:
            for name in (batch.output_file, batch.error_file):
                if name in self._files:
                    self._forget(self._files[name])
            shutil.rmtree(self.answers_of(batch.id), ignore_errors=True)
            self.store.put(BATCH, batch.id, {"forget_after_s": 0.0})
            del self._batches[batch.id]
        used = {one.input_file for one in self._batches.values()}
        for file in [one for one in self._files.values() if one.purpose == "batch"]:
            if file.created_at < before and file.id not in used:
                self._forget(file)

    def _forget(self, file: StoredFile) -> None:
        self.store.put(FILE, file.id, {"forget_after_s": 0.0})
        del self._files[file.id]
        self.path(file).unlink(missing_ok=True)

    def bytes_of(self, tenant: str) -> int:
        """Bytes of a tenant's files, and of those that come in."""
        coming = sum(one.size for one in list(self._coming) if one.tenant == tenant)
        return coming + sum(one.bytes for one in self.files(tenant))


def counted(batch: Batch, completed: int, failed: int, tokens: tuple[int, int]) -> Batch:
    """The batch with what its answers hold."""
    return replace(batch, completed=completed, failed=failed, input_tokens=tokens[0], output_tokens=tokens[1])


def page(
    things: Sequence[StoredFile | Batch], after: str | None, limit: int, *, newest_first: bool
) -> dict[str, object]:
    """A page of a list, as OpenAI's clients walk through it."""
    found = things[::-1] if newest_first else things
    if after is not None:
        place = next((i for i, one in enumerate(found) if one.id == after), None)
        if place is None:
            raise ApiError(400, f"after: no {after!r} is known", "invalid_value", "after")
        found = found[place + 1 :]
    shown = found[:limit]
    return {
        "object": "list",
        "data": [one.json() for one in shown],
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": len(found) > limit,
    }


def _ends(now: datetime, keep_s: int | None) -> datetime | None:
    return None if keep_s is None else now + timedelta(seconds=keep_s)


def _ended(batch: Batch) -> datetime:
    return max((*batch.times.values(), batch.created_at))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
