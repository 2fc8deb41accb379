"""The last layer, computed for the first token only, where the head reads no other: nothing that is trained differs.

Shapes: K candidates, B sequences a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny_models import FAMILIES, LAYERS, TOGETHER, bank_parts, classifier, everywhere, make, perturb, right_padded
from transformers import PreTrainedModel

from autopeft.anatomy import FAMILIES as ROWS
from autopeft.anatomy import head_names, layers_of
from autopeft.attaching import Attachment
from autopeft.attention import FUSED, MATMUL
from autopeft.engine.first_token import FirstTokenOnly
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix

FIRST = [family for family in FAMILIES if ROWS[family].residual]
TOP = LAYERS - 1
#: Prefixes of other lengths in the last layer; every method there; one that lacks the last layer.
PACK = [
    everywhere(*(make(name, 2) for name in TOGETHER)),
    Hybrid.from_layers(LAYERS, {TOP: [Prefix(3), LoRA(2, sites=("q", "k", "v", "o", "up", "down"))]}),
    Hybrid.from_layers(LAYERS, {0: [LoRA(3)], 1: [Prefix(1)]}),
]


@contextmanager
def attached(model: PreTrainedModel, hybrids: list[Hybrid], attention: str, first: bool) -> Iterator[Attachment]:
    with Attachment(model, hybrids, list(range(len(hybrids))), attention) as attachment:
        perturb(attachment.banks.to(next(model.parameters()).dtype))
        only = FirstTokenOnly(model) if first else None
        try:
            yield attachment
        finally:
            if only:
                only.remove()


def trained(
    model: PreTrainedModel, hybrids: list[Hybrid], attention: str, first: bool, lengths: tuple[int, ...]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits [K*B, C], and the gradients of banks and head by name."""
    inputs = {name: x.repeat(len(hybrids), 1) for name, x in right_padded(model, lengths).items()}
    model.zero_grad()
    with attached(model, hybrids, attention, first) as attachment:
        logits = model(**inputs).logits
        logits.square().sum().backward()
        found = {f"{n}.{p}": w.grad for n, bank in bank_parts(attachment.banks) for p, w in bank.named_parameters()}
    found |= {n: p.grad for n, p in model.named_parameters() if n.startswith(tuple(head_names(model)))}
    return logits.detach(), {name: g.clone() for name, g in found.items()}


@pytest.mark.parametrize("lengths", [(7, 4, 1), (5, 5), (1,)], ids=str)
@pytest.mark.parametrize("attention", [FUSED, MATMUL])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_alone_is_all_that_counts(family: str, attention: str, lengths: tuple[int, ...]) -> None:
    # In fp64, where rounding hides nothing.
    model = classifier(family).double()
    (whole, expected), (cut, gradients) = (trained(model, PACK, attention, first, lengths) for first in (False, True))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("attention", [FUSED, MATMUL])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_last_layer_of_families_that_read_the_first_token_is_cut(family: str, attention: str) -> None:
    model, seen = classifier(family), {}
    inputs = {name: x.repeat(3, 1) for name, x in right_padded(model, (7, 4)).items()}
    with torch.no_grad(), attached(model, PACK, attention, first=True):
        handles = [
            layer.get_submodule(ROWS[family].site(site).module).register_forward_hook(
                lambda module, args, output, place=(i, site): seen.update({place: args[0].shape[1]})
            )
            for i, layer in enumerate(layers_of(model))
            for site in ("q", "k", "up", "down")
        ]
        model(**inputs)
    for handle in handles:
        handle.remove()
    cut = {place for place, tokens in seen.items() if tokens == 1}
    assert cut == ({(TOP, "q"), (TOP, "up"), (TOP, "down")} if family in FIRST else set())
    assert {seen[place] for place in seen.keys() - cut} == {7}


@pytest.mark.parametrize("family", FIRST)
def test_nothing_is_left_behind(family: str) -> None:
    model, fresh = classifier(family), classifier(family)
    FirstTokenOnly(model).remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.set_attn_implementation(FUSED)
    inputs = right_padded(model, (7, 4))
    with torch.no_grad():
        states = [m(**inputs, output_hidden_states=True).hidden_states[-1] for m in (model, fresh)]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-5)
