"""A dispatcher over three cards that remember what reached them, and a clock that is set by hand."""

from datetime import UTC, datetime

from adapters.ports import AdapterError, GpuInfo, Receipt
from optimizer.reasons import Reason
from scheduler.dispatch import Dispatcher
from scheduler.orders import PoolOrder

NOW = datetime(2022, 9, 6, 21, tzinfo=UTC)
GPUS = ("GPU-a", "GPU-b", "GPU-c")
FOUND_W = {"GPU-a": 613.0, "GPU-b": 587.0, "GPU-c": 700.0}


class Cards:
    """An actuator over three cards; `calls` is what reached it, `broken` answers with a failure instead of obeying."""

    def __init__(self, books=None):
        self.limits, self.calls, self.books = dict(FOUND_W), [], books
        self.broken, self.absent, self.board_w, self.gone = {}, set(), {}, False

    def discover(self):
        if self.gone:
            raise AdapterError("no card answers")
        return {
            gpu: GpuInfo(gpu, "H100", 200, 700, 700, watts, self._enforced(gpu), 400)
            for gpu, watts in self.limits.items()
            if gpu not in self.absent
        }

    def _enforced(self, gpu):
        return min(self.limits[gpu], self.board_w.get(gpu, 1e9))

    def apply(self, caps_w, lease):
        self.calls.append((dict(caps_w), lease))
        if self.books is not None and caps_w:
            assert caps_w.keys() <= self.books.first_limits().keys(), "written before the limit found was kept"
            assert self.books.open_intents(), "written before the journal said so"
        return self._set(caps_w)

    def release(self, limits_w):
        self.calls.append((dict(limits_w), None))
        return self._set(limits_w)

    def _set(self, wanted):
        if self.gone:
            raise AdapterError("no card answers")
        failures = {gpu: self.broken[gpu] for gpu in wanted if gpu in self.broken}
        failures |= {gpu: Reason.GPU_LOST for gpu in wanted if gpu in self.absent}
        done = [gpu for gpu in wanted if gpu not in failures]
        self.limits.update({gpu: wanted[gpu] for gpu in done})
        failures |= {gpu: Reason.CAP_DRIFT for gpu in done if self._enforced(gpu) != wanted[gpu]}
        return Receipt({gpu: self._enforced(gpu) for gpu in done}, failures)

    @property
    def caps(self):
        """What the writes so far ordered; empty renewals left out."""
        return [caps for caps, _ in self.calls if caps]


class Held(Cards):
    """The same with a mind of its own."""

    held = None

    def hold(self, steps, until_s, lease):
        self.held = (list(steps), until_s, lease)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def dispatcher(books, cards, clock, **more):
    pools = {"chat": GPUS[:2], "tune": GPUS[2:]}
    return Dispatcher(books, cards, pools, **({"writes": True, "epoch": 7, "monotonic": clock} | more))


def orders(chat=400, tune=300):
    return {"chat": PoolOrder(chat, 2), "tune": PoolOrder(tune, 1)}
