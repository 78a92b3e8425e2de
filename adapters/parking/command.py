"""Parks GPUs by a command of the operator's own: stops workers, drains nodes, unloads models, and the way back.

Why a command: what a deep idle state is differs from site to site (a worker without a model, a node in suspend, a
deployment scaled down), and whoever runs the site has a script for it already. It runs without a shell, apart from the
loops, one at a time; a number that it prints is what is really parked.
"""

from __future__ import annotations

import subprocess
import threading
from typing import Literal

from pydantic import Field

from adapters.context import AdapterContext
from adapters.fields import AdapterConfig
from adapters.ports import AdapterError

LONGEST_WORD = 200
RETRY_S = 30.0
"""A command that failed is tried again so much later."""


class CommandConfig(AdapterConfig):
    """A command that makes so many GPUs of a pool sleep, and wakes the others."""

    type: Literal["command"] = Field(description="A command of your own.", examples=["command"])
    command: tuple[str, ...] = Field(
        min_length=1,
        description="Program and arguments, run without a shell. `{gpus}` is the number of GPUs that are to be parked "
        "from now on, whichever of those without work; the others are to be awake. It must be safe to repeat. Where "
        "its last line is a whole number, that is what is really parked.",
        examples=[["/etc/gridpace/park", "batch", "{gpus}"]],
    )
    timeout_s: float = Field(
        default=120.0, gt=0, le=3600, description="How long it may take before it is killed.", examples=[120.0]
    )


class CommandParking:
    """`ParkingHook` by a command. A newer number waits for the command that runs; the last one counts."""

    Config = CommandConfig

    def __init__(self, config: CommandConfig, context: AdapterContext) -> None:
        self._config, self._clock, self._permit = config, context.clock, context.permit
        self._wake = threading.Condition()
        self._wanted: int | None = None
        self._parked = 0
        self._fault = ""
        self._running = self._closed = False
        self._retry_at = float("-inf")

    def read(self) -> int:
        """GPUs that the last command that ended well has parked. Raises AdapterError while the last one failed."""
        with self._wake:
            if self._fault:
                raise AdapterError(self._fault)
            return self._parked

    def apply(self, gpus: int) -> None:
        """Have so many parked from now on; returns at once."""
        with self._wake:
            again = bool(self._fault) and self._clock.monotonic() >= self._retry_at
            if gpus == self._wanted and not again:
                return
            self._wanted = gpus
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="parking", daemon=True).start()

    def close(self) -> None:
        """Wait for the command that runs."""
        with self._wake:
            self._closed = True
            self._wake.wait_for(lambda: not self._running, timeout=self._config.timeout_s + 1.0)

    def _work(self) -> None:
        """Run the command for the newest number until it has been run for that."""
        while True:
            with self._wake:
                wanted = self._wanted or 0
            parked, fault = self._run(wanted)
            with self._wake:
                self._fault = fault
                self._parked = self._parked if parked is None else parked
                self._retry_at = self._clock.monotonic() + RETRY_S
                if self._wanted == wanted:
                    self._running = False
                    self._wake.notify_all()
                    return

    def _run(self, gpus: int) -> tuple[int | None, str]:
        """What is parked afterwards (None: not known), and what went wrong."""
        words = [word.replace("{gpus}", str(gpus)) for word in self._config.command]
        try:
            self._permit()
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                timeout=self._config.timeout_s,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, f"{words[0]} was killed after {self._config.timeout_s:g} s"
        except AdapterError as error:
            return None, f"{words[0]} was not called: {error}"
        except OSError as error:
            return None, f"{words[0]}: {error.strerror}"
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            return None, f"{words[0]} ended with {done.returncode}: {said[-1][:LONGEST_WORD] if said else 'no word'}"
        last = done.stdout.strip().splitlines()[-1:]
        return (int(last[0]) if last and last[0].strip().isdigit() else gpus), ""
