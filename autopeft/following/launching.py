"""Follow a recipe on an experiment's model and task, with some seeds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.config import check_whole
from autopeft.doing import doing
from autopeft.doors import door
from autopeft.engine.worker import device
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment, needing
from autopeft.export_folder import Trained, write_export
from autopeft.following import UNUSED
from autopeft.following.checks import check
from autopeft.following.opening import opened
from autopeft.following.progress import Progress, progress_for
from autopeft.following.result import TrainResult
from autopeft.following.steps import Follower
from autopeft.plugins import use_plugins
from autopeft.session import Session
from autopeft.task_facts import TaskFacts

if TYPE_CHECKING:
    from autopeft.candidate import Candidate
    from autopeft.engine.setup import Setup
    from autopeft.hybrid import Hybrid
    from autopeft.recipe import Recipe

    #: What may be given as a recipe.
    Given = str | Path | Hybrid | Candidate | Recipe

_MOST_SEEDS = 100


def train(
    recipe: Given,
    experiment: str | Path | None = None,
    *,
    seeds: int = 1,
    seed: int | None = None,
    out: str | Path | None = None,
    fixed: bool = False,
    quiet: bool = False,
    trust_remote_code: bool = False,
    plugins: Sequence[str | Path] = (),
    **fields: Any,
) -> TrainResult:
    """Follow a recipe on an experiment's model and task, and return the scores over seeds.

    `recipe` is a folder that `export` wrote, its `hybrid.json`, the JSON of a hybrid, or a `Hybrid` or `Candidate`. A
    healed one has cuts in it: its large hybrid is trained, cut by the importance of its units to the same limits, and
    healed, so that with another seed or task another structure may come out. `fixed` trains the recipe's last hybrid
    from drawn weights instead, for as many epochs as all steps together. Rates and epochs are the recipe's, all else is
    the experiment's training; its space, budget, objectives, sampler, trials and tracking are not used. There are
    `seeds` trainings, from `seed` on (default: the recipe's own). Each is measured on test once, at the end. `out`: a
    folder for the adapter of the median seed on validation, as `export` writes it.

    `AutopeftError` for whatever can be known to be wrong before training, such as a model of other sizes than the
    recipe's, and where no seed came to its end.
    """
    use_plugins(*plugins)
    fields = {**fields, **UNUSED}
    if experiment is None:
        loaded = Experiment.of({"name": "train", **fields}, "train")
    else:
        loaded = Experiment.load(experiment, fields)
    loaded = needing(loaded, trust_remote_code)
    return launch(recipe, loaded, seeds, seed, out, fixed, progress_for(quiet), trust_remote_code)


def launch(
    recipe: Given,
    experiment: Experiment,
    seeds: int,
    seed: int | None,
    out: str | Path | None,
    fixed: bool,
    progress: Progress,
    trust_remote_code: bool = False,
) -> TrainResult:
    """The same of an experiment that is loaded; an interrupt leaves nothing behind."""
    check_whole(seeds, "seeds", 1, _MOST_SEEDS)
    if seed is not None:
        check_whole(seed, "seed", 0, 2**32 - 1)
    with closing(progress):
        of = opened(recipe, experiment.training)
        of = of.fixed if fixed else of
        training = of.training(experiment.training)
        with doing("reading the model and the data"):
            session = Session(experiment.model_copy(update={"training": training}), trust_remote_code)
        check(of, session)
        to = _free(Path(out)) if out else None
        for remark in filter(None, (of.remark(training), *session.data.remarks, *session.tokens.remarks)):
            progress.said(remark)
        first = of.recipe.seed if seed is None else seed
        setup = of.setup_for(training, device())
        with tempfile.TemporaryDirectory(prefix="autopeft-") as weights:
            follower = Follower(session, Path(weights), setup, progress)
            recipes = [of.recipe.with_seed((first + i) % 2**32) for i in range(seeds)]
            return _follow(of.recipe, recipes, session, follower, setup, to)


def _follow(
    asked: Recipe, recipes: Sequence[Recipe], session: Session, follower: Follower, setup: Setup, to: Path | None
) -> TrainResult:
    """Train with every seed, then measure on test what came to its end, then write the median's adapter."""
    follower.plans(recipes)
    trainings = [follower.follow(recipe) for recipe in recipes]
    follower.close()
    if all(training.error for training in trainings):
        raise AutopeftError(f"{trainings[0].error}" + (" (so with every seed)" if len(trainings) > 1 else ""))
    with doing("measuring on test", sum(not training.error for training in trainings)) as stage:
        tested = []
        for training in trainings:
            tested.append(training if training.error else follower.tested(training))
            stage.step(not training.error)
    result = TrainResult(asked, tuple(tested), session.data.metrics, to)
    if to is not None:
        with doing("writing the adapter"):
            _export(result, session, follower, setup, to)
    return result


def _export(result: TrainResult, session: Session, follower: Follower, setup: Setup, to: Path) -> None:
    median = result.median
    trained = Trained(
        session.source,
        session.model_files,
        TaskFacts.of(session),
        follower.kept(median),
        dict(median.metrics),
        setup,
        median.recipe,
        (len(result.done), result.scores) if len(result.done) > 1 else None,
    )
    # Its number counts the steps here: it is none of a search's.
    write_export(to, session.experiment, trained, replace(median.last, number=-1), None)


def _free(to: Path) -> Path:
    """The folder, made; `AutopeftError` where it cannot be written, or holds something else: not after hours."""
    from autopeft.exporting import check_free

    check_free(to)
    with door(to, "cannot be written"):
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=to):
            pass
    return to
