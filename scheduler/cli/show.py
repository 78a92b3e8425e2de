"""Tables and sentences for a terminal, from the JSON that the API answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

ROUNDED_W = 1.5
"""Limits closer than this are the same: firmware rounds."""

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]


def table(title: str, rows: Iterable[Row], columns: Columns) -> None:
    """Print rows as a table; nothing when there are none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [[Text(cell(row)) for cell in columns.values()] for row in rows]
    if not shown:
        return
    made = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name.startswith(("kW", "GPUs", "cap", "%")) else "left")
    for cells in shown:
        made.add_row(*cells)
    Console(soft_wrap=False).print(made)


def kilowatts(value: float | None) -> str:
    """A power; `-` where there is none or no limit."""
    return "-" if value is None or value > 1e12 else f"{value:,.0f}"


def enforced(pool: Row) -> str:
    """What a pool's GPUs enforce, where that is not what is ordered and limits are what moves them."""
    watts = pool.get("enforced_w")
    same = watts is None or pool.get("clock_mhz") or abs(watts - pool["cap_w"]) <= ROUNDED_W
    return "" if same else f" ({watts:.0f} enforced)"


def local(text: str | None, zone: str | None = None) -> str:
    """A time of the API in a site's zone."""
    if text is None:
        return "-"
    found = datetime.fromisoformat(text)
    return f"{found.astimezone(ZoneInfo(zone)) if zone else found:%a %d %H:%M}"


def standby_line(standby: Row) -> str:
    """Who leads, and how the others follow."""
    others = ", ".join(str(one["name"]) for one in standby["others"] if one["role"] == "following")
    if standby["role"] == "leader":
        return f"{standby['name']} leads in epoch {standby['epoch']}; {others or 'nobody'} stands by."
    leader = f"{standby['leader']} leads at {standby['leader_url']}" if standby["leader"] else "nobody leads"
    behind = "waits for the books" if standby["behind"] is None else f"{standby['behind']} changes behind"
    trouble = f" ({standby['trouble']})" if standby["trouble"] else ""
    return f"{standby['name']} stands by, {behind}; {leader}.{trouble}"


def show_status(answer: Row) -> None:
    """The whole status: the sentence, then sites, pools, jobs, events, inputs and notes."""
    import typer

    cycle, tick = answer.get("cycle"), answer.get("tick") or {}
    if cycle is None:
        typer.echo("The daemon has not planned yet.")
        return
    zone = next((site["timezone"] for site in cycle["sites"]), None)
    typer.echo(cycle["sentence"])
    measured = tick.get("import_kw", {})
    table("\nSites", cycle["sites"], {
        "site": lambda row: row["id"],
        "kW now": lambda row: kilowatts(measured.get(row["id"], row["import_kw"])),
        "kW planned": lambda row: kilowatts(row["planned_kw"]),
        "kW limit": lambda row: kilowatts(row["limit_kw"]),
        "price/MWh": lambda row: f"{row['price_per_mwh']:.2f} {row['currency']}",
        "PUE": lambda row: f"{row['pue']:.2f}",
    })  # fmt: skip
    shed = [(site, one) for site in cycle["sites"] for one in site.get("flexibility", ())]
    table("\nCan be shed", ({"site": site["id"], **one} for site, one in shed), {
        "site": lambda row: row["site"],
        "within": lambda row: f"{row['within_s']:.0f} s",
        "kW": lambda row: kilowatts(row["kw"]),
        "kW surely": lambda row: kilowatts(row["sure_kw"]),
    })  # fmt: skip
    table("\nPools", cycle["pools"], {
        "pool": lambda row: row["id"],
        "cap W": lambda row: f"{row['cap_w']}/{row['max_cap_w']}{enforced(row)}",
        "GPUs": lambda row: f"{row['active_gpus']}/{row['gpus']}",
        "parked": lambda row: str(row.get("parked_gpus") or "-"),
        "kW": lambda row: kilowatts(row["draw_kw"] if row["draw_kw"] is not None else row["planned_kw"]),
        "%": lambda row: f"{100 * row['throughput']:.0f}",
        "why": lambda row: row["why"],
    })  # fmt: skip
    table("\nPower curves", ({"pool": row["id"], **row["curve"]} for row in cycle["pools"] if row.get("curve")), {
        "pool": lambda row: row["pool"],
        "% error": lambda row: f"{100 * row['error']:.1f}",
        "curve": lambda row: row["text"],
    })  # fmt: skip
    show_jobs(cycle["jobs"], zone)
    show_events(cycle["events"], zone)
    table("\nInputs", cycle["sources"], {
        "signal": lambda row: row["id"],
        "state": lambda row: row["state"],
        "value": lambda row: "-" if row["value"] is None else f"{row['value']:.2f} {row['unit']}",
        "": lambda row: row["text"],
    })  # fmt: skip
    for note in cycle["notes"]:
        typer.echo(f"{note['severity']}: {note['subject']}: {note['text']}")


def show_jobs(jobs: Iterable[Row], zone: str | None = None) -> None:
    """Jobs with what they wait for."""
    table("\nJobs", jobs, {
        "job": lambda row: row["id"],
        "state": lambda row: row["state"],
        "%": lambda row: f"{100 * row['progress']:.0f}",
        "GPUs": lambda row: str(row["gpus"]),
        "deadline": lambda row: local(row["deadline"], zone),
        "finish": lambda row: local(row["finish"], zone),
        "why": lambda row: row["why"],
    })  # fmt: skip


def show_events(events: Iterable[Row], zone: str | None = None) -> None:
    """Demand-response events."""
    table("\nEvents", events, {
        "event": lambda row: row["id"],
        "state": lambda row: row["state"],
        "start": lambda row: local(row["start"], zone),
        "end": lambda row: local(row["end"], zone),
        "kW target": lambda row: kilowatts(row["target_kw"]),
        "kW baseline": lambda row: kilowatts(row["baseline_kw"]),
        "opt": lambda row: row["opt"],
        "answer": lambda row: row["answer"],
    })  # fmt: skip
