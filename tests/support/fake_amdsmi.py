"""Compiles and steers the fake `libamd_smi.so`; AMD's own Python binding is loaded over it, once in a test process."""

import ctypes
import importlib.util
import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.support.system import require

SOURCE = Path(__file__).parent / "fake_amdsmi" / "fake_amdsmi.c"
LOOKED_UP = re.compile(r"_libraries\['libamd_smi\.so'\]\.(\w+)")


class Card(ctypes.Structure):
    """One card; the C source has the same."""

    _fields_ = (
        ("uuid", ctypes.c_char * 40), ("name", ctypes.c_char * 64),
        *((name, ctypes.c_uint64) for name in ("cap_uw", "default_uw", "min_uw", "max_uw", "board_uw")),
        *((name, ctypes.c_uint32) for name in (
            "idle_w", "demand_w", "busy_percent", "old", "lost", "no_permission", "refuse", "partition", "set_calls",
            "no_power", "hang")),
    )  # fmt: skip


@cache
def library() -> ctypes.CDLL:
    """The compiled fake, where the binding looks for it (ROCM_PATH); must be called before amdsmi is imported."""
    require("gcc")
    folder = Path(tempfile.mkdtemp(prefix="gridpace-fake-amdsmi-"))
    (folder / "lib").mkdir()
    wrapper = Path(importlib.util.find_spec("amdsmi").origin).with_name("amdsmi_wrapper.py")
    written = set(re.findall(r"^int (amdsmi_\w+)\(", SOURCE.read_text(), re.MULTILINE))
    others = sorted({*LOOKED_UP.findall(wrapper.read_text())} - written)
    stubs = folder / "stubs.c"
    stubs.write_text("\n".join(f"int {name}(void) {{ return 2; }}" for name in others))
    made = folder / "lib" / "libamd_smi.so"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", made, SOURCE, stubs], check=True
    )
    os.environ["ROCM_PATH"] = os.environ["ROCM_HOME"] = str(folder)
    loaded = ctypes.CDLL(str(made))
    loaded.fake_card.restype = ctypes.POINTER(Card)
    return loaded


def cards(count: int = 8, **fields) -> list[Card]:
    """Fresh cards of a machine: MI300X-like, from 200 to 700 W so that every world has the same numbers."""
    loaded = library()
    loaded.fake_reset(count)
    made = [loaded.fake_card(place).contents for place in range(count)]
    for place, card in enumerate(made):
        base = {"uuid": f"{place:02d}ff74a1-0000-1000-80fe-5b9c63d7a9b4".encode(), "name": b"AMD Instinct MI300X",
                "cap_uw": 700_000_000, "default_uw": 700_000_000, "min_uw": 200_000_000, "max_uw": 700_000_000,
                "idle_w": 75, "demand_w": 650, "busy_percent": 100}  # fmt: skip
        for name, value in (base | fields).items():
            setattr(card, name, value)
    return made
