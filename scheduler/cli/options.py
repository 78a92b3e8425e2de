"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_CONFIG = Path("/etc/gridpace/gridpace.yaml")

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="GRIDPACE_CONFIG", help="The config file.", show_default=True)
]
OptionalConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="GRIDPACE_CONFIG", help="Config of the running daemon; says its address and a token."
    ),
]
Url = Annotated[
    str | None,
    typer.Option(envvar="GRIDPACE_URL", help="Address of the daemon; the token comes from GRIDPACE_TOKEN."),
]
GatewayFile = Annotated[
    Path | None, typer.Option("--gateway", help="Of a batch gateway instead: its own file.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def echo_json(value: Any) -> None:
    """Print a value of ours as JSON."""
    from scheduler.api.encode import plain

    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def moment(text: str, name: str, zone: Any = UTC) -> datetime:
    """A date or a time; without an offset it is local to `zone`. Raises BadParameter."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f'"{text}" is not a date or a time, such as 2022-09-06 or 2022-09-06T14:00-07:00', param_hint=name
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)


def duration(text: str | None, name: str) -> timedelta | None:
    """A length of time with its unit, or None where none was given. Raises BadParameter."""
    from adapters.fields import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def default_config() -> Path | None:
    """The config of a packaged daemon, where there is one that may be read."""
    return DEFAULT_CONFIG if os.access(DEFAULT_CONFIG, os.R_OK) else None
