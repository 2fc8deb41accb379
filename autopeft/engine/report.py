"""Test scores of the candidates that a search reports."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.candidate import Candidate, Evaluation
from autopeft.engine.data import TokenizedTask
from autopeft.engine.worker import Worker, WorkerSpec, drain, load_weights
from autopeft.errors import AutopeftError


def score_on_test(spec: WorkerSpec, task: TokenizedTask, candidates: Sequence[Candidate]) -> list[dict[str, float]]:
    """`test_<metric>` of each candidate, from its kept weights; trained again where they were not kept.

    Empty for a candidate that cannot be trained again: the others' scores are not lost with it.
    """
    if not candidates:
        return []
    reporter = Worker(spec, task, purpose="report")
    return [_score(reporter, candidate) for candidate in candidates]


def train_again(spec: WorkerSpec, task: TokenizedTask, candidate: Candidate) -> Evaluation:
    """Train a candidate with the search's own seed, so that its weights are kept in `spec.keep`."""
    evaluation = drain(Worker(spec, task).run([candidate]))[0]
    if evaluation.error:
        raise AutopeftError(f"candidate {candidate.key}: training it again failed: {evaluation.error}")
    if spec.keep is None or load_weights(spec.keep, candidate.key) is None:
        raise AutopeftError(f"candidate {candidate.key}: its weights cannot be kept in {spec.keep}; is the disk full?")
    return evaluation


def _score(reporter: Worker, candidate: Candidate) -> dict[str, float]:
    spec = reporter.spec
    try:
        if spec.keep is None or load_weights(spec.keep, candidate.key) is None:
            train_again(spec, reporter.task, candidate)
        weights = load_weights(spec.keep, candidate.key) if spec.keep else None
        return reporter.test_metrics(candidate, weights or {})
    except (AutopeftError, RuntimeError, MemoryError):
        return {}
