"""What every method must hold, as checks that take a method's class: of the suite, and of methods that are broken.

A check raises `AssertionError` where the method is wrong. `trial` trains candidates that differ in all that padding,
slicing and company could spoil: two sizes in one layer at one site, the method absent, other first layers, other
methods, one sliced out in the middle; each also alone. Shapes: K candidates, S steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import tiny_packs
import torch
from tiny_models import CAUSAL, base_model, classifier, everywhere, in_layers, make, perturb, sized, tokens
from tiny_packs import SETTINGS, Bench, Trained
from transformers import PreTrainedModel

from autopeft.anatomy import ModelShape, head_names, shape_of
from autopeft.attaching import NAME, Attachment, Banks
from autopeft.attention import FUSED, MATMUL
from autopeft.candidate import Candidate
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.pack import Pack
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.methods.lora import LoRA
from autopeft.methods.sequential import Sequential

RELATIVE = 1e-5
#: At which step of a trial the largest candidate is sliced out, and by its place among the members.
LEAVING = {2: [1]}
#: Methods of which a few steps may not train all entries: those that draw a rank, or grow.
GROWING = ("adamix", "dylora", "increlora", "propetl")
Kind = type[Method]


@cache
def model_of(family: str, head: bool = True) -> PreTrainedModel:
    """One model for many checks: what is detached leaves no trace, which is a check of its own."""
    return classifier(family) if head else base_model(family)


def company(hybrid: Hybrid) -> set[Hashable]:
    """What a hybrid's methods say of whom they may be packed with; nothing where they do not mind."""
    found = (getattr(m, "company", lambda: None)() for methods in hybrid.layers for m in methods)
    return {own for own in found if own is not None}


# --- weights before training -----------------------------------------------------------------------------------------


def check_count(cls: Kind, family: str) -> None:
    """`num_params` is what the banks hold and what is trained."""
    model, method = model_of(family), make(cls)
    shape, hybrid = shape_of(model), in_layers({0: [method], 2: [method]})
    heads = sum(p.numel() for h in head_names(model) for p in model.get_submodule(h).parameters())
    with Attachment(model, hybrid) as attached:
        expected = hybrid.num_params(shape)
        assert expected == attached.banks.trained_count() > 0, "num_params is not what the banks train"
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        declared = [weight for _, bank in attached.banks.named_banks() for weight in bank.declared.values()]
        # Of masked weights the optimiser has all entries.
        masked = any(weight.kept is not None for weight in declared)
        assert trained - heads >= expected if masked else trained - heads == expected, "more or less is trainable"


def check_size(cls: Kind, family: str) -> None:
    """Absent at size 0, and of more parameters at a larger size."""
    shape = shape_of(model_of(family))
    small, large = (_all_params(make(cls, size), shape) for size in sized(cls))
    assert make(cls, 0).num_params(shape) == 0, "size 0 is not the absent method"
    assert 0 < small <= large, "more costs less"
    assert small < large or len(set(sized(cls))) == 1, "the size does not matter"


def _all_params(method: Method, shape: ModelShape) -> int:
    return method.num_params(shape) + method.shared_params(shape)


def check_neutral(cls: Kind, family: str) -> None:
    """`zero_init` says whether the output is the backbone's before training."""
    model, ids = model_of(family), tokens()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with Attachment(model, everywhere(make(cls))):
            attached = model(input_ids=ids).logits
    assert torch.equal(before, attached) == cls.zero_init, "zero_init is not true"


def check_seed(cls: Kind, family: str) -> None:
    """Initial weights depend on the seed, and on nothing else."""
    shape, hybrid = shape_of(model_of(family)), everywhere(make(cls))
    one, same, other = (Banks([hybrid], shape, [seed]).weights() for seed in (3, 3, 4))
    assert all(torch.equal(one[n], same[n]) for n in one), "initial weights are drawn without the seed"
    differ = not all(torch.equal(one[n], other[n]) for n in one)
    assert differ == cls.random_init, "random_init is not true"


