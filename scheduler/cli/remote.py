"""Commands that ask a running daemon, or give it an operator's order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.options import AsJson, GatewayFile, OptionalConfig, Url, default_config, echo_json, moment

OPERATOR = "/api/v1/operator"


def add(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (status, explain, pause, resume, release, limit):
        app.command()(command)


def status(url: Url = None, config: OptionalConfig = None, as_json: AsJson = False) -> None:
    """Show what it does, and why.

    \b
    Examples:
      gridpace status
      gridpace status --json | jq .cycle.sentence
    """
    from scheduler.cli.client import Client
    from scheduler.cli.show import show_status, standby_line

    answer = Client(url, config).get("/api/v1/status")
    standby = answer.get("standby")
    if as_json:
        echo_json(answer)
        return
    if standby:
        typer.echo(standby_line(standby))
    if not standby or standby["role"] == "leader":
        show_status(answer)


def explain(
    target: Annotated[str, typer.Argument(help="Id of a pool, a job, an event or a site.")],
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Say why, in a sentence.

    \b
    Examples:
      gridpace explain chat
      gridpace explain tune-legal
    """
    from urllib.parse import quote

    from scheduler.cli.client import Client

    answer = Client(url, config).get(f"/api/v1/explain/{quote(target, safe='')}")
    echo_json(answer) if as_json else typer.echo(answer["text"])


def pause(url: Url = None, config: OptionalConfig = None, as_json: AsJson = False) -> None:
    """Give limits back and write nothing.

    Holds until `gridpace resume`, over restarts as well.

    \b
    Examples:
      gridpace pause
    """
    _order(
        {"action": "pause"},
        "Paused: limits are given back, nothing is written until `gridpace resume`.",
        url,
        config,
        as_json,
    )


def resume(url: Url = None, config: OptionalConfig = None, as_json: AsJson = False) -> None:
    """Go on after `pause` or `release`; take back GPUs that were left to another writer of limits.

    \b
    Examples:
      gridpace resume
    """
    _order({"action": "resume"}, "Resumed.", url, config, as_json)


def release(
    url: Url = None, config: OptionalConfig = None, gateway: GatewayFile = None, as_json: AsJson = False
) -> None:
    """Give back everything that is held and only observe.

    Limits, clocks, parked GPUs, and jobs that wait or are suspended. Without a daemon (dead, or about to be removed) it
    does so itself, from the books of the config; so it does after a stop in the middle of an event, of which agents
    else deliver the rest and then give back what they hold. Of a gateway that is to be removed, once it is stopped: its
    batches are cancelled, its sales withdrawn, and their jobs with them; what was answered stays in its folder.

    Exit code 0: nothing is held any more; 1: something could not be given back; 3: it runs and doesn't answer (a
    gateway: it runs).

    \b
    Examples:
      gridpace release
      gridpace release --config /etc/gridpace/gridpace.yaml
      gridpace release --gateway /etc/gridpace/gateway.yaml
    """
    if gateway is not None:
        return _release_gateway(gateway, as_json)
    from scheduler.cli.client import Unreachable

    try:
        text = "Released: limits and jobs are given back; it observes until `gridpace resume`."
        _order({"action": "release"}, text, url, config, as_json)
    except Unreachable:
        path = config or default_config()
        if url is not None or path is None:
            raise
        _release_without_daemon(path, as_json)
    return None


def _release_gateway(file: Path, as_json: bool) -> None:
    from scheduler.gateway.config import load_gateway
    from scheduler.gateway.leaving import release_gateway
    from scheduler.logs import configure_logs

    config = load_gateway(file)
    configure_logs(config.log_format)
    left = release_gateway(config)
    if as_json:
        echo_json({"released": not left, "left": [f"{one.kind} {one.subject}: {one.text}" for one in left]})
    else:
        for one in left:
            typer.echo(f"{one.kind} {one.subject}: {one.text}", err=True)
        typer.echo("The gateway holds nothing any more." if not left else "Not everything is let go; try it again.")
    raise typer.Exit(1 if left else 0)


def _release_without_daemon(path: Path, as_json: bool) -> None:
    from scheduler.config import load_config
    from scheduler.letting_go import release_alone

    loaded = load_config(path, need_secrets=True)
    left = release_alone(loaded)
    if as_json:
        echo_json({"released": not left, "left": [note.text for note in left]})
    else:
        for note in left:
            typer.echo(note.text, err=True)
        typer.echo("No daemon runs. " + ("Not everything is given back." if left else "Everything is given back."))
    raise typer.Exit(1 if left else 0)


def limit(
    site: Annotated[str, typer.Argument(help="Site to limit.")],
    kw: Annotated[
        float | None, typer.Argument(min=0, help="Most import, in kW; leave it out to lift the limit.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Time at which it ends by itself, with its offset.")] = None,
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Limit a site by hand, above plan and market.

    \b
    Examples:
      gridpace limit np15 4000 --until 2022-09-06T21:00-07:00
      gridpace limit np15  (lifts it)
    """
    body: dict[str, Any] = {"action": "limit", "site": site}
    if kw is not None:
        body["limit_kw"] = kw
    if until is not None:
        body["until"] = moment(until, "--until").isoformat()
    text = f"{site}: at most {kw:g} kW." if kw is not None else f"{site}: the operator's limit is lifted."
    _order(body, text, url, config, as_json)


def _order(body: dict[str, Any], text: str, url: Url, config: OptionalConfig, as_json: bool) -> None:
    from scheduler.cli.client import Client

    answer = Client(url, config).post(OPERATOR, body)
    echo_json(answer) if as_json else typer.echo(text)
