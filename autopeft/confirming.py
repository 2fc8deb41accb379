"""What stands around a search: controls before it, other seeds for its front after it, and its test scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.candidate import UNITS, Evaluation, Job
from autopeft.costs import COSTS
from autopeft.cutting import cut_to
from autopeft.errors import AutopeftError
from autopeft.metrics import without_others
from autopeft.progress import Progress
from autopeft.run_folder import RunFolder
from autopeft.searching.confirming.loop import ConfirmLoop
from autopeft.searching.confirming.plan import Plan, job_with, seeds_from
from autopeft.searching.confirming.records import (
    baseline_in,
    baselines_in,
    controls_in,
    keep_baseline,
    keep_controls,
    runs_in,
)
from autopeft.searching.confirming.values import Run
from autopeft.searching.confirming.verdict import judged, reported
from autopeft.searching.controls import Controls, control_source, named
from autopeft.searching.descent import Descent, descent_of
from autopeft.searching.front import ParetoFront
from autopeft.searching.sources import Allowance, Source
from autopeft.session import Session

if TYPE_CHECKING:
    from autopeft.engine.worker import WorkerSpec
    from autopeft.searching.study import Study

#: Factors on a baseline's usual rate: as many rates as controls have.
FACTORS = (1 / math.sqrt(10), 1.0, math.sqrt(10))


def sources_of(session: Session, study: Study, folder: RunFolder) -> list[Source]:
    """What a search is given before its sampler is asked, where the experiment wants it: controls, then a descent."""
    descent = descent_for(session, folder.weights)
    return [*_controls(session, study), *([] if descent is None else [descent])]


def descent_for(session: Session, weights: Path) -> Descent | None:
    """The descent of an experiment whose weights lie in that folder; None without one."""
    experiment, space, budget = session.experiment, session.space, session.budget
    settings, training = experiment.descent, experiment.training
    if settings is None:
        return None
    allowed = Allowance.of(settings.share, experiment.trials, experiment.seconds)
    return descent_of(space, budget, session.objectives, training, settings, weights, allowed)


def controls_for(session: Session) -> Controls | None:
    """The controls of an experiment as a search that begins now has them; None without any."""
    experiment, cost = session.experiment, first_cost(session)
    if not experiment.controls.names:
        return None
    return control_source(
        experiment.controls,
        session.space,
        experiment.training,
        Allowance.of(experiment.controls.share, experiment.trials, experiment.seconds),
        session.costs,
        cost,
        lambda hybrid: session.budget.fits(hybrid, session.shape) and session.serving.takes(hybrid),
        next((o for o in session.objectives if not o.is_cost), None),
    )


def _controls(session: Session, study: Study) -> list[Source]:
    source = controls_for(session)
    if source is None:
        return []
    reference = COSTS.get(first_cost(session))().reference(session.shape, session.length)
    keep_controls(study, source.names, reference)
    source.only(controls_in(study.remembered)[0])
    return [source]


def front_of(session: Session, study: Study, evaluations: Sequence[Evaluation]) -> ParetoFront:
    """The front as it is known now: as the search sees it, or over seeds once it is confirmed."""
    seen = ParetoFront(evaluations, session.objectives, session.budget.limits)
    return judged(seen, study.remembered, baselines_in(study.remembered))


def plan_of(session: Session, study: Study, folder: Path | None = None) -> Plan:
    """Who of the ended candidates is trained with other seeds; what is left for cutting lies in the folder, if any."""
    confirm, training = session.experiment.confirm, session.experiment.training
    seen = ParetoFront(study.evaluations(), session.objectives, session.budget.limits)
    names, _ = controls_in(study.remembered)
    seeds = seeds_from(training.seed, confirm.seeds)

    def ready(parent: Evaluation, seed: int) -> bool:
        name = training.weights_name(job_with(parent, seed))
        return folder is None or (folder / f"{name}{UNITS}.safetensors").is_file()

    return Plan(seen, names, confirm.members, seeds, len(session.tokens.validation), ready)


def needed_by(session: Session, study: Study, sources: Sequence[Source] = ()) -> Callable[[], set[str]]:
    """Keys of ended candidates whose weights sources or the confirmation may still ask for.

    Worked out anew when there is something new, as it is asked for often.
    """

    @lru_cache(1)
    def needed(finished: int) -> frozenset[str]:
        ended = study.evaluations()
        found = {key for source in sources for key in source.needs(ended)}
        return frozenset(found | (plan_of(session, study).needed() if session.experiment.confirm.on else set()))

    return lambda: set(needed(study.finished))


def confirm(session: Session, study: Study, spec: WorkerSpec, pack: int, progress: Progress) -> None:
    """Train the front's members and the best controls with other seeds, as far as the experiment allows.

    `KeyboardInterrupt` where a runner ends quietly at an interrupt.
    """
    experiment = session.experiment
    if not experiment.confirm.on:
        return
    plan = plan_of(session, study, spec.keep)
    if not plan.members:
        progress.remarked(["no candidate has come to its end, so there is no front to confirm"])
    seconds = experiment.confirm.time * sum(e.seconds for e in study.evaluations())
    if plan.wanted(runs_in(study.remembered)):
        pace = _Pace(progress, experiment.runner.parallel)
        loop = ConfirmLoop(study, plan, seconds, pace.said, partial(_begin, session, plan, spec.keep))
        loop.say()
        experiment.runner.run_through(spec, session.tokens, loop, pack)
        if not loop.is_over:
            raise KeyboardInterrupt
    if plan.members and not runs_in(study.remembered):
        progress.remarked(["no confirmation fits in confirm.time, so the front is as the search has seen it"])
    for name, baseline in experiment.controls.baselines.items():
        _train_baseline(session, study, name, baseline, progress)


class _Pace:
    """Tells the progress how many of how many trainings have ended, and how long the rest will take."""

    def __init__(self, progress: Progress, workers: int, what: str = "confirmations") -> None:
        self._progress, self._workers, self._what = progress, workers, what
        self._begin, self._before = time.monotonic(), -1

    def said(self, done: int, total: int, seconds: float | None) -> None:
        """`seconds` of training are left, as far as is known; else they are taken to be alike."""
        if self._before < 0:
            self._before = done
        passed, left = done - self._before, None if seconds is None else seconds / self._workers
        if left is None and passed:
            left = (time.monotonic() - self._begin) / passed * (total - done)
        if total:
            self._progress.confirming(self._what, done, total, left)


def _begin(session: Session, plan: Plan, folder: Path | None, number: int, job: Job) -> None:
    """Cut what a healing with another seed begins at; it fails by itself where its parent left nothing to cut."""
    from autopeft.engine.kept import load_units, save_start

    parent, seed = plan.parent(number), job.seed
    if folder is None or parent is None or job.origin is None or seed is None:
        return
    kept = load_units(folder, session.experiment.training.weights_name(job_with(parent, seed)))
    if kept is None:
        return
    try:
        weights = cut_to(parent.candidate.hybrid, job.candidate.hybrid, *kept, session.shape)
    except AutopeftError:
        # An importance that is no number: then the healing alone fails.
        return
    save_start(folder, job.origin.start, weights)


def seeds_kept(session: Session, study: Study, front: ParetoFront) -> set[str]:
    """Names of weights that stay: of all seeds of what is reported, what they began at, what may be cut.

    Of healed members off the front too: it may be drawn anew, and without what they began at they cannot come again.
    """
    name, runs = session.experiment.training.weights_name, runs_in(study.remembered)
    plan = plan_of(session, study) if runs and session.experiment.confirm.on else None
    others = [] if plan is None else [e for e in plan.members.values() if e.origin is not None]
    jobs = [job_with(e, seed) for e in (*reported(front), *others) for seed in (e.seed, *_seeds(runs, e))]
    kept = {name(job) for job in jobs} | {job.origin.start for job in jobs if job.origin is not None}
    cut = [] if plan is None else [e for e in map(plan.parent, plan.all) if e is not None]
    return kept | {f"{name(job_with(e, seed))}{UNITS}" for e in cut for seed in _seeds(runs, e)}


def _seeds(runs: Mapping[int, Sequence[Run]], evaluation: Evaluation) -> list[int]:
    """The other seeds that a candidate was trained with."""
    return [run.seed for run in runs.get(evaluation.number, ())]


def as_searched(front: ParetoFront) -> ParetoFront:
    """The same as the search has seen it."""
    return ParetoFront(front.evaluations, front.objectives, front.limits)


def first_cost(session: Session) -> str:
    """The first cost among the objectives, which controls are ordered by."""
    return next((o.metric for o in session.objectives if o.is_cost), "trainable_params")


def _train_baseline(session: Session, study: Study, name: str, baseline: str, progress: Progress) -> None:
    """Tune a baseline's rate on validation, then train it with every seed; each training is kept as it ends.

    It trains the backbone itself, so it is no candidate of the search, and is not within its budget or time.
    """
    from autopeft.baselines import BASELINES

    trained, training = BASELINES.get(baseline)(), session.experiment.training
    score = next(o for o in session.objectives if not o.is_cost)
    seeds, known = seeds_from(training.seed, session.experiment.confirm.seeds), baseline_in(study.remembered, name)
    pace, tried = _Pace(progress, 1, f"trainings of {named(name)}"), len(FACTORS)
    total = tried - 1 + len(seeds)
    if known is None:
        found: list[tuple[float, Run, dict[str, float]]] = []
        for factor in FACTORS:
            pace.said(len(found), total, None)
            rate = trained.usual_rate * factor
            found.append((rate, *_fit(session, baseline, training.seed, rate)))
        done = [each for each in found if each[1].status == "done" and score.metric in each[1].metrics] or found[:1]
        rate, run, costs = min(done, key=lambda each: score.loss(each[1].metrics.get(score.metric, 0.0)))
        known = [run], costs, rate
        keep_baseline(study, name, *known)
    runs, costs, rate = known
    for seed in seeds:
        if seed not in {run.seed for run in runs}:
            pace.said(tried - 1 + len(runs), total, None)
            runs = [*runs, _fit(session, baseline, seed, rate)[0]]
            keep_baseline(study, name, runs, costs, rate)
    pace.said(total, total, None)


def _fit(session: Session, baseline: str, seed: int, rate: float) -> tuple[Run, dict[str, float]]:
    """One training of a baseline, measured on test, and its costs."""
    from autopeft.baselines import BASELINES
    from autopeft.engine.train import measure
    from autopeft.engine.worker import in_words

    task, begin = session.tokens, time.perf_counter()
    settings = session.experiment.training.model_copy(update={"seed": seed, "learning_rate": rate})
    try:
        fitted = BASELINES.get(baseline)().fit(session.source, task, settings)
        scores = without_others(fitted.curve[-1])
        if wrong := [o.metric for o in session.objectives if not math.isfinite(scores.get(o.metric, 0.0))]:
            raise AutopeftError(f"{wrong[0]} is {scores[wrong[0]]}")
        test = {f"test_{metric}": value for metric, value in measure(fitted.model, task, task.test).items()}
    except Exception as error:
        # Whatever it is, the search's own results stand.
        return Run(seed, "failed", {}, time.perf_counter() - begin, in_words(error)), {}
    costs: dict[str, float] = {"trainable_params": fitted.trainable_params, "stored_bytes": fitted.stored_bytes}
    return Run(seed, "done", {**scores, **test}, time.perf_counter() - begin), costs
