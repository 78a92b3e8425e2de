"""What `gridpace agent` may be told: a number that makes no sense is refused by name, before anything is touched."""

import os
import pwd

import pytest

from adapters.ports import AdapterError
from scheduler.agent import process

USUAL = {"release_w_per_s": 10.0, "tick_s": 0.5, "reassert": 3, "quiet_s": 900.0}


def told(capsys, *words):
    """What the command says about words that it does not take."""
    with pytest.raises(SystemExit) as ended:
        process.main(list(words))
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "-1", "-0.0001", "1e7", "x", ""])
@pytest.mark.parametrize("option", USUAL)
def test_a_number_outside_its_range_is_refused_with_name_value_and_range(capsys, option, text):
    flag = f"--{option.replace('_', '-')}"
    said = told(capsys, f"{flag}={text}")
    ranges = {"release_w_per_s": "0.1 to 100000", "tick_s": "0.01 to 30", "reassert": "0 to 1000",
              "quiet_s": "1 to 2592000"}  # fmt: skip
    kind = "whole number" if option == "reassert" else "number"
    assert said == f"gridpace agent: error: argument {flag}: '{text}' is not a {kind} from {ranges[option]}"


def test_a_ramp_or_a_tick_of_nothing_is_refused_and_the_ends_of_a_range_are_not(capsys):
    for words in ("--release-w-per-s=0", "--tick-s=0", "--quiet-s=0", "--reassert=1.5", "--reassert=1001"):
        assert "is not a" in told(capsys, words)
    taken = process._parser().parse_args(
        ["--release-w-per-s", "0.1", "--tick-s", "30", "--reassert", "0", "--quiet-s", "2592000"]
    )
    assert [getattr(taken, name) for name in USUAL] == [0.1, 30.0, 0, 2592000.0]
    usual = process._parser().parse_args([])
    assert {name: getattr(usual, name) for name in USUAL} == USUAL


@pytest.mark.parametrize("name", ["nobody-of-that-name", "²", "-1", "4294967295", "1" * 30, ""])
def test_a_user_who_is_none_is_refused_by_name(name):
    with pytest.raises(
        AdapterError, match=f"--allow-user {name}: no user of this machine, and no uid below 4294967295"
    ):
        process._writers([name])


def test_users_are_known_by_name_and_by_number():
    me = os.geteuid()
    assert process._writers([pwd.getpwuid(me).pw_name, "0", "4294967294"]) == [me, 0, 2**32 - 2]
    assert process._writers([]) in ([], [pwd.getpwnam(process.DAEMON_USER).pw_uid] if _is_installed() else [])


def _is_installed():
    return any(entry.pw_name == process.DAEMON_USER for entry in pwd.getpwall())
