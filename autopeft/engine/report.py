"""Test scores of the candidates that a search reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from autopeft.attaching import Banks
from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.doing import doing
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import TokenizedTask
from autopeft.engine.generated import with_texts_on_test
from autopeft.engine.kept import load_weights
from autopeft.engine.worker import Worker, WorkerSpec, drain, writers_of
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.weight_names import HYBRID

#: The beginning of the names of test scores.
TEST = "test_"


def marked(scores: Mapping[str, float], mark: str) -> dict[str, float]:
    """Scores of a test split by the names that they have where it is one of several: `test_es_accuracy`."""
    return {f"{mark}{name.removeprefix(TEST)}": value for name, value in scores.items()}


def score_on_test(spec: WorkerSpec, task: TokenizedTask, jobs: Sequence[Candidate | Job]) -> list[dict[str, float]]:
    """`test_<metric>` of each job's candidate, from its kept weights; trained again where they were not kept.

    Empty for a candidate that cannot be trained again: the others' scores are not lost with it.
    """
    if not jobs:
        return []
    known = [Job.of(job) for job in jobs]
    with doing("loading the model"):
        reporter = Worker(spec, task, purpose="report")
    with doing("measuring on test", len(known)) as stage:
        scores = []
        for job in known:
            scores.append(_score(reporter, job))
            stage.step()
    return with_texts_on_test(writers_of(reporter), spec.keep, known, scores)


def train_again(spec: WorkerSpec, task: TokenizedTask, job: Candidate | Job) -> Evaluation:
    """Train a candidate, with the search's own seed unless the job has one; its weights are kept in `spec.keep`."""
    evaluation = drain(Worker(spec, task).run([job]))[0]
    if evaluation.error:
        raise AutopeftError(f"candidate {evaluation.key}: training it again failed: {evaluation.error}")
    if spec.keep is None or load_weights(spec.keep, spec.settings.weights_name(job)) is None:
        raise AutopeftError(f"candidate {evaluation.key}: its weights cannot be kept in {spec.keep}; is the disk full?")
    return evaluation


def complaint(backbone: Backbone, hybrid: Hybrid, weights: Mapping[str, torch.Tensor]) -> str | None:
    """What is wrong with a file's weights for a hybrid on a backbone: names, shapes, values. None when nothing is."""
    banks = Banks([hybrid], backbone.shape, [0])
    own = {f"{HYBRID}{n}": t for n, t in banks.weights().items()} | backbone.head_weights
    for name in sorted(own.keys() ^ weights.keys()):
        return f"'{name}' is {'missing' if name in own else 'not of it'}"
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape or not tensor.is_floating_point():
            return f"'{name}' is {tensor.dtype} {list(tensor.shape)}, and not {list(own[name].shape)}"
        if not bool(torch.isfinite(tensor).all()):
            return f"'{name}' holds what is no finite number"
    return None


def _score(reporter: Worker, job: Job) -> dict[str, float]:
    spec, candidate = reporter.spec, job.candidate
    name = spec.settings.weights_name(job)
    try:
        weights = load_weights(spec.keep, name) if spec.keep else None
        # A file that was damaged or exchanged is as good as none.
        if weights is None or complaint(reporter.backbone, candidate.hybrid, weights):
            train_again(spec, reporter.task, job)
            weights = load_weights(spec.keep, name) if spec.keep else None
        return reporter.test_metrics(candidate, weights or {})
    except (AutopeftError, RuntimeError, MemoryError):
        return {}
