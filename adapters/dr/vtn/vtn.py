"""An OpenADR 3 server (VTN) of our own: the utility's twin for tests, benchmarks and rehearsals.

Why not only in the tests: an operator should hear the utility call before the utility does. It keeps its objects in
memory, knows two kinds of clients (the utility's business logic, and VENs), and behaves like servers in use where a
`Wart` is switched on. It is no product: it holds nothing over a restart.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from adapters.dr.vtn.objects import COLLECTIONS, Problem, checked, ids, named, scoped, shown
from adapters.dr.vtn.warts import Wart

MOST_PAGE = 50
SHORT = 3
Told = Callable[[str, str, Mapping[str, Any]], bool]
"""What hears of each change (object type, operation, object); False when a subscriber was dead."""


@dataclass(frozen=True)
class VtnUser:
    """A client: `business` may write programs and events."""

    secret: str
    business: bool = False


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    body: Any = None


@dataclass
class Vtn:
    """All that a server knows. `answer` is thread-safe."""

    users: Mapping[str, VtnUser]
    warts: frozenset[Wart] = frozenset()
    base_path: str = "/openadr3/3.1.0"
    token_s: int = 3600
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {name: {} for name in COLLECTIONS})
    tokens: dict[str, str] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request, for tests."""
    told: Told = lambda _type, _operation, _item: True
    challenge: Callable[[str, bool], bool] = lambda _url, _below: True
    """Asks a callback to repeat a word; False when it doesn't."""
    address: str = ""
    broker: str = ""
    """Address of the MQTT broker on which changes are told; empty: none."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    # ------------------------------------------------------------ the business logic's hand
    def put_program(self, name: str, **fields: Any) -> str:
        """Make a program; its id."""
        return str(self._create("programs", {"programName": name} | fields, "bl")["id"])

    def put_event(self, program: str, event_id: str | None = None, **fields: Any) -> str:
        """Make an event, or replace the one of that id; its id."""
        body = {"programID": program} | fields
        if event_id is not None and event_id in self.objects["events"]:
            self._replace("events", event_id, body)
            return event_id
        return str(self._create("events", body, "bl", event_id)["id"])

    def drop_event(self, event_id: str) -> None:
        """Delete an event."""
        self._delete("events", event_id)

    # ------------------------------------------------------------ requests
    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """One request; `target` is the path with its query."""
        address = urlsplit(target)
        path = address.path.removeprefix(self.base_path)
        with self.lock:
            self.log.append((method, target))
        try:
            if not address.path.startswith(self.base_path):
                raise Problem(404, "no such path")
            if path == "/auth/token" and method == "POST":
                return self._token(headers, body)
            if path == "/auth/server" and Wart.NO_AUTH_SERVER not in self.warts and not self.v301:
                return Reply(200, {"tokenURL": f"{self.address}{self.base_path}/auth/token"})
            client = self._client(headers)
            query = parse_qs(address.query)
            return self._routed(method, path.strip("/").split("/"), query, body, client)
        except Problem as problem:
            return Reply(problem.status, problem.body())

    @property
    def v301(self) -> bool:
        """Whether it speaks 3.0.1."""
        return Wart.V301 in self.warts

    def _routed(self, method: str, parts: list[str], query: Mapping[str, list[str]], body: bytes, client: str) -> Reply:
        extra: dict[str, Any] = {}
        if self.v301 and parts[0] == "vens" and len(parts) > 2 and parts[2] == "resources":
            extra, parts = {"venID": parts[1]}, parts[2:]
        elif self.v301 and parts[0] == "resources":
            raise Problem(404, "no such path")
        if parts[0] == "notifiers" and method == "GET":
            return self._notifiers(parts)
        if parts[0] not in COLLECTIONS or len(parts) > 2:
            raise Problem(404, "no such path")
        kind = parts[0]
        if len(parts) == 1:
            if method == "GET":
                return Reply(200, self._list(kind, query, client, extra))
            if method == "POST":
                return self._created(kind, _json(body) | extra, client)
        else:
            return self._one(method, kind, parts[1], body, client)
        raise Problem(405, "this method is not known here")

    def _notifiers(self, parts: list[str]) -> Reply:
        """Where the MQTT notifier is, and its topics of a VEN's or a program's events."""
        login = {"method": "ANONYMOUS"}
        binding = {"URIS": [self.broker], "serialization": "JSON", "authentication": login}
        if len(parts) == 1:
            return Reply(200, {"WEBHOOK": True} | ({"MQTT": binding} if self.broker else {}))
        if not self.broker or parts[1:3] != ["mqtt", "topics"] or len(parts) != 6 or parts[5] != "events":
            raise Problem(404, "no such topics")
        topics = {name: topic_of(parts[3], parts[4], name) for name in ("CREATE", "UPDATE", "DELETE")}
        return Reply(200, {"topics": topics | {"ALL": f"events/{parts[3]}/{parts[4]}/all"}})

    def _one(self, method: str, kind: str, name: str, body: bytes, client: str) -> Reply:
        with self.lock:
            item = self.objects[kind].get(name)
            if item is None or not self._may_see(kind, item, client):
                raise Problem(404, f"no {kind[:-1]} {name!r}")
        if method == "GET":
            return Reply(200, self._shown(item))
        self._may_write(kind, client)
        if method == "PUT":
            return self._changed(self._replace(kind, name, checked(kind, _json(body), self._strict)))
        if method == "DELETE":
            return self._changed(self._delete(kind, name))
        raise Problem(405, "this method is not known here")

    # ------------------------------------------------------------ objects
    def _list(
        self, kind: str, query: Mapping[str, list[str]], client: str, extra: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        with self.lock:
            items = [item for item in self.objects[kind].values() if self._may_see(kind, item, client)]
        items = [item for item in items if all(item.get(key) == value for key, value in extra.items())]
        items = scoped(kind, items, query, Wart.NO_FILTER in self.warts)
        if Wart.NO_PAGES not in self.warts:
            skip, limit = _whole(query, "skip", 0), _whole(query, "limit", len(items) + 1)
            if "limit" in query and limit > MOST_PAGE:
                raise Problem(400, f"limit: {limit} is above {MOST_PAGE}")
            limit = min(limit, SHORT) if Wart.SHORT_PAGES in self.warts else limit
            items = items[skip : skip + limit]
        return [self._shown(item) for item in items]

    def _created(self, kind: str, body: dict[str, Any], client: str) -> Reply:
        self._may_write(kind, client)
        body = checked(kind, body, self._strict)
        if kind == "subscriptions":
            self._challenged(body)
        item = self._create(kind, body, client)
        return self._changed(item, 201)

    def _changed(self, item: dict[str, Any], status: int = 200) -> Reply:
        if item.pop("_dead", False) and Wart.FAILS_ON_DEAD_SUBSCRIBER in self.warts:
            raise Problem(500, "a subscriber could not be told")
        return Reply(status, self._shown(item))

    def _create(self, kind: str, body: dict[str, Any], client: str, name: str | None = None) -> dict[str, Any]:
        with self.lock:
            unique = named(kind)
            if unique and any(item[unique] == body.get(unique) for item in self.objects[kind].values()):
                raise Problem(409, f"{unique}: {body.get(unique)!r} is taken")
            ids(kind, body, self.objects)
            made = {"id": name or secrets.token_hex(8), **self._dates(), **body, "objectType": COLLECTIONS[kind]}
            made.setdefault("clientID", client)
            self.objects[kind][made["id"]] = made
        return self._tell("CREATE", made)

    def _replace(self, kind: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            old = self.objects[kind][name]
            kept = {key: old[key] for key in ("id", "createdDateTime", "clientID", "objectType")}
            made = {**self._dates(), **body, **kept}
            self.objects[kind][name] = made
        return self._tell("UPDATE", made)

    def _delete(self, kind: str, name: str) -> dict[str, Any]:
        with self.lock:
            gone = self.objects[kind].pop(name)
            if kind == "programs":
                for event in [one for one in self.objects["events"].values() if one["programID"] == name]:
                    del self.objects["events"][event["id"]]
        return self._tell("DELETE", gone)

    def _tell(self, operation: str, item: dict[str, Any]) -> dict[str, Any]:
        alive = self.told(item["objectType"], operation, self._shown(item))
        return dict(item) if alive else {**item, "_dead": True}

    def _shown(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return shown(item, zero_duration=Wart.ZERO_DURATION in self.warts, old_targets=self.v301)

    def _dates(self) -> dict[str, str]:
        moment = self.now()
        text = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        if Wart.LOCAL_DATES in self.warts:
            text = moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return {"createdDateTime": text, "modificationDateTime": text}

    @property
    def _strict(self) -> bool:
        return Wart.STORES_ANYTHING not in self.warts

    def _challenged(self, body: Mapping[str, Any]) -> None:
        for operation in body.get("objectOperations", ()):
            if not self.challenge(str(operation.get("callbackUrl")), Wart.ECHO_BELOW in self.warts):
                raise Problem(400, "callbackUrl: it did not repeat the word that it was sent")

    # ------------------------------------------------------------ who may
    def _may_see(self, kind: str, item: Mapping[str, Any], client: str) -> bool:
        """The utility sees all; a VEN what is its own, and of programs and events those without targets or with one
        that its objects were granted."""
        if self.users[client].business:
            return True
        if kind in {"programs", "events"}:
            targets = set(item.get("targets") or ())
            return not targets or bool(targets & self._grants(client))
        return item.get("clientID") == client

    def _grants(self, client: str) -> set[str]:
        own = [o for kind in ("vens", "resources") for o in self.objects[kind].values() if o.get("clientID") == client]
        return {target for one in own for target in one.get("targets") or ()}

    def _may_write(self, kind: str, client: str) -> None:
        business = self.users[client].business
        if kind in {"programs", "events"} and not business:
            raise Problem(403, "only the utility may write this")
        if kind in {"vens", "resources"} and not business and Wart.NO_MAKING in self.warts:
            raise Problem(403, "only the utility makes these")

    def _client(self, headers: Mapping[str, str]) -> str:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        with self.lock:
            client = self.tokens.get(token)
        if client is None:
            raise Problem(403 if Wart.FORBIDDEN in self.warts else 401, "this token is not known")
        return client

    def _token(self, headers: Mapping[str, str], body: bytes) -> Reply:
        form = dict(parse_qsl(body.decode("utf-8", "replace")))
        login = headers.get("authorization", "")
        name, secret = form.get("client_id", ""), form.get("client_secret", "")
        if login.startswith("Basic "):
            if Wart.BODY_ONLY in self.warts:
                return Reply(400, {"error": "invalid_request"})
            name, _, secret = base64.b64decode(login.removeprefix("Basic ")).decode("utf-8", "replace").partition(":")
        elif Wart.BASIC_ONLY in self.warts:
            return Reply(401, {"error": "invalid_client"})
        user = self.users.get(name)
        good = user is not None and secrets.compare_digest(user.secret.encode(), secret.encode())
        if not good or form.get("grant_type") != "client_credentials":
            return Reply(401, {"error": "invalid_client"})
        token = secrets.token_urlsafe(24)
        with self.lock:
            self.tokens[token] = name
        told: dict[str, Any] = {"access_token": token, "token_type": "Bearer"}
        told |= {} if Wart.NO_EXPIRY in self.warts else {"expires_in": self.token_s}
        return Reply(200, told | ({"scope": ["read_all"]} if Wart.SCOPE_LIST in self.warts else {"scope": "read_all"}))


def topic_of(kind: str, name: str, operation: str) -> str:
    """Topic on which changes of the events of a program or a VEN are told. On `.../all` nothing ever is."""
    return f"events/{kind}/{name}/{operation.lower()}"


def _json(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON") from None
    if not isinstance(told, dict):
        raise Problem(400, "the body is not an object")
    return told


def _whole(query: Mapping[str, list[str]], name: str, default: int) -> int:
    text = query.get(name, [str(default)])[0]
    if not text.isdecimal():
        raise Problem(400, f"{name}: {text!r} is not a whole number")
    return int(text)
