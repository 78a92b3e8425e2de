"""Refuses to start on a mixture of installations.

`scheduler`, `adapters` and `optimizer` are plain names, and other distributions on PyPI use them too. One of those in
the environment, or an old copy earlier on the path, would run half of Gridpace against strangers, so the daemon
checks before anything else that all three came from one place.
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("scheduler", "adapters", "optimizer")


class MixedInstallationError(RuntimeError):
    """The packages of Gridpace were found in more than one place."""


def same_installation() -> Path:
    """Return the folder that holds all three packages; raise `MixedInstallationError` when there is none."""
    homes = {name: _home(name) for name in PACKAGES}
    expected = Path(__file__).resolve().parent.parent
    strangers = {name: home for name, home in homes.items() if home != expected}
    foreign = [f"{name} is at {home / name if home else 'no place'}" for name, home in strangers.items()]
    if foreign:
        raise MixedInstallationError(
            f"Gridpace runs from {expected}, but {'; '.join(foreign)}. Another distribution of that name, or another "
            "copy of Gridpace, comes first on the Python path: install Gridpace in an environment of its own."
        )
    return expected


def _home(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
