"""Lists all benchmarks and runs them one after the other, each in a process of its own."""

from __future__ import annotations

import argparse
import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """Every benchmark: a module here that is neither a package nor this one."""
    found = pkgutil.iter_modules([str(HERE)])
    return sorted(module.name for module in found if not module.ispkg and module.name != "__main__")


def about(name: str) -> str:
    """The first line of a benchmark's docstring, without importing it."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0]


def main() -> int:
    """List, run, and say which failed; the exit code is 1 when one did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="only list them")
    asked, options = parser.parse_known_args()
    for name in names():
        print(f"{name:<16} {about(name)}")
    failed = [] if asked.list else [name for name in names() if not _run(name, options)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, options: list[str]) -> bool:
    """Run one with the same options (--quick, --seed N)."""
    print(f"\n=== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
