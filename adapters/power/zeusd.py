"""GPU power through zeusd, the privileged daemon of the Zeus project, on sites that run it already.

Why: it holds the privilege, so that neither our daemon nor our agent needs it. It has no lease and restores nothing, so
run `gridpace agent --power` over it. Cards are named by their place on the bus: zeusd's own indices may change with a
reboot, and are looked up anew for every order.

The API is that of https://ml.energy/zeus/zeusd/api/, over its Unix socket or TCP; limits are in milliwatts. Versions
that don't tell limits and addresses yet are refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from time import perf_counter
from typing import Annotated, Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig, Duration, Id
from adapters.ports import GpuId, GpuInfo, Lease, Receipt
from adapters.power.orders import CardError, OrderBook, Recent, Setting, inside
from adapters.power.servers import Servers, by_server, limits_of, nothing
from adapters.power.zeusd_api import Zeusd
from adapters.secrets import Secret
from adapters.workers import Crew, Turn
from optimizer.reasons import Note, Reason

MW = 1000.0
Address = Annotated[str, Field(pattern=r"^(unix:///[^\s?#]+|https?://[^\s/?#@]+)$")]
MEANING = {
    Reason.GPU_LOST: "is not among zeusd's GPUs, or has fallen off the bus",
    Reason.NODE_LOST: "is behind a zeusd that does not answer",
    Reason.NO_PERMISSION: "may not be limited: zeusd, its API groups or the token don't allow it",
}


class ZeusdConfig(AdapterConfig):
    """GPUs of one or several machines on which zeusd runs."""

    type: Literal["zeusd"] = Field(description="GPUs of machines that run zeusd.", examples=["zeusd"])
    servers: dict[Id, Address] = Field(
        default={"local": "unix:///run/zeusd/zeusd.sock"},
        min_length=1,
        description="Name and address of each zeusd: unix:///path of its socket, or http://host:port.",
        examples=[{"local": "unix:///run/zeusd/zeusd.sock"}],
    )
    token: Secret | None = Field(
        default=None,
        description="Where a token with the scopes gpu-control and gpu-read lies, if zeusd asks for one.",
        examples=["credential:zeusd"],
    )
    persistence: bool = Field(
        default=False,
        description="Turn persistence mode on, where it is off, before a limit is set; it then stays on.",
        examples=[True],
    )
    refresh: Duration = Field(
        default=timedelta(milliseconds=500),
        description="Cards are read at most so often; in between the last reading is told, until an order is given.",
        examples=["0.5s"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=3),
        description="How long one card may take to obey an order before it counts as lost.",
        examples=["3s"],
    )


class ZeusdPower:
    """`PowerActuator` and `LimitReader` over zeusd, in parallel over the cards of all machines."""

    Config = ZeusdConfig

    def __init__(self, config: ZeusdConfig, context: AdapterContext) -> None:
        self._config = config
        self._seconds = config.timeout.total_seconds()

        def token() -> str | None:
            return None if config.token is None else config.token.reveal(context.base_dir)

        self._servers = {name: Zeusd(name, url, token, self._seconds) for name, url in config.servers.items()}
        self._doors = Servers("zeusd", config.servers, context.clock)
        self._crew: Crew[GpuId] = Crew("zeusd")
        self._book, self._recent = OrderBook(MEANING), Recent(context.clock, config.refresh)

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every card that answers now, or did within `refresh`. AdapterError, with what each zeusd said, when none
        does."""
        if (recent := self._recent.get()) is not None:
            return recent
        begun = self._recent.begin()
        places, troubled = self._places(self._servers)

        def look(gpu: GpuId, _turn: Turn) -> GpuInfo:
            server, index, model = places[gpu]
            return _info(server, gpu, index, model)

        answers = self._crew.each(places, look, self._seconds / 2)
        infos = {gpu: answer for gpu, answer in answers.items() if isinstance(answer, GpuInfo)}
        if not infos:
            raise nothing("zeusd", troubled.values(), answers.values())
        self._recent.put(infos, begun)
        return infos

    def enforced(self, gpus: Collection[GpuId]) -> Mapping[GpuId, float]:
        """Limit in W of each of these cards that answers, as read within `refresh`, else now: one request a card, and
        one a server for where it is. AdapterError when none does."""
        if (recent := self._recent.get()) is not None:
            return limits_of(gpus, recent, "zeusd")
        mine = by_server(gpus, self._servers)
        places, troubled = self._places(dict.fromkeys(mine.values()))

        def look(gpu: GpuId, _turn: Turn) -> float:
            server, index, _ = places[gpu]
            return server.limit_mw(index) / MW

        answers = self._crew.each([gpu for gpu in mine if gpu in places], look, self._seconds / 2)
        limits = {gpu: answer for gpu, answer in answers.items() if isinstance(answer, float)}
        if gpus and not limits:
            raise nothing("zeusd", troubled.values(), answers.values())
        return limits

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits on all cards at once, each clamped to its range, and read them back. The lease is the
        agent's to keep."""
        return self._order(caps_w, ours=True)

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give these limits back, to the milliwatt, and read them back."""
        return self._order(limits_w, ours=False)

    def close(self) -> None:
        """End the connections; the limits stay as they are."""
        self._crew.stop()
        self._doors.stop()
        for server in self._servers.values():
            server.close()

    def _order(self, limits_w: Mapping[GpuId, float], ours: bool) -> Receipt:
        started = perf_counter()
        mine = by_server(limits_w, self._servers)
        places, troubled = self._places(dict.fromkeys(mine.values()))
        notes: dict[GpuId, Note] = {}

        def bring(gpu: GpuId, turn: Turn) -> Setting:
            server, index, _ = places[gpu]
            if ours and self._config.persistence and _persist(server, index, turn):
                notes[gpu] = Note(Reason.PERSISTENCE_OFF, gpu, "persistence mode was off; turned on")
            return _set(server, index, limits_w[gpu], ours, turn)

        done = self._crew.each([gpu for gpu in mine if gpu in places], bring, self._seconds / 2)
        self._recent.forget()
        silent: dict[GpuId, Setting | Exception] = {g: troubled[name] for g, name in mine.items() if name in troubled}
        receipt = self._book.receipt(limits_w, silent | dict(done), ours, started)
        told = receipt.notes + tuple(dict(notes).values())
        return Receipt(receipt.enforced_w, receipt.failures, told, receipt.seconds)

    def _places(self, names: Iterable[str]) -> tuple[dict[GpuId, tuple[Zeusd, int, str]], dict[str, CardError]]:
        """Where each card is now (server, index, model), and what is wrong with each server that doesn't tell."""
        answers, troubled = self._doors.ask(names, lambda name, _: self._servers[name].gpus(), self._seconds / 2)
        found = {
            f"{name}/{address}": (self._servers[name], index, model)
            for name, gpus in answers.items()
            for index, address, model in gpus
        }
        return found, troubled


