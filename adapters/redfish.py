"""One server's management controller, through DMTF's Redfish client.

Why a layer over the client: a controller ends sessions when it likes (401: log in again, once), guards resources by
ETags (412: somebody wrote meanwhile; read again and decide again), and says no in a dozen ways that must become one
reason for each card. Controllers bear few connections, so each has one, used by one thread at a time.

The protocol is DMTF's DSP0266 (https://www.dmtf.org/dsp/DSP0266), the resources are DSP8010's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import requests

from adapters.power.orders import CardError
from adapters.registry import import_extra
from adapters.workers import Turn
from optimizer.reasons import Reason

Body = Mapping[str, Any]
ROOT = "/redfish/v1/"
UNAUTHORIZED, NOT_FOUND, PRECONDITION_FAILED, PRECONDITION_REQUIRED = 401, 404, 412, 428
MOST_WRITES = 3
"""So often a resource is read and written anew when others write it meanwhile."""

_REASONS = {
    UNAUTHORIZED: Reason.NO_PERMISSION,
    403: Reason.NO_PERMISSION,
    NOT_FOUND: Reason.GPU_LOST,
    410: Reason.GPU_LOST,
    503: Reason.CALL_TIMEOUT,
    504: Reason.CALL_TIMEOUT,
}


class Bmc:
    """A controller's resources. Not for several threads."""

    def __init__(
        self, name: str, url: str, login: Callable[[], tuple[str, str]], ca: str | None, timeout_s: float
    ) -> None:
        """`login` gives user and password when they are needed; `ca` is a file, absent: the usual authorities."""
        self.name, self._url, self._login = name, url, login
        self._ca, self._timeout_s = ca or requests.utils.DEFAULT_CA_BUNDLE_PATH, timeout_s
        self._library = import_extra("redfish")
        self._problems = import_extra("redfish.rest.v1")
        self._client: Any = None

    def get(self, uri: str) -> Body:
        """A resource. Raises CardError."""
        return self._body(self._exchange("get", uri))

    def members(self, uri: str) -> Iterator[Body]:
        """The resources of a collection, all of its pages."""
        page: str | None = uri
        while page:
            collection = self.get(page)
            for member in collection.get("Members", ()):
                yield self.get(member["@odata.id"])
            page = collection.get("Members@odata.nextLink")

    def change(self, uri: str, patch: Callable[[Body], Body | None], turn: Turn) -> None:
        """Read a resource, ask `patch` what to write of it (None: nothing), and write that unless somebody else wrote
        meanwhile: then from the start. Raises CardError."""
        for _ in range(MOST_WRITES):
            answer = self._exchange("get", uri)
            body = self._body(answer)
            wanted = patch(body)
            if wanted is None:
                return
            etag = answer.getheader("etag") or body.get("@odata.etag")
            turn.check()
            answer = self._exchange("patch", uri, dict(wanted), {"If-Match": etag} if etag else {})
            if answer.status not in {PRECONDITION_FAILED, PRECONDITION_REQUIRED}:
                self._body(answer)
                return
        raise CardError(f"{self._place(uri)}: others write it all the time", Reason.CAP_REFUSED)

    def close(self) -> None:
        """End the session; controllers have few."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(self._problems.RetriesExhaustedError, self._problems.BadRequestError, OSError):
                client.logout()

    def _exchange(self, method: str, uri: str, body: Body | None = None, headers: Body | None = None) -> Any:
        """One request; a session that has ended is begun anew once."""
        for attempt in (1, 2):
            client = self._connected(uri)
            with _Errors(self, uri):
                if body is None:
                    answer = getattr(client, method)(uri, headers=dict(headers or {}))
                else:
                    answer = getattr(client, method)(uri, body=body, headers=dict(headers or {}))
            if answer.status != UNAUTHORIZED or attempt == 2:
                return answer
            self._client = None
        raise AssertionError("unreachable")

    def _connected(self, uri: str) -> Any:
        if self._client is None:
            user, password = self._login()
            with _Errors(self, uri):
                client = self._library.redfish_client(
                    base_url=self._url,
                    cafile=self._ca,
                    timeout=self._timeout_s,
                    max_retry=0,
                    proxies={"no_proxy": "*"},
                )
                client.login(user, password, auth="session")
            client.set_password(None)  # the client needs the session from now on
            self._client = client
        return self._client

    def _body(self, answer: Any) -> Body:
        if answer.status >= 400:
            text = f"HTTP {answer.status}{_message(answer)}"
            raise CardError(
                f"{self._place(answer.request.path)}: {text}", _REASONS.get(answer.status, Reason.CAP_REFUSED)
            )
        with _Errors(self, answer.request.path):
            body = answer.dict
        if not isinstance(body, dict):
            raise CardError(f"{self._place(answer.request.path)}: not a resource", Reason.CAP_REFUSED)
        return body

    def _place(self, uri: str) -> str:
        return f"Redfish {self.name} ({self._url}{uri})"

    def problem(self, error: BaseException, uri: str) -> CardError | None:
        """What an error of the client means; None for one that is not its own."""
        place, kinds = self._place(uri), self._problems
        if isinstance(error, kinds.RetriesExhaustedError):
            cause = error.__cause__ or error
            late = isinstance(cause, requests.Timeout) and not isinstance(cause, requests.ConnectTimeout)
            if isinstance(cause, requests.exceptions.SSLError):
                return CardError(f"{place}: TLS: {cause}", Reason.NODE_LOST)
            text = "no answer in time" if late else f"cannot be reached: {cause}"
            return CardError(f"{place}: {text}", Reason.CALL_TIMEOUT if late else Reason.NODE_LOST)
        if isinstance(error, kinds.InvalidCredentialsError):
            return CardError(f"{place}: the login is not accepted", Reason.NO_PERMISSION)
        if isinstance(error, kinds.ServerDownOrUnreachableError):
            return CardError(f"{place}: {error}", Reason.NODE_LOST)
        if isinstance(
            error, kinds.SessionCreationError | kinds.JsonDecodingError | kinds.RedfishPasswordChangeRequiredError
        ):
            return CardError(f"{place}: {str(error).splitlines()[0]}", Reason.CAP_REFUSED)
        return None


class _Errors:
    """Turns the client's errors into CardErrors."""

    def __init__(self, bmc: Bmc, uri: str) -> None:
        self._bmc, self._uri = bmc, uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and (problem := self._bmc.problem(error, self._uri)) is not None:
            raise problem from error


def _message(answer: Any) -> str:
    """What the controller says of its refusal, in one line."""
    try:
        told = answer.dict["error"]
        detail = (told.get("@Message.ExtendedInfo") or [{}])[0].get("Message") or told.get("message") or ""
    except Exception:  # noqa: BLE001 - a refusal whose text cannot be read is still a refusal
        return ""
    return f" ({str(detail)[:300]})" if detail else ""
