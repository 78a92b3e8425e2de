"""The page's figures and tables as HTML: header strip, pools, jobs, events, inputs, notes.

Why markupsafe: names come from utilities and clients; `Markup.format` escapes every one of them, so that an event
called `<script>` is a strange name and nothing else. Each fragment is a pure function of a Board.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

from markupsafe import Markup

from optimizer.reasons import Severity
from scheduler.status import EventStatus, JobStatus, PoolStatus, SourceStatus, SupplyStatus, can_shed
from scheduler.web.board import AHEAD, BINDING, Board

MOST_ROWS = 40
FINISHED = {"done", "cancelled"}
CALM_REASONS = {"full_power", "cheap_window", "no_work", "work_done", "deadline", "not_released", "change_cost"}
EVENT_TONES = {"active": "warn", "ramping_in": "warn", "ramping_out": "warn", "near": "info", "scheduled": "info",
               "awaiting": "info", "done": "good", "refused": "bad"}  # fmt: skip
SOURCE_TONES = {"ok": "good", "substituted": "warn", "stale": "warn", "lost": "bad"}
GUARD_TONES = {"kept": "good", "idle": "info", "holding": "warn", "slipping": "bad", "missed": "bad", "lost": "bad"}
NOTE_TONES = {Severity.INFO: "info", Severity.WARNING: "warn", Severity.ALERT: "bad"}


def header(board: Board, title: str, demo: bool) -> str:
    """The strip on top: who, in which mode, what power, what price, when next, what time."""
    badge = Markup('<span class="gp-chip tone-demo">{}</span>').format(_speed(board, demo)) if demo else ""
    now = board.local(board.now)
    links = _join(
        Markup('<a class="gp-site{}" href="/?site={}">{}</a>').format(
            " is-on" if board.site and site == board.site.id else "", site, site
        )
        for site in board.sites
    )
    return Markup(
        '<div class="gp-bar"><span class="gp-brand">{}</span>{}<span class="gp-sites">{}</span>'
        '<span class="gp-clock">{} <b>{}</b> <span class="gp-dim">{}</span>{}</span></div>{}'
    ).format(
        title, _mode(board.mode), links, f"{now:%a %d %b %Y}", f"{now:%H:%M:%S}", board.zone.key, badge, tiles(board)
    )


def tiles(board: Board) -> Markup:
    """Power, target, limit, price, plan, each with its unit."""
    site, report = board.site, board.report
    if site is None or report is None:
        return Markup("")
    import_kw = board.tick.import_kw.get(site.id) if board.tick else site.import_kw
    target_kw = board.tick.target_kw.get(site.id, math.inf) if board.tick else site.target_kw
    over = import_kw is not None and import_kw > min(target_kw, site.limit_kw) * 1.005
    wait_s = max(0.0, (report.next_at - board.now).total_seconds())
    solved = "no solver" if not report.solve_s else f"solved in {report.solve_s:.1f} s"
    return Markup('<div class="gp-tiles">{}{}{}{}{}{}</div>').format(
        _tile("Site power now", _mw(import_kw), "MW", f"planned {_mw(site.planned_kw)} MW", "bad" if over else "lead"),
        _tile("Event target", _mw(target_kw), "MW" if math.isfinite(target_kw) else "", _next_event(board)),
        _tile("Import limit", _mw(site.limit_kw), "MW" if math.isfinite(site.limit_kw) else "",
              _headroom(site.limit_kw, import_kw)),
        _tile("Price now", f"{site.price_per_mwh:,.0f}", f"{site.currency}/MWh", _price_range(board)),
        _tile("Plan", report.rung.replace("_", " "), "", solved, "warn" if report.rung != "optimum" else ""),
        _tile("Next plan", f"{board.local(report.next_at):%H:%M:%S}", "", f"in {wait_s:.0f} s"),
    )  # fmt: skip


def pools(board: Board) -> str:
    """Cap, draw and throughput of each pool, and why: all of it of one moment."""
    chosen = [pool for pool in board.report.pools if board.site and pool.site == board.site.id] if board.report else []
    head = ("Pool", "Work", "#GPUs active", "#Cap", "#Draw", "#Throughput", "#Per 1M tokens", "Curve", "Why")
    return (
        _table(head, [_pool_row(pool, board) for pool in chosen], "No pools at this site.")
        + latencies(board)
        + supply(board)
        + _flexible(board)
    )


def latencies(board: Board) -> str:
    """How long users of the site's pools wait, where somebody asked that they shouldn't."""
    report, tick = board.report, board.tick
    chosen = [pool for pool in report.pools if board.site and pool.site == board.site.id] if report else []
    rows = [
        (
            Markup("<b>{}</b>").format(pool.id),
            one.objective.replace("_", " "),
            _seconds(one.measured_s),
            _seconds(one.threshold_s),
            _seconds(max((s for s in wanted.forecast_s if s is not None), default=None)),
            Markup('<span class="gp-chip tone-{}">{}</span>').format(GUARD_TONES.get(one.guard, "info"), one.guard),
        )
        for pool in chosen
        for wanted, one in zip(pool.latency, (tick.latency.get(pool.id) if tick else None) or pool.latency, strict=True)
    ]
    head = ("Latency", "Objective", "#Now", "#At most", "#Expected at most", "Guard")
    return _table(head, rows, "") if rows else Markup("")


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.0f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def supply(board: Board) -> str:
    """Batteries and generation of the site, where there are any."""
    items = board.tick.supply if board.tick else ()
    chosen = [item for item in items if board.site and item.site == board.site.id]
    if not chosen:
        return Markup("")
    return _table(("Battery or generator", "Kind", "#Power", "#Stored"), [_supply_row(item) for item in chosen], "")


def _supply_row(item: SupplyStatus) -> Sequence[object]:
    shown = "silent" if item.lost else "-" if item.kw is None else f"{item.kw:,.0f} kW"
    plan = Markup('{} <span class="gp-dim">plan {}</span>').format(shown, f"{item.planned_kw:,.0f} kW")
    stored = "-" if item.share is None else _metered(f"{item.share:.0%}", item.share, f"{item.stored_kwh:,.0f} kWh")
    return (Markup("<b>{}</b>").format(item.id), item.kind, plan, stored)


def _flexible(board: Board) -> Markup:
    site = board.site
    if site is None or not site.flexibility:
        return Markup("")
    return Markup('<p class="gp-empty">Can be shed: {}</p>').format(can_shed(site))


def _pool_row(pool: PoolStatus, board: Board) -> Sequence[object]:
    shown = "-" if pool.draw_kw is None else f"{pool.draw_kw:,.0f}"
    return (
        Markup("<b>{}</b>").format(pool.id),
        pool.work,
        Markup('{} <span class="gp-dim">of {}{}</span>{}').format(
            f"{pool.active_gpus:,}",
            f"{pool.gpus:,}",
            f", {pool.parked_gpus:,} parked" if pool.parked_gpus else "",
            _yielded(pool),
        ),
        _cap(pool),
        Markup('{} kW <span class="gp-dim">plan {}</span>').format(shown, f"{pool.planned_kw:,.0f}"),
        _metered(f"{pool.throughput:.0%}", pool.throughput, "of full throughput"),
        _quote(pool, board),
        _curve(pool),
        _why(pool.reason, pool.why),
    )


def _cap(pool: PoolStatus) -> Markup:
    """Watts of a busy GPU that are ordered, what is enforced where that is not the same, and the clock where that is
    what holds them."""
    share, mhz = pool.cap_w / pool.max_cap_w if pool.max_cap_w else 0.0, pool.clock_mhz
    enforced = f" ({pool.enforced_w:.0f} W enforced)" if pool.departs else ""
    bar = _metered(f"{pool.cap_w} W{enforced}", share, f"of {pool.max_cap_w} W")
    return bar + Markup(' <span class="gp-dim">by clock, {} MHz</span>').format(f"{mhz:,}") if mhz else bar


def _yielded(pool: PoolStatus) -> Markup:
    """GPUs that another program holds, where there are any."""
    count = pool.yielded
    return Markup(" {}").format(_chip(f"{count:,} yielded", "bad")) if count else Markup("")


def _quote(pool: PoolStatus, board: Board) -> Markup:
    """What a million tokens more would cost now, and at the cheapest time of the coming half day; an indication."""
    plan, site = board.plan, board.site
    if plan is None or site is None or not plan.quotes:
        return Markup('<span class="gp-dim" title="The plan comes from a rung without duals">no dual</span>')
    if pool.id not in plan.quotes:
        return Markup("-")
    known = [
        (price, start)
        for start, end, price in zip(plan.grid.starts, plan.grid.edges[1:], plan.quotes[pool.id].per_mtok, strict=True)
        if price is not None and end > board.now and start < board.now + AHEAD
    ]
    if not known:
        return Markup("-")
    low, when = min(known)
    now = "none" if pool.quote_per_mtok is None else _money(pool.quote_per_mtok)
    return Markup('<span title="{}, an indication">{} <span class="gp-dim">{} at {}</span></span>').format(
        site.currency, now, _money(low), _moment(board, max(when, board.now))
    )


def _money(value: float) -> str:
    """Money with three digits that count, however small."""
    return f"{value:,.2f}" if abs(value) >= 10 else f"{value:.3g}"


def _curve(pool: PoolStatus) -> Markup:
    """Whether the pool's power curve is the measured one of the library or learned, and how sure it is."""
    curve = pool.curve
    if curve is None:
        return Markup("-")
    shown = f"learned ±{curve.error:.1%}" if curve.kind == "learned" else "library"
    return Markup('<span title="{}">{}</span>').format(curve.text, shown)


