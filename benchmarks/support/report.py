"""The one language of all benchmarks: the same options, and a last line that a program reads.

Why ratios and medians: a shared machine is easily twice as slow for a minute. Two things measured in turn in one run
suffer alike; their ratio is worth quoting, seconds are not. A figure that was not measured is absent, never made up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

Figures = Mapping[str, Any]
SEED = 20220906


def run(name: str, about: str, measure: Callable[[bool, int], Figures], argv: Sequence[str] | None = None) -> None:
    """Parse the options, measure, print the last line. `measure` gets (quick, seed) and prints what a person reads."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: to see that it works")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of everything random (default: %(default)s)")
    asked = parser.parse_args(argv)
    figures = {key: _rounded(value) for key, value in measure(asked.quick, asked.seed).items() if value is not None}
    print(json.dumps({"name": name, "figures": figures, "machine": machine(), "seed": asked.seed}), flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on; the load says how much of it others were using."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "highspy": version("highspy"),
        "pyomo": version("pyomo"),
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def say(text: str = "") -> None:
    """One line for a person, at once."""
    print(text, flush=True)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median with the range, as a person wants to see a ratio."""
    if len(values) == 1:
        return f"{values[0]:{form}} (one run)"
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}}, {len(values)} runs)"


def _rounded(value: Any) -> Any:
    """Four significant digits: more would claim a precision that no shared machine has."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
