"""Compiles and steers the fake `libnvidia-ml.so.1`: cards, limits and faults in a file that all processes share.

`FakeNvml(dir, gpus=[...])` makes the state file; `.env()` is the environment of a child process that shall find the
fake; `.preload()` loads it into this process (the loader then matches its SONAME, and the real `pynvml` uses it). The
file outlives every process, so a daemon that was killed and started again meets the limits that it left.
"""

import ctypes
import mmap
import os
import subprocess
import time
from dataclasses import dataclass
from math import exp
from pathlib import Path

from tests.support.system import require

SOURCE = Path(__file__).parent / "fake_nvml" / "fake_nvml.c"
STATE = "FAKE_NVML_STATE"
HANG_SET, HANG_ALL = 1, 2


@dataclass(frozen=True)
class FakeGpu:
    """One card as it is when the machine boots. All in W; `demand_w` is what its work would draw without a limit."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    min_w: float = 200.0
    max_w: float = 700.0
    default_w: float = 700.0
    limit_w: float = 700.0
    idle_w: float = 75.0
    demand_w: float = 650.0


class _Gpu(ctypes.Structure):
    """The record of one card; the C source has the same."""

    _fields_ = (
        ("uuid", ctypes.c_char * 96), ("name", ctypes.c_char * 96),
        *((name, ctypes.c_uint32) for name in (
            "min_mw", "max_mw", "default_mw", "limit_mw", "bmc_mw", "persistence", "mig", "lost", "no_permission",
            "refuse", "hang", "latency_ms", "reset_after_ms", "no_energy", "busy_percent", "no_utilisation",
            "set_calls", "generation", "min_mhz", "max_mhz", "locked_mhz", "no_clocks", "lock_calls", "padding")),
        *((name, ctypes.c_double) for name in (
            "reset_at_s", "clock_share", "idle_w", "demand_w", "settle_down_s", "settle_up_s", "draw_w", "energy_j",
            "updated_s")),
    )  # fmt: skip


class _Header(ctypes.Structure):
    """What stands before the cards."""

    _fields_ = tuple(
        (name, ctypes.c_uint32)
        for name in (
            "magic", "count", "gpu_size", "no_driver", "in_flight", "most_in_flight", "inits", "clients", "driver",
            "padding")
    )  # fmt: skip


def h100s(count: int) -> list[FakeGpu]:
    """A node of that many H100s."""
    return [FakeGpu(f"GPU-0000000{k}-aaaa-bbbb-cccc-dddddddddddd") for k in range(count)]


def build(folder: Path) -> Path:
    """Compile the fake once per folder; returns the library's path."""
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        require("gcc")
        made = folder / f"building-{os.getpid()}"
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
        subprocess.run([*command, "-o", made, SOURCE, "-lm", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"], check=True)
        made.replace(library)
    return library


class FakeNvml:
    """The cards of one fake machine. Fields ending in `_w` are watts; the others are those of the C source."""

    def __init__(self, folder: Path, gpus: list[FakeGpu], library: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.library = library or build(folder)
        self.path = folder / "nvml.state"
        self.gpus = gpus
        size = ctypes.sizeof(_Header) + len(gpus) * ctypes.sizeof(_Gpu)
        with self.path.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self.header = _Header.from_buffer(self._map)
        self._records = (_Gpu * len(gpus)).from_buffer(self._map, ctypes.sizeof(_Header))
        for record, gpu in zip(self._records, gpus, strict=True):
            self._boot(record, gpu)
        self.header.count, self.header.gpu_size = len(gpus), ctypes.sizeof(_Gpu)
        self.header.magic = 0x4C4D564E

    @staticmethod
    def _boot(record: _Gpu, gpu: FakeGpu) -> None:
        record.uuid, record.name = gpu.uuid.encode(), gpu.name.encode()
        for field in ("min", "max", "default", "limit"):
            setattr(record, f"{field}_mw", round(getattr(gpu, f"{field}_w") * 1000))
        record.persistence, record.idle_w, record.demand_w = 1, gpu.idle_w, gpu.demand_w
        record.min_mhz, record.max_mhz, record.clock_share = 210, 1980, 0.6
        record.settle_down_s, record.settle_up_s, record.busy_percent = 0.05, 0.4, 100
        record.draw_w, record.updated_s = min(gpu.demand_w, gpu.limit_w), time.monotonic()

    def env(self) -> dict[str, str]:
        """Environment of a child process whose NVML is this machine."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.library.parent), STATE: str(self.path)}

    def preload(self) -> None:
        """Load the fake into this process; set STATE in the environment to choose whose cards it shows."""
        ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)

    def set(self, gpu: str | int, **fields: float) -> None:
        """Change fields of one card: `limit_w=300`, `demand_w=80`, `bmc_w=500`, `lost=1`, `hang=HANG_SET`, ..."""
        record = self._record(gpu)
        for name, value in fields.items():
            if name.removesuffix("_w") in {"min", "max", "default", "limit", "bmc"}:
                setattr(record, name.removesuffix("_w") + "_mw", round(value * 1000))
            elif hasattr(record, name):
                setattr(record, name, value)
            else:
                raise AttributeError(f"a fake GPU has no {name}")

    def set_all(self, **fields: float) -> None:
        """Change the same fields of every card."""
        for k in range(len(self.gpus)):
            self.set(k, **fields)

    def bring_back(self, gpu: str | int) -> None:
        """A lost card returns; handles from before are of no use any more."""
        record = self._record(gpu)
        record.generation += 1
        record.lost = 0

    def reload_driver(self) -> None:
        """The driver is loaded again: every limit back to its default, every clock free, and whoever had NVML open
        finds no driver until it has shut NVML down as often as it opened it."""
        self.header.driver += 1
        for record in self._records:
            record.limit_mw, record.locked_mhz = record.default_mw, 0

    def state(self, gpu: str | int) -> dict[str, float]:
        """One card now: limits and draw in W, energy in J up to now, and the counters."""
        record = self._record(gpu)
        limit = _limit_mw(record) / 1000
        enforced = min(limit, record.bmc_mw / 1000) if record.bmc_mw else limit
        ratio = min(record.locked_mhz or record.max_mhz, record.max_mhz) / record.max_mhz
        demand = record.idle_w + (record.demand_w - record.idle_w) * (1 - record.clock_share * (1 - ratio**2))
        target = min(demand, max(enforced, record.idle_w))
        gap, seconds = record.draw_w - target, max(0.0, time.monotonic() - record.updated_s)
        tau = (record.settle_down_s if gap > 0 else record.settle_up_s) / 3
        energy = record.energy_j + target * seconds + gap * tau * (1 - exp(-seconds / tau))
        draw = target + gap * exp(-seconds / tau)
        return {"limit_w": limit, "enforced_w": enforced, "draw_w": draw, "energy_j": energy,
                "set_calls": record.set_calls, "locked_mhz": record.locked_mhz, "lock_calls": record.lock_calls,
                 "persistence": record.persistence, "lost": record.lost,
                "busy_percent": record.busy_percent, "no_utilisation": record.no_utilisation}  # fmt: skip

    def limits_w(self) -> dict[str, float]:
        """Requested limit of every card by UUID."""
        return {record.uuid.decode(): _limit_mw(record) / 1000 for record in self._records}

    def _record(self, gpu: str | int) -> _Gpu:
        if isinstance(gpu, int):
            return self._records[gpu]
        return next(record for record in self._records if record.uuid.decode() == gpu)


def _limit_mw(record: _Gpu) -> int:
    """The requested limit; a reset whose time has come counts, though the library has not been asked since."""
    return record.default_mw if 0 < record.reset_at_s <= time.monotonic() else record.limit_mw
