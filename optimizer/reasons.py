"""Reason codes: the one vocabulary in which Gridpace says why, from a refused price to a GPU's cap.

Why codes and not sentences: the log line, the page, the metrics, `explain` and the tests must all mean the same thing.
Every substitution carries one, so that no fallback is silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Reason(StrEnum):
    """Primary reason of a decision or a substitution."""

    # why a pool or a job gets what it gets
    FULL_POWER = "full_power"
    NO_WORK = "no_work"
    CHEAP_WINDOW = "cheap_window"
    HIGH_PRICE = "high_price"
    PEAK_AVOID = "peak_avoid"
    COINCIDENT_PEAK = "coincident_peak"
    CARBON = "carbon"
    DR_EVENT = "dr_event"
    REBOUND_LIMIT = "rebound_limit"
    SITE_LIMIT = "site_limit"
    RAMP_LIMIT = "ramp_limit"
    SERVICE_FLOOR = "service_floor"
    LATENCY_GUARD = "latency_guard"
    DEADLINE = "deadline"
    NOT_RELEASED = "not_released"
    NOT_PREEMPTIBLE = "not_preemptible"
    PREDECESSOR = "predecessor"
    CHANGE_COST = "change_cost"
    BACK_OFF = "back_off"
    POOL_FULL = "pool_full"
    WORK_DONE = "work_done"
    OPERATOR_PAUSE = "operator_pause"
    OPERATOR_ORDER = "operator_order"
    # what had to give
    LIMIT_UNREACHABLE = "limit_unreachable"
    EVENT_UNREACHABLE = "event_unreachable"
    DEADLINE_UNREACHABLE = "deadline_unreachable"
    FLOOR_BROKEN = "floor_broken"
    LATENCY_YIELDS = "latency_yields"
    TIER_BROKEN = "tier_broken"
    TIER_UNKNOWN = "tier_unknown"
    LATENCY_MISSED = "latency_missed"
    RAMP_BROKEN = "ramp_broken"
    EVENT_CONFLICT = "event_conflict"
    # what was answered
    OPT_IN = "opt_in"
    OPT_OUT = "opt_out"
    # what became of a utility's channel
    CHANNEL_LOST = "channel_lost"
    MESSAGE_REFUSED = "message_refused"
    CHANNEL_MESSAGE = "channel_message"
    # what was substituted
    STALE_SIGNAL = "stale_signal"
    SIGNAL_LOST = "signal_lost"
    SIGNAL_FORECAST = "signal_forecast"
    FORECAST_ZERO = "forecast_zero"
    SIGNAL_GAP = "signal_gap"
    SIGNAL_NAN = "signal_nan"
    SIGNAL_SPIKE = "signal_spike"
    SIGNAL_UNIT = "signal_unit"
    SIGNAL_DUPLICATE = "signal_duplicate"
    SIGNAL_ESTIMATED = "signal_estimated"
    SIGNAL_ZERO = "signal_zero"
    SIGNAL_SHIFTED = "signal_shifted"
    SIGNAL_LATE = "signal_late"
    SOLVER_TIMEOUT = "solver_timeout"
    SOLVER_CRASH = "solver_crash"
    SOLVER_INFEASIBLE = "solver_infeasible"
    SOLVER_INCUMBENT = "solver_incumbent"
    JOBS_GROUPED = "jobs_grouped"
    SCENARIOS = "scenarios"
    SCENARIOS_DROPPED = "scenarios_dropped"
    PLAN_REFUSED = "plan_refused"
    RUNG_FAILED = "rung_failed"
    LAST_PLAN_SHIFTED = "last_plan_shifted"
    GREEDY_PLAN = "greedy_plan"
    RULE_PLAN = "rule_plan"
    HELD = "held"
    SAFE_STATE = "safe_state"
    # what the hardware said
    CAP_DRIFT = "cap_drift"
    CAP_YIELDED = "cap_yielded"
    CAP_UNMOVED = "cap_unmoved"
    CAP_REFUSED = "cap_refused"
    CAP_CLAMPED = "cap_clamped"
    GPU_LOST = "gpu_lost"
    NODE_LOST = "node_lost"
    NO_PERMISSION = "no_permission"
    CALL_TIMEOUT = "call_timeout"
    METER_LOST = "meter_lost"
    LATENCY_LOST = "latency_lost"
    DEVICE_LOST = "device_lost"
    JOBS_LOST = "jobs_lost"
    SETPOINT_DRIFT = "setpoint_drift"
    METER_MISMATCH = "meter_mismatch"
    OBSERVE_MODE = "observe_mode"
    SIMULATED = "simulated"
    PERSISTENCE_OFF = "persistence_off"
    MIG_MODE = "mig_mode"
    BOARD_LIMIT = "board_limit"
    CLOCK_REFUSED = "clock_refused"
    CLOCK_STEP = "clock_step"
    CYCLE_LATE = "cycle_late"
    STORE_DEGRADED = "store_degraded"
    LEAD_TAKEN = "lead_taken"
    STANDBY_LOST = "standby_lost"
    REPLICAS_REFUSED = "replicas_refused"
    # what other sites do
    ELSEWHERE = "elsewhere"
    COORDINATOR_LOST = "coordinator_lost"
    # what is known of the cards
    CURVE_BORROWED = "curve_borrowed"
    CURVE_DEPARTS = "curve_departs"
    # what the utility's side said
    EVENT_UNREAD = "event_unread"


REASONS: tuple[Reason, ...] = tuple(Reason)
CODE = {reason: number for number, reason in enumerate(REASONS)}
"""Place of each reason in REASONS: what arrays of reasons hold."""


class Severity(StrEnum):
    """How loud a note is."""

    INFO = "info"
    WARNING = "warning"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class Note:
    """One visible fact: a code, what it is about (a pool, job, event, signal or GPU), and a sentence for a person."""

    code: Reason
    subject: str
    text: str
    severity: Severity = Severity.WARNING
    at: datetime | None = None