def check_neighbours(cls: Kind, family: str) -> None:
    """Initial weights of a layer do not change with what stands in another layer, or in another candidate."""
    shape, (small, large) = shape_of(model_of(family)), sized(cls)
    own = make(cls, small)
    alone = Banks([in_layers({1: [own]})], shape, [3]).weights()
    others: list[Sequence[Method]] = [[make(cls, large)], [make(LoRA, 2), make(Sequential, 2)], [own]]
    for below in others:
        found = Banks([in_layers({0: below, 1: [own], 2: [own]})], shape, [3]).weights()
        # What layers share is as large as the largest of them needs, and begins alike.
        same = [torch.equal(weight, found[name][tuple(map(slice, weight.shape))]) for name, weight in alone.items()]
        assert all(same), "initial weights change with the layer below"
    packed = Banks([in_layers({1: [make(cls, large)]}), in_layers({1: [own]})],
                   shape, [5, 3]).weights(1)  # fmt: skip
    assert all(torch.equal(weight, packed[name]) for name, weight in alone.items()), "they change with the company"


# --- a model with the method on it -----------------------------------------------------------------------------------


def check_locality(cls: Kind, family: str) -> None:
    """Layers below the first adapted one are unchanged, and those above are not."""
    model, ids = model_of(family, head=False), tokens()

    def hidden(hybrid: Hybrid) -> tuple[torch.Tensor, ...]:
        with Attachment(model, hybrid, attention=FUSED) as attached, torch.no_grad():
            perturb(attached.banks)
            return model(input_ids=ids, output_hidden_states=True).hidden_states

    before, after = hidden(everywhere()), hidden(in_layers({1: [make(cls)]}))
    same = [torch.equal(b, a) for b, a in zip(before, after, strict=True)]
    # What changes the input of layer 1 itself changes what is recorded as the output of layer 0.
    known = same == [True, True, False, False] or ("layer_in" in cls.allowed_sites and same[0])
    # What stands before the layers changes the input of all.
    assert known or (make(cls).of_model and not any(same)), f"unchanged: {same}"


def check_detaching(cls: Kind, family: str) -> None:
    """After detaching the model is as before, to the bit."""
    model, ids = classifier(family), tokens()
    model.get_submodule(head_names(model)[0]).requires_grad_(False)
    with torch.no_grad():
        before, logits = state(model), model(input_ids=ids).logits
        attached = Attachment(model, everywhere(make(cls)))
        perturb(attached.banks)
        assert not torch.equal(model(input_ids=ids).logits, logits), "the method does nothing"
        attached.detach()
        attached.detach()
        assert torch.equal(model(input_ids=ids).logits, logits), "the method is still there"
    assert_same_state(before, state(model))


def check_gradients(cls: Kind, family: str) -> None:
    """Every weight that is trained gets a finite gradient, and the backbone none."""
    model, ids = model_of(family), tokens()
    # Of size 8, so that no bottleneck is all dead.
    with Attachment(model, everywhere(make(cls, 8))) as attached:
        perturb(attached.banks)
        torch.nn.functional.cross_entropy(model(input_ids=ids).logits, torch.arange(4) % 3).backward()
        heads = tuple(f"{h}." for h in head_names(model))
        frozen = [p for n, p in model.named_parameters() if not n.startswith((f"{NAME}.", *heads))]
        assert frozen
        assert all(p.grad is None and not p.requires_grad for p in frozen), "the backbone is trained"
        for name, parameter in attached.banks.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.count_nonzero() > 0, f"the gradient of {name} is zero"


def state(model: PreTrainedModel) -> dict[str, object]:
    """All that attaching may not change for good; module attributes too, where a prefix hides."""
    modules = dict(model.named_modules())
    return {
        "weights": {n: t.clone() for n, t in model.state_dict().items()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules.items()},
        "attributes": {n: sorted(vars(m)) for n, m in modules.items()},
        "attention": model.config._attn_implementation,
    }


