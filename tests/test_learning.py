"""Every method learns what is easy."""

from __future__ import annotations

import pytest
from tiny_models import LAYERS, METHOD_NAMES, make
from tiny_task import save_model, task, tokenizer

from autopeft.candidate import Candidate, Evaluation
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.setup import Setup
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.models import find_model

SETTINGS = TrainingSettings(head="drawn", method_rates="shared", epochs=6, batch_size=8, precision="fp32", seed=1)
SETUP = Setup(device="cpu", precision="fp32", attention="fused", pack=32, flops_per_second=1e9, seconds_per_step=0.0)
#: A tiny model needs a higher rate than a real one.
FASTER = 5.0
#: Where that is so high that luck decides.
STEADY = {"prefix_mlp": 0.01}
HEAD = "the head alone"


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evaluation]:
    """All methods, each in every layer, at the rate that it is usually trained with; packs as their companies allow."""
    folder = save_model(tmp_path_factory.mktemp("model"))
    data = TokenizedTask.of(task(sizes=(150, 60, 3)), tokenizer(), 32)
    rates = {name: FASTER * METHODS.get(name).usual_rate for name in METHOD_NAMES} | STEADY
    candidates = [
        Candidate(Hybrid.uniform(LAYERS, make(name, 4)), {"learning_rate": rates[name]}) for name in METHOD_NAMES
    ]
    candidates.append(Candidate(Hybrid.uniform(LAYERS), {"learning_rate": FASTER * 1e-3}))
    worker = Worker(WorkerSpec(find_model(str(folder)), SETTINGS, setup=SETUP), data)
    return dict(zip([*METHOD_NAMES, HEAD], drain(worker.run(candidates)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_beats_the_majority_class(name: str, evaluations: dict[str, Evaluation]) -> None:
    found = evaluations[name]
    assert found.error is None
    # Each of the three classes is a third of the examples.
    assert found.metrics["accuracy"] > 0.5
    assert found.curve[-1]["train_loss"] < evaluations[HEAD].curve[-1]["train_loss"]
