"""What zeusd's HTTP API says, call by call: https://ml.energy/zeus/zeusd/api/.

Why a card at a time: zeusd tells errors per card, and a driver that hangs on one card must not hold an answer about the
others. A thread has its own connection; requests' sessions are not for several.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import requests

from adapters.power.orders import CardError
from adapters.unix_http import UnixAdapter
from optimizer.reasons import Reason

OK, BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 200, 400, 401, 403, 404
LOST = ("does not exist", "fallen off the bus", "inaccessible", "lost")
"""Words by which zeusd, and the driver behind it, say that a card is gone."""
MOST_MW = 1e8


class Zeusd:
    """One zeusd. May be used from several threads."""

    def __init__(self, name: str, url: str, token: Callable[[], str | None], timeout_s: float) -> None:
        self.place = f"zeusd {name} ({url})"
        self._token, self._timeout_s = token, timeout_s
        self._local, self._sessions = threading.local(), list[requests.Session]()
        self._socket = url.removeprefix("unix://") if url.startswith("unix://") else None
        self._base = url if self._socket is None else "http://localhost"

    def gpus(self) -> list[tuple[int, str, str]]:
        """Index, place on the bus, and model of each card. Raises CardError."""
        told = self._ask("GET", "/discover")
        if "gpu-read" not in (told.get("enabled_api_groups") or ()):
            raise CardError(f"{self.place}: its API group gpu-read is not enabled", Reason.NO_PERMISSION)
        try:
            return [(int(gpu["id"]), str(gpu["pci_address"]), str(gpu["name"])) for gpu in told["gpus"]]
        except (KeyError, TypeError, ValueError):
            raise CardError(
                f"{self.place}: tells no GPUs with their addresses; a newer zeusd does", Reason.CAP_REFUSED
            ) from None

    def limit_mw(self, index: int) -> int:
        """The limit in force, in mW."""
        told = self._about("/gpu/get_power_limit", index)
        return self._checked(told.get("power_limit_mw"), index, "power_limit_mw")

    def range_mw(self, index: int) -> tuple[int, int]:
        """Lowest and highest limit, in mW."""
        told = self._about("/gpu/get_power_limit_constraints", index)
        low, high = (f"{end}_power_limit_mw" for end in ("min", "max"))
        return self._checked(told.get(low), index, low), self._checked(told.get(high), index, high)

    def power_mw(self, index: int) -> int:
        """Power now, in mW."""
        told = self._ask("GET", "/gpu/get_power", gpu_ids=index)
        return self._checked((told.get("power_mw") or {}).get(str(index)), index, "power")

    def persistence(self, index: int) -> bool:
        """Whether persistence mode is on; True for cards that know none (AMD's)."""
        try:
            told = self._about("/gpu/get_persistence_mode", index)
        except CardError as error:
            if error.reason is Reason.CAP_REFUSED:
                return True
            raise
        return bool(told.get("enabled", True))

    def set_limit(self, index: int, milliwatts: int) -> None:
        """Set a limit and wait until that is done. Raises CardError."""
        self._ask("POST", "/gpu/set_power_limit", gpu_ids=index, power_limit_mw=milliwatts, block="true")

    def set_persistence(self, index: int) -> None:
        """Turn persistence mode on. Raises CardError."""
        self._ask("POST", "/gpu/set_persistence_mode", gpu_ids=index, enabled="true", block="true")

    def close(self) -> None:
        """End the connections."""
        for session in self._sessions:
            session.close()

    # ---------------------------------------------------------------- one request
    def _about(self, path: str, index: int) -> dict[str, Any]:
        """What an answer says of one card."""
        told = self._ask("GET", path, gpu_ids=index).get(str(index))
        return told if isinstance(told, dict) else {}

    def _checked(self, value: Any, index: int, what: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_MW:
            raise CardError(f"{self.place}: GPU {index}: {what} is {value!r}, not milliwatts", Reason.GPU_LOST)
        return int(value)

    def _ask(self, method: str, path: str, **params: str | int) -> dict[str, Any]:
        """The JSON object of an answer (empty where there is none). Raises CardError."""
        token = self._token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._session().request(
                method,
                self._base + path,
                params=params,
                headers=headers,
                timeout=self._timeout_s,
                allow_redirects=False,
            )
            body = answer.json() if answer.content else {}
        except requests.Timeout:
            raise CardError(f"{self.place}: no answer in time", Reason.CALL_TIMEOUT) from None
        except requests.exceptions.JSONDecodeError:
            body = {}
        except (requests.RequestException, OSError) as error:
            raise self._unreachable(error) from error
        if answer.status_code != OK:
            raise self._refusal(answer.status_code, body if isinstance(body, dict) else {}, path)
        if not isinstance(body, dict):
            raise CardError(f"{self.place}{path}: not an answer of zeusd", Reason.CAP_REFUSED)
        return body

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.trust_env = False
            if self._socket is not None:
                session.mount("http://", UnixAdapter(self._socket))
            self._sessions.append(session)
            self._local.session = session
        found: requests.Session = self._local.session
        return found

    def _refusal(self, status: int, body: dict[str, Any], path: str) -> CardError:
        text = "; ".join(_texts(body))
        where = f"{self.place}{path}: HTTP {status}{f' ({text[:300]})' if text else ''}"
        if status == NOT_FOUND:
            hint = "the API group of this call is not enabled, or this zeusd is too old for it"
            return CardError(f"{where}: {hint}", Reason.NO_PERMISSION)
        if status in {UNAUTHORIZED, FORBIDDEN}:
            hint = "the token, its scopes, or the rights of zeusd itself (CAP_SYS_ADMIN) don't suffice"
            return CardError(f"{where}: {hint}", Reason.NO_PERMISSION)
        gone = any(word in text.lower() for word in LOST)
        return CardError(where, Reason.GPU_LOST if gone else Reason.CAP_REFUSED)

    def _unreachable(self, error: Exception) -> CardError:
        text = str(error)
        if "Permission denied" in text:
            hint = "may this user open its socket? (zeusd --socket-permissions, --socket-uid, --socket-gid)"
            return CardError(f"{self.place}: permission denied; {hint}", Reason.NO_PERMISSION)
        return CardError(f"{self.place}: cannot be reached; is zeusd running? ({text[:200]})", Reason.NODE_LOST)


def _texts(body: dict[str, Any]) -> Iterator[str]:
    """What zeusd says of a refusal: per card, or of the whole."""
    errors = body.get("errors")
    if isinstance(errors, dict):
        yield from (f"GPU {index}: {message}" for index, message in errors.items())
    elif "error" in body:
        yield str(body["error"])
