"""Commands that work from a config file alone: run, lead, agent, check, plan, backtest, schema."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from scheduler.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, GatewayFile, duration, echo_json, moment

if TYPE_CHECKING:
    from scheduler.backtest.result import BacktestResult
    from scheduler.holdings import Holding

SHOWN_STEPS = 48
GATEWAY_CONFIG = Path("/etc/gridpace/gateway.yaml")
COORDINATOR_CONFIG = Path("/etc/gridpace/coordinator.yaml")

RivalNames = Annotated[
    str, typer.Option(help="Rules to run beside no control and perfect foresight, by comma; all, none, or bounds.")
]


def add(app: typer.Typer) -> None:
    """Register the commands."""
    first: tuple[Callable[..., None], ...] = (check, plan, run, lead, doctor, gateway, coordinate)
    last: tuple[Callable[..., None], ...] = (backtest, schema)
    for command in first:
        app.command()(command)
    passed_on = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(context_settings=passed_on)(agent)
    for command in last:
        app.command()(command)


def run(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the daemon.

    It runs until it is told to stop; SIGHUP reads the config again, and keeps the old one when the new one is wrong.

    \b
    Examples:
      gridpace run --config config/demo.yaml
      gridpace run
    """
    from scheduler.config import load_config

    load_config(config, need_secrets=True)  # before the slow imports: an error is shown at once
    from scheduler.daemon import run as run_daemon

    raise typer.Exit(run_daemon(config))


