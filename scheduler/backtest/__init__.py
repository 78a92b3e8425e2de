"""Backtests: the daemon's own loops over recorded prices, beside two rivals, settled by one account.

Why a package of small files: what drives, what rivals do and what is counted must be readable apart from each other,
because each of them can flatter a result.
"""

from scheduler.backtest.recorded import BacktestRefused, RecordingGap
from scheduler.backtest.result import BacktestResult
from scheduler.backtest.run import BoundBroken, run_backtest

__all__ = ["BacktestRefused", "BacktestResult", "BoundBroken", "RecordingGap", "run_backtest"]
