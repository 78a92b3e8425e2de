"""Many servers that each speak for a few cards (a management controller, a privileged daemon): asked all at once, and
one that does not answer is left alone for a while.

Why shared: whatever the hardware, an order has to come back in time with what went wrong on each server, in the same
words, and one dead server must not cost every tick its time-out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from adapters.ports import AdapterError, Clock, GpuId, GpuInfo
from adapters.power.orders import CardError
from adapters.workers import Abandoned, Crew, Patience, Turn
from optimizer.reasons import Reason

T = TypeVar("T")


class Servers:
    """The named servers of one kind (`kind` is what errors call them)."""

    def __init__(self, kind: str, names: Iterable[str], clock: Clock) -> None:
        self._kind = kind
        self._patience = {name: Patience(clock, f"{kind} {name}") for name in names}
        self._crew: Crew[str] = Crew(kind.lower())

    def ask(
        self, names: Iterable[str], call: Callable[[str, Turn], T], seconds: float
    ) -> tuple[dict[str, T], dict[str, CardError]]:
        """What each of these servers answered within `seconds`, and what is wrong with each that didn't; an error that
        nobody expected is raised."""
        troubled: dict[str, CardError] = {}
        asked = []
        for name in names:
            try:
                self._patience[name].check()
                asked.append(name)
            except AdapterError as error:
                troubled[name] = CardError(str(error), Reason.NODE_LOST)
        answered: dict[str, T] = {}
        for name, outcome in self._crew.each(asked, call, seconds).items():
            if isinstance(outcome, Exception):
                troubled[name] = self._trouble(name, outcome)
                self._patience[name].failed("")
            else:
                answered[name] = outcome
                self._patience[name].worked()
        return answered, troubled

    def stop(self, close: Callable[[str, Turn], object] | None = None, seconds: float = 0.0) -> None:
        """End the threads, after `close` of every server; also of those that are left alone, for they may be back and
        hold a session of ours."""
        if close is not None:
            self._crew.each(self._patience, close, seconds)
        self._crew.stop()

    def _trouble(self, name: str, error: Exception) -> CardError:
        if isinstance(error, CardError):
            return error
        if isinstance(error, Abandoned):
            return CardError(f"{self._kind} {name}: no answer in time", Reason.CALL_TIMEOUT)
        if isinstance(error, AdapterError):  # the password or token cannot be read
            return CardError(str(error), Reason.NO_PERMISSION)
        raise error


def by_server(gpus: Iterable[GpuId], servers: Iterable[str]) -> dict[GpuId, str]:
    """The server of each card that is named SERVER/CARD, for those of `servers`."""
    known = set(servers)
    return {gpu: gpu.partition("/")[0] for gpu in gpus if gpu.partition("/")[0] in known}


def limits_of(gpus: Collection[GpuId], infos: Mapping[GpuId, GpuInfo], kind: str) -> dict[GpuId, float]:
    """Enforced limit in W of those of these cards that a reading has. Raises AdapterError when it has none of them."""
    limits = {gpu: infos[gpu].enforced_w for gpu in gpus if gpu in infos}
    if gpus and not limits:
        raise AdapterError(f"{kind}: none of the {len(gpus)} GPUs asked about answers")
    return limits


def nothing(kind: str, troubled: Iterable[object], answers: Iterable[object]) -> AdapterError:
    """The error when no card answers: what each server and card said, once."""
    said = [*troubled, *(one for one in answers if isinstance(one, Exception))]
    return AdapterError("; ".join(dict.fromkeys(map(str, said))) or f"{kind}: it has no GPU")
