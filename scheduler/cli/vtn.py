"""`gridpace vtn`: a utility's OpenADR 3 server on one's own machine, to rehearse before the utility calls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.options import AsJson, duration, echo_json, moment

app = typer.Typer(rich_markup_mode=None, help="A test server (OpenADR 3.1) of your own, and the utility's hand at it.")

PORT = 8643
REHEARSAL = "rehearsal"
"""Secret of both clients on the loopback address; elsewhere the environment must name others."""
VEN, UTILITY = "gridpace", "utility"
VEN_SECRET, UTILITY_SECRET = "GRIDPACE_VTN_SECRET", "GRIDPACE_VTN_UTILITY_SECRET"

Server = Annotated[
    str, typer.Option("--vtn", envvar="GRIDPACE_VTN_URL", help="Base address of the server.", show_default=True)
]
DEFAULT_URL = f"http://127.0.0.1:{PORT}/openadr3/3.1.0"


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = PORT,
    program: Annotated[list[str] | None, typer.Option("--program", help="Name of a program (repeatable).")] = None,
    wart: Annotated[
        list[str] | None, typer.Option("--wart", help="A way to misbehave (repeatable; `--wart list` tells them).")
    ] = None,
    cert: Annotated[Path | None, typer.Option(help="Certificate file: serve over TLS, with --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key file of the certificate.")] = None,
    mqtt: Annotated[str, typer.Option(help="An MQTT broker to tell changes on, such as mqtt://127.0.0.1:1883.")] = "",
) -> None:
    """Run the server until it is stopped; events are lost then.

    \b
    Examples:
      gridpace vtn
      gridpace vtn --wart forbidden --wart short_pages
      gridpace vtn send --level 2 --duration 30m
      gridpace vtn reports
    """
    if context.invoked_subcommand is not None:
        return
    if wart == ["list"]:
        _tell_warts()
        return
    if (cert is None) != (key is None):
        raise typer.BadParameter("--cert and --key go together", param_hint="--cert")
    certificate = (cert, key) if cert is not None and key is not None else None
    _run(host, port, program or ["dr"], wart or [], certificate, mqtt)


@app.command("send")
def send(
    *,
    level: Annotated[int | None, typer.Option(help="A level of a SIMPLE event: 0 to 3.")] = None,
    limit: Annotated[str | None, typer.Option(help="A limit on the import, such as 4000kW.")] = None,
    alert: Annotated[str | None, typer.Option(help="An alert, such as GRID_EMERGENCY.")] = None,
    price: Annotated[float | None, typer.Option(help="A price per kWh (with --currency).")] = None,
    currency: Annotated[str, typer.Option(help="Currency of the price.")] = "USD",
    start: Annotated[str, typer.Option(help="`now`, or a time with its offset.")] = "now",
    lasts: Annotated[str, typer.Option("--duration", help="How long, such as 1h; `forever`.")] = "1h",
    priority: Annotated[int | None, typer.Option(help="0 is the highest.")] = None,
    report: Annotated[list[str] | None, typer.Option("--report", help="A report to ask for, such as USAGE.")] = None,
    event: Annotated[str | None, typer.Option("--event", help="Id of an event to replace.")] = None,
    program: Annotated[str, typer.Option(help="Name of the program.")] = "dr",
    vtn: Server = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send an event, or change one (`--event`).

    \b
    Examples:
      gridpace vtn send --level 2 --duration 30m --report USAGE
      gridpace vtn send --limit 4000kW --start 2026-07-01T17:00-07:00 --duration 2h
      gridpace vtn send --alert GRID_EMERGENCY --duration forever
    """
    body = _payload(level, limit, alert, price, currency)
    body["intervalPeriod"] = {"start": _start(start), "duration": _length(lasts)}
    if priority is not None:
        body["priority"] = priority
    if report:
        body["reportDescriptors"] = [{"payloadType": kind.upper()} for kind in report]
    hand = _hand(vtn)
    made = hand.send({"programID": hand.program(program)} | body, event)
    if as_json:
        echo_json(made)
    else:
        typer.echo(f"{made['id']}: sent. `gridpace vtn reports` shows how it was answered.")


@app.command("cancel")
def cancel(event: Annotated[str, typer.Argument(help="Id of the event.")], vtn: Server = DEFAULT_URL) -> None:
    """Delete an event.

    \b
    Examples:
      gridpace vtn cancel 3f6c0a9d1b2e4f58
    """
    _hand(vtn).withdraw(event)
    typer.echo(f"{event}: deleted")


