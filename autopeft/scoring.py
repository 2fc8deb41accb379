"""Test scores of what a search reports: on the task's test split, and on further sets."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import TYPE_CHECKING

from autopeft.candidate import Job
from autopeft.confirming import as_searched, front_of
from autopeft.searching.confirming.plan import control_front, job_with
from autopeft.searching.confirming.records import controls_in, keep_tests, runs_in
from autopeft.searching.confirming.verdict import compared, reported
from autopeft.session import Session

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.worker import WorkerSpec
    from autopeft.searching.study import Study

#: What a study remembers of how its test scores came about, by what their names begin with.
_HOW = "tested"


def score_on_test(session: Session, study: Study, spec: WorkerSpec) -> None:
    """Measure on the test split, and the further ones, what is on the front or best, and not measured there yet.

    What is confirmed, and the controls that it is compared with, with the weights of every seed. Nothing is selected by
    it.
    """
    known = study.remembered(_HOW) or {}
    for mark, task in session.tests.items():
        how = _how(session, mark)
        if _score_on(session, study, spec, task, mark, known.get(mark, how) != how):
            known = {**known, mark: how}
            study.remember(_HOW, known)


def _score_on(session: Session, study: Study, spec: WorkerSpec, task: TokenizedTask, mark: str, anew: bool) -> bool:
    """Whether all that was to be measured is; `anew`: what is measured already, too."""
    from autopeft.engine.report import marked

    front, wanted = front_of(session, study, study.evaluations()), _reported_names(session, task, mark)
    runs, (names, _) = runs_in(study.remembered), controls_in(study.remembered)
    controls = [e for e in control_front(as_searched(front), names) if e.number in runs]
    jobs: list[tuple[int, int | None, Job]] = []
    for number, evaluation in {e.number: e for e in (*reported(front), *controls, *compared(front))}.items():
        if anew or not wanted <= evaluation.metrics.keys():
            jobs.append((number, None, evaluation.job))
        done = [run for run in runs.get(number, ()) if run.status == "done"]
        fresh = [run for run in done if anew or not wanted <= run.metrics.keys()]
        jobs += [(number, run.seed, job_with(evaluation, run.seed)) for run in fresh]
    found = session.experiment.runner.score_on_test(spec, task, [job for _, _, job in jobs])
    scores = [marked(one, mark) for one in found]
    measured = [(number, seed, found) for (number, seed, _), found in zip(jobs, scores, strict=True)]
    for number, seed, metrics in measured:
        if seed is None:
            study.annotate(number, metrics)
    if new := [(number, seed, found) for number, seed, found in measured if seed is not None and found]:
        keep_tests(study, new)
    if missed := any(not metrics for metrics in scores):
        warnings.warn(
            "some members of the front could not be measured on test; the same command tries again", stacklevel=2
        )
    return not missed


def _reported_names(session: Session, task: TokenizedTask, mark: str) -> set[str]:
    """Names of the scores on a test split by which a member of the front counts as measured there."""
    settings = session.experiment.generation
    written = settings.reported if settings else ()
    return {f"{mark}{task.metrics[0]}", *(f"{mark}{name.removeprefix('test_')}" for name in written)}


def _how(session: Session, mark: str) -> str:
    """A digest of the rows that scores are of, and of how texts are written; where it differs they are no longer so."""
    data, settings = session.others.get(mark.removeprefix("test_").removesuffix("_")), session.experiment.generation
    told = [None if data is None else data.fingerprint, None if settings is None else settings.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
