"""K heads side by side are K heads, for every family; their losses are those of K candidates.

Shapes: K candidates, B sequences a candidate, L tokens, C outputs.
"""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import CONFIGS, FAMILIES, HIDDEN, perturb, randomise
from tiny_task import classes
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from autopeft.anatomy import head_names
from autopeft.engine.heads import PackedHead
from autopeft.readouts.regression import Regression

K, B, L = 3, 4, 5


def classifier(family: str, labels: int) -> PreTrainedModel:
    """A regression model has one label."""
    return randomise(AutoModelForSequenceClassification.from_config(CONFIGS[family](num_labels=labels)), 0)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_heads_are_heads_side_by_side(family: str, labels: int) -> None:
    model = classifier(family, labels)
    for name in head_names(model):
        module = model.get_submodule(name)
        packed, alone = PackedHead(module, K), [copy.deepcopy(module) for _ in range(K)]
        assert packed.names == [n for n, _ in module.named_parameters()]
        perturb(packed)
        for weight, stacked in zip(packed.names, packed.stacked, strict=True):
            for k, head in enumerate(alone):
                head.get_parameter(weight).data.copy_(stacked[k])
        x = torch.randn(K, B, L, HIDDEN, generator=torch.Generator().manual_seed(0))
        inputs, own = (x.clone().requires_grad_() for _ in range(2))
        outputs = packed(inputs.flatten(0, 1))
        expected = torch.cat([head(own[k]) for k, head in enumerate(alone)])
        torch.testing.assert_close(outputs, expected)
        for found in (outputs, expected):
            found.square().sum().backward()
        torch.testing.assert_close(inputs.grad, own.grad)
        for weight, stacked in zip(packed.names, packed.stacked, strict=True):
            gradients = torch.stack([head.get_parameter(weight).grad for head in alone])
            torch.testing.assert_close(stacked.grad, gradients, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_heads_start_as_the_module_and_leave_it_alone(family: str) -> None:
    model = classifier(family, 3)
    for name in head_names(model):
        module = model.get_submodule(name)
        before = {n: p.detach().clone() for n, p in module.named_parameters()}
        packed = PackedHead(module, K)
        for weight, stacked in zip(packed.names, packed.stacked, strict=True):
            assert all(torch.equal(part, before[weight]) for part in stacked)
        assert all(p.requires_grad for p in packed.parameters())
        assert len(list(packed.parameters())) == len(before)
        perturb(packed)
        assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_each_candidates_own(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(K, B, 3, generator=generator).to(dtype), torch.tensor([0, 2, 1, 1])
    expected = torch.stack([functional.cross_entropy(own.float(), labels) for own in outputs])
    found = classes(3).loss(outputs, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    outputs, numbers = torch.randn(K, B, 1, generator=generator).to(dtype), torch.tensor([0.5, -2, 1, 0])
    expected = torch.stack([functional.mse_loss(own[:, 0].float(), numbers) for own in outputs])
    torch.testing.assert_close(Regression().loss(outputs, numbers), expected)
