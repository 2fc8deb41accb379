"""Methods with masks and mixtures: what makes each of them itself, and that it folds, merges and packs with its hooks.

Shapes: N sequences, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from test_stopped import drive
from tiny_models import CONFIGS, LAYERS, classifier, everywhere, perturb, right_padded
from tiny_task import save_model, task, tokenizer
from tiny_worker import evaluate
from transformers import PreTrainedModel

from autopeft.anatomy import family_of, layers_of, shape_from_config, shape_of
from autopeft.attaching import Attachment
from autopeft.candidate import Candidate, Evaluation
from autopeft.costs import COSTS
from autopeft.engine import pack as pack_module
from autopeft.engine.company import Company
from autopeft.engine.data import TokenizedTask
from autopeft.engine.kept import load_weights
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.methods._triplets import Triplets
from autopeft.methods.adalora import AdaLoRA
from autopeft.methods.adamix import AdaMix
from autopeft.methods.fish import FISH
from autopeft.methods.increlora import IncreLoRA
from autopeft.methods.lt_sft import LTSFT
from autopeft.methods.propetl import ProPETL
from autopeft.methods.sparse_adapter import SparseAdapter
from autopeft.methods.threshold_mask import ThresholdMask

BERT_BASE = CONFIGS["bert"](hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=1)
Make = Callable[[int], Method]
Weights = Mapping[str, torch.Tensor]

#: By name, a method of a size; all that hooks prepare.
HOOKED: dict[str, Make] = {
    "adamix": lambda n: AdaMix(n, experts=1 + n, activation="gelu"),
    "sparse_adapter": lambda n: SparseAdapter(2 * n, keep=0.1 * n, activation="gelu"),
    "sparse_adapter magnitude": lambda n: SparseAdapter(n, keep=0.3, score="magnitude", activation="gelu"),
    "propetl": lambda n: ProPETL(n, keep=0.1 + 0.1 * n, activation="gelu"),
    "lt_sft": lambda n: LTSFT(10 * n, sites=("q", "down")),
    "fish": lambda n: FISH(10 * n, sites=("q", "down")),
}
FOLDED = [AdaMix(3, ("o", "down")), SparseAdapter(4, ("o", "down"), keep=0.5), ProPETL(4, ("o", "down"))]
MERGED = [LTSFT(20, ("q", "v", "down")), FISH(20, ("k", "o")), ThresholdMask(1, ("q", "v", "up"))]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("model")
    data = TokenizedTask.of(task(sizes=(24, 16, 16)), tokenizer(), 16)
    settings = TrainingSettings(
        head="drawn",
        method_rates="shared",
        epochs=2,
        batch_size=8,
        precision="fp32",
        learning_rate=1e-2,
        weight_decay=0.1,
        seed=1,
    )
    return Worker(WorkerSpec(find(folder), settings, keep=folder / "weights"), data)


def find(folder: Any) -> Any:
    from autopeft.models import find_model

    return find_model(str(save_model(folder)))


def trained(worker: Worker, found: Evaluation) -> Weights:
    weights = load_weights(worker.spec.keep, found.key)
    assert weights is not None
    return {name.removeprefix("hybrid."): w for name, w in weights.items()}


def of(weights: Weights, name: str) -> list[torch.Tensor]:
    return [w for n, w in weights.items() if n.endswith(f".{name}")]


def logits(model: PreTrainedModel, hybrid: Hybrid, weights: Weights) -> torch.Tensor:
    """[N, C] with these weights of the hybrid."""
    inputs = right_padded(model, (7, 4, 6))
    with torch.no_grad(), Attachment(model, hybrid) as attached:
        attached.banks.load(weights)
        return model(**inputs).logits


def moved(model: PreTrainedModel, method: Method) -> tuple[Hybrid, dict[str, torch.Tensor]]:
    """A hybrid of it, and weights that are not those of the start."""
    hybrid = Hybrid.from_layers(LAYERS, {0: [method], 2: [method.at(method.sites[0])]})
    with Attachment(model, hybrid) as attached:
        perturb(attached.banks)
        return hybrid, {name: w.detach().clone() for name, w in attached.banks.weights().items()}


def split(weights: Weights, place: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(place): w for n, w in weights.items() if n.startswith(place)}


# --- folding and merging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*FOLDED, *MERGED], ids=lambda m: m.name)
def test_folded_is_unfolded(method: Method) -> None:
    model = classifier("bert")
    hybrid, weights = moved(model, method)
    simple = Hybrid(tuple(tuple(m.folded() for m in methods) for methods in hybrid.layers))
    made = {}
    for layer, site, own in hybrid.placed():
        place, shared = f"layers.{layer}.{site}.", split(weights, f"shared.{own.name}.")
        folded = own.fold(shape_of(model), site, split(weights, f"{place}{own.name}."), shared)
        made |= {f"{place}{own.folded().name}.{name}": w for name, w in folded.items()}
    before = logits(model, Hybrid.uniform(LAYERS), {})
    expected = logits(model, hybrid, weights)
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(model, simple, made), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", MERGED, ids=lambda m: m.name)
@torch.no_grad()
def test_merged_is_unmerged(method: Method, family: str) -> None:
    model = classifier(family)
    hybrid, weights = moved(model, method)
    expected, row = logits(model, hybrid, weights), family_of(model.config)
    for layer, site, own in hybrid.placed():
        at = row.site(site)
        module: Any = layers_of(model)[layer].get_submodule(at.module)
        whole = module.weight.T if family == "gpt2" else module.weight
        part = whole.chunk(at.parts)[at.index]
        merged, bias = own.merge(site, split(weights, f"layers.{layer}.{site}.{own.name}."), part.clone(), None)
        assert bias is None
        assert not torch.equal(merged, part)
        part.copy_(merged)
    torch.testing.assert_close(logits(model, Hybrid.uniform(LAYERS), {}), expected, rtol=1e-5, atol=1e-5)


# --- trained with their hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKED)
def test_packed_is_alone_with_all_hooks(name: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes in a layer, one that starts higher, one stopped after the first epoch (and phase)."""
    small, large = HOOKED[name](1), HOOKED[name](2)
    layers = [{0: [small], 1: [large], 2: [small]}, {0: [large], 1: [small.at("down")]}, {1: [small], 2: [large]}]
    rates = ({}, {"learning_rate": 3e-3}, {})
    chosen = [Candidate(Hybrid.from_layers(LAYERS, own), rate) for own, rate in zip(layers, rates, strict=True)]
    alone = [evaluate(worker, one) for one in chosen]
    kept = [trained(worker, one) for one in alone]
    monkeypatch.setitem(pack_module.TOKEN_BUDGETS, "cpu", 300)
    packed, _ = drive(worker.run(chosen), {1: [0]})
    assert [e.fidelity for e in packed] == [1, 2, 2]
    for i, (one, other) in enumerate(zip(packed, alone, strict=True)):
        for own, expected in zip(one.curve, other.curve, strict=False):
            assert own["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
            assert own["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        if i:
            weights = trained(worker, one)
            assert weights.keys() == kept[i].keys()
            for weight, value in kept[i].items():
                torch.testing.assert_close(weights[weight], value, rtol=1e-3, atol=1e-5)


# --- what makes each of them itself ----------------------------------------------------------------------------------


def test_adamix_trains_experts_and_keeps_their_mean(worker: Worker) -> None:
    shape = shape_from_config(BERT_BASE)
    assert AdaMix(48).num_params(shape) == 185_280
    assert AdaMix(48).kept_params(shape) == 74_544
    method = AdaMix(3, experts=3, activation="gelu")
    assert Company.of(everywhere(method)).twice
    weights = trained(worker, evaluate(worker, Candidate(everywhere(method))))
    for experts in of(weights, "down"):
        assert len({float(w.sum()) for w in experts}) == 3
    # Other experts are drawn in each pass, so that the divergence between both passes is above zero.
    first, second = torch.tensor([[[0.0, 1.0]], [[2.0, 2.0]]]), torch.tensor([[[1.0, 0.0]], [[3.0, 3.0]]])
    loss = AdaMix.pair_loss([], first, second, torch.zeros(1))
    p = torch.tensor(1.0).sigmoid()
    torch.testing.assert_close(loss, torch.stack([2 * p - 1, torch.tensor(0.0)]))


def test_adamix_compares_outputs_as_their_labels_are_read() -> None:
    """Of several yes or no each by itself, and of tokens those with a label: padding changes nothing."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 3, 4, 5, generator=generator).unbind(0)
    labels = torch.tensor([[1, -100, 2, -100], [0, 3, 4, -100], [-100, 1, -100, -100]])
    loss = AdaMix.pair_loss([], first, second, labels)
    own = labels != -100
    alone = AdaMix.pair_loss([], first[:, own], second[:, own], labels[own])
    torch.testing.assert_close(loss, alone)
    longer = [torch.nn.functional.pad(x, (0, 0, 0, 3), value=7.0 * i) for i, x in enumerate((first, second))]
    padded = AdaMix.pair_loss([], *longer, torch.nn.functional.pad(labels, (0, 3), value=-100))
    torch.testing.assert_close(loss, padded)
    # Yes or no is a choice of two classes, of logits 0 and x.
    one, other = first[:, :, 0], second[:, :, 0]
    sets = AdaMix.pair_loss([], one, other, torch.zeros(3, 5))
    pairs = [torch.stack([torch.zeros_like(x), x], -1).flatten(1, 2) for x in (one, other)]
    torch.testing.assert_close(sets, AdaMix.pair_loss([], *pairs, torch.zeros(15)))


@pytest.mark.parametrize("score", ["snip", "magnitude", "random"])
def test_sparse_adapter_keeps_the_asked_share_of_all_its_layers(score: str, worker: Worker) -> None:
    method = SparseAdapter(5, keep=0.25, score=score, activation="gelu")
    hybrid = everywhere(method)
    weights = trained(worker, evaluate(worker, Candidate(hybrid)))
    each = 5 * 32 * 2 // 4
    masks = of(weights, "down_mask") + of(weights, "up_mask")
    assert sum(int(m.sum()) for m in masks) == each * LAYERS
    assert all(set(m.unique().tolist()) <= {0.0, 1.0} for m in masks)
    shape = worker.backbone.shape
    assert hybrid.num_params(shape) == LAYERS * (each + 5 + 32)
    assert method.kept_params(shape) == each + 5 + 32
    assert method.stored_bytes(shape) == 4 * (each + 5 + 32) + 5 * 32 * 2 // 8
    # Over all layers together, but for random masks, which each layer has by itself.
    even = len({int(m.sum()) for m in masks}) == 1
    assert even == (score == "random")


def test_sparse_adapter_keeps_what_matters_most(worker: Worker) -> None:
    method = SparseAdapter(5, keep=0.25, score="magnitude")
    hybrid = everywhere(method)
    with Attachment(classifier("bert"), hybrid, [1]) as attached:
        start = {n: w.detach().abs().clone() for n, w in attached.banks.weights().items()}
    weights = trained(worker, evaluate(worker, Candidate(hybrid)))
    named = [n for n in start if n.endswith((".down", ".up"))]
    kept = torch.cat([start[n][weights[f"{n}_mask"] == 1] for n in named])
    lost = torch.cat([start[n][weights[f"{n}_mask"] == 0] for n in named])
    assert kept.min() >= lost.max()


@pytest.mark.parametrize("kind", [AdaLoRA, IncreLoRA])
def test_shares_of_places_add_up_to_the_budget_of_triplets(kind: type[Triplets], worker: Worker) -> None:
    """Of 8 triplets a quarter, and of 4 all."""
    hybrid = Hybrid.from_layers(LAYERS, {0: [kind(4, keep=0.25)], 2: [kind(4, ("q",), keep=1.0)]})
    weights = trained(worker, evaluate(worker, Candidate(hybrid)))
    assert sum(int(e.count_nonzero()) for e in of(weights, "E")) == 2 + 4


def test_propetl_has_one_module_of_the_largest_layer_and_a_bit_an_entry() -> None:
    shape = shape_from_config(CONFIGS["bert"]())
    hybrid = Hybrid.from_layers(LAYERS, {0: [ProPETL(2)], 1: [ProPETL(6, keep=0.25)], 2: [ProPETL(4, ("o", "down"))]})
    module, scores = 2 * 32 * 6 + 6 + 32, 2 * 32 * (2 + 6 + 4 + 4)
    assert hybrid.num_params(shape) == module + scores
    assert COSTS.get("stored_bytes")().of(hybrid, shape, 8) == 4 * module + scores // 8
    assert COSTS.get("kept_params")().of(hybrid, shape, 8) == module + scores
    model = classifier("bert")
    with Attachment(model, hybrid) as attached:
        names = [name for name in attached.banks.weights() if name.startswith("shared.")]
        assert names == [f"shared.propetl.{w}" for w in ("down", "down_bias", "up", "up_bias")]
    weights = {"down_scores": torch.rand(6, 32), "up_scores": torch.rand(32, 6)}
    shared = {"down": torch.ones(6, 32), "down_bias": torch.ones(6), "up": torch.ones(32, 6), "up_bias": torch.ones(32)}
    folded = ProPETL(6, keep=0.25).fold(shape, "down", weights, shared)
    assert int(folded["down"].sum()) == int(folded["up"].sum()) == 6 * 32 // 4


def test_lt_sft_changes_exactly_what_it_keeps(worker: Worker) -> None:
    method, shape = LTSFT(10, ("q", "down")), worker.backbone.shape
    hybrid = everywhere(method)
    found = evaluate(worker, Candidate(hybrid))
    weights = trained(worker, found)
    changed = sum(int(w.count_nonzero()) for w in of(weights, "change"))
    assert changed == hybrid.num_params(shape) == 10 * 2 * LAYERS
    # Counted over all maps: some change more than others.
    assert len({int(w.count_nonzero()) for w in of(weights, "change")}) > 1
    assert method.stored_bytes(shape) == 2 * 10 * 8
    assert Company.of(hybrid).phases == (0.5, 0.5)
    # A map has no more entries than it has.
    assert LTSFT(5_000, ("q",)).num_params(shape) == 32 * 32


def test_fish_trains_where_gradients_are_large(worker: Worker) -> None:
    hybrid = everywhere(FISH(10, ("q", "down")))
    weights = trained(worker, evaluate(worker, Candidate(hybrid)))
    masks, changes = of(weights, "change_mask"), of(weights, "change")
    assert sum(int(m.sum()) for m in masks) == 10 * 2 * LAYERS
    for mask, change in zip(masks, changes, strict=True):
        assert torch.equal(change != 0, mask == 1)
    # Queries move attention only, so that gradients there are the smaller ones.
    by_site = {site: sum(int(w.sum()) for n, w in weights.items() if f".{site}.fish.change_mask" in n)
               for site in ("q", "down")}  # fmt: skip
    assert by_site["down"] > by_site["q"]


def test_threshold_mask_stores_bits_and_leaves_weights_out() -> None:
    shape, method = shape_from_config(BERT_BASE), ThresholdMask(1, ("q", "down"))
    assert method.num_params(shape) == 768 * 768 + 768 * 3072
    assert method.stored_bytes(shape) == (768 * 768 + 768 * 3072) // 8
    start = ThresholdMask(1, sparsity=0.2).weights(shape, "q")["scores"].draw(0, "here")
    assert (start < 0.01).float().mean() == pytest.approx(0.2, abs=0.01)
    folded = method.fold(shape, "q", {"scores": start}, {})
    assert set(folded["scores"].unique().tolist()) == {0.0, 1.0}
    weight = torch.randn(768, 768)
    merged, _ = method.merge("q", folded, weight, None)
    assert torch.equal(merged, torch.where(start >= 0.01, weight, 0))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: AdaMix(2, experts=0), "method 'adamix': experts must be 1 to 64, not 0"),
        (lambda: SparseAdapter(2, keep=0), "method 'sparse_adapter': keep must be above 0 and at most 1, not 0"),
        (lambda: SparseAdapter(2, score="snp"), "unknown score 'snp'; did you mean 'snip'"),
        (lambda: ProPETL(2, keep=True), "method 'propetl': keep must be above 0 and at most 1, not True"),
        (lambda: ThresholdMask(1, threshold=0), "threshold must be 1/1,000,000 or more and below 1, not 0"),
        (lambda: ThresholdMask(1, sparsity=1.0), "sparsity must be 0 or more and below 1, not 1.0"),
    ],
)
def test_wrong_options_are_refused(wrong: Callable[[], Method], said: str) -> None:
    with pytest.raises(AutopeftError, match=said):
        wrong()