def jobs(board: Board) -> str:
    """Unfinished jobs by deadline, then those that ended last."""
    ordered = sorted(board.jobs, key=lambda job: (job.state in FINISHED, job.deadline))
    head = ("Job", "State", "Progress", "#GPUs", "#Sold", "#Energy", "Deadline", "Planned finish", "Why")
    rows = [_job_row(job, board) for job in ordered[:MOST_ROWS]]
    return _table(head, rows, "No jobs are queued.") + _more(len(ordered) - MOST_ROWS, "jobs")


def _job_row(job: JobStatus, board: Board) -> Sequence[object]:
    late = job.finish is not None and job.finish > job.deadline and job.state not in FINISHED
    tone = "good" if job.state == "done" else "info" if job.state == "running" else ""
    finish = _moment(board, job.finish) if job.finish else "-"
    return (
        Markup("<b>{}</b>").format(job.id),
        _chip(f"at {job.site}" if job.site else job.state, tone),
        _metered(f"{job.progress:.0%}", job.progress, "of its work"),
        f"{job.gpus:,}" if job.gpus else "-",
        _sold(job, board),
        f"{job.energy_kwh:,.1f} kWh" if job.energy_kwh else "-",
        _moment(board, job.deadline),
        Markup('<span class="tone-bad-text">{} late</span>').format(finish) if late else finish,
        _why(job.reason, job.why),
    )