def assert_same_state(before: dict[str, object], after: dict[str, object]) -> None:
    weights, others = before.pop("weights"), after.pop("weights")
    assert before == after
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[n], others[n]) for n in weights)


# --- training --------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Looks at a pack in training. At the start it moves all weights, so that nothing is hidden by a zero.

    By member: `first`, its trained weights at the start; `moved`, how many entries have a second moment; `expected`,
    how many it says it has. `spoilt`: sentences on padding, on frozen weights, on what slicing changed.
    """

    names: Sequence[int]
    first: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    last: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)
    expected: dict[int, int] = field(default_factory=dict)
    spoilt: list[str] = field(default_factory=list)
    _seen: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, pack: Pack, order: Sequence[int]) -> None:
        """`order[k]` is the member that is candidate k now; called at the start, after each step and each slicing."""
        before, sliced = self._seen, len(order) < len(self._seen)
        if not before:
            self._move(pack, order)
        self._seen = {i: dict(_tensors(pack, k)) for k, i in enumerate(order)}
        for k, (i, tensors) in enumerate(self._seen.items()):
            self.moved[i] = _held(pack, k)
            self.expected[i] = pack.candidates[k].hybrid.num_params(pack.backbone.shape)
            self.last[i] = _only_trained(tensors)
            self.first.setdefault(i, self.last[i])
            changed = [n for n, t in tensors.items() if not torch.equal(t, before.get(i, tensors)[n])]
            self.spoilt += [f"slicing another out changed {name}" for name in changed if sliced]
            self.spoilt += [f"{name} moved" for name in changed if name.startswith("frozen ")]
        self.spoilt += _padding(pack)

    @torch.no_grad()
    def _move(self, pack: Pack, order: Sequence[int]) -> None:
        for k, i in enumerate(order):
            for name, (tensor, at) in pack._parts(k).items():
                # All heads alike, and so large that losses tell what the methods do.
                head = name.startswith("head.")
                text = name if head else f"{self.names[i]} {name}"
                generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
                tensor[at] += torch.randn(tensor[at].shape, generator=generator) * (0.3 if head else 0.1)


@dataclass(frozen=True)
class Trial:
    """Members of one pack; `alone[i]` is member i trained by itself."""

    members: list[Candidate]
    packed: list[Trained]
    alone: list[Trained]
    watch: Watch
    backbone_is_same: bool


def members_of(cls: Kind) -> list[Candidate]:
    """Small everywhere; large everywhere; large from layer 1 on; and, if it shares packs, none of it in two ways."""
    # A ReLU may be dead for all that a few steps show it.
    smooth = {"activation": "gelu"} if "activation" in cls.option_names() else {}
    # Some do little at these sizes, so that all members would be much alike.
    strong = {"scale": 4.0} if "scale" in cls.option_names() else {}
    small, large = (make(cls, size, **smooth, **strong) for size in sized(cls))
    hybrids = [
        everywhere(small),
        everywhere(large),
        in_layers({1: [large.at(cls.allowed_sites[0])], 2: [small]}),
    ]
    if large.of_model:
        hybrids[2] = in_layers({0: [large], 1: [LoRA(2)]})
    if not company(hybrids[0]):
        hybrids += [in_layers({0: [LoRA(3), Sequential(2)], 2: [LoRA(1)]}), everywhere()]
    rates = [{"learning_rate": rate} for rate in (1e-3, 3e-3, 2e-3, 1e-3, 3e-3)]
    return [Candidate(hybrid, own) for hybrid, own in zip(hybrids, rates, strict=False)]


def bench(folder: Path, family: str) -> Bench:
    """A tiny model of a family and six batches."""
    attention = MATMUL if family in CAUSAL else FUSED
    # Decay would move weights that have no gradient.
    settings = SETTINGS.model_copy(update={"epochs": 1, "weight_decay": 0.0})
    return tiny_packs.bench(folder, family, attention, sizes=(48, 8, 8), settings=settings)


def trial(cls: Kind, bench: Bench) -> Trial:
    """Train the members of a method packed and alone."""
    members = members_of(cls)
    before = {n: t.clone() for n, t in bench.backbone.model.base_model.state_dict().items()}
    watch = Watch(range(len(members)))
    packed = bench.train(members, _frozen(bench), LEAVING, watch)
    after = bench.backbone.model.base_model.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    return Trial(members, packed, [_alone(bench, c, i) for i, c in enumerate(members)], watch, same)


@cache
def _frozen(bench: Bench) -> FrozenLayers:
    return bench.frozen()


@cache
def _alone(bench: Bench, candidate: Candidate, number: int) -> Trained:
    """From the embeddings; `number` is its place among the members, which its first weights depend on."""
    return bench.train([candidate], watch=Watch([number]))[0]


def check_packed(found: Trial) -> None:
    """Each member's losses are those that it has alone, up to where it is sliced out."""
    for i, (packed, alone) in enumerate(zip(found.packed, found.alone, strict=True)):
        steps = len(packed.losses)
        assert steps == next((s + 1 for s, out in LEAVING.items() if i in out), len(alone.losses))
        assert packed.losses == pytest.approx(alone.losses[:steps], rel=RELATIVE), f"member {i} is another in a pack"
        if packed.logits is not None:
            torch.testing.assert_close(packed.logits, alone.logits, rtol=1e-4, atol=1e-5)


