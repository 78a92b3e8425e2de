"""Prints a plan as a table: when, at what price, how much power, and what each pool is told and why."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo

import typer

from optimizer.domain import Plan, Problem, Work
from scheduler.cli.show import Row, kilowatts, table
from scheduler.status import CycleReport


def show_plan(plan: Plan, problem: Problem, report: CycleReport, zone: ZoneInfo, most: int | None) -> None:
    """The first `most` steps (None: all), the jobs, and the notes; times in `zone`."""
    typer.echo(report.sentence())
    shown = len(plan.grid) if most is None else min(most, len(plan.grid))
    for site in problem.sites:
        made = plan.sites[site.id]
        pools = [entry.pool for entry in problem.pools if entry.pool.site == site.id]
        rows = [
            {
                "when": plan.grid.starts[step].astimezone(zone).strftime("%a %d %H:%M"),
                "price": f"{site.price_per_mwh[step]:.2f}",
                "import": kilowatts(made.import_kw[step]),
                "limit": kilowatts(site.limit_kw[step]),
                "value": f"{made.marginal_per_mwh[step]:.2f}" if made.marginal_per_mwh else "no dual",
            }
            | {pool.id: _order(plan, pool.id, pool.work, step) for pool in pools}
            for step in range(shown)
        ]
        columns = {
            "when": _of("when"),
            f"{problem.currency}/MWh": _of("price"),
            "kW": _of("import"),
            "kW limit": _of("limit"),
            "worth/MWh": _of("value"),
        }
        table(f"\n{site.id}", rows, columns | {pool.id: _of(pool.id) for pool in pools})
    if shown < len(plan.grid):
        typer.echo(f"... and {len(plan.grid) - shown} more steps (--all shows them)")
    table("\nJobs", [_job(plan, name, zone) for name in plan.jobs], {
        "job": _of("id"), "pool": _of("pool"), "finish": _of("finish"), "late": _of("late"), "why now": _of("why"),
    })  # fmt: skip
    _show_quotes(plan, problem, zone, shown)
    for note in report.notes:
        typer.echo(f"{note.severity}: {note.subject}: {note.text}")


def _show_quotes(plan: Plan, problem: Problem, zone: ZoneInfo, shown: int) -> None:
    """What a million tokens more would cost in each step, by pool."""
    names = [item.pool.id for item in problem.pools if item.pool.tokens_per_gpu_h > 0 and item.pool.id in plan.quotes]
    rows = [
        {"when": plan.grid.starts[step].astimezone(zone).strftime("%a %d %H:%M")}
        | {name: _quoted(plan, name, step) for name in names}
        for step in range(shown if names else 0)
    ]
    table(f"\nA million tokens more, {problem.currency} (an indication)", rows, {
        "when": _of("when"), **{name: _of(name) for name in names},
    })  # fmt: skip


def _quoted(plan: Plan, pool: str, step: int) -> str:
    price, reason = plan.quotes[pool].per_mtok[step], plan.quotes[pool].reasons[step]
    return f"{price:.4g}" if price is not None else f"none: {reason}"


def _order(plan: Plan, pool: str, work: Work, step: int) -> str:
    orders = plan.pools[pool]
    active = f" x{orders.active_gpus[step]}" if work is Work.BATCH else ""
    return f"{orders.cap_w[step]} W{active} {orders.reasons[step]}"


def _job(plan: Plan, name: str, zone: ZoneInfo) -> Row:
    job = plan.jobs[name]
    finish = job.finish.astimezone(zone).strftime("%a %d %H:%M") if job.finish else "beyond the plan"
    late = f"{job.late_gpu_h:.0f} GPU-h" if job.late_gpu_h > 0.5 else ""
    return {"id": name, "pool": job.pool, "finish": finish, "late": late, "why": str(job.reasons[0])}


def _of(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])