def _sold(job: JobStatus, board: Board) -> Markup | str:
    """Tokens sold, and what they brought beyond their energy."""
    if job.margin is None:
        return "-"
    currency = board.site.currency if board.site else ""
    return Markup('{} tokens <span class="gp-dim">margin {} {}</span>').format(
        f"{job.tokens:,}", f"{job.margin:,.2f}", currency
    )


def events(board: Board) -> str:
    """Every event of the site with its window, target and what was delivered."""
    head = ("Event", "State", "Window", "#Target", "#Delivered", "#Worst over", "Programme, source")
    rows = [_event_row(event, board) for event in board.events[:MOST_ROWS]]
    return _table(head, rows, "No demand-response events.") + _more(len(board.events) - MOST_ROWS, "events")


def _event_row(event: EventStatus, board: Board) -> Sequence[object]:
    cut = 1 - event.target_kw / event.baseline_kw if 0 < event.baseline_kw < math.inf else -math.inf
    named = Markup('<b>{}</b> <span class="gp-dim">{} v{}</span>').format(
        event.name or event.id, event.id, event.version
    )
    over = f"{event.worst_over_kw:,.0f} kW" if event.worst_over_kw > 0 else "none"
    return (
        named,
        _chip(event.state.replace("_", " "), EVENT_TONES.get(event.state, "")),
        Markup("{} – {}").format(_moment(board, event.start), f"{board.local(event.end):%H:%M}"),
        Markup('{} MW <span class="gp-dim">{}</span>').format(_mw(event.target_kw), f"−{cut:.0%}" if cut > 0 else ""),
        f"{event.delivered_kwh / 1000:,.2f} MWh",
        Markup('<span class="tone-bad-text">{}</span>').format(over) if event.worst_over_kw > 0 else over,
        " · ".join(part for part in (event.program, event.source, f"opt {event.opt}", event.answer) if part),
    )


def inputs(board: Board) -> str:
    """Each input with a light, its present value and its age."""
    rows = [_input_row(source) for source in (board.report.sources if board.report else ())]
    return _table(("Input", "#Value", "#Age", "State"), rows, "No inputs are configured.")


def _input_row(source: SourceStatus) -> Sequence[object]:
    tone = SOURCE_TONES.get(source.state, "warn")
    return (
        Markup('<span class="gp-light tone-{}"></span><b>{}</b> <span class="gp-dim">{}</span>').format(
            tone, source.id, source.kind
        ),
        "-" if source.value is None else f"{_figure(source.value)} {source.unit}",
        "-" if source.age_s is None else age(source.age_s),
        Markup('{} <span class="gp-dim">{}</span>').format(source.state, source.text),
    )


