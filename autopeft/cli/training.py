"""`autopeft train`: a recipe followed."""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.cli.shown import safe
from autopeft.cli.tables import console, sentence, show
from autopeft.experiment import Experiment, needing
from autopeft.following.launching import launch
from autopeft.following.progress import progress_for
from autopeft.following.result import SeedTraining, TrainResult
from autopeft.plugins import command_line
from autopeft.searching.tables import Column
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
    show(out, f"Trained on {name}", _columns(result))
    for training in result.trainings:
        if training.error:
            sentence(out, f"seed {training.seed} failed: {training.error}")
    for metric in _metrics(result):
        sentence(out, f"{metric}  {result.scores[metric].words}")
    sentence(out, f"The recipe's hybrid: {result.recipe.hybrid.describe()}")
    if result.folder is not None:
        sentence(out, f"wrote seed {result.median.seed}, the median on validation, to {result.folder}")
        out.print(f"measure it again:  {safe(command_line('evaluate', result.folder))}", soft_wrap=True)


def _columns(result: TrainResult) -> list[Column]:
    """A row a seed; of scores the main one stays longest, first on validation and then on test."""
    trained = [None if training.error else training for training in result.trainings]
    names = _metrics(result)
    main = {result.metrics[0]: 0, f"test_{result.metrics[0]}": 1}
    return [
        Column("seed", [str(training.seed) for training in result.trainings]),
        Column("parameters", ["failed" if t is None else number(t.metrics["trainable_params"]) for t in trained]),
        *(Column(n, ["" if t is None else f"{t.metrics[n]:.4f}" for t in trained], main.get(n, 2)) for n in names),
        Column("hybrid", ["" if t is None else _hybrid(result, t) for t in trained], left=True, least=20),
    ]


def _hybrid(result: TrainResult, training: SeedTraining) -> str:
    same = training.hybrid == result.recipe.hybrid
    return "as the recipe's" if same else training.hybrid.summary()


def _metrics(result: TrainResult) -> list[str]:
    return [*result.metrics, *(f"test_{name}" for name in result.metrics)]
