"""What an agent keeps on disk, and when it no longer counts."""

from pathlib import Path

import pytest

from scheduler.agent.state import AgentFiles, Found, Held


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