def notes(board: Board) -> str:
    """What the last cycle found worth saying, loudest first."""
    order = [Severity.ALERT, Severity.WARNING, Severity.INFO]
    found = sorted(board.report.notes if board.report else (), key=lambda note: order.index(note.severity))
    rows = [
        (_chip(note.severity.value, NOTE_TONES[note.severity]), f"{board.local(note.at):%H:%M}" if note.at else "-",
         Markup("<b>{}</b> {}").format(note.subject, note.text))
        for note in found[:MOST_ROWS]
    ]  # fmt: skip
    return _table(("Level", "Time", "What"), rows, "Nothing to report.") + _more(len(found) - MOST_ROWS, "notes")


def banner(board: Board) -> str:
    """A sentence over the whole width when the figures must not be trusted, or are not there yet."""
    if board.problem:
        return Markup('<div class="gp-banner tone-bad" role="alert">{}</div>').format(board.problem)
    if board.report is None:
        return Markup(
            '<div class="gp-banner tone-info" role="status">No plan yet: the daemon is collecting its inputs and makes '
            "its first one. This page fills by itself.</div>"
        )
    return ""


# ---------------------------------------------------------------- parts
def age(seconds: float) -> str:
    """An age in the largest unit that leaves a small number."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> Markup:
    """A table; a heading that begins with # is a column of figures, right-aligned."""
    number = [name.startswith("#") for name in head]
    classes = ["num" if right else "" for right in number]
    titles = _join(
        Markup('<th class="{}">{}</th>').format(kind, name.lstrip("#"))
        for kind, name in zip(classes, head, strict=True)
    )
    lines = [
        _join(Markup('<td class="{}" data-th="{}">{}</td>').format(kind, name.lstrip("#"), cell)
              for kind, name, cell in zip(classes, head, row, strict=True))
        for row in rows
    ]  # fmt: skip
    if not lines:
        return Markup('<p class="gp-empty">{}</p>').format(empty)
    body = _join(Markup("<tr>{}</tr>").format(line) for line in lines)
    return Markup('<table class="gp-table"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(titles, body)


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _more(count: int, what: str) -> Markup:
    return Markup('<p class="gp-empty">and {} more {}</p>').format(count, what) if count > 0 else Markup("")


def _tile(name: str, value: str, unit: str, under: str, tone: str = "") -> Markup:
    return Markup(
        '<div class="gp-tile tone-{}"><span class="gp-name">{}</span><span class="gp-value">{}<small>{}</small></span>'
        '<span class="gp-under">{}</span></div>'
    ).format(tone, name, value, unit, under)


def _chip(text: str, tone: str) -> Markup:
    return Markup('<span class="gp-chip tone-{}">{}</span>').format(tone or "none", text)


def _mode(mode: str) -> Markup:
    return _chip(mode, {"control": "good", "advise": "info"}.get(mode, "none")) if mode else Markup("")


def _why(reason: str, sentence: str) -> Markup:
    tone = "none" if reason in CALM_REASONS else "bad" if reason.endswith(("unreachable", "broken")) else "warn"
    return Markup("{} {}").format(_chip(reason.replace("_", " "), tone), sentence)


def _metered(text: str, share: float, title: str) -> Markup:
    width = f"{100 * min(1.0, max(0.0, share)):.0f}"
    return Markup('<span class="gp-meter" title="{}"><span>{}</span><i><b style="width:{}%"></b></i></span>').format(
        title, text, width
    )


def _moment(board: Board, moment: datetime) -> str:
    """Time of day at the site, with the day where it is not today."""
    there = board.local(moment)
    return f"{there:%H:%M}" if there.date() == board.local(board.now).date() else f"{there:%a %H:%M}"


def _figure(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _mw(kw: float | None) -> str:
    return "-" if kw is None else "none" if not math.isfinite(kw) else f"{kw / 1000:.2f}"


def _headroom(limit_kw: float, import_kw: float | None) -> str:
    if import_kw is None or not math.isfinite(limit_kw):
        return ""
    return f"{(limit_kw - import_kw) / 1000:.2f} MW of room"


def _price_range(board: Board) -> str:
    ahead = [price for start, end, price in board.prices if end > board.now]
    return f"{min(ahead):,.0f} to {max(ahead):,.0f} ahead" if ahead else "nothing known ahead"


def _next_event(board: Board) -> str:
    coming = sorted(
        (event.start, event.end) for event in board.events if event.end > board.now and event.state in BINDING
    )
    if not coming:
        return "no event ahead"
    start, end = coming[0]
    return f"until {_moment(board, end)}" if start <= board.now else f"event at {_moment(board, start)}"


def _speed(board: Board, demo: bool) -> str:
    return f"demo, ×{board.speed:g}" if demo and board.speed != 1 else "demo"
