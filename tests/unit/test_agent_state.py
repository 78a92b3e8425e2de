"""What an agent keeps on disk, and when it no longer counts."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.ports import AdapterError
from scheduler.agent.state import AgentFiles, Found, Held
from tests.support.fake_nvml import FakeNvml, h100s


@pytest.mark.parametrize("told", [True, False])
def test_where_the_kernel_does_not_name_its_boots_every_start_counts_as_one(tmp_path, monkeypatch, told):
    if not told:
        read = Path.read_text

        def untold(path, *args, **named):
            if path.name == "boot_id":
                raise OSError
            return read(path, *args, **named)

        monkeypatch.setattr(Path, "read_text", untold)
    files = AgentFiles(tmp_path)
    files.save_found(Found({"GPU-a": 700.0}, steps=[(0.0, {"GPU-a": 300})], hold_until=1e9))
    files.save_lease(Held(boot=files.boot, expires_at=1e9, sequence=7))
    found, held = AgentFiles(tmp_path).load()
    assert found.limits_w == {"GPU-a": 700.0}, "what is to be given back always counts"
    assert (bool(found.steps), found.hold_until > 0, held.sequence == 7) == (told, told, told)


ODD = {
    "limits_w": ['{"limits_w":null}', '{"limits_w":[]}', '{"limits_w":{"GPU-a":"700"}}', '{"limits_w":{"GPU-a":NaN}}',
                 '{"limits_w":{"GPU-a":-1}}', '{"limits_w":{"GPU-a":true}}', '{"limits_w":{"GPU-a":1e999}}',
                 '{"limits_w":{"GPU-a":1' + 400 * "0" + "}}"],
    "epoch": ['{"epoch":"7"}', '{"epoch":7.5}', '{"epoch":null}', '{"epoch":true}', '{"epoch":99999999999999999999}'],
    "boot": ['{"boot":7}', '{"boot":null}'],
    "hold_until": ['{"hold_until":"9"}', '{"hold_until":Infinity}', '{"hold_until":null}'],
    "steps": ['{"steps":{}}', '{"steps":[7]}', '{"steps":[[1]]}', '{"steps":[["1",{}]]}', '{"steps":[[1,[]]]}',
              '{"steps":[[1,{"GPU-a":"300"}]]}', '{"steps":[[1,{"GPU-a":300.5}]]}', '{"steps":[[null,{}]]}'],
    "clocks_mhz": ['{"clocks_mhz":{"GPU-a":null}}', '{"clocks_mhz":7}', '{"clocks_mhz":{"GPU-a":900.5}}'],
    "told": ['{"told":7}', '{"told":[1]}', '{"told":[1,"2"]}', '{"told":[[],{}]}'],
    "format": ['{"format":2}', '{"format":null}'],
    "": ["[]", "", "7", "{", "[" * 100_000, "\udcff"],
}  # fmt: skip


@pytest.mark.parametrize(("place", "text"), [(place, text) for place, texts in ODD.items() for text in texts])
def test_limits_that_no_agent_wrote_down_are_refused_with_file_and_place_and_left_as_they_are(tmp_path, place, text):
    whole = text.replace("{", '{"format":1,"limits_w":{"GPU-a":700.0},', 1) if place and place != "format" else text
    path = tmp_path / "found.json"
    path.write_bytes(before := whole.replace(",}", "}").encode("utf-8", "surrogateescape"))
    with pytest.raises(AdapterError, match=re.escape(f"{path}: ") + (f".*{place}" if place else "")) as refused:
        AgentFiles(tmp_path).load()
    assert len(str(refused.value)) < 300
    assert (path.read_bytes(), os.listdir(tmp_path)) == (before, ["found.json"])


def test_the_place_is_told_down_to_the_card(tmp_path):
    (tmp_path / "found.json").write_text('{"format":1,"steps":[[5.0,{"GPU-a":300}],[9.0,{"GPU-b":"x"}]]}')
    with pytest.raises(AdapterError, match=re.escape("""steps[1][1]['GPU-b'] must be whole W, not 'x'""")):
        AgentFiles(tmp_path).load()


def test_an_agent_does_not_start_over_limits_it_cannot_read(tmp_path):
    (tmp_path / "found.json").write_text('{"format":1,"limits_w":{"GPU-a":"700"}}')
    command = [
        sys.executable,
        "-m",
        "scheduler.agent.process",
        "--state-dir",
        tmp_path,
        "--socket",
        tmp_path / "a.sock",
    ]
    fake = FakeNvml(tmp_path, h100s(1))
    for more in ([], ["--release"], ["--forget", "GPU-a"]):
        ran = subprocess.run([*command, *more], env=fake.env(), capture_output=True, text=True, check=False, timeout=60)
        assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)
        assert f"{tmp_path / 'found.json'}: not written by this agent: limits_w['GPU-a'] must be W" in ran.stderr
    assert fake.limits_w() == {fake.gpus[0].uuid: 700.0}


def test_what_was_written_last_counts_where_the_disk_is_full_in_the_middle_of_a_file(tmp_path):
    files = AgentFiles(tmp_path)
    files.save_found(Found({"GPU-a": 700.0}))
    files.save_lease(Held(boot=files.boot, expires_at=1e9, sequence=7))
    many = {f"GPU-{number}": 300 for number in range(1000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(AdapterError, match=f"{tmp_path / 'found.json'}: "):
            files.save_found(Found(dict(many)))
        files.save_lease(Held(boot=files.boot, expires_at=2e9, sequence=8, ordered=many))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found, held = AgentFiles(tmp_path).load()
    assert (found.limits_w, held.sequence) == ({"GPU-a": 700.0}, 7)
