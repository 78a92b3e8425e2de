"""Imports structlog without the tracebacks that rich would draw for it.

Why: wherever rich is installed, structlog imports it with pygments, a tenth of all that the daemon imports. Logs here
get their tracebacks as text (`logs.py`), on a terminal as in the journal, so nothing ever used it.
"""

from __future__ import annotations

import sys
from importlib import import_module


def import_structlog() -> None:
    """Let structlog find no rich while it is imported; others find it afterwards as ever."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # what Python documents for "can't be imported"
    try:
        import_module("structlog")
    finally:
        del sys.modules["rich"]
