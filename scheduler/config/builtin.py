"""Config of what the daemon itself makes out of shared parts: hardware, meters, the embedded queue, the webhook.

Signals carry their own models in `adapters`, since each is made from its config alone. The parts here are wired from
several things (pools, the store, the simulated hall), so that the scheduler describes them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from adapters.secrets import Secret
from scheduler.config.base import ConfigPath, Duration, Model, NotNegative, PositiveDuration, Share

AGENT_SOCKET = "/run/gridpace-agent/agent.sock"


class SimulatedPowerConfig(Model):
    """A simulated hall with the GPUs of all pools; needs no hardware. Without more it follows its curves exactly."""

    type: Literal["simulated"] = Field(description="A simulated hall.", examples=["simulated"])
    true_curves: dict[str, str] = Field(
        default={},
        description="What the GPUs of a pool really do where that is to differ from the pool's own curve: id of the "
        "pool, and name of a curve.",
        examples=[{"chat": "our-llm"}],
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Relative noise of a pool's power reading (standard deviation).",
        examples=[0.03],
    )
    outliers: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Share of a pool's power readings that are nonsense, anything between nothing and double.",
        examples=[0.05],
    )
    load_noise: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="By how much loads dip within seconds, as a share (standard deviation).",
        examples=[0.02],
    )
    settle_down: PositiveDuration = Field(
        default=timedelta(seconds=0.05), description="Time until 95 % of a step down is done.", examples=["1s"]
    )
    settle_up: PositiveDuration = Field(
        default=timedelta(seconds=0.4), description="Time until 95 % of a step up is done.", examples=["2s"]
    )
    load_bursts: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="How far the loads of interactive pools drop between bursts of users, as a share.",
        examples=[0.3],
    )
    cooling_settle: Duration = Field(
        default=timedelta(0),
        description="Time until cooling has followed 95 % of a step in the heat of IT (0: PUE holds at any moment).",
        examples=["5m"],
    )
    sensor_mean: Duration = Field(
        default=timedelta(0),
        description="Cards tell their mean power of so much time (0: the power of the moment). NVIDIA's tell that of "
        "the last second from Ampere on, the A100 excepted.",
        examples=["1s"],
    )
    telemetry_loss: Share = Field(
        default=0.0, description="Chance that a reading of a pool, or of a site's meter, is lost.", examples=[0.01]
    )
    gpu_losses_per_h: NotNegative = Field(
        default=0.0, description="Rate at which a GPU falls off the bus, per hour.", examples=[0.0001]
    )
    cap_resets_per_h: NotNegative = Field(
        default=0.0,
        description="Rate at which a GPU's limit goes back to its default by itself, per hour.",
        examples=[0.001],
    )
    cap_refusals: Share = Field(default=0.0, description="Chance that a GPU refuses an order.", examples=[0.001])
    seed: int = Field(default=0, ge=0, description="Seed of all that is random in it.", examples=[0])


class NvmlPowerConfig(Model):
    """The NVIDIA GPUs of this machine, set by the daemon itself (needs root)."""

    type: Literal["nvml"] = Field(description="GPUs of this machine, through NVML.", examples=["nvml"])
    call_timeout: PositiveDuration = Field(
        default=timedelta(seconds=3),
        description="How long one call of the driver may take before its GPU counts as lost.",
        examples=["3s"],
    )


class AgentPowerConfig(Model):
    """The GPUs of this machine, set by `gridpace agent`, so that the daemon needs no rights over hardware."""

    type: Literal["agent"] = Field(description="GPUs of this machine, through the agent.", examples=["agent"])
    socket: ConfigPath = Field(
        default=AGENT_SOCKET, validate_default=True, description="Socket of the agent.", examples=[AGENT_SOCKET]
    )
    lease: PositiveDuration = Field(
        default=timedelta(seconds=30),
        description="How long a limit holds when the daemon falls silent; then the agent follows the published plan "
        "and releases.",
        examples=["30s"],
    )


class FleetPowerConfig(Model):
    """The GPUs of all nodes on which `gridpace agent --fleet` runs, over NATS."""

    type: Literal["fleet"] = Field(description="GPUs of many nodes, over NATS.", examples=["fleet"])
    servers: tuple[Annotated[str, Field(pattern=r"^(nats|tls)://[^\s/]+$")], ...] = Field(
        min_length=1,
        description="Addresses of the NATS servers; of a cluster, all of them.",
        examples=[["tls://nats-1.example.net:4222", "tls://nats-2.example.net:4222"]],
    )
    seed: ConfigPath | None = Field(
        default=None,
        description="File with the daemon's secret nkey, made by `gridpace fleet init` (none: a server without users).",
        examples=["/etc/gridpace/fleet/daemon.seed"],
    )
    ca: ConfigPath | None = Field(
        default=None,
        description="Certificate authority of the servers; the connection is then encrypted and the server verified.",
        examples=["/etc/gridpace/fleet/ca.pem"],
    )
    nodes: tuple[str, ...] = Field(
        default=(),
        description="Nodes that must be there; one that is silent is an alert. Empty: whoever answers at the start.",
        examples=[["rack1-n01", "rack1-n02"]],
    )
    replicas: int = Field(
        default=1,
        ge=1,
        le=5,
        description="Servers that keep a copy of the nodes' trajectories, and of the lease and the books of daemons "
        "that stand by; 3 in a cluster of three. Streams that are there already get it from the daemon that leads.",
        examples=[3],
    )
    deadline: PositiveDuration = Field(
        default=timedelta(seconds=3),
        description="How long a node may take at most to obey an order before its GPUs count as lost; one that is "
        "silent while the others answer counts as lost sooner, until it speaks.",
        examples=["3s"],
    )
    lease: PositiveDuration = Field(
        default=timedelta(seconds=30),
        description="How long a limit holds when the daemon falls silent; then the agent follows the published plan "
        "and releases.",
        examples=["30s"],
    )


class SimulatedMeterConfig(Model):
    """Meters of the simulated hall."""

    type: Literal["simulated"] = Field(description="Meters of the simulated hall.", examples=["simulated"])


class NvmlMeterConfig(Model):
    """Power and energy that the GPUs themselves measure."""

    type: Literal["nvml"] = Field(description="Sensors of the GPUs, through NVML.", examples=["nvml"])


class GpusMeterConfig(Model):
    """Power that the cards themselves measure, as `power` reads it, whatever its type."""

    type: Literal["gpus"] = Field(description="Sensors of the cards, through `power`.", examples=["gpus"])


class SimulatedDeviceConfig(Model):
    """A simulated battery or engine, beside a simulated hall."""

    type: Literal["simulated"] = Field(description="A simulated device.", examples=["simulated"])
    stored_share: float = Field(
        default=0.5, ge=0, le=1, description="How full a battery is at the start, 0 to 1.", examples=[0.5]
    )


class SimulatedParkingConfig(Model):
    """Parked GPUs of a simulated hall."""

    type: Literal["simulated"] = Field(description="GPUs of a simulated hall.", examples=["simulated"])


class QueueConfig(Model):
    """The embedded queue, kept in the books."""

    type: Literal["queue"] = Field(description="The embedded queue.", examples=["queue"])


class WebhookConfig(Model):
    """Signed messages: HMAC-SHA256 over timestamp, nonce and body."""

    type: Literal["webhook"] = Field(description="Signed HTTP messages.", examples=["webhook"])
    secret: Secret = Field(description="Where the shared key lies.", examples=["credential:elrp"])
    replay_window: PositiveDuration = Field(
        default=timedelta(minutes=5),
        description="How far a message's time stamp may differ from the clock.",
        examples=["5m"],
    )


BUILTIN: dict[str, dict[str, type[BaseModel]]] = {
    "signals": {},
    "power": {
        "simulated": SimulatedPowerConfig,
        "nvml": NvmlPowerConfig,
        "agent": AgentPowerConfig,
        "fleet": FleetPowerConfig,
    },
    "meters": {"simulated": SimulatedMeterConfig, "nvml": NvmlMeterConfig, "gpus": GpusMeterConfig},
    "jobs": {"queue": QueueConfig},
    "dr": {"webhook": WebhookConfig},
    "devices": {"simulated": SimulatedDeviceConfig},
    "parking": {"simulated": SimulatedParkingConfig},
    "latency": {},
}
"""kind -> type -> model of the parts above."""
