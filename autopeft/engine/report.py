"""Test scores of the candidates that a search reports."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask
from autopeft.engine.worker import Worker, WorkerSpec, drain, load_weights
from autopeft.errors import AutopeftError


def score_on_test(spec: WorkerSpec, task: TokenizedTask, candidates: Sequence[Candidate]) -> list[dict[str, float]]:
    """`test_<metric>` of each candidate, from its kept weights; trained again where they were not kept."""
    missing = [c for c in candidates if spec.keep is None or load_weights(spec.keep, c.key) is None]
    train_again(spec, task, missing)
    if not candidates:
        return []
    reporter = Worker(spec, task, purpose="report")
    return [reporter.test_metrics(c, _weights(spec, c)) for c in candidates]


def train_again(spec: WorkerSpec, task: TokenizedTask, candidates: Sequence[Candidate]) -> None:
    """Train candidates with the search's own seed, so that their weights are kept in `spec.keep`."""
    if not candidates:
        return
    worker = Worker(spec, task)
    for candidate in candidates:
        evaluation = drain(worker.run(candidate))
        if evaluation.error:
            raise AutopeftError(f"candidate {candidate.key}: training it again failed: {evaluation.error}")


def _weights(spec: WorkerSpec, candidate: Candidate) -> dict[str, torch.Tensor]:
    weights = load_weights(spec.keep, candidate.key) if spec.keep else None
    if weights is None:
        raise AutopeftError(f"candidate {candidate.key}: its weights cannot be kept in {spec.keep}; is the disk full?")
    return weights
