"""What a site says about its Slurm cluster."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from adapters.fields import AdapterConfig, Duration, Id
from adapters.secrets import Secret

Rung = Literal["licences", "defer", "hold", "suspend", "requeue", "drain"]


class RestConfig(AdapterConfig):
    """A slurmrestd, and how to log in to it."""

    url: str = Field(
        pattern=r"^(unix:///[^\s?#]+|https?://[^\s/?#@]+)$",
        description="Where it listens: `unix:///path` of its socket (then without a token, as this process' user), or "
        "`http(s)://host:port`.",
        examples=["unix:///run/slurmrestd/slurmrestd.sock"],
    )
    user: str | None = Field(default=None, description="Slurm user of the token.", examples=["gridpace"])
    token: Secret | None = Field(
        default=None,
        description="Where a JWT lies (`scontrol token`). It is read anew for each request.",
        examples=["credential:slurm-jwt"],
    )
    ca: str | None = Field(
        default=None,
        description="File with the certificate authority of an https server; absent: those that Python trusts.",
        examples=["/etc/gridpace/site-ca.pem"],
    )

    @model_validator(mode="after")
    def _login(self) -> RestConfig:
        if (self.token is None) != (self.user is None):
            raise ValueError("`user` and `token` go together")
        if not self.url.startswith("unix:") and self.token is None:
            raise ValueError("token: slurmrestd over TCP asks for one; name it, with `user`")
        return self


class SlurmConfig(AdapterConfig):
    """Jobs of a Slurm cluster, through its own commands, or slurmrestd for what that can."""

    type: Literal["slurm"] = Field(description="A Slurm cluster.", examples=["slurm"])
    partitions: dict[str, Id] = Field(
        min_length=1,
        description="Batch pool of each partition whose jobs may be paced; others are not looked at.",
        examples=[{"batch": "tune"}],
    )
    default_deadline: Duration | None = Field(
        default=None,
        description="Jobs without `gridpace …` in their comment may wait so long after they were submitted, and are "
        "never paused once they run. Absent: they are left alone.",
        examples=["24h"],
    )
    rungs: tuple[Rung, ...] = Field(
        default=("hold", "suspend", "requeue"),
        min_length=1,
        description="What may be done, from mild to hard: keep the `licences` of what is not granted, so that "
        "Slurm starts nothing on them; `defer` what waits by its start time, which Slurm shows and keeps without us; "
        "hold what waits; suspend and requeue what runs, where its owner allows that; `drain` the nodes of "
        "`partitions` in an emergency that may go below floors, so that nobody's job starts there.",
        examples=[["licences", "defer", "suspend"]],
    )
    defer_lease: Duration = Field(
        default=timedelta(minutes=10),
        description="A job that is put off (`defer`) starts no sooner than so long from now. That is renewed in time; "
        "a daemon that died keeps a job no longer, or until the start that the plan foresaw.",
        examples=["10m"],
    )
    licence: Id | None = Field(
        default=None,
        description="Licence that jobs ask for as their power (`sbatch -L power_kw:8`), for the rung `licences`.",
        examples=["power_kw"],
    )
    licence_lease: Duration = Field(
        default=timedelta(minutes=10),
        description="A reservation of licences that is not renewed for so long ends by itself.",
        examples=["10m"],
    )
    refresh: Duration = Field(
        default=timedelta(seconds=5), description="How often Slurm is asked for its jobs.", examples=["5s"]
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10), description="How long one command may take.", examples=["10s"]
    )
    conf: str | None = Field(
        default=None, description="slurm.conf; absent: where Slurm's commands look.", examples=["/etc/slurm/slurm.conf"]
    )

    rest: RestConfig | None = Field(
        default=None,
        description="slurmrestd, for reading and for `defer` and `hold`. The other rungs go by `scontrol` all the "
        "same, since no version of slurmrestd can suspend. Absent: everything by the commands.",
        examples=[{"url": "unix:///run/slurmrestd/slurmrestd.sock"}],
    )

    @model_validator(mode="after")
    def _named(self) -> SlurmConfig:
        if ("licences" in self.rungs) != (self.licence is not None):
            raise ValueError("licence: name it, with the rung `licences`, or neither")
        return self
