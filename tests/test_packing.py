"""Stacks of methods, packs of candidates, and their weights: what one network is does not depend on its company.

Shapes: K candidates, B sequences a candidate.
"""

from __future__ import annotations

import math
import re
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    CONFIGS,
    FAMILIES,
    LAYERS,
    TOGETHER,
    bank_parts,
    classifier,
    everywhere,
    hybrids,
    make,
    own_gradients,
    perturb,
    right_padded,
    tokens,
)
from transformers import PreTrainedModel

from autopeft.anatomy import shape_from_config
from autopeft.attaching import Attachment, Banks
from autopeft.attention import FUSED, MATMUL
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential

each_family = pytest.mark.parametrize("family", FAMILIES)
#: Of the right padding, for packs: one mask serves a short and a long sequence of every candidate.
LENGTHS = (7, 4)


def pack() -> list[Hybrid]:
    """Candidates of other sizes, methods, sites, options and layers; one without any."""
    alone = [
        Hybrid.from_layers(LAYERS, {1: [make(name, 5, sites=METHODS.get(name).allowed_sites[:1])]}) for name in TOGETHER
    ]
    mixed = Hybrid.from_layers(
        LAYERS,
        {
            0: [LoRA(2, sites=("k", "up"), scale=2.5), Sequential(4, activation="gelu"), Prefix(2)],
            2: [Parallel(6, activation="silu"), Sequential(1, sites=("o",), activation="tanh")],
        },
    )
    return [*alone, Hybrid.uniform(LAYERS), mixed, everywhere(*(make(name, 2) for name in TOGETHER))]


def plain(name: str) -> str:
    """A weight's name without the number that tells banks of one kind but other options apart in a pack."""
    return re.sub(r"\d*\.(\w+)$", r".\1", name)


@torch.no_grad()
def add_noise(banks: Banks, numbers: list[int]) -> None:
    """Noise on every candidate's own weights (never on padding) that depends on its number and the weight's name."""
    for k, number in enumerate(numbers):
        for name, weight in banks.weights(k).items():
            generator = torch.Generator().manual_seed(7919 * number + sum(map(ord, plain(name))))
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)


def train_once(
    model: PreTrainedModel, members: list[Hybrid], numbers: list[int], attention: str | None = None
) -> tuple[torch.Tensor, Banks]:
    """Logits [K, B, C] of the candidates of those numbers, and their banks with gradients."""
    one = right_padded(model, LENGTHS)
    inputs = {name: x.repeat(len(members), 1) for name, x in one.items()}
    with Attachment(model, members, [100 + n for n in numbers], attention=attention) as attached:
        add_noise(attached.banks, numbers)
        logits = model(**inputs).logits.unflatten(0, (len(members), -1))
        logits.square().mean((1, 2)).sum().backward()
    return logits.detach(), attached.banks


