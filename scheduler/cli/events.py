"""`gridpace events`: demand-response events of a running daemon."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from scheduler.cli.options import AsJson, OptionalConfig, Url, echo_json, moment

PATH = "/api/v1/events"

app = typer.Typer(no_args_is_help=True, help="Demand-response events: look, add by hand, withdraw.")


@app.command("list")
def listing(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most events to show.")] = 200,
    before: Annotated[
        int | None, typer.Option(min=1, help="Go on after a page: the number that it ended with.")
    ] = None,
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Every event in the ledger, newest first, a page at a time.

    \b
    Examples:
      gridpace events list
      gridpace events list --limit 50 --before 1200
    """
    from scheduler.cli.client import Client
    from scheduler.cli.show import show_events

    answer = Client(url, config).get(PATH, limit=str(limit), **({"before": str(before)} if before else {}))
    if as_json:
        echo_json(answer)
    elif answer["events"]:
        show_events(answer["events"])
        if answer["next_before"]:
            typer.echo(f"There are older ones: --before {answer['next_before']}")
    else:
        typer.echo("No events.")


@app.command("show")
def show(
    event: Annotated[str, typer.Argument(help="Id of the event.")],
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """One event, however old.

    \b
    Examples:
      gridpace events show drill
    """
    from urllib.parse import quote

    from scheduler.cli.client import Client
    from scheduler.cli.show import show_events

    answer = Client(url, config).get(f"{PATH}/{quote(event, safe='')}")
    if as_json:
        echo_json(answer)
    else:
        show_events([answer])


@app.command("add")
def add(  # noqa: PLR0917 - each is an option of the command
    event: Annotated[str, typer.Argument(help="Id of the event.")],
    site: Annotated[str, typer.Option(help="Site that it is about.")],
    target: Annotated[
        str, typer.Option(help="What is asked: `-25%` or `-1100kW` from the baseline, or `4000kW` as a cap.")
    ],
    start: Annotated[str, typer.Option(help="Start, with its offset, or `now`.")] = "now",
    end: Annotated[str | None, typer.Option(help="End, with its offset.")] = None,
    duration: Annotated[str | None, typer.Option(help="Instead of the end: how long, such as `45m` or `2h`.")] = None,
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Add an event by hand; it counts like one of a utility.

    \b
    Examples:
      gridpace events add phone --site np15 --target=-15% --duration 2h
      gridpace events add drill --site np15 --target=-25% \\
        --start 2022-09-06T16:00-07:00 --end 2022-09-06T18:00-07:00
    """
    from scheduler.cli.client import Client

    body = {
        "id": event,
        "version": 1,
        "site": site,
        "start": "now" if start == "now" else moment(start, "--start").isoformat(),
        **_ending(end, duration),
        **parse_target(target),
    }
    answer = Client(url, config).post(PATH, body)
    _show(answer, as_json)


@app.command("cancel")
def cancel(
    event: Annotated[str, typer.Argument(help="Id of the event.")],
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw an event; in the middle of it the site leaves by the ramp.

    \b
    Examples:
      gridpace events cancel drill
    """
    from scheduler.cli.client import Client

    _show(Client(url, config).delete(PATH, event), as_json)


@app.command("answer")
def answer(
    event: Annotated[str, typer.Argument(help="Id of the event.")],
    opt: Annotated[str, typer.Argument(help="`in` or `out`.")],
    url: Url = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Answer a voluntary event by hand, in the plan's place.

    \b
    Examples:
      gridpace events answer spring-test out
    """
    from urllib.parse import quote

    from scheduler.cli.client import Client

    if opt not in {"in", "out"}:
        raise typer.BadParameter(f'"{opt}" is not `in` or `out`', param_hint="opt")
    _show(Client(url, config).post(f"{PATH}/{quote(event, safe='')}/answer", {"opt": opt}), as_json)


def _ending(end: str | None, duration: str | None) -> dict[str, str]:
    """`--end` or `--duration` as the field of a message. Raises BadParameter unless it is exactly one."""
    if (end is None) == (duration is None):
        raise typer.BadParameter("give --end or --duration", param_hint="--end")
    from adapters.fields import parse_duration

    if end is not None:
        return {"end": moment(end, "--end").isoformat()}
    try:
        return {"duration": f"PT{parse_duration(duration).total_seconds():.0f}S"}
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--duration") from error


def parse_target(text: str) -> dict[str, float]:
    """`-25%`, `-1100kW` or `4000kW` as the field of a message. Raises BadParameter."""
    short = text.strip().lower().replace(" ", "")
    for unit, name in (("%", "reduce_percent"), ("kw", "reduce_kw" if short.startswith("-") else "limit_kw")):
        if short.endswith(unit):
            try:
                value = float(short.removesuffix(unit))
            except ValueError:
                break
            if unit == "%" and value >= 0:
                break
            return {name: abs(value)}
    raise typer.BadParameter(f'"{text}" is not a target; write -25%, -1100kW or 4000kW', param_hint="--target")


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(answer)
        return
    target = f", target {answer['target_kw']:,.0f} kW" if answer.get("target_kw") is not None else ""
    why = f" ({answer['reason']})" if answer.get("reason") else ""
    typer.echo(f"{answer['id']}: {answer['state']}, opt {answer['opt']}{target}{why}")
