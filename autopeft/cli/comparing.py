"""`autopeft compare`: methods side by side."""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.cli.shown import safe
from autopeft.cli.tables import console, sentence, show
from autopeft.comparing.launching import launch
from autopeft.comparing.progress import progress_for
from autopeft.comparing.result import Comparison
from autopeft.comparing.rows import columns, failures
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
    out = console()
    show(out, f"Methods on {name}", columns(comparison.rows, comparison.metric))
    for line in failures(comparison.rows):
        sentence(out, line)
    sentence(out, comparison.note)
    out.print(f"written to {safe(comparison.folder)}", soft_wrap=True)
