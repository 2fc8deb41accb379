"""`autopeft export --register NAME`."""

from __future__ import annotations

import shlex
from pathlib import Path

from autopeft.browsing.registering import register
from autopeft.cli.verbs import say
from autopeft.result import SearchResult


def run_register(result: SearchResult, folder: Path, name: str) -> None:
    """Register what was just exported, and say how to serve it."""
    made = register(result, folder, name)
    say(f"registered as version {made.version} of {made.name} at {made.place.shown}")
    say(f"serve it:  MLFLOW_TRACKING_URI={shlex.quote(made.place.shown)} {made.serve}")
