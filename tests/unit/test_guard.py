"""Half a Gridpace and half a stranger must never start."""

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler import guard

ROOT = Path(guard.__file__).resolve().parents[1]


def test_one_installation_is_accepted_and_named():
    assert guard.same_installation() == ROOT


@pytest.mark.parametrize("stranger", ["adapters", "optimizer"])
def test_package_of_another_distribution_is_refused_by_its_path(tmp_path, stranger):
    (tmp_path / stranger).mkdir()
    (tmp_path / stranger / "__init__.py").write_text("")
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from scheduler import guard\n"
        "try: guard.same_installation()\n"
        "except guard.MixedInstallationError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert f"{stranger} is at {tmp_path / stranger}" in said
    assert f"runs from {ROOT}" in said


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(guard, "PACKAGES", ("scheduler", "no_such_package"))
    with pytest.raises(guard.MixedInstallationError, match="no_such_package is at no place"):
        guard.same_installation()