def check_the_trial_says_something(found: Trial) -> None:
    """Weights moved, and no two members are alike: else equal losses would mean nothing."""
    losses = [trained.losses for trained in found.alone]
    for i, one in enumerate(losses):
        for other in losses[:i]:
            assert one != pytest.approx(other, rel=100 * RELATIVE), "two members are the same"
    for i, first in found.watch.first.items():
        still = [n for n, weight in first.items() if torch.equal(weight, found.watch.last[i][n])]
        assert not still, f"of member {i} did not move: {still[:3]}"


def check_trained(found: Trial) -> None:
    """What the optimiser holds of each member is its count: padding has no moments, and no weight is without."""
    moved, expected = found.watch.moved, found.watch.expected
    growing = {i for i, c in enumerate(found.members) if any(m.name in GROWING for ms in c.hybrid.layers for m in ms)}
    same = {i: moved[i] if i in growing and 0 < moved[i] <= count else count for i, count in expected.items()}
    assert moved == same, "num_params is not what the optimiser holds"
    assert found.backbone_is_same, "training changed the backbone"


def check_kept_apart(found: Trial) -> None:
    """Padding stays zero, frozen weights stay, and slicing leaves the others' weights, moments and states."""
    assert not found.watch.spoilt, found.watch.spoilt[0]


def _padding(pack: Pack) -> Iterator[str]:
    for name, bank in pack.attachment.banks.named_banks():
        for weight, declared in bank.declared.items():
            outside = bank.weight(weight).detach() * (1 - bank.own(weight))
            if declared.kind != "state" and outside.count_nonzero():
                yield f"padding of {name}.{weight} is not zero"


def _held(pack: Pack, k: int) -> int:
    """Entries of banks, with those of padding, that have a second moment in a candidate's row."""
    rows = (p[k] for p in (pack.optimizer.moments(p)[1] for p in pack.attachment.banks.parameters()) if k < len(p))
    return sum(int(row.count_nonzero()) for row in rows)


def _tensors(pack: Pack, k: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Copies of all that training has of a candidate by kind: weights, their first and second moments, buffers."""
    for kind in ("frozen", "written", "state"):
        for name, (tensor, at) in pack.attachment.banks.parts(k, kind).items():
            yield f"{kind} {name}", tensor[at].clone()
    for name, (tensor, at) in pack.attachment.banks.parts(k).items():
        moments = pack.optimizer.moments(tensor)
        for kind, values in zip(("trained", "first moment of", "second moment of"), (tensor, *moments), strict=True):
            yield f"{kind} {name}", values.detach()[at].clone()


def _only_trained(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("trained ")}
