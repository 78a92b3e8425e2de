"""Several daemons that stand by for each other."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from adapters.fields import Id
from scheduler.config.base import Model, PositiveDuration


class StandbyConfig(Model):
    """Two or more daemons with this config, each on a machine of its own: one leads, the others follow its books and
    take over when it falls silent. Needs `power` of type fleet."""

    name: Id | None = Field(
        default=None, description="This daemon's name among them; absent: its machine's name.", examples=["alpha"]
    )
    url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        description="Where clients reach this daemon, as the others tell them; absent: its machine's name and "
        "`api.port`.",
        examples=["http://alpha.example.net:8642"],
    )
    lease: PositiveDuration = Field(
        default=timedelta(seconds=6),
        ge=timedelta(seconds=1),
        le=timedelta(minutes=5),
        description="A leader that could not renew its lease for so long stops commanding; another one takes over a "
        "tenth later. Below 2s the lead may end for a moment, and is taken anew, when streams get more copies "
        "(`replicas`).",
        examples=["6s"],
    )
