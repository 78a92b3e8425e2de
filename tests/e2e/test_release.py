"""`gridpace doctor` and `gridpace release` beside a daemon, and where it is dead."""

import pytest

from tests.support.daemon import Machine
from tests.support.system import require

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def machine(tmp_path):
    require("gcc")
    made = Machine(tmp_path)
    yield made
    made.close()


def test_what_a_dead_daemon_holds_is_listed_and_given_back(machine):
    daemon = machine.start().serving()
    assert daemon.call("POST", "/api/v1/operator", {"action": "limit", "site": "lab", "limit_kw": 2.5})[0] == 200
    daemon.wait(lambda: machine.fake.limits_w() != machine.first and not daemon.get("/api/v1/status")["tick"]["orders"])
    code, said = daemon.command("doctor")
    assert (code, said.splitlines()[-1].endswith("; a daemon runs")) == (0, True), said
    daemon.kill()
    capped = machine.fake.limits_w()
    assert capped != machine.first
    code, said = daemon.command("doctor")
    assert code == 1, "held, and nobody there to give it back"
    assert all(f"limit {gpu}: gets back {watts:g} W" in said for gpu, watts in machine.first.items()), said
    code, said = daemon.command("release")
    assert (code, said) == (0, "No daemon runs. Everything is given back.\n")
    assert machine.fake.limits_w() == machine.first
    assert daemon.command("doctor") == (0, "0 held; no daemon runs\n")


def test_a_daemon_that_does_not_answer_is_not_released_behind_its_back(machine):
    daemon = machine.start().serving()
    machine.configure(port=1)  # nobody answers there, but the lock is held
    code, said = daemon.command("release")
    assert (code, "another gridpace is running" in said) == (3, True), said
