"""`autopeft list runs`: the searches in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.browsing.runs import columns_of, folders_in, run_of
from autopeft.cli.shown import safe
from autopeft.cli.tables import console, sentence, show
from autopeft.errors import AutopeftError
from autopeft.launch import RUNS


def print_runs(folder: Path | None, as_json: bool) -> None:
    """Print them, the last that changed at the end."""
    where = folder or RUNS
    if not where.is_dir():
        raise AutopeftError(f"{where}: there is no such folder; 'autopeft search' makes it, or give another one")
    found = [run_of(path) for path in folders_in(where)]
    found.sort(key=lambda run: run.changed.timestamp() if run.changed else 0.0)
    if as_json:
        print(json.dumps([run.to_json() for run in found], indent=2))
        return
    out = console()
    if not found:
        out.print(f"no search in {safe(where)}", soft_wrap=True)
        return
    show(out, f"Searches in {where}", columns_of(found))
    for run in found:
        if run.error:
            sentence(out, run.error)