# --- stacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [f if f in {"bert", "llama"} else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_stacked_methods_give_one_network_in_whatever_order_they_are_written(family: str) -> None:
    model, methods = classifier(family), [make(name) for name in TOGETHER]
    orders = [everywhere(*order) for order in permutations(methods)][:: max(1, math.factorial(len(methods)) // 6)]
    first, _ = train_once(model, [orders[0]], [1])
    for hybrid in orders[1:]:
        assert hybrid == orders[0]
        assert torch.equal(train_once(model, [hybrid], [1])[0], first)


@each_family
def test_every_weight_of_a_stack_matters(family: str) -> None:
    """AdapterHub's stack of a sequential and a parallel adapter drops one of them without a word."""
    model, ids = classifier(family), tokens()
    with Attachment(model, everywhere(*(make(name) for name in TOGETHER))) as attached, torch.no_grad():
        perturb(attached.banks)
        before = model(input_ids=ids).logits
        for name, bank in bank_parts(attached.banks):
            kept = {part: p.clone() for part, p in bank.named_parameters()}
            perturb(bank, seed=2)
            assert not torch.equal(model(input_ids=ids).logits, before), name
            bank.load_state_dict(kept)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_a_stack_acts_in_the_order_of_the_stages() -> None:
    """LoRA, then the sequential adapter on what LoRA gave, then the parallel one beside both."""
    model, seen = classifier("bert"), {}
    layer = model.bert.encoder.layer[0]
    hybrid = Hybrid.from_layers(LAYERS, {0: [Parallel(3), LoRA(2, sites=("down",)), Sequential(4)]})
    with Attachment(model, hybrid) as attached, torch.no_grad():
        add_noise(attached.banks, [1])
        layer.intermediate.dense.register_forward_hook(lambda module, args, output: seen.update(block=args[0]))
        layer.output.dense.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
        model(input_ids=tokens())
    w = {name.removeprefix("layers.0.down."): t for name, t in attached.banks.weights().items()}
    h = seen["x"] @ layer.output.dense.weight.T + layer.output.dense.bias + seen["x"] @ w["lora.A"].T @ w["lora.B"].T

    def bottleneck(x: torch.Tensor, name: str) -> torch.Tensor:
        middle = (x @ w[f"{name}.down"].T + w[f"{name}.down_bias"]).relu()
        return middle @ w[f"{name}.up"].T + w[f"{name}.up_bias"]

    expected = h + bottleneck(h, "sequential") + 4 * bottleneck(seen["block"], "parallel")
    torch.testing.assert_close(seen["y"], expected)


# --- packs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", [FUSED, MATMUL])
@each_family
def test_packed_is_solo(family: str, attention: str) -> None:
    model, members = classifier(family), pack()
    packed, banks = train_once(model, members, list(range(len(members))), attention)
    for k, hybrid in enumerate(members):
        solo, own = train_once(model, [hybrid], [k], attention)
        torch.testing.assert_close(packed[k], solo[0], rtol=1e-5, atol=1e-6)
        expected = {plain(name): g for name, g in own_gradients(own).items()}
        gradients = {plain(name): g for name, g in own_gradients(banks, k).items()}
        assert gradients.keys() == expected.keys()
        assert bool(expected) == (not hybrid.is_empty)
        for name, gradient in expected.items():
            # Of the largest: what is rounded are the terms of a sum, not the sum.
            atol = 1e-5 * max(1.0, gradient.abs().max().item())
            torch.testing.assert_close(
                gradients[name], gradient, rtol=1e-5, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )


@settings(max_examples=15)
@given(st.lists(hybrids(), min_size=1, max_size=4))
def test_any_pack_is_its_members(members: list[Hybrid]) -> None:
    model = classifier("llama")
    packed, _ = train_once(model, [*members, everywhere(Prefix(1))], list(range(len(members) + 1)))
    for k, hybrid in enumerate(members):
        torch.testing.assert_close(packed[k], train_once(model, [hybrid], [k])[0][0], rtol=1e-5, atol=1e-5)


def padding(banks: Banks) -> dict[str, torch.Tensor]:
    """By parameter: True where it is padding (of a smaller candidate, or of one that lacks the method)."""
    found = {}
    for name, bank in bank_parts(banks):
        for part, parameter in bank.named_parameters():
            mask = torch.ones(parameter.shape, dtype=torch.bool)
            for k, sizes in enumerate(bank.sizes):
                if sizes:
                    mask[(k, *(slice(0, s) for s in sizes[part]))] = False
            found[f"{name}.{part}"] = mask
    return found


@pytest.mark.parametrize("attention", [FUSED, MATMUL])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_padding_gets_zero_gradients_and_stays_zero_in_training(family: str, attention: str) -> None:
    model, members = classifier(family), pack()
    _, banks = train_once(model, members, list(range(len(members))), attention)
    parameters, masks = dict(banks.named_parameters()), padding(banks)
    assert sum(int(mask.sum()) for mask in masks.values()) > 0
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for name, mask in masks.items():
        assert parameters[name][mask].count_nonzero() == 0, name
        assert parameters[name].grad[mask].count_nonzero() == 0, name
    torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.1).step()
    for name, mask in masks.items():
        assert parameters[name][mask].count_nonzero() == 0, name
        assert not torch.equal(parameters[name], before[name]), name


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_round_trip_candidate_by_candidate() -> None:
    shape, members = shape_from_config(CONFIGS["llama"]()), pack()
    numbers = list(range(len(members)))
    source, target = (Banks(members, shape, [s] * len(members)) for s in (1, 2))
    add_noise(source, numbers)
    for k in numbers:
        others = [{n: w.clone() for n, w in target.weights(j).items()} for j in numbers]
        target.load(source.weights(k), k)
        for j in numbers:
            expected = source.weights(j) if j == k else others[j]
            assert all(torch.equal(w, expected[n]) for n, w in target.weights(j).items())
    for name, parameter in source.named_parameters():
        assert torch.equal(parameter, target.get_parameter(name))


def test_weights_have_the_candidates_own_sizes_and_a_misfit_is_refused() -> None:
    shape = shape_from_config(CONFIGS["bert"]())
    small, large = everywhere(LoRA(2)), everywhere(LoRA(5), Parallel(3))
    banks = Banks([small, large, everywhere()], shape, [0, 0, 0])
    assert [sum(w.numel() for w in banks.weights(k).values()) for k in range(3)] == [
        h.num_params(shape) for h in (small, large, everywhere())
    ]
    with pytest.raises(KeyError, match="do not fit"):
        banks.load(banks.weights(1), 0)
