"""The YAML files that travel with the package (named search spaces, controls, experiments), and the cache folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Kind = Literal["search_spaces", "search_spaces/controls", "experiments"]

_PACKAGE = Path(__file__).parent
#: Where the files are in a checkout, relative to its root, where that is not their kind.
_IN_CHECKOUT = {"experiments": "experiments/examples"}


def shipped(kind: Kind) -> dict[str, Path]:
    """The shipped files of a kind by name (the file's name without `.yaml`), sorted; empty when there are none."""
    folder = _PACKAGE / "_shipped" / kind
    if not folder.is_dir():
        # An editable install has no `_shipped` folder: the wheel's build makes it.
        folder = _PACKAGE.parent / _IN_CHECKOUT.get(kind, kind)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def cache_folder() -> Path:
    """The user's cache folder: $AUTOPEFT_CACHE, or autopeft in $XDG_CACHE_HOME or ~/.cache.

    `RuntimeError` where there is no home folder.
    """
    own, shared = os.environ.get("AUTOPEFT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "autopeft"
