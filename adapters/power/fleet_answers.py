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


def silence(node: str, answer: dict[str, Any] | str, gpus: int) -> Note:
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


def receipt_of(
    asks: Mapping[str, Mapping[str, Any]],
    answers: Sequence[dict[str, Any] | str],
    has: Callable[[str, GpuId], bool] = lambda _node, _gpu: True,
) -> Receipt:
    """All nodes' answers to orders about limits as one receipt; what a node says of cards that it has not (`has`) is
    left out."""
    enforced: dict[GpuId, float] = {}
    failures: dict[GpuId, Reason] = {}
    notes: list[Note] = []
    for (node, ask), answer in zip(asks.items(), answers, strict=True):
        if isinstance(answer, str) or answer.get("ok") is not True:
            gpus = ask.get("caps_w") or ask.get("limits_w") or {}
            failures.update(dict.fromkeys(gpus, Reason.NODE_LOST))
            notes.append(silence(node, answer, len(gpus)))
            continue
        part, asked = wire.receipt_in(answer["result"]), ask.get("caps_w") or ask.get("limits_w") or {}
        enforced.update(_of_its_own(part.enforced_w, node, asked, has))
        if part.failures:
            failures.update(_of_its_own(part.failures, node, asked, has))
        notes += part.notes
    return Receipt(enforced, failures, tuple(notes))


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