def lead(
    above: Annotated[int, typer.Option("--above", min=0, max=10**9, help="The epoch that nodes obeyed last.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Let the daemon order nodes again that obeyed a newer one.

    For a daemon whose state folder was lost: nodes refuse it as one that was replaced, and say by which epoch. It must
    not run, and no other one may: nodes can't tell whose orders are right then.

    \b
    Examples:
      gridpace lead --above 5
      gridpace lead --above 5 --config /etc/gridpace/gridpace.yaml
    """
    from scheduler.config import load_config
    from scheduler.succession import begin_above

    typer.echo(f"The next start has epoch {begin_above(load_config(config), above)}.")


def doctor(config: ConfigFile = DEFAULT_CONFIG, gateway: GatewayFile = None, as_json: AsJson = False) -> None:
    """List what Gridpace holds.

    Limits that are to be given back, locked clocks, parked GPUs and jobs, from its books, and events and sites that a
    stop left to the agents; with or without a daemon. Of a gateway: batches and sales that are jobs of the daemon.

    Exit code 0: nothing is held, or by one that runs; 1: something is held and none runs (`gridpace release` gives it
    back).

    \b
    Examples:
      gridpace doctor
      gridpace doctor --config gridpace.yaml --json
      gridpace doctor --gateway /etc/gridpace/gateway.yaml
    """
    runs, held = _of_gateway(gateway) if gateway is not None else _of_daemon(config)
    who = "daemon" if gateway is None else "gateway"
    if as_json:
        echo_json({f"{who}_runs": runs, "held": held})
    else:
        for line in held:
            typer.echo(f"{line.kind} {line.subject}: {line.text}")
        typer.echo(f"{len(held)} held; " + (f"a {who} runs" if runs else f"no {who} runs"))
    raise typer.Exit(1 if held and not runs else 0)


def _of_daemon(config: Path) -> tuple[bool, tuple[Holding, ...]]:
    from scheduler.config import load_config
    from scheduler.letting_go import daemon_runs, held_in_books

    loaded = load_config(config)
    return daemon_runs(loaded), held_in_books(loaded)


def _of_gateway(file: Path) -> tuple[bool, tuple[Holding, ...]]:
    from scheduler.gateway.config import load_gateway
    from scheduler.gateway.leaving import held_by_gateway
    from scheduler.lock import runs_in

    loaded = load_gateway(file)
    return runs_in(loaded.state_dir), held_by_gateway(loaded)


def gateway(
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's own file.")] = GATEWAY_CONFIG,
) -> None:
    """Serve OpenAI's batch API.

    Batches wait for the power that the plan gives them, and run on the site's own OpenAI-compatible servers.

    \b
    Examples:
      gridpace gateway --config gateway.yaml
    """
    from adapters.registry import MissingExtra

    missing = [name for name in ("aiohttp", "python_multipart") if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{', '.join(missing)}: not installed; pip install 'gridpace[gateway]'")
    from scheduler.gateway.process import run as run_gateway

    raise typer.Exit(run_gateway(config))


def coordinate(
    config: Annotated[Path, typer.Option("--config", "-c", help="The coordinator's own file.")] = COORDINATOR_CONFIG,
    once: Annotated[
        bool, typer.Option("--once", help="One turn: give each site its share, and say what it is.")
    ] = False,
) -> None:
    """Plan for several daemons: movable jobs go where power is cheap or clean.

    Sites that do not answer, and all of them where this process ends, go on by themselves.

    \b
    Examples:
      gridpace coordinate --config coordinator.yaml --once
      gridpace coordinate
    """
    from scheduler.coordination.coordinator import Turn
    from scheduler.coordination.process import run as run_coordinator

    def show(turn: Turn) -> None:
        for owner, homes in turn.homes.items():
            for job, home in homes.items():
                typer.echo(f"{owner}/{job} -> {home.site}: {home.why}")
        typer.echo(turn.sentence())

    raise typer.Exit(run_coordinator(config, show if once else None))


def agent(ctx: typer.Context) -> None:
    """Own this machine's GPUs, for the daemon.

    \b
    Examples:
      gridpace agent --socket /run/gridpace-agent/agent.sock --state-dir /var/lib/gridpace-agent
      gridpace agent --fleet tls://nats.example.net:4222 --node n01 --seed n01.seed --ca ca.pem
    """
    from scheduler.agent.process import main

    raise typer.Exit(main(ctx.args))


def check(
    config: ConfigFile = DEFAULT_CONFIG,
    connect: Annotated[bool, typer.Option("--connect", help="Ask the GPUs, or the agent, as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try a config out; writes nothing.

    Makes every adapter, reads each signal once and solves one plan: a line for each, with the place to edit.

    Exit code 0: yes; 1: something failed; 2: the config is wrong.

    \b
    Examples:
      gridpace check --config gridpace.yaml
      gridpace check --connect --json
    """
    from scheduler.config import ConfigError, load_config

    try:
        loaded = load_config(config, need_secrets=True)
    except ConfigError as error:
        if as_json:
            echo_json({"ok": False, "problems": error.problems, "lines": []})
            raise typer.Exit(error.exit_code) from None
        raise
    from scheduler.checking import check_config, worst

    lines = []
    for line in check_config(loaded, connect):
        lines.append(line)
        if not as_json:
            typer.echo(f"{line.place}: {line.state}: {line.part}: {line.text}")
    if as_json:
        echo_json({"ok": worst(lines) == 0, "problems": [], "lines": lines})
    raise typer.Exit(worst(lines))


def plan(
    config: ConfigFile = DEFAULT_CONFIG,
    at: Annotated[str | None, typer.Option(help="Plan as if it were this time; local to the first site.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Show the whole horizon, not only its beginning.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what Gridpace would do.

    Builds one plan on simulated GPUs and prints it; needs no daemon.

    \b
    Examples:
      gridpace plan --config config/demo.yaml
      gridpace plan --at 2022-09-06T16:00 --json
    """
    from scheduler.config import load_config

    loaded = load_config(config, need_secrets=True)
    from scheduler.cli.plan import show_plan
    from scheduler.cycle import run_cycle
    from scheduler.offline import rehearsal

    zone = ZoneInfo(loaded.sites[0].timezone)
    with rehearsal(loaded, moment(at, "--at", zone) if at else None) as parts:
        report = run_cycle(parts.ctx, parts.state)
        made, problem = parts.state.plan, parts.state.problem
    assert made is not None
    assert problem is not None
    if as_json:
        echo_json({"plan": made, "notes": report.notes})
    else:
        show_plan(made, problem, report, zone, None if every else SHOWN_STEPS)


def backtest(  # noqa: PLR0917 - each is an option of the command
    config: Annotated[Path, typer.Option("--config", "-c", help="The config file.")],
    start: Annotated[str, typer.Option("--from", help="First moment; a date is local to the first site.")],
    end: Annotated[str, typer.Option("--to", help="First moment that is not part of it any more.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which files with a relative path are looked for first.", exists=True, file_okay=False
        ),
    ] = None,
    control_period: Annotated[str | None, typer.Option(help="Instead of the config's, such as 60s.")] = None,
    interval: Annotated[str | None, typer.Option(help="Instead of the config's, such as 15m.")] = None,
    rivals: RivalNames = "bounds",
    table: Annotated[
        Path | None, typer.Option(help="Write every run interval by interval to this .csv or .parquet file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay recorded prices, beside rivals.

    The daemon's own loops run under a virtual clock; no control and perfect foresight stand beside.

    \b
    Examples:
      gridpace backtest --config config/sites/s2-caiso-heat-wave.yaml --from 2022-09-06 --to 2022-09-07
      gridpace backtest --config config/sites/s3-uri.yaml --from 2021-02-12 --to 2021-02-16 --table uri.csv
      gridpace backtest --config my.yaml --from 2022-09-06 --to 2022-09-07 --rivals greedy,price_threshold
    """
    from scheduler.config import load_config

    loaded = load_config(config, data_dir=data)
    from scheduler.backtest import BacktestRefused, BoundBroken, run_backtest

    zone = ZoneInfo(loaded.sites[0].timezone)
    first, last = moment(start, "--from", zone), moment(end, "--to", zone)
    if first >= last:
        raise typer.BadParameter("it must be later than --from", param_hint="--to")
    try:
        with _progress(shown=sys.stderr.isatty() and (sys.stdout.isatty() or not as_json)) as told:
            result = run_backtest(
                loaded, first, last,
                control_period=duration(control_period, "--control-period"),
                interval=duration(interval, "--interval"),
                rivals=chosen_rules(rivals),
                progress=told,
            )  # fmt: skip
    except (BacktestRefused, BoundBroken) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    _told(result, table, as_json)


def chosen_rules(text: str) -> bool | tuple[str, ...]:
    """What `--rivals` names, as run_backtest takes it. Raises BadParameter for an unknown rule."""
    from optimizer.rivals import RIVALS

    if text in {"none", "bounds"}:
        return text == "bounds"
    if text == "all":
        return tuple(RIVALS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in RIVALS:
            known = f"all, none, bounds, {', '.join(RIVALS)}"
            raise typer.BadParameter(f'"{name}" is not one of {known}', param_hint="--rivals")
    return names


def _told(result: BacktestResult, table: Path | None, as_json: bool) -> None:
    """Write the table and print the result."""
    if table is not None:
        from scheduler.backtest.table import write_table

        write_table(result.table(), table)
    if as_json:
        echo_json(result.as_dict())
    else:
        typer.echo(result.text())


@contextmanager
def _progress(shown: bool) -> Iterator[Any]:
    """A progress bar on stderr, unless nobody watches; what it yields takes the share done, 0 to 1."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("backtest"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share: bar.update(task, completed=share)


def schema(
    write: Annotated[
        bool, typer.Option("--write", help="Write schema, sample config and reference page into this checkout.")
    ] = False,
) -> None:
    """Print the JSON schema of the config.

    \b
    Examples:
      gridpace schema > schema.json
      gridpace schema --write
    """
    from scheduler.config.generate import write_artefacts
    from scheduler.config.generate_schema import schema_text

    if not write:
        typer.echo(schema_text(), nl=False)
        return
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        raise typer.BadParameter(
            "Gridpace runs from an installed package here, not from a checkout", param_hint="--write"
        )
    for path in write_artefacts(root):
        typer.echo(f"written: {path.relative_to(root)}")