@app.command("events")
def listing(vtn: Server = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the events that the server holds.

    \b
    Examples:
      gridpace vtn events
    """
    found = _hand(vtn).listed("events")
    if as_json:
        echo_json(found)
        return
    for event in found:
        period = event.get("intervalPeriod") or {}
        said = "; ".join(
            f"{payload['type']} {', '.join(str(value) for value in payload['values'])}"
            for interval in event.get("intervals") or ()
            for payload in interval["payloads"]
        )
        typer.echo(f"{event['id']}: from {period.get('start', '?')} for {period.get('duration', '?')}: {said}")


@app.command("reports")
def reports(
    event: Annotated[str | None, typer.Option("--event", help="Of this event alone.")] = None,
    vtn: Server = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the reports that were sent to the server, and with them how each event was answered.

    \b
    Examples:
      gridpace vtn reports
      gridpace vtn reports --json
    """
    found = [one for one in _hand(vtn).listed("reports") if event in {None, one["eventID"]}]
    if as_json:
        echo_json(found)
        return
    for one in found:
        typer.echo(f"{one['eventID']}: {one.get('reportName') or one['id']}")
        for resource in one["resources"]:
            for interval in resource["intervals"]:
                values = ", ".join(f"{p['type']} {' '.join(str(v) for v in p['values'])}" for p in interval["payloads"])
                period = interval.get("intervalPeriod") or resource.get("intervalPeriod") or {}
                typer.echo(f"  {resource['resourceName']} {period.get('start', '')}: {values}")


# ---------------------------------------------------------------- parts
def _run(
    host: str, port: int, programs: list[str], warts: list[str], certificate: tuple[Path, Path] | None, broker: str
) -> None:
    from ipaddress import ip_address
    from threading import Event

    from adapters.dr.vtn.server import VtnServer
    from adapters.dr.vtn.vtn import Vtn, VtnUser
    from adapters.dr.vtn.warts import Wart
    from adapters.ports import AdapterError

    known = {one.value: one for one in Wart}
    for name in warts:
        if name not in known:
            raise typer.BadParameter(f'"{name}" is not one of {", ".join(known)}', param_hint="--wart")
    local = host == "localhost" or ip_address(host).is_loopback
    secrets = {name: os.environ.get(name) or (REHEARSAL if local else "") for name in (VEN_SECRET, UTILITY_SECRET)}
    missing = [name for name, secret in secrets.items() if not secret]
    if missing:
        raise typer.BadParameter(f"at {host} the secrets must be your own: set {' and '.join(missing)}")
    users = {VEN: VtnUser(secrets[VEN_SECRET]), UTILITY: VtnUser(secrets[UTILITY_SECRET], business=True)}
    vtn = Vtn(users, frozenset(known[name] for name in warts), broker=broker)
    for name in programs:
        vtn.put_program(name)
    try:
        server = VtnServer(vtn, host, port, certificate)
    except OSError as error:
        raise AdapterError(f"{host}:{port}: {error.strerror or error}") from error
    server.start()
    typer.echo(f"OpenADR 3.1 server at {server.url}, programs: {', '.join(programs)}. Ctrl-C ends it.")
    typer.echo(f'channel: {{type: openadr3, url: "{server.url}", client_id: {VEN}, client_secret: …}}')
    if server.url == DEFAULT_URL and "dr" in programs:
        typer.echo(f"a simulated hall that takes part: {rehearsal_hall()}")
    try:
        Event().wait()
    except KeyboardInterrupt:
        typer.echo("ended")
    finally:
        server.stop()


def rehearsal_hall() -> str:
    """The command that runs the shipped hall, from whatever folder."""
    from scheduler.shipped import shipped

    path = shipped("rehearsal.yaml")
    here = Path.cwd()
    return f"gridpace run --config {path.relative_to(here) if path.is_relative_to(here) else path}"


def _tell_warts() -> None:
    from adapters.dr.vtn.warts import MEANING

    for one, text in MEANING.items():
        typer.echo(f"{one.value:26} {text}")


def _hand(url: str) -> Any:
    from adapters.dr.vtn.hand import UtilityHand

    return UtilityHand(url, UTILITY, os.environ.get(UTILITY_SECRET) or REHEARSAL)


def _payload(
    level: int | None, limit: str | None, alert: str | None, price: float | None, currency: str
) -> dict[str, Any]:
    """The one interval of an event, with what its value means. Raises BadParameter unless exactly one is given."""
    if [level, limit, alert, price].count(None) != 3:
        raise typer.BadParameter("give exactly one of --level, --limit, --alert and --price", param_hint="--level")
    if level is not None:
        return _interval("SIMPLE", level)
    if alert is not None:
        return _interval(f"ALERT_{alert.upper().removeprefix('ALERT_')}", "sent by gridpace vtn")
    if price is not None:
        return _interval("PRICE", price, {"units": "KWH", "currency": currency})
    assert limit is not None
    number = limit.strip().lower().removesuffix("kw")
    try:
        return _interval("IMPORT_CAPACITY_LIMIT", float(number), {"units": "KW"})
    except ValueError:
        raise typer.BadParameter(f'"{limit}" is not a limit; write 4000kW', param_hint="--limit") from None


def _interval(kind: str, value: float | str, more: dict[str, str] | None = None) -> dict[str, Any]:
    described = {"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": kind} | (more or {})
    return {
        "payloadDescriptors": [described],
        "intervals": [{"id": 0, "payloads": [{"type": kind, "values": [value]}]}],
    }


def _start(text: str) -> str:
    return "0001-01-01T00:00:00Z" if text == "now" else moment(text, "--start").isoformat().replace("+00:00", "Z")


def _length(text: str) -> str:
    length = duration(text, "--duration") if text != "forever" else None
    return f"PT{length.total_seconds():.0f}S" if length is not None else "P9999Y"
