"""Config of what the daemon itself makes out of shared parts: hardware, meters, the embedded queue, the webhook.

Signals carry their own models in `adapters`, since each is made from its config alone. The parts here are wired from
several things (pools, the store, the simulated hall), so that the scheduler describes them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, Field

from adapters.secrets import Secret
from scheduler.config.base import ConfigPath, Model, PositiveDuration

AGENT_SOCKET = "/run/gridpace-agent/agent.sock"


class SimulatedPowerConfig(Model):
    """A simulated hall with the GPUs of all pools; needs no hardware."""

    type: Literal["simulated"] = Field(description="A simulated hall.", examples=["simulated"])


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


class SimulatedMeterConfig(Model):
    """Meters of the simulated hall."""

    type: Literal["simulated"] = Field(description="Meters of the simulated hall.", examples=["simulated"])


class NvmlMeterConfig(Model):
    """Power and energy that the GPUs themselves measure."""

    type: Literal["nvml"] = Field(description="Sensors of the GPUs, through NVML.", examples=["nvml"])


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
    "power": {"simulated": SimulatedPowerConfig, "nvml": NvmlPowerConfig, "agent": AgentPowerConfig},
    "meters": {"simulated": SimulatedMeterConfig, "nvml": NvmlMeterConfig},
    "jobs": {"queue": QueueConfig},
    "dr": {"webhook": WebhookConfig},
}
"""kind -> type -> model of the parts above."""
