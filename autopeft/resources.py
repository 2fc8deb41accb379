"""The YAML files that travel with the package: named search spaces and named experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["search_spaces", "experiments"]

_PACKAGE = Path(__file__).parent
#: Where the files are in a checkout, relative to its root.
_IN_CHECKOUT = {"search_spaces": "search_spaces", "experiments": "experiments/examples"}


def shipped(kind: Kind) -> dict[str, Path]:
    """The shipped files of a kind by name (the file's name without `.yaml`), sorted; empty when there are none."""
    folder = _PACKAGE / "_shipped" / kind
    if not folder.is_dir():
        # An editable install has no `_shipped` folder: the wheel's build makes it.
        folder = _PACKAGE.parent / _IN_CHECKOUT[kind]
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
