"""SIGTERM and SIGINT as an event to wait for.

A handler runs in the main thread between two of its own steps, so it must take no lock that the main thread may hold
just then: `Event.set` in it waits for ever when the signal comes while the main thread begins to wait for that event,
and a service that can't be told to stop is killed before it has given anything back. `SimpleQueue.put` is made for
that place; a thread of its own carries the word from there.
"""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue


def stop_event() -> threading.Event:
    """The event that SIGTERM or SIGINT sets, from now on. Only in the main thread (`signal.signal`)."""
    stop, heard = threading.Event(), SimpleQueue[int]()

    def carry() -> None:
        heard.get()
        stop.set()

    threading.Thread(target=carry, name="stop-signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: heard.put(number))
    return stop
