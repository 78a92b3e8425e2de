"""Power limits of GPUs or of whole servers through their management controllers (Redfish).

What is a card? With `card: gpu` each GPU that shows a power limit of its own (`EnvironmentMetrics` of a processor of
type GPU); with `card: server` the whole server (`EnvironmentMetrics` of its chassis, or the older `Power`). Which one
is the operator's to say, since a limit of a server is not a limit of its GPUs: docs/decisions/0010. A limit that is
switched off is told as a number of its own above the range, so that books can keep it, and is switched off again when
it is given back; one that was on is never. Limits of a controller survive a reboot of its server: run one writer only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration, Id
from adapters.ports import GpuId, GpuInfo, Lease, Receipt
from adapters.power.orders import CardError, OrderBook, Recent, Setting
from adapters.power.redfish_cards import Card, cards_of
from adapters.power.redfish_view import Rated
from adapters.power.servers import Servers, by_server, limits_of, nothing
from adapters.redfish import Bmc
from adapters.secrets import Secret
from adapters.workers import Turn
from optimizer.reasons import Reason

T = TypeVar("T")
_log = logging.getLogger("gridpace.redfish")
MEANING = {
    Reason.GPU_LOST: "is not there: no such resource, or not one of these controllers'",
    Reason.NODE_LOST: "is behind a controller that does not answer",
    Reason.NO_PERMISSION: "may not be limited by this login",
}
Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+$")]


class RedfishConfig(AdapterConfig):
    """GPUs or servers through the servers' management controllers."""

    type: Literal["redfish"] = Field(description="Management controllers, through Redfish.", examples=["redfish"])
    servers: dict[Id, Url] = Field(
        min_length=1,
        description="Name and address of each controller.",
        examples=[{"n01": "https://10.0.1.17", "n02": "https://10.0.1.18"}],
    )
    card: Literal["gpu", "server"] = Field(
        default="gpu",
        description="What is limited: each GPU (its processor's EnvironmentMetrics), or each server as a whole.",
        examples=["server"],
    )
    username: str = Field(
        description="User of the controllers; it needs the right to configure.", examples=["gridpace"]
    )
    password: Secret = Field(description="Where the user's password lies.", examples=["credential:bmc"])
    ca: str | None = Field(
        default=None,
        description="File with the certificate authority of the controllers; absent: those that Python's requests "
        "trusts. A controller's own certificate may stand in it.",
        examples=["bmc-ca.pem"],
    )
    chassis: str | None = Field(
        default=None,
        description="Id of the chassis that is limited with `card: server`; absent: the only one with a limit.",
        examples=["Self"],
    )
    min_w: float | None = Field(
        default=None,
        gt=0,
        description="Lowest limit that may be set, in W, where a controller doesn't tell it (the older `Power`).",
        examples=[3500],
    )
    max_w: float | None = Field(
        default=None,
        gt=0,
        description="Highest limit that may be set, in W, where a controller doesn't tell it.",
        examples=[10200],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=2), description="How long one answer of a controller may take.", examples=["2s"]
    )
    refresh: Duration = Field(
        default=timedelta(seconds=2),
        description="Controllers are read at most so often; in between the last reading is told, until an order is "
        "given.",
        examples=["2s"],
    )
    deadline: Duration = Field(
        default=timedelta(seconds=8),
        description="How long all answers of one controller together may take before the rest counts as lost.",
        examples=["8s"],
    )


class RedfishPower:
    """`PowerActuator` and `LimitReader` over many controllers, all at once; within one, card after card over one
    connection."""

    Config = RedfishConfig

    def __init__(self, config: RedfishConfig, context: AdapterContext) -> None:
        self._config = config
        ca = None if config.ca is None else str(context.path(config.ca))
        timeout_s, self._deadline_s = config.timeout.total_seconds(), config.deadline.total_seconds()

        def login() -> tuple[str, str]:
            return config.username, config.password.reveal(context.base_dir)

        self._bmcs = {name: Bmc(name, url, login, ca, timeout_s) for name, url in config.servers.items()}
        self._controllers = Servers("Redfish", config.servers, context.clock)
        self._cards: dict[str, dict[GpuId, Card]] = {}
        self._book, self._recent = OrderBook(MEANING), Recent(context.clock, config.refresh)

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every card that answers now, or did within `refresh`. Raises AdapterError, with what each controller said,
        when none does."""
        if (recent := self._recent.get()) is not None:
            return recent
        begun = self._recent.begin()
        found: dict[GpuId, GpuInfo | CardError] = {}

        def look(name: str, _turn: Turn) -> None:
            for gpu, card in self._known(name).items():
                found[gpu] = self._tried(name, lambda card=card, gpu=gpu: card.info(gpu))  # type: ignore[misc]

        _, troubled = self._controllers.ask(self._bmcs, look, self._deadline_s)
        seen = dict(sorted(found.items()))
        infos = {gpu: info for gpu, info in seen.items() if isinstance(info, GpuInfo)}
        if not infos:
            raise nothing("Redfish", troubled.values(), seen.values())
        self._recent.put(infos, begun)
        return infos

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Limit in W of each of these cards that answers, or did within `refresh`: a controller tells it together with
        the card's power, so that the meter's reading serves. AdapterError when none does."""
        return limits_of(gpus, self.discover(), "Redfish") if gpus else {}

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits, each clamped to its card's range, and read them back. The lease is the agent's to keep."""
        return self._order(caps_w, ours=True)

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back as they were found, off or on; one that was on, inside the controller's own range of
        now, and a log line where that is another one than was found."""
        receipt = self._order(limits_w, ours=False)
        for note in receipt.notes:
            if note.code is Reason.CAP_CLAMPED:  # nobody orders it anew: told now or never
                _log.warning("%s is not given back the limit that was found: %s", note.subject, note.text)
        return receipt

    def close(self) -> None:
        """End the sessions; the limits stay as they are."""
        self._controllers.stop(lambda name, _: self._bmcs[name].close(), self._config.timeout.total_seconds())

    def _order(self, limits_w: Mapping[GpuId, float], ours: bool) -> Receipt:
        started = perf_counter()
        mine = by_server(limits_w, self._bmcs)
        done: dict[GpuId, Setting | CardError] = {}

        def bring(name: str, turn: Turn) -> None:
            for gpu, card in self._known(name).items():
                if gpu in limits_w:
                    order = partial(card.bring, limits_w[gpu], ours, turn)
                    done[gpu] = self._tried(name, order)

        _, troubled = self._controllers.ask(dict.fromkeys(mine.values()), bring, self._deadline_s)
        self._recent.forget()
        outcomes: dict[GpuId, Setting | Exception] = {
            gpu: troubled[name] for gpu, name in mine.items() if name in troubled
        }
        return self._book.receipt(limits_w, outcomes | dict(done), ours, started)

    def _known(self, name: str) -> dict[GpuId, Card]:
        """The controller's cards; looked for again after one of them was gone."""
        if name not in self._cards:
            config = self._config
            rated = Rated(config.min_w, config.max_w)
            self._cards[name] = cards_of(self._bmcs[name], config.card, rated, config.chassis)
        return self._cards[name]

    def _tried(self, name: str, ask: Callable[[], T]) -> T | CardError:
        """One card's answer, or what went wrong with it alone; a controller that is away is raised."""
        try:
            return ask()
        except CardError as error:
            if error.reason is Reason.NODE_LOST:
                raise
            if error.reason is Reason.GPU_LOST:
                self._cards.pop(name, None)
            return error