def _info(server: Zeusd, gpu: GpuId, index: int, model: str) -> GpuInfo:
    low, high = server.range_mw(index)
    limit_w = server.limit_mw(index) / MW
    return GpuInfo(
        id=gpu,
        model=model,
        min_w=low / MW,
        max_w=high / MW,
        default_w=high / MW,
        limit_w=limit_w,
        enforced_w=limit_w,
        draw_w=server.power_mw(index) / MW,
        persistence=server.persistence(index),
    )


def _set(server: Zeusd, index: int, ordered_w: float, ours: bool, turn: Turn) -> Setting:
    """Bring one card to a limit and read it back; writes only where another limit holds. What is given back and holds
    anyway is left alone, whatever the range has become."""
    low, high = server.range_mw(index)
    found = server.limit_mw(index)
    allowed = round(ordered_w * MW)
    if ours or found != allowed:
        allowed = round(inside(allowed, low, high))
    enforced = found
    if found != allowed:
        turn.check()
        server.set_limit(index, allowed)
        enforced = server.limit_mw(index)
    return Setting(ordered_w, _watts(allowed, ordered_w), found / MW, enforced / MW)


def _watts(milliwatts: int, ordered_w: float) -> float:
    """The order itself where it was not clamped, however it is rounded."""
    return ordered_w if milliwatts == round(ordered_w * MW) else milliwatts / MW


def _persist(server: Zeusd, index: int, turn: Turn) -> bool:
    """True when persistence mode was off and is on now."""
    if server.persistence(index):
        return False
    turn.check()
    server.set_persistence(index)
    if not server.persistence(index):
        raise CardError(f"{server.place}: GPU {index} does not keep persistence mode on", Reason.CAP_REFUSED)
    return True
