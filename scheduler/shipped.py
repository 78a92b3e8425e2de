"""Finds the samples, the demo and its data that travel with Gridpace.

In a checkout they are the folder `config/` beside the packages; in an installed wheel the same folder lies inside
this package, so that `gridpace` works from anywhere with nothing but what `pip` installed.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str = "") -> Path:
    """Return the path of a shipped file or folder, named as below `config/`; raise FileNotFoundError if none is there.

    >>> shipped("data/PROVENANCE.md").name
    'PROVENANCE.md'
    """
    places = (_PACKAGE / "shipped_config", _PACKAGE.parent / "config")
    for place in places:
        if (place / name).exists():
            return place / name
    raise FileNotFoundError(f"{name or 'config'} is in neither {places[0]} nor {places[1]}: reinstall Gridpace")
