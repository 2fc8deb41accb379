"""What tests do with a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from autopeft.attaching import NAME
from autopeft.candidate import Candidate, Evaluation
from autopeft.engine.worker import Worker, drain


def result(evaluation: Evaluation) -> Evaluation:
    """All but the time."""
    return replace(evaluation, seconds=0.0)


def evaluate(worker: Worker, candidate: Candidate) -> Evaluation:
    """Of a candidate alone."""
    return drain(worker.run([candidate]))[0]


def backbone_state(worker: Worker) -> dict[str, torch.Tensor]:
    """Copies of the frozen weights."""
    return {n: t.clone() for n, t in worker.backbone.model.base_model.state_dict().items()}


def assert_bare(worker: Worker, before: Mapping[str, torch.Tensor]) -> None:
    """Nothing is left on the backbone, and its weights are those of `before`."""
    model = worker.backbone.model
    assert not hasattr(model, NAME)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.base_model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert model.config._attn_implementation == "sdpa"
    assert not any(p.requires_grad for p in model.parameters())
    after = model.base_model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], before[n]) for n in before)
