"""What `pip install` brings must be what a checkout has, and the lock must be good on every machine."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    command = [Path(sys.executable).with_name("hatchling"), "build", "--target", "wheel", "--directory", target]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def test_wheel_carries_the_packages_and_the_shipped_config(wheel):
    names = set(wheel.namelist())
    packaged = {str(path.relative_to(ROOT)) for name in ("optimizer", "adapters", "scheduler")
                for path in (ROOT / name).rglob("*.py")}  # fmt: skip
    shipped = {
        f"scheduler/shipped_{path.relative_to(ROOT)}" for path in (ROOT / "config").rglob("*.*") if path.is_file()
    }
    assert packaged <= names
    assert shipped <= names


def test_wheel_carries_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"adapters", "optimizer", "scheduler", next(top for top in tops if top.endswith(".dist-info"))}


def test_installed_command_finds_what_was_shipped(wheel, tmp_path):
    wheel.extractall(tmp_path)
    script = (
        "from scheduler import guard, shipped; print(guard.same_installation(), shipped.shipped('data/PROVENANCE.md'))"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert said == [str(tmp_path), str(tmp_path / "scheduler/shipped_config/data/PROVENANCE.md")]


def test_lock_names_only_public_places():
    places = set(re.findall(r'(?:registry|url) = "([a-z]+://[^/"]+)', (ROOT / "uv.lock").read_text()))
    assert places == {"https://pypi.org", "https://files.pythonhosted.org"}


def test_lock_was_made_for_these_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = next(package for package in lock["package"] if package["name"] == "gridpace")["metadata"]
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    assert sorted(map(_name, wanted)) == sorted(entry["name"] for entry in locked["requires-dist"])
    wanted = project["dependency-groups"]["dev"]
    assert sorted(map(_name, wanted)) == sorted(entry["name"] for entry in locked["requires-dev"]["dev"])


def test_make_and_project_pin_the_same_uv():
    pinned = re.search(r"^UV_VERSION := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert pinned
    assert f'"uv=={pinned[1]}"' in (ROOT / "pyproject.toml").read_text()


def _name(requirement: str) -> str:
    return re.split(r"[<>=\[]", requirement)[0].replace(".", "-")
