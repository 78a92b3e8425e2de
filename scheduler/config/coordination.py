"""A daemon among several for which a coordinator plans."""

from __future__ import annotations

from pydantic import Field

from adapters.fields import Id
from scheduler.config.base import Model


class CoordinationConfig(Model):
    """This daemon runs its site by itself, and lets a coordinator (`gridpace coordinate`) say at which site its movable
    jobs should run."""

    name: Id = Field(description="Its name among the coordinator's sites.", examples=["texas"])
