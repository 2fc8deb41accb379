"""`autopeft compare`: methods side by side."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autopeft.cli.shown import safe
from autopeft.comparing.launching import launch
from autopeft.comparing.progress import progress_for
from autopeft.comparing.result import Comparison
from autopeft.experiment import Experiment, needing


def run_compare(
    experiment: Experiment,
    methods: str,
    seeds: int,
    rates: int,
    out: Path | None,
    quiet: bool,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Compare, and print the table or JSON."""
    experiment = needing(experiment, trust_remote_code)
    progress = progress_for(quiet or as_json)
    comparison = launch(experiment, methods, seeds, rates, out, progress, trust_remote_code)
    if as_json:
        print(json.dumps(comparison.to_json(), indent=2))
    elif not quiet:
        _show(comparison, experiment.name)


def _show(comparison: Comparison, name: str) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    headers, lines = comparison.cells()
    table = Table(title=f"Methods on {safe(name)}", title_justify="left", header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(safe(header), justify="left" if place == 0 else "right", overflow="fold")
    for line in lines:
        table.add_row(*map(safe, line))
    console.print(table)
    console.print(comparison.note, soft_wrap=True, markup=False)
    console.print(f"written to {safe(comparison.folder)}", soft_wrap=True)
