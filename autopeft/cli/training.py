"""`autopeft train`: a recipe followed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from rich.table import Table

from autopeft.cli.shown import safe
from autopeft.cli.tables import console
from autopeft.experiment import Experiment, needing
from autopeft.following.launching import launch
from autopeft.following.progress import progress_for
from autopeft.following.result import TrainResult
from autopeft.wording import number


def run_train(
    recipe: Path,
    experiment: Experiment,
    seeds: int,
    seed: int | None,
    out: Path | None,
    fixed: bool,
    quiet: bool,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Train, and print the table or JSON."""
    experiment = needing(experiment, trust_remote_code)
    result = launch(recipe, experiment, seeds, seed, out, fixed, progress_for(quiet or as_json), trust_remote_code)
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    elif not quiet:
        _show(result, experiment.name)


def _show(result: TrainResult, name: str) -> None:
    out = console()
    names = [*result.metrics, *(f"test_{name}" for name in result.metrics)]
    table = Table(title=f"Trained on {safe(name)}", title_justify="left", header_style="bold")
    for header in ("seed", "parameters", *names, "hybrid"):
        table.add_column(safe(header), justify="left" if header == "hybrid" else "right", overflow="fold")
    for training in result.trainings:
        if training.error:
            table.add_row(str(training.seed), *[""] * (len(names) + 1), f"failed: {safe(training.error)}")
            continue
        metrics, hybrid = training.metrics, training.hybrid
        words = "as the recipe's" if hybrid == result.recipe.hybrid else hybrid.summary()
        scores = [f"{metrics[name]:.4f}" for name in names]
        table.add_row(str(training.seed), number(metrics["trainable_params"]), *scores, safe(words))
    out.print(table)
    for metric, spread in ((name, result.scores[name]) for name in names):
        out.print(f"{safe(metric)}  [bold]{spread.words}[/]", soft_wrap=True)
    out.print(f"The recipe's hybrid: {safe(result.recipe.hybrid.describe())}", soft_wrap=True)
    if result.folder is not None:
        out.print(
            f"wrote seed {result.median.seed}, the median on validation, to {safe(result.folder)}", soft_wrap=True
        )
        out.print(f"measure it again:  autopeft evaluate {safe(shlex.quote(str(result.folder)))}", soft_wrap=True)
