"""A backtest for a terminal: Gridpace beside its rivals, causes of cost below each other, then work and events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from io import StringIO

from rich.console import Console
from rich.table import Table

from scheduler.backtest.result import COUNTED, BacktestResult, Run

TITLES = {"gridpace": "Gridpace", "no_control": "no control", "perfect_foresight": "perfect foresight"}
WIDTH = 120


def title(name: str) -> str:
    """A run's name for a person."""
    return TITLES.get(name, name.replace("_", " "))


def as_text(result: BacktestResult) -> str:
    """The whole report."""
    out = StringIO()
    console = Console(file=out, width=WIDTH, highlight=False)
    hours = (result.end - result.start).total_seconds() / 3600.0
    console.print(f"{result.start:%Y-%m-%d %H:%M}Z to {result.end:%Y-%m-%d %H:%M}Z, {hours:g} h; settled every "
                  f"{result.settlement_s / 60:g} min, planned every {result.interval_s / 60:g} min, "
                  f"controlled every {result.control_period_s:g} s")  # fmt: skip
    console.print(_money(result))
    console.print(_work(result))
    if result.gridpace.events:
        console.print(_events(result))
    for name, run in result.runs.items():
        if missed := run.account.missed:
            console.print(f"{title(name)} misses the deadline of {', '.join(missed[:10])}"
                          + (f" and {len(missed) - 10} more" if len(missed) > 10 else ""))  # fmt: skip
    for tier, known in result.gridpace.account.tiers.items():
        console.print(f"Flex {tier}: {known['kept']:.0f} of {known['jobs']:.0f} jobs kept it, the slowest by "
                      f"{max(0.0, known['highest_reduction']):.1%}")  # fmt: skip
    if result.jobs_left_out:
        console.print(f"not counted, because their deadline lies outside: {', '.join(result.jobs_left_out[:10])}")
    loops = result.loops
    rungs = ", ".join(f"{count} {rung}" for rung, count in sorted(loops.rungs.items()))
    alerts = ", ".join(f"{count} {code}" for code, count in sorted(loops.alerts.items()))
    console.print(f"{loops.cycles} plans ({rungs}), {loops.ticks} turns of the fast loop, {loops.wall_s:.1f} s"
                  + (f"; alerts: {alerts}" if alerts else ""))  # fmt: skip
    console.print(f"\n{COUNTED}", style="dim")
    return out.getvalue()


def _table(result: BacktestResult, first: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column(first)
    for name in result.runs:
        table.add_column(title(name), justify="right")
    return table


def _money(result: BacktestResult) -> Table:
    table = _table(result, f"\n{result.currency}")
    names = list(asdict(result.gridpace.account.costs))
    for name in names:
        values = [asdict(run.account.costs)[name] for run in result.runs.values()]
        if any(abs(value) >= 0.005 for value in values):
            sign = -1 if name == "event_credit" else 1
            table.add_row(name.replace("_", " "), *(f"{sign * value:,.2f}" for value in values))
    table.add_row("net cost", *(f"{run.account.costs.net:,.2f}" for run in result.runs.values()), style="bold")
    if "no_control" in result.runs:
        base = result.runs["no_control"].account.costs.net
        shares = [
            f"{result.saving(name):,.2f}" + (f" ({result.saving(name) / abs(base):.1%})" if base else "")
            for name in result.runs
        ]
        table.add_row("less than no control", *shares)
    return table


def _work(result: BacktestResult) -> Table:
    table = _table(result, "\nenergy and work")
    rows: list[tuple[str, Callable[[Run], str]]] = [
        ("energy, MWh", lambda run: f"{run.account.energy_kwh / 1000:,.1f}"),
        ("carbon, t", lambda run: f"{run.account.carbon_kg / 1000:,.1f}"),
        ("above a limit, kWh", lambda run: f"{run.account.over_limit_kwh:,.1f}"),
        ("below a floor, GPU-h", lambda run: f"{run.account.below_floor_gpu_h:,.1f}"),
    ]
    for pool, work in result.gridpace.account.pools.items():
        rows.append((f"{pool} ({work.work}), GPU-h", partial(_share, pool)))
        if work.tokens:
            rows.append((f"{pool}, million tokens", partial(_tokens, pool)))
    rows.append(
        ("jobs done in time", lambda run: f"{sum(job.met for job in run.account.jobs)} of {len(run.account.jobs)}")
    )
    for title, cell in rows:
        table.add_row(title, *(cell(run) for run in result.runs.values()))
    return table


def _tokens(pool: str, run: Run) -> str:
    return f"{run.account.pools[pool].tokens / 1e6:,.0f}"


def _share(pool: str, run: Run) -> str:
    work = run.account.pools[pool]
    share = f" ({work.done_gpu_h / work.asked_gpu_h:.2%})" if work.asked_gpu_h else ""
    return f"{work.done_gpu_h:,.0f}{share}"


def _events(result: BacktestResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("\nGridpace's events", "target kW", "worst over kW", "asked kWh", "delivered kWh", "rebound kW"):
        table.add_column(name, justify="left" if name.startswith("\n") else "right")
    for event in result.gridpace.events:
        table.add_row(
            event.id,
            f"{event.target_kw:,.0f}",
            "-" if event.worst_over_kw is None else f"{event.worst_over_kw:,.1f}",
            f"{event.asked_kwh:,.0f}",
            f"{event.delivered_kwh:,.0f}",
            "-" if event.rebound_kw is None else f"{event.rebound_kw:,.1f}",
        )
    return table
