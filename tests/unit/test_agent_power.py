"""An agent over other hardware: leases hold there too, and what the file gets wrong is named."""

import subprocess
import sys
import threading

import pytest

from adapters.ports import AdapterError, Lease
from adapters.power.agent import AgentPower
from scheduler.agent.core import AgentSettings
from scheduler.agent.power import power_from
from scheduler.agent.process import run_agent
from tests.support.power_worlds import serves, wait_until
from tests.support.redfish_bmc import PASSWORD, ROOT, running_bmc, tree

GPU = "n1/HGX_Baseboard_0/GPU_SXM_1"
URI = f"{ROOT}/Systems/HGX_Baseboard_0/Processors/GPU_SXM_1/EnvironmentMetrics"


def test_a_cap_on_a_controller_has_a_lease_and_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BMC", PASSWORD)
    resources = tree(1)
    resources[URI]["PowerLimitWatts"] |= {"ControlMode": "Disabled"}
    with running_bmc(resources) as (bmc, url):
        file = tmp_path / "power.yaml"
        file.write_text(f"type: redfish\nservers: {{n1: '{url}'}}\nusername: gridpace\npassword: env:BMC\n")
        power, stop, path = power_from(file), threading.Event(), tmp_path / "agent.sock"
        settings = AgentSettings(tick_s=0.05, release_w_per_s=2000.0, stop_s=0.5)
        thread = threading.Thread(target=run_agent, args=(path, tmp_path / "state", power, (), settings, stop))
        thread.start()
        client = AgentPower(path)
        try:
            wait_until(lambda: serves(client))
            assert client.apply({GPU: 300}, Lease(1, 1, 0.5)).enforced_w == {GPU: 300}
            assert bmc.limit(URI) == 300
            wait_until(lambda: bmc.limit(URI) is None)  # nobody renewed it
            assert client.status()["found_w"] == {}
        finally:
            client.close()
            stop.set()
            thread.join(20)
            power.close()


@pytest.mark.parametrize("more", [{"ignoring": [GPU], "kept_w": {"g2": 300}}, {}])
def test_an_agent_tells_who_ignores_caps_and_who_keeps_one_and_an_older_one_does_not(tmp_path, monkeypatch, more):
    client = AgentPower(tmp_path / "agent.sock")
    told = {"yielded_w": {GPU: 400.0}, "reasserted": 3, **more}
    monkeypatch.setattr(client, "status", lambda: told)
    found = client.contested()
    assert (found.ignoring, [note.subject for note in found.notes]) == (({GPU}, ["g2"]) if more else (set(), []))


@pytest.mark.parametrize(("text", "said"), [
    ("servers: {}\n", "the file: needs a `type`: .*redfish"),
    ("type: redfihs\n", 'type: "redfihs" is not one of .* Did you mean "redfish"'),
    ("type: redfish\nservers: {n1: 'https://h'}\nusername: me\npassword: hunter2\n", "password: .*secret never stands"),
    ("type: nvml\n", "type: an agent sets nvml without a file"),
])  # fmt: skip
def test_a_wrong_file_is_named_with_its_key(tmp_path, text, said):
    file = tmp_path / "power.yaml"
    file.write_text(text)
    with pytest.raises(AdapterError, match=f"power.yaml: {said}") as error:
        power_from(file)
    assert "hunter2" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AdapterError, match=r"nowhere\.yaml"):
        power_from(tmp_path / "nowhere.yaml")


def test_the_command_takes_the_file_and_says_what_is_wrong_with_it(tmp_path):
    file = tmp_path / "power.yaml"
    file.write_text("type: redfish\n")
    command = [sys.executable, "-m", "scheduler.agent.process", "--power", str(file), "--state-dir", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert f"{file}: servers: Field required" in run.stderr
