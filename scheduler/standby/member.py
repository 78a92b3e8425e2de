"""One of several daemons of a fleet: follows the books while another leads, and leads when that one falls silent.

Why a thread of its own: the lease must be renewed whatever the loops, the API or the disk are doing, and whoever stands
by must hear of it in time. It owns nothing else: who leads decides here, what leading means is the daemon's.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from adapters.bus import Bus
from adapters.bus_copies import Copies
from adapters.bus_settings import BusSettings
from adapters.ports import AdapterError
from adapters.power.fleet_wire import BOOKS_STREAM, DAEMONS, LEADERS, SNAPSHOTS
from scheduler.standby.books import Books, snapshot
from scheduler.standby.cell import BucketCell
from scheduler.standby.lease import Entry, Lease
from scheduler.standby.pause import Pause
from scheduler.standby.replica import Told
from scheduler.standby.stream import BooksStream, Extent, Overtaken, Unknown
from scheduler.store.store import Store, StoreError

log = structlog.get_logger("gridpace.standby")

TELL_S = 1.0
HEARD_S = 3.5
"""A daemon that was not heard of for so long is not there."""

LOOK_S = 60.0
"""How often the leader sees whether a new snapshot is due."""

MOST_MESSAGES, MOST_BYTES = 20_000, 64 * 1024 * 1024
"""A stream longer than this gets a new snapshot, and loses what that holds, but for the last `KEPT_MESSAGES`."""

KEPT_MESSAGES = 2_000
FENCES = 20
GONE = "gone"
TWIN = "another daemon runs with a copy of this state folder; stop this one and delete its standby.id"


class LeadLost(AdapterError):
    """The lead can't be taken up, or gone on with: bus or disk don't let the books be opened under it."""


@dataclass(frozen=True)
class Membership:
    """Who we are among the daemons: name, address for clients, length of the lease, the bus, copies of each stream."""

    name: str
    url: str
    lease_s: float
    bus: BusSettings
    replicas: int
    store: Path


class Member:
    """This daemon among those that share its fleet. `wake` is called whenever the lead was won or lost."""

    def __init__(self, membership: Membership, wake: Callable[[], None]) -> None:
        self._of, self._wake = membership, wake
        folder = folder_id(membership.store.parent)
        me = Entry(membership.name, membership.url, folder, uuid4().hex, membership.lease_s)
        shared = BOOKS_STREAM, f"OBJ_{SNAPSHOTS}", f"KV_{LEADERS}"
        self.copies = Copies(membership.replicas, *shared, may=self.may)
        self.pause = Pause()
        self._me = me
        self._books = Books(membership.store)
        self._told: Told | None = None
        self._peers: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._role = "following"
        self._behind: int | None = None
        self._trouble = ""
        self._began = self._told_at = self._looked_at = time.monotonic()
        self._snapshot_at = -1
        self._listening = self._said = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
        self.bus = Bus(membership.bus, self._listen)  # connects at once, and then asks the above
        cell = BucketCell(self.bus, membership.lease_s / 3.0, membership.replicas, self._on_written)
        self.lease = Lease(cell, me)
        self._stream = BooksStream(self.bus, membership.replicas)

    # ------------------------------------------------------------ what the daemon asks
    def start(self) -> None:
        """Follow from now on."""
        self._thread.start()

    @property
    def elected(self) -> bool:
        """Whether the lead was won, and nobody has taken it up."""
        return self._role == "elected"

    @property
    def lost(self) -> bool:
        """Whether the lead that was taken up is over."""
        return self._role == "leading" and not self.lease.holds()

    def may(self) -> None:
        """Return where this daemon may command. AdapterError where another one may lead by now."""
        if not self.lease.holds():
            raise AdapterError("this daemon does not lead now; another one may")

    def open_store(self) -> Store:
        """Take the lead up, or go on after a reload: fence off whoever led before, have all that was ever acknowledged,
        and open the books. LeadLost and StoreError when that can't be done."""
        if not self.elected and not self.lease.raise_epoch():
            raise LeadLost(f"this daemon does not lead any more ({self.lease.trouble or 'another one may'})")
        self._role = "leading"
        try:
            if not self._books.is_open:
                self._books.open()
            position = self._take_up()
        except AdapterError as error:
            raise LeadLost(str(error)) from error
        self._books.close()
        self.copies.renew()
        self._told = Told(self._stream, self.lease, position, self._end)
        return Store.open(self._of.store, replica=self._told, least_epoch=self.lease.epoch)

    def follow(self, failed: str = "", *, books: bool = False) -> None:
        """Stand by again, after the books were closed; `failed`: why the lead could not be taken up. Then others go
        first, and this daemon tries again after a pause, an ever longer one where it is its `books` that failed."""
        if failed:
            self.pause.begin(failed, grows=books)
        else:
            self.pause.end()
        self.lease.give_up()
        self._told, self._role, self._behind = None, "following", None

    def followers(self) -> list[Mapping[str, Any]]:
        """Daemons that stand by now, as they told of themselves."""
        fresh = time.monotonic() - HEARD_S
        return [body for at, body in list(self._peers.values()) if at > fresh and body.get("role") == "following"]

    def followed(self) -> bool:
        """Whether somebody would take over now with the same books."""
        at = self._told.position if self._told is not None else 0
        near = [peer for peer in self.followers() if at - int(peer.get("position", -1)) < KEPT_MESSAGES]
        return any(peer.get("ready") for peer in near)

    def status(self) -> dict[str, Any]:
        """Role, names, lease and distance in plain values."""
        leader, leading = self.lease.leader, self._role == "leading"
        told = self._told
        return {
            "role": "leader" if leading else "standby",
            "name": self._of.name,
            "leader": leader.name if leader is not None else None,
            "leader_url": leader.url if leader is not None else None,
            "epoch": self.lease.epoch,
            "lease_left_s": round(self.lease.left_s(), 1),
            "position": told.position if told is not None else self._books.position,
            "behind": 0 if leading else self._behind,
            "others": [{key: peer.get(key) for key in ("name", "role", "url", "position")} for peer in self._fresh()],
            "aside": str(self._books.aside or ""),
            "trouble": self._trouble or self.pause.trouble or self.lease.trouble,
        }

    def leave(self) -> None:
        """Stand by no longer, and say so: whoever leads must not count on us when it stops too."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(30.0)
        if self._role != GONE:
            self._role = GONE
            self._tell()
        self.lease.give_up()

    def close(self) -> None:
        """Leave: the lease is free at once."""
        self.leave()
        self._books.close()
        self.bus.close()

    # ------------------------------------------------------------ the thread
    def _run(self) -> None:
        period_s = min(0.5, self._of.lease_s / 8.0)
        while not self._stopping.wait(period_s):
            try:
                self._turn()
            except Exception:
                log.exception("standby.turn")

    def _turn(self) -> None:
        if self._role == "following":
            self._say()  # other threads give the lead up too
            self._follow()
            self.lease.turn(self._eligible(), self._books.epoch)
            if self.lease.leading:
                self._role = "elected"
        else:
            self.lease.turn(eligible=False)
            self._keep_short()
        self._say()
        self._tell()

    def _say(self) -> None:
        """Tell of a lead that was won or lost since this was last asked, in whichever thread that was."""
        leading = self.lease.leading and not self.lost
        if leading != self._said:
            self._said = leading
            over_at = datetime.now(UTC) - timedelta(seconds=self.lease.over_s())  # it may be noticed late
            said = {"epoch": self.lease.epoch, "since": over_at.isoformat(), "why": self.lease.trouble}
            log.info("standby.lead", leading=leading, **said)
            self._wake()

    def _follow(self) -> None:
        """Apply what is new; where that is much, part of it."""
        try:
            if not self._books.is_open:
                self._books.open()
            self._behind = self._books.step(self._stream)
            self._trouble = TWIN if any(peer["folder"] == self._me.folder for peer in self._fresh()) else ""
        except (AdapterError, StoreError, sqlite3.Error, OSError) as error:
            self._behind, self._trouble = None, str(error) or type(error).__name__

    def _eligible(self) -> bool:
        """Whether these books may lead: they have all that the stream has; or the stream must begin with somebody's,
        and nobody here has newer ones."""
        extent = self._books.extent
        if self._trouble or extent is None or self.pause.left_s > 0:
            return False
        if not self._books.leads_anew(extent):
            return self._behind == 0
        mine = (self._books.epoch, self._books.position)
        newer = any((int(p.get("epoch", 0)), int(p.get("position", 0))) > mine for p in self._fresh())
        return not newer and time.monotonic() - self._began > HEARD_S

    def _tell(self) -> None:
        now, gone = time.monotonic(), self._role == GONE
        if (now - self._told_at < TELL_S and not gone) or not self.bus.connected:
            return
        self._told_at = now
        told, extent = self._told, self._books.extent
        body = {
            "name": self._of.name, "folder": self._me.folder, "url": self._of.url, "epoch": self._books.epoch,
            "role": GONE if gone else "leading" if told is not None else "following",
            "ready": self._behind == 0 and extent is not None and self.pause.left_s <= 0,
            "position": told.position if told is not None else self._books.position, "process": self._me.process,
        }  # fmt: skip
        try:
            self.bus.call(self.bus.client.publish(DAEMONS, json.dumps(body).encode()), 1.0)
        except AdapterError as error:
            log.info("standby.not_told", why=str(error))

    def _fresh(self) -> list[Mapping[str, Any]]:
        fresh = time.monotonic() - HEARD_S
        return [body for at, body in list(self._peers.values()) if at > fresh]

    def _on_written(self) -> None:
        """Behind a renewal, until the next one there is time; not behind the word that takes or gives the lead, nor
        while it is being taken up: how many copies there are is for who has it."""
        if self._told is not None and self.lease.holds():
            self.copies.look(self.bus)

    async def _listen(self, client: Client) -> None:
        if self._role == "leading":  # who takes the lead up does so after that
            self.copies.renew()
        if not self._listening:
            self._listening = True
            await client.subscribe(DAEMONS, cb=self._on_peer)

    async def _on_peer(self, message: Msg) -> None:
        try:
            body = json.loads(message.data)
            process, numbers = str(body["process"]), {name: int(body[name]) for name in ("epoch", "position")}
            told = {**body, **numbers, **{name: str(body[name]) for name in ("name", "folder", "role", "url")}}
        except (ValueError, KeyError, TypeError, OverflowError):
            return
        if told["role"] == GONE:
            self._peers.pop(process, None)
        elif process != self._me.process:
            self._peers[process] = (time.monotonic(), told)

    # ------------------------------------------------------------ leading
    def _take_up(self) -> int:
        """Write the first message of this epoch, and have everything before it; its number."""
        extent = self._stream.extent()
        if not self._books.leads_anew(extent):
            number = self._fence(extent)
            self._books.catch_up(self._stream, number)
            return number
        if extent.last > 0 and extent.snapshot >= 0:
            log.warning("standby.stream_lost_its_end", last=extent.last, known=self._books.position)
            extent = self._stream.begin_anew()
        number = self._fence(extent)
        self._books.keep_epoch(self.lease.epoch)  # as who applies a fence does, so that orders never repeat an epoch
        self._put_snapshot(extent.stream, number)
        self._books.adopt(extent.stream, number)
        return number

    def _fence(self, extent: Extent) -> int:
        """From here on nobody of an older epoch can write to the stream. AdapterError when it does not answer."""
        from scheduler.store.capture import Change, encode

        for _ in range(FENCES):
            self.may()
            try:
                data = encode(Change(self.lease.epoch))
                return self._stream.append(data, extent.last, uuid4().hex, max(1.0, self.lease.left_s()))
            except Overtaken:  # a last word of who led before
                extent = self._stream.extent()
            except Unknown as error:
                raise AdapterError(str(error)) from error
        raise AdapterError("the books' stream goes on under another daemon")

    def _put_snapshot(self, stream: int, position: int | None = None) -> int:
        """Keep a copy of the books beside the stream; up to which message it goes."""
        packed = self._of.store.with_name(f"{self._of.store.name}.packed")
        try:
            at = snapshot(self._of.store, packed)
            self.may()
            self._stream.put_snapshot(packed, stream, at if position is None else position)
        except (OSError, sqlite3.Error) as error:
            raise AdapterError(f"{packed}: no snapshot of the books can be made: {error}") from error
        finally:
            packed.unlink(missing_ok=True)
        self._snapshot_at = at if position is None else position
        return self._snapshot_at

    def _keep_short(self) -> None:
        """Now and then: replace the stream's older part by a snapshot. In a thread, since the lease must not wait."""
        if time.monotonic() - self._looked_at < LOOK_S or self._told is None:
            return
        self._looked_at = time.monotonic()
        threading.Thread(target=self._shorten, name="standby-snapshot", daemon=True).start()

    def _shorten(self) -> None:
        try:
            extent = self._stream.extent()
            new = extent.last - extent.first + 1
            if extent.snapshot >= extent.first - 1 and new <= MOST_MESSAGES and extent.size <= MOST_BYTES:
                return
            at = self._put_snapshot(extent.stream)
            self._stream.forget_until(max(1, at - KEPT_MESSAGES))
            log.info("standby.snapshot", position=at)
        except (AdapterError, NatsError) as error:
            log.warning("standby.no_snapshot", why=str(error))

    def _end(self, why: str) -> None:
        """The books can't be told any more: lead no longer."""
        log.error("standby.lead_ends", why=why)
        self._trouble = why
        self.lease.give_up()
        self._wake()


def folder_id(folder: Path) -> str:
    """The number of a state folder, made once."""
    path = folder / "standby.id"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        made = uuid4().hex
        path.write_text(made + "\n", encoding="ascii")
        return made
