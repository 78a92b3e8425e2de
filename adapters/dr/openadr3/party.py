"""Who we are at an OpenADR 3 server: the program that we take part in, our VEN, its resource, a subscription.

Why tolerant: the utility may have made our objects first (409: found by name), may not let us make any (403: then it
has to), or may speak 3.0.1, where resources lie below their VEN. What can't be made is said, and events are read all
the same.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from adapters.dr.openadr3.config import OpenAdr3Config
from adapters.dr.openadr3.http import ServerError, VtnClient
from adapters.dr.openadr3.objects import Program

OPERATIONS = ("CREATE", "UPDATE", "DELETE")


class Party:
    """Our objects at one server, found or made once."""

    def __init__(self, config: OpenAdr3Config, client: VtnClient, program: str, site: str) -> None:
        self._config, self._client, self.name, self._site = config, client, program, site
        self.program_id = ""
        self.enrolled = False
        self.ven_id = ""
        self.missing = ""
        """Why no events can be expected; empty when all is well."""
        self.old = "/3.0" in config.url
        """Whether the server speaks 3.0.1."""

    @property
    def resource(self) -> str:
        """Name of the site's resource."""
        return self._config.resource or self._config.ven_name

    def target_query(self) -> dict[str, Any]:
        """Query for events of our targets alone, where the config names some."""
        if not self._config.targets:
            return {}
        if self.old:
            return {"targetType": "GROUP", "targetValues": list(self._config.targets)}
        return {"targets": list(self._config.targets)}

    def program(self) -> Program | None:
        """The program by its name, or by its id once it is known; None when it was deleted. Raises ServerError, also
        where it was never seen: a grant that is missing looks like an empty list."""
        items, _ = self._client.every("/programs")
        programs = [program for item in items if (program := _program(item)) is not None]
        found = next((p for p in programs if p.id == self.program_id), None)
        found = found or next((p for p in programs if self.name in {p.program_name, p.id}), None)
        if found is not None:
            self.program_id, self.missing = found.id, ""
            return found
        if self.program_id:
            return self._unlisted()
        names = ", ".join(sorted(p.program_name for p in programs)[:10]) or "none"
        raise ServerError(f'{self._client.place}: no program "{self.name}" for us; it shows: {names}')

    def _unlisted(self) -> Program | None:
        """The program that was listed before: None when the server says that it is gone. Raises ServerError."""
        try:
            return _program(self._client.get(f"/programs/{self.program_id}"))
        except ServerError as error:
            if error.status not in {403, 404}:
                raise
        self.missing = f'program "{self.name}" is gone from the server'
        return None

    def enrol(self, callback: str = "", token: str = "") -> None:
        """Make sure that VEN, resource and (with a `callback`) subscription are there. Raises ServerError."""
        if self.enrolled:
            return
        self.old = self.old or self._speaks_301()
        self.ven_id = self._found_or_made("/vens", "venName", self._config.ven_name, self._ven_body())
        if self.ven_id:
            path = f"/vens/{self.ven_id}/resources" if self.old else "/resources"
            self._found_or_made(path, "resourceName", self.resource, self._resource_body())
        if callback:
            self._subscribe(callback, token)
        self.enrolled = True

    def _speaks_301(self) -> bool:
        """3.0.1 has resources only below their VEN."""
        try:
            self._client.get("/resources", limit=1, skip=0)
        except ServerError as error:
            if error.status == 404:
                return True
            if error.status == 0 or error.status >= 500:
                raise
        return False

    def _ven_body(self) -> dict[str, Any]:
        body = {"venName": self._config.ven_name}
        return body | ({"objectType": "VEN"} if self.old else {"objectType": "VEN_VEN_REQUEST"})

    def _resource_body(self) -> dict[str, Any]:
        body = {"resourceName": self.resource}
        if self.old:
            return body | {"objectType": "RESOURCE"}
        return body | {"objectType": "VEN_RESOURCE_REQUEST", "venID": self.ven_id}

    def _found_or_made(self, path: str, field: str, name: str, body: dict[str, Any]) -> str:
        """Id of the object of that name; empty where we may not make one."""
        found = self._named(path, field, name)
        if found:
            return found
        try:
            made = self._client.post(path, body)
        except ServerError as error:
            if error.status in {403, 501}:
                return ""
            if error.status != 409 and error.status < 500:
                raise
            return self._named(path, field, name)
        return str(made.get("id", "")) if isinstance(made, dict) else ""

    def _named(self, path: str, field: str, name: str) -> str:
        try:
            items, _ = self._client.every(path)
        except ServerError as error:
            if error.status in {403, 404, 501}:
                return ""
            raise
        return next((str(item.get("id", "")) for item in items if item.get(field) == name), "")

    def _subscribe(self, callback: str, token: str) -> None:
        """One subscription to events and programs, found by its address."""
        items, _ = self._client.every("/subscriptions")
        if any(_calls(item, callback) for item in items):
            return
        operations = [
            {
                "objects": ["EVENT", "PROGRAM"],
                "operations": list(OPERATIONS) if not self.old else ["POST", "PUT", "DELETE"],
                "callbackUrl": callback,
                "bearerToken": token,
            }
        ]
        body = {"clientName": self._config.ven_name, "programID": self.program_id, "objectOperations": operations}
        self._client.post("/subscriptions", body | ({"objectType": "SUBSCRIPTION"} if self.old else {}))


def _calls(item: Any, callback: str) -> bool:
    operations = item.get("objectOperations") if isinstance(item, dict) else None
    return any(isinstance(one, dict) and one.get("callbackUrl") == callback for one in operations or ())


def _program(item: Any) -> Program | None:
    try:
        return Program.model_validate(item)
    except ValidationError:
        return None
