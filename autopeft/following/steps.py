"""The steps of a recipe, one after another, with one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.candidate import Candidate, Evaluation, Job, Origin
from autopeft.costs import COSTS
from autopeft.cutting import cut_hybrid, cut_to
from autopeft.doing import doing
from autopeft.engine.generated import on_test
from autopeft.engine.kept import load_units, load_weights, not_kept, save_start
from autopeft.engine.worker import Worker, writers_of
from autopeft.errors import AutopeftError
from autopeft.following.progress import Progress
from autopeft.following.result import SeedTraining
from autopeft.recipe import Cut, Recipe
from autopeft.searching.confirming.values import Run
from autopeft.searching.descent import start_name
from autopeft.session import Session, spec_of

if TYPE_CHECKING:
    import torch

    from autopeft.engine.setup import Setup
    from autopeft.hybrid import Hybrid


class Follower:
    """Trains a recipe with one seed after another, on one backbone; `weights` is the folder of what is in between.

    Each seed has a folder of its own there.
    """

    def __init__(self, session: Session, weights: Path, setup: Setup, progress: Progress) -> None:
        self._session, self._weights, self._progress = session, weights, progress
        self._spec, self._settings = spec_of(session, weights, setup), session.experiment.training

    def plans(self, recipes: Sequence[Recipe]) -> None:
        """These are followed, one after another."""
        self._progress.planned(len(recipes), sum(sum(map(self._work, r.hybrids, r.lengths)) for r in recipes))

    def follow(self, recipe: Recipe) -> SeedTraining:
        """All steps of the recipe; what goes wrong on the way is the training's error."""
        stops: list[Evaluation] = []
        try:
            self._train(recipe, stops)
        except AutopeftError as error:
            self._progress.followed(recipe.seed, {})
            return SeedTraining(recipe, tuple(stops), str(error))
        self._progress.followed(recipe.seed, Run.of(stops[-1]).metrics)
        return SeedTraining(self._followed(recipe, stops), tuple(stops))

    def tested(self, training: SeedTraining) -> SeedTraining:
        """The same with its scores on the test split, which nothing is chosen by."""
        last = training.last
        reporter, weights = self._reporter, self.kept(training)
        metrics = reporter.test_metrics(last.candidate, weights)
        (texts,) = writers_of(reporter).metrics([(last.candidate, lambda: weights)], "test")
        whole = replace(last, metrics={**last.metrics, **metrics, **on_test(texts)})
        return replace(training, stops=(*training.stops[:-1], whole))

    def kept(self, training: SeedTraining) -> dict[str, torch.Tensor]:
        """The weights that a training ended with."""
        folder, name = self._folder(training.seed), self._settings.weights_name(training.last.job)
        weights = load_weights(folder, name)
        if weights is None:
            raise not_kept(folder)
        return weights

    def close(self) -> None:
        """Training is over: the backbone that it was done on may go."""
        self.__dict__.pop("_worker", None)

    def _train(self, recipe: Recipe, stops: list[Evaluation]) -> None:
        job = Job(
            Candidate(recipe.first.train, recipe.first.training),
            recipe.seed,
            recipe.first.epochs,
            cuttable=bool(recipe.cuts),
        )
        stops.append(self._run(job, 0))
        for place, (cut, healing) in enumerate(recipe.cuts, 1):
            hybrid, origin = self._cut(stops[-1], cut)
            candidate, more = Candidate(hybrid, healing.training), place < len(recipe.cuts)
            stops.append(self._run(Job(candidate, recipe.seed, healing.epochs, origin, more), place))

    def _run(self, job: Job, number: int) -> Evaluation:
        """One training; `AutopeftError` where it fails."""
        worker, costs = self._at(job), self._session.costs(job.candidate.hybrid)
        hybrid, epochs = job.candidate.hybrid, job.epochs or self._settings.epochs
        self._progress.begun(job, costs["trainable_params"], self._work(hybrid, epochs))
        run = worker.run([job])
        while True:
            try:
                for metrics in next(run).values():
                    self._progress.epoch(job, metrics)
            except StopIteration as stop:
                (evaluation,) = stop.value
                break
        if evaluation.error:
            raise AutopeftError(f"seed {job.seed}: {evaluation.error}")
        whole: Evaluation = replace(evaluation, number=number, metrics={**evaluation.metrics, **costs})
        return whole

    def _work(self, hybrid: Hybrid, epochs: int) -> float:
        """What that many epochs compute, in FLOPs."""
        return self._session.cost_model.candidate(hybrid) * epochs / self._settings.epochs

    def _cut(self, parent: Evaluation, cut: Cut) -> tuple[Hybrid, Origin]:
        """The parent's cut, and where its weights are."""
        folder, shape = self._folder(parent.seed), self._session.shape
        units = load_units(folder, self._settings.weights_name(parent.job))
        if units is None:
            raise not_kept(folder)
        cost = COSTS.get(cut.cost)()
        whole = parent.candidate.hybrid
        if cut.sizes == "given":
            hybrid, weights = cut.hybrid, cut_to(whole, cut.hybrid, *units, shape)
        else:
            hybrid, weights = cut_hybrid(whole, *units, cut.limit, shape, cost, cut.length)
        if not any(hybrid.methods()):
            raise AutopeftError(
                f"seed {parent.seed}: nothing is left of the hybrid at {cut.limit:,} {cost.unit}; take a recipe of a "
                "larger one"
            )
        origin = Origin(parent.key, start_name(parent.key, cut.limit))
        save_start(folder, origin.start, weights)
        return hybrid, origin

    def _followed(self, recipe: Recipe, stops: list[Evaluation]) -> Recipe:
        """The recipe with what came out of its cuts here."""
        hybrids = [stop.candidate.hybrid for stop in stops[1:]]
        pairs = zip(recipe.cuts, hybrids, strict=True)
        return replace(recipe, cuts=tuple((cut.model_copy(update={"hybrid": h}), heal) for (cut, heal), h in pairs))

    @cached_property
    def _worker(self) -> Worker:
        return Worker(self._spec, self._session.tokens)

    @cached_property
    def _reporter(self) -> Worker:
        """In the precision of what is exported."""
        return Worker(self._spec, self._session.tokens, purpose="report")

    def _at(self, job: Job) -> Worker:
        """The worker that trains, with the folder of the job's seed; its backbone does not depend on seeds."""
        if "_worker" in self.__dict__ and self._worker.spoilt:
            # Something unforeseen has happened on it.
            self.close()
        assert job.seed is not None, "a recipe has one"
        with doing("loading the model"):
            worker = self._worker
        worker.spec = replace(self._spec, keep=self._folder(job.seed))
        return worker

    def _folder(self, seed: int) -> Path:
        return self._weights / str(seed)
