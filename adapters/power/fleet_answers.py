"""What nodes and the server said, in the words of a receipt: who obeyed, who did not answer, what was not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import orjson
from nats.aio.msg import Msg

from adapters.ports import GpuId, Receipt
from adapters.power import wire
from adapters.power.receipts import UNKNOWN_GPU
from optimizer.reasons import Note, Reason, Severity

T = TypeVar("T")


class Unheard(str):
    """Why no answer came."""

    __slots__ = ()


def answer_of(message: Msg) -> dict[str, Any] | str:
    """An answer; or that it isn't one, or comes from the server because nobody listens there."""
    if message.headers and message.headers.get("Status") == "503":
        return "nobody listens there"
    try:
        return wire.decode(message.data)
    except wire.BadRequest as error:
        return str(error)


def not_kept(message: Msg | str) -> str | None:
    """Why the server didn't write a message into its stream; None when it says that it did."""
    if isinstance(message, str):
        return message
    try:
        said = orjson.loads(message.data)
        error = said.get("error")
        return None if error is None else str(error.get("description", error))
    except (AttributeError, ValueError):
        return "no stream takes it"


def silence(node: str, answer: Mapping[str, Any] | str, gpus: int) -> Note:
    """A note about a node that didn't obey."""
    why = answer if isinstance(answer, str) else answer.get("error", "refused without a reason")
    text = f"node {node} ({gpus} GPUs): {why}; its agent keeps to its lease, then to its trajectory"
    return Note(Reason.NODE_LOST, node, text, Severity.ALERT)


def refusals(refused: Mapping[str, str]) -> tuple[Note, ...]:
    """Notes about nodes whose word of themselves is not believed."""
    more = "no such word of it is believed; somebody else has its key, or it is set up wrong"
    return tuple(
        Note(Reason.NODE_LOST, node, f"node {node} {why}: {more}", Severity.ALERT) for node, why in refused.items()
    )


class Tally:
    """All nodes' answers to orders about limits as one receipt, added up one by one as they come: whoever waited for
    the last of ten thousand would wait once more for the sum."""

    def __init__(
        self,
        asks: Mapping[str, Mapping[str, Any]],
        has: Callable[[str, GpuId], bool] = lambda _node, _gpu: True,
    ) -> None:
        """`asks` by node; what a node says of cards that it has not (`has`) is left out."""
        self._asks, self._has = list(asks.items()), has
        self._heard = bytearray(len(self._asks))
        self._enforced: dict[GpuId, float] = {}
        self._failures: dict[GpuId, Reason] = {}
        self._notes: list[Note] = []

    def take(self, number: int, message: Msg) -> str | None:
        """An answer to the ask of this number, the first one that comes; why it is none that obeys, else None. In the
        bus's loop."""
        if self._heard[number]:
            return None
        answer = answer_of(message)
        if isinstance(answer, str):
            return answer
        try:
            self._add(*self._asks[number], answer)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return f"its answer is no receipt: {error!r}"
        self._heard[number] = 1
        return None

    def _add(self, node: str, ask: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        gpus: Mapping[GpuId, object] = ask.get("caps_w") or ask.get("limits_w") or {}
        if answer.get("ok") is not True:
            self._lost(node, gpus, answer)
            return
        part = wire.receipt_in(answer["result"])
        self._enforced.update(_of_its_own(part.enforced_w, node, gpus, self._has))
        if part.failures:
            self._failures.update(_of_its_own(part.failures, node, gpus, self._has))
        self._notes += part.notes

    def _lost(self, node: str, gpus: Mapping[GpuId, object], answer: Mapping[str, Any] | str) -> None:
        self._failures.update(dict.fromkeys(gpus, Reason.NODE_LOST))
        self._notes.append(silence(node, answer, len(gpus)))

    def receipt(self, why: Sequence[str | None]) -> Receipt:
        """The sum; `why`: of each ask why it was not answered (None: it was)."""
        for (node, ask), heard, reason in zip(self._asks, self._heard, why, strict=True):
            if not heard:
                self._lost(node, ask.get("caps_w") or ask.get("limits_w") or {}, reason or "no answer")
        return Receipt(self._enforced, self._failures, tuple(self._notes))


def _of_its_own(
    said: Mapping[GpuId, T], node: str, asked: Mapping[GpuId, object], has: Callable[[str, GpuId], bool]
) -> Mapping[GpuId, T]:
    """What a node says of the cards it was asked about, and of others that it has: it may put back more than that."""
    if said.keys() <= asked.keys():
        return said
    return {gpu: value for gpu, value in said.items() if gpu in asked or has(node, gpu)}


def with_absent(receipt: Receipt, absent: Sequence[GpuId]) -> Receipt:
    """The receipt with GPUs that no known node has."""
    if not absent:
        return receipt
    failures = {**receipt.failures, **dict.fromkeys(absent, UNKNOWN_GPU)}
    text = f"{len(absent)} GPUs belong to no node that is known, {absent[0]} is the first"
    return replace(
        receipt, failures=failures, notes=(*receipt.notes, Note(UNKNOWN_GPU, absent[0], text, Severity.ALERT))
    )
