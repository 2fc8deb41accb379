"""Every method, in its usual settings, learns from real rows on a real model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from tiny_models import METHOD_NAMES

from autopeft.candidate import Candidate, Evaluation
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.setup import Setup
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.models import BUILT_IN, find_model
from autopeft.tasks import TASKS

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=4, batch_size=16, precision="fp32", seed=0, max_length=32
)
SETUP = Setup(device="cpu", precision="fp32", attention="fused", pack=8, flops_per_second=1e9, seconds_per_step=0.0)
#: Around a method's usual rate: so few steps want a high one.
TIMES = (1.8, 5.6)


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    source = find_model("minilm")
    raw = TASKS.get("docstrings")(per_class=40).load()
    return TokenizedTask.of(raw, source.tokenizer(), SETTINGS.max_length, source.limits())


@pytest.fixture(scope="module")
def best(data: TokenizedTask) -> dict[str, Evaluation]:
    """Of each method the better one of its rates, by validation accuracy."""
    pytest.importorskip(BUILT_IN["minilm"].package)
    worker = Worker(WorkerSpec(find_model("minilm"), SETTINGS, setup=SETUP), data)
    found: dict[str, Evaluation] = {}
    wanted = list(product(METHOD_NAMES, TIMES))
    for group in (wanted[i : i + 8] for i in range(0, len(wanted), 8)):
        for (name, _), evaluation in zip(group, drain(worker.run(list(_candidates(group)))), strict=True):
            if name not in found or evaluation.metrics.get("accuracy", 0) > found[name].metrics.get("accuracy", 0):
                found[name] = evaluation
    return found


def _candidates(group: list[tuple[str, float]]) -> Iterator[Candidate]:
    layers = find_model("minilm").shape().layers
    for name, times in group:
        method = METHODS.get(name)
        yield Candidate(Hybrid.uniform(layers, method.as_usual()), {"learning_rate": times * method.usual_rate})


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_beats_the_majority_class(name: str, best: dict[str, Evaluation], data: TokenizedTask) -> None:
    labels = data.validation.labels
    majority = max((labels == label).mean() for label in set(labels.tolist()))
    assert best[name].error is None
    assert best[name].metrics["accuracy"] > majority + 0.1
