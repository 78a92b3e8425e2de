"""The child's side: one question in, one line of JSON out, whatever a library prints meanwhile.

Why an alarm of its own: a parent that was killed cannot kill; the child then ends by itself.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from adapters.signals.child_answers import Answer, failure

LIBRARIES = {"gridstatus": "adapters.signals.child_gridstatus", "entsoe": "adapters.signals.child_entsoe"}


def answer(question: Mapping[str, Any]) -> Answer:
    """Rows, or an error as a sentence; never raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecated name or a slow path of a library is nothing for the operator
        try:
            rows = importlib.import_module(LIBRARIES[question["library"]]).rows(question)
        except Exception as error:  # noqa: BLE001 - whatever breaks in a library is a sentence for the parent
            return failure(error)
    return {"rows": rows}


def main() -> None:
    """Read a question from standard input and answer on what was standard output; nobody else may write there."""
    signal.alarm(int(sys.argv[1]))
    os.nice(10)
    logging.disable()  # libraries log what they ask, keys included
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    out.write("\n" + json.dumps(answer(json.load(sys.stdin))) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
