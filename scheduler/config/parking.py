"""Parking: idle GPUs of a batch pool in a deeper sleep."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from scheduler.config.base import Count, Duration, Model, NotNegative
from scheduler.config.entries import ParkingEntry


class ParkingConfig(Model):
    """How idle GPUs of a batch pool are parked. They must stay visible to the driver: a card that leaves the bus counts
    as lost."""

    parked_w: NotNegative = Field(description="Draw of a parked GPU, in W.", examples=[20])
    wake: Duration = Field(
        default=timedelta(minutes=5),
        description="Time from the order to wake until a GPU can work (a model is loaded, a worker has registered).",
        examples=["5m"],
    )
    wake_cost: NotNegative = Field(
        default=0.0, description="Money for waking one GPU (wear, a cold cache). Also keeps it from flapping.",
        examples=[0.02],
    )  # fmt: skip
    step: Count = Field(
        default=1, description="GPUs that can only be parked together, such as those of a node.", examples=[8]
    )
    hook: ParkingEntry = Field(
        description="What parks and wakes them.",
        examples=[{"type": "command", "command": ["/etc/gridpace/park", "batch", "{gpus}"]}],
    )
