"""AMD cards: the package without its driver, cards that tell no lowest cap, partitions, and a driver loaded anew.

AMD's own Python binding runs over a compiled stand-in of its library; no real card was at hand.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.context import AdapterContext
from adapters.ports import AdapterError, Lease
from adapters.power.amdsmi import AmdConfig, AmdPower
from adapters.registry import MissingExtra
from optimizer.reasons import Reason
from scheduler.clock import WallClock
from tests.support import fake_amdsmi

LEASE = Lease(1, 1, 60.0)


@contextmanager
def machine(count=2, config=None, **fields):
    cards = fake_amdsmi.cards(count, **fields)
    power = AmdPower(AmdConfig(type="amdsmi", **(config or {})), AdapterContext(WallClock(), Path()))
    try:
        yield power, cards, [card.uuid.decode() for card in cards]
    finally:
        power.close()


def test_without_the_drivers_library_it_says_what_to_do_and_prints_nothing():
    load = "from adapters.power.amdsmi import load"
    code = f"{load}\ntry:\n    load()\nexcept Exception as error:\n    print(type(error), error)"
    env = {name: value for name, value in os.environ.items() if name not in {"ROCM_PATH", "ROCM_HOME"}}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert run.stdout.startswith("<class 'adapters.ports.AdapterError'> AMD SMI: the driver's library libamd_smi.so")
    assert "`amd-smi list` must work" in run.stdout
    assert run.stdout.count("\n") == 1, "what the package prints is kept"
    assert run.stderr == ""


def test_without_the_package_it_says_which_one_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with pytest.raises(MissingExtra, match="pip install /opt/rocm/share/amd_smi"):
        AmdPower(AmdConfig(type="amdsmi"), AdapterContext(WallClock(), Path()))


def test_a_card_that_tells_no_lowest_cap_is_not_touched_until_the_config_names_one():
    with machine(1, min_uw=0) as (power, cards, (gpu,)):
        with pytest.raises(AdapterError, match=f"{gpu}: tells limits from 0 to 700 W; set `min_w`"):
            power.discover()
        assert power.apply({gpu: 100}, LEASE).failures == {gpu: Reason.CAP_REFUSED}
        assert cards[0].set_calls == 0
    with machine(1, {"min_w": 400.0}, min_uw=0, cap_uw=350_000_000) as (power, cards, (gpu,)):
        assert power.discover()[gpu].min_w == 400
        assert power.apply({gpu: 100}, LEASE).enforced_w == {gpu: 400}
        assert power.release({gpu: 350.0}).enforced_w == {gpu: 350}, "what was found is given back, low as it is"


@pytest.mark.parametrize(("found", "now", "given_back"), [
    (654_321_987, {}, 654_321_987), (654_321_987, {"min_uw": 660_000_000}, 660_000_000),
    (700_000_000, {"max_uw": 650_000_000}, 650_000_000), (700_000_000, {"max_uw": 750_000_000}, 700_000_000),
    (700_000_000, {"cap_uw": 700_000_000, "max_uw": 650_000_000}, 700_000_000),
])  # fmt: skip
def test_what_was_found_is_given_back_to_the_microwatt(found, now, given_back):
    """Nothing but the card's own range bounds it, and where it holds anyway not even that."""
    with machine(1, cap_uw=found) as (power, cards, (gpu,)):
        limit_w = power.discover()[gpu].limit_w
        power.apply({gpu: 300}, LEASE)
        for name, value in now.items():
            setattr(cards[0], name, value)
        receipt = power.release({gpu: limit_w})
        assert (receipt.failures, cards[0].cap_uw) == ({}, given_back)
        assert (Reason.CAP_CLAMPED in {note.code for note in receipt.notes}) == (found != given_back)


def test_a_range_that_cannot_be_turns_no_limit_found_into_zero():
    with machine(1) as (power, cards, (gpu,)):
        power.apply({gpu: 300}, LEASE)
        cards[0].min_uw = cards[0].max_uw = 0
        receipt = power.release({gpu: 700.0})
        assert (receipt.failures, cards[0].cap_uw) == ({gpu: Reason.CAP_REFUSED}, 300_000_000), "tried again later"


def test_what_is_no_card_of_its_own_or_tells_no_power_is_left_out():
    with machine(4) as (power, cards, gpus):
        cards[1].partition = 1
        cards[2].no_power = 1
        cards[3].old, cards[3].busy_percent = 1, 255
        found = power.discover()
        assert list(found) == [gpus[0], gpus[3]]
        assert (found[gpus[3]].draw_w, found[gpus[3]].utilisation) == (650, None)
        assert (found[gpus[0]].model, found[gpus[0]].utilisation) == ("AMD Instinct MI300X", 1.0)


def test_a_driver_that_was_loaded_anew_is_found_again():
    with machine() as (power, _, gpus):
        power.discover()
        fake_amdsmi.library().fake_unload()
        assert set(power.apply(dict.fromkeys(gpus, 300), LEASE).failures.values()) == {Reason.GPU_LOST}
        assert power.apply(dict.fromkeys(gpus, 300), LEASE).enforced_w == dict.fromkeys(gpus, 300)
        fake_amdsmi.library().fake_unload()
        assert list(power.discover()) == gpus


def test_a_driver_that_stays_away_may_be_closed(monkeypatch):
    with machine() as (power, _, _):
        power.discover()
        smi = power._smi
        fake_amdsmi.library().fake_unload()
        monkeypatch.setattr(smi, "amdsmi_init", lambda *_: (_ for _ in ()).throw(smi.AmdSmiLibraryException(34)))
        for _ in range(2):
            with pytest.raises(AdapterError):
                power.discover()
        power.close()
        monkeypatch.undo()


def test_an_order_in_force_is_not_written_again_and_a_moved_one_is_named():
    with machine(1) as (power, cards, (gpu,)):
        for _ in range(3):
            power.apply({gpu: 300}, LEASE)
        assert cards[0].set_calls == 1
        cards[0].cap_uw = 700_000_000
        receipt = power.apply({gpu: 300}, LEASE)
        assert [note.text for note in receipt.notes] == ["the limit was 700 W where 300 W had been set; 300 W set now"]


def test_a_refusal_says_what_the_library_said():
    with machine(1, no_permission=1) as (power, _, (gpu,)):
        texts = [note.text for note in power.apply({gpu: 300}, LEASE).notes]
        assert "AMD SMI: AMDSMI_STATUS_NO_PERM - Permission Denied; run as root" in texts
