"""The operator's word: pause, resume, release, limit, mode. It beats the optimiser and the market, and it survives.

Why durable: an operator who paused the site at 3 a.m. must not find it capped again after a restart. Each order is on
disk before it acts; the loops read only `State.operator`.
"""

from __future__ import annotations

from datetime import datetime

from adapters.ports import AdapterError
from optimizer.reasons import Note, Reason, Severity
from scheduler.engine import Context, State
from scheduler.service import OperatorOrder, Refused

MODES = ("observe", "advise", "control")
ACTIONS = ("pause", "resume", "release", "limit", "mode")


def apply_order(ctx: Context, state: State, order: OperatorOrder, now: datetime) -> None:
    """Check, keep and act. Raises Refused, changing nothing."""
    check_order(ctx, order)
    ctx.store.save_order(order, now)
    with state.lock:
        _merge(state.operator, order)
        _act(ctx, state, now)
        if order.action == "resume":
            _take_back(ctx)
    state.notes.append(Note(Reason.OPERATOR_ORDER, order.site or "operator", describe(order), Severity.INFO, now))


def check_order(ctx: Context, order: OperatorOrder) -> None:
    """Refuse an order that means nothing."""
    if order.action not in ACTIONS:
        raise Refused(f"action: {order.action!r} is not one of {', '.join(ACTIONS)}")
    if order.action == "mode" and order.mode not in MODES:
        raise Refused(f"mode: {order.mode!r} is not one of {', '.join(MODES)}")
    if order.action == "limit":
        if order.site not in ctx.sites:
            raise Refused(f"site: {order.site!r} is not one of {', '.join(ctx.sites)}")
        if order.limit_kw is not None and order.limit_kw < 0:
            raise Refused(f"limit_kw: {order.limit_kw} is below 0")


def restore_orders(ctx: Context, state: State, now: datetime) -> None:
    """At start: what the operator last said still holds."""
    for order in ctx.store.orders():
        _merge(state.operator, order)
    with state.lock:
        _act(ctx, state, now)


def _merge(held: dict[str, OperatorOrder], order: OperatorOrder) -> None:
    if order.action == "resume":
        held.pop("pause", None)
        held.pop("release", None)
    elif order.action == "limit":
        held[f"limit:{order.site}"] = order
    else:
        held[order.action] = order


def _act(ctx: Context, state: State, now: datetime) -> None:
    """Let the dispatcher write only when nobody said otherwise; give limits back when it may not."""
    writes = mode_now(ctx, state) == "control" and not paused(state)
    wrote, ctx.dispatcher.writes = ctx.dispatcher.writes, writes
    if wrote and not writes:
        state.notes.extend(ctx.dispatcher.release(now))
        state.notes.extend(ctx.clocks.release(now) if ctx.clocks is not None else ())
        state.held, state.setpoint_kw, state.cap_kw = {}, {}, {}


def _take_back(ctx: Context) -> None:
    """Cap GPUs again that were left to another writer. Raises Refused when an agent can't be told."""
    try:
        ctx.dispatcher.take_back()
        if ctx.clocks is not None:
            ctx.clocks.take_back()
    except AdapterError as error:
        raise Refused(f"resumed, but GPUs left to another writer are not taken back: {error}", 503) from error


def mode_now(ctx: Context, state: State) -> str:
    """Mode in force: the operator's word, else the config's."""
    order = state.operator.get("mode")
    return order.mode if order is not None and order.mode else ctx.mode


def paused(state: State) -> bool:
    """True while a pause or a release holds."""
    return "pause" in state.operator or "release" in state.operator


def operator_limit_kw(state: State, site: str, now: datetime) -> float:
    """The operator's cap on a site's import now (inf: none)."""
    order = state.operator.get(f"limit:{site}")
    if order is None or order.limit_kw is None or (order.until is not None and now >= order.until):
        return float("inf")
    return order.limit_kw


def describe(order: OperatorOrder) -> str:
    """The order in words."""
    who = f" by {order.by}" if order.by else ""
    if order.action == "limit":
        until = f" until {order.until:%Y-%m-%d %H:%M}Z" if order.until else ""
        what = f"limit {order.limit_kw:.0f} kW{until}" if order.limit_kw is not None else "limit lifted"
        return f"{what} on {order.site}{who}"
    return f"{order.action}{' ' + order.mode if order.mode else ''}{who}"
