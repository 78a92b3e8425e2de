"""Asks a heavy library in a process of its own, which ends with the answer or at the deadline.

Why a process: the libraries that know the markets' web sites bring pandas, change global settings of TLS, print, and at
times wait for ever. Here all of that happens to a child that runs at low priority, holds no memory between questions,
and is killed when its time is over; the loops pay for none of it. Keys go in through its standard input, never through
arguments or the environment, which others can read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from adapters.ports import SourceError
from adapters.signals.live import Ask, TryLater
from adapters.signals.rows import Row, instant, number, rows_of

MODULE = "adapters.signals.child_main"
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
MOST_CHARS = 64 * 2**20


def ask_child(place: str, ask: Ask, question: Mapping[str, Any], proxy: str | None, ca: str | None) -> list[Row]:
    """Rows that a child found for `question`. Raises SourceError (TryLater where the market names a time)."""
    question = {**question, "start": ask.start.isoformat(), "end": ask.end.isoformat(), "now": ask.now.isoformat()}
    left_s = ask.left_s()
    try:
        run = subprocess.run(
            [sys.executable, "-m", MODULE, f"{left_s + 5:.0f}"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=left_s,
            check=False,
            env=_environment(proxy, ca),
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"{place}: no answer in time") from None
    except OSError as error:
        raise SourceError(f"{place}: no process to ask in ({error})") from None
    return read_answer(place, question, run.stdout, run.returncode, run.stderr)


def read_answer(place: str, question: Mapping[str, Any], stdout: str, code: int, stderr: str) -> list[Row]:
    """The rows in what a child wrote last. Raises SourceError, never with the key in its text."""
    try:
        told = json.loads(stdout.rstrip().rpartition("\n")[2][:MOST_CHARS])
    except ValueError:
        told = None
    if not isinstance(told, dict):
        last = (stderr.strip().splitlines() or ["nothing said"])[-1]
        told = {"error": f"the child ended with {code} ({last[:200]})"}
    if "error" in told:
        text = str(told["error"]).replace(str(question.get("key") or "\n"), "***")
        if "after_s" in told:
            raise TryLater(f"{place}: {text}", float(told["after_s"]))
        raise SourceError(f"{place}: {text}")
    return rows_of(place, told.get("rows"), lambda item: Row(instant(item[0]), instant(item[1]), number(item[2])))


def _environment(proxy: str | None, ca: str | None) -> dict[str, str]:
    """Little of ours: no token of the daemon's environment reaches a library that does not need it."""
    kept = {name: value for name in KEPT if (value := os.environ.get(name)) is not None}
    if proxy is not None:
        kept |= {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
    if ca is not None:
        kept |= {"REQUESTS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca}
    return kept
