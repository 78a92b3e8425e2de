"""GPU power through the node agent: the daemon needs no privilege, and its death leaves the agent in charge.

The agent owns the driver, keeps the limits found before the first write, and enforces the lease on its own clock.
Every accepted order renews the lease of *all* caps that it holds, so `apply({}, lease)` is a pure renewal. `hold`
hands over the trajectory that the agent follows when the renewals stop; `release` ends lease and trajectory.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from adapters.ports import AdapterError, ClockReceipt, Contested, GpuId, GpuInfo, Lease, Receipt
from adapters.power import wire
from adapters.power.receipts import kept_notes

BUSY_S = 0.01
"""Pause before the next call where the agent's queue is full."""


class AgentPower:
    """`PowerActuator` over the agent's socket. No call takes longer than about `deadline_s`; what the agent refuses
    (an older epoch, a foreign user) or doesn't answer is an AdapterError that names the socket."""

    def __init__(self, socket_path: Path, deadline_s: float = 10.0) -> None:
        self.socket_path = socket_path
        self.deadline_s = deadline_s
        self._channel: socket.socket | None = None
        self._lock = threading.Lock()
        self._epoch: int | None = None

    def speak_for(self, epoch: int) -> None:
        """Name this epoch in all that carries no lease; each order's own from then on."""
        self._epoch = epoch

    def discover(self) -> Mapping[GpuId, GpuInfo]:
        """Every GPU of the agent's node that answers."""
        return wire.infos_in(self._ask({"op": "discover"}))

    def apply(self, caps_w: Mapping[GpuId, int], lease: Lease) -> Receipt:
        """Set these limits and renew the lease of all caps held."""
        self._epoch = lease.epoch
        return wire.receipt_in(self._ask({"op": "apply", "caps_w": dict(caps_w), "lease": asdict(lease)}))

    def release(self, limits_w: Mapping[GpuId, float]) -> Receipt:
        """Give back the limits that the agent found; for a GPU that it never capped, the limit named here."""
        return wire.receipt_in(self._ask({"op": "release", "limits_w": dict(limits_w), "epoch": self._epoch}))

    def hold(self, steps: Sequence[tuple[float, Mapping[GpuId, int]]], until_s: float, lease: Lease) -> None:
        """What to follow from the lease's end until `until_s` seconds from now: the caps of each offset (seconds from
        now) on. Then the agent ramps back to the limits it found. A new trajectory replaces the last."""
        plan = [[offset, dict(caps)] for offset, caps in steps]
        self._ask({"op": "hold", "steps": plan, "until_s": until_s, "lease": asdict(lease)})

    def status(self) -> dict[str, Any]:
        """The agent's own account: phase, GPUs capped, limits found, epoch, seconds of lease left."""
        return dict(self._ask({"op": "status"}))

    def lock(self, clocks_mhz: Mapping[GpuId, int], lease: Lease) -> ClockReceipt:
        """Hold these SM clocks down, under the lease of all."""
        self._epoch = lease.epoch
        ask = {"op": "lock", "clocks_mhz": dict(clocks_mhz), "lease": asdict(lease)}
        return wire.clock_receipt_in(self._ask(ask))

    def unlock(self, gpus: Collection[GpuId]) -> ClockReceipt:
        """Let these SM clocks go free."""
        return wire.clock_receipt_in(self._ask({"op": "unlock", "gpus": list(gpus), "epoch": self._epoch}))

    def contested(self) -> Contested:
        """What became of the caps, as the agent tells it: it looks at them every tick of its own."""
        told = self.status()
        lowered = frozenset(str(gpu) for gpu in told.get("lowered", ()))
        clocks = wire.watts(told.get("yielded_mhz", {}), "yielded_mhz")
        yielded = wire.watts(told["yielded_w"], "yielded_w")
        ignoring = frozenset(str(gpu) for gpu in told.get("ignoring", ()))
        kept = kept_notes(wire.watts(told.get("kept_w", {}), "kept_w"))
        return Contested(yielded, int(told["reasserted"]), lowered, clocks, kept, ignoring)

    def take_back(self) -> None:
        """Let the agent cap the GPUs again that it left to another writer."""
        self._ask({"op": "take_back", "epoch": self._epoch})

    def close(self) -> None:
        """Hang up; the agent keeps to the lease."""
        with self._lock:
            self._hang_up()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        """One request, one answer; a connection that has died is opened anew once, as after a restart of the agent."""
        line = wire.encode(request)
        with self._lock:
            fresh = self._channel is None
            try:
                answer = self._exchange(line)
            except (ConnectionError, EOFError) as error:
                self._hang_up()
                if fresh:
                    raise self._unreachable(error) from error
                answer = self._retry(line)
            except OSError as error:
                self._hang_up()
                raise self._unreachable(error) from error
        if answer.get("ok") is not True:
            raise AdapterError(f"agent at {self.socket_path}: {answer.get('error', 'refused without a reason')}")
        return answer.get("result")

    def _retry(self, line: bytes) -> dict[str, Any]:
        try:
            return self._exchange(line)
        except (OSError, EOFError) as error:
            self._hang_up()
            raise self._unreachable(error) from error

    def _exchange(self, line: bytes) -> dict[str, Any]:
        if self._channel is None:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._channel = channel
            channel.settimeout(self.deadline_s)
            self._call(channel)
        self._channel.sendall(line)
        received = bytearray()
        while not received.endswith(b"\n"):
            part = self._channel.recv(65536)
            if not part or len(received) > wire.MAX_LINE:
                raise EOFError("the agent hung up in the middle of an answer")
            received += part
        try:
            return wire.decode(bytes(received))
        except wire.BadRequest as error:
            raise EOFError(f"not an answer of an agent: {error}") from error

    def _call(self, channel: socket.socket) -> None:
        """Connect, also where so many call at this moment that the kernel lets nobody queue up any more."""
        ends = monotonic() + self.deadline_s
        while True:
            try:
                return channel.connect(str(self.socket_path))
            except BlockingIOError:
                if monotonic() >= ends:
                    raise
                sleep(BUSY_S)

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            with suppress(OSError):
                channel.close()

    def _unreachable(self, error: Exception) -> AdapterError:
        hint = "is gridpace-agent running, and may this user open its socket?"
        return AdapterError(f"agent at {self.socket_path}: {str(error) or type(error).__name__} ({hint})")
