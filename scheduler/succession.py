"""A daemon whose books were lost begins above the epoch that its nodes obeyed last.

Why by hand: nodes refuse an older epoch because it is that of a daemon that was replaced, and nothing but an operator
knows that no newer one is left. Whoever took the nodes' own word for it at every start would fence nobody any more.
"""

from __future__ import annotations

from adapters.ports import AdapterError
from scheduler.config import Config
from scheduler.lock import DaemonLock
from scheduler.store.store import Store


def begin_above(config: Config, epoch: int) -> int:
    """See to it that the next start of this daemon has a newer epoch than `epoch`; which one. Raises AlreadyRunning,
    StoreError, and AdapterError where no books are kept."""
    if config.clock is not None and not config.clock.keep_books:
        raise AdapterError(f"{config.place('clock')}: no books are kept, so that each start begins anew")
    config.state_path.mkdir(parents=True, exist_ok=True)
    with DaemonLock(config.state_path):
        store = Store.open(config.store_path, least_epoch=epoch)
        try:
            return store.epoch() + 1
        finally:
            store.close()
