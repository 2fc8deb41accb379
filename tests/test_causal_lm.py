"""Language models in the engine: the loss of the frozen head, packs, what is scored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, LAYERS, perturb, randomise
from tiny_packs import SETTINGS, Bench, language_bench, mixed
from tiny_task import completions, save_model, tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from autopeft.anatomy import layers_of
from autopeft.attaching import Attachment
from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask, collate, steps_of, training_groups
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TokenSize
from autopeft.engine.train import measure, measure_pack, train_steps
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.models import find_model
from autopeft.readouts import IGNORED
from autopeft.readouts._frozen_head import FrozenHead, _declared, head_of
from autopeft.readouts.causal_lm import CausalLM
from autopeft.tasks import Split


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    return language_bench(tmp_path_factory.mktemp("model"), request.param, settings, (48, 16, 8))


def head(vocabulary: int, bias: bool, scale: float, softcap: float | None) -> FrozenHead:
    module = torch.nn.Linear(16, vocabulary, bias=bias).double().requires_grad_(False)
    return FrozenHead(module, None, scale, softcap)


@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.3, 1.5)])
def test_losses_and_gradients_are_those_of_all_logits(
    bias: bool, scale: float, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autopeft.readouts._frozen_head.AT_ONCE", {"cpu": 3 * 41})
    torch.manual_seed(0)
    own, hidden = head(41, bias, scale, softcap), torch.randn(10, 16, dtype=torch.float64, requires_grad=True)
    targets, upstream = torch.randint(41, (10,)), torch.randn(10)
    found = own.losses(hidden, targets)
    (got,) = torch.autograd.grad((found[:, 0] * upstream).sum(), hidden)
    logits = scale * functional.linear(hidden, own.weight, own.module.bias)  # type: ignore[arg-type]
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = functional.cross_entropy(logits, targets, reduction="none")
    (wanted,) = torch.autograd.grad((expected * upstream).sum(), hidden)
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[:, 1].bool(), logits.argmax(1) == targets)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def model_of(family: str, **options: object) -> PreTrainedModel:
    return randomise(AutoModelForCausalLM.from_config(CONFIGS[family](**options)), 0).requires_grad_(False)


def test_a_head_that_is_not_what_it_seems_is_left_to_the_model() -> None:
    model, strange = model_of("llama"), model_of("llama")
    strange.lm_head.register_forward_hook(lambda module, args, output: output + output.square())
    assert head_of(model) is not None
    assert head_of(strange) is None
    assert CausalLM().most_tokens(model) is None
    assert CausalLM().most_tokens(strange) == 2**25 // 99


def test_the_slow_way_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = model_of("gpt2"), TokenizedTask.of(completions((8, 8, 8)), tokenizer(), 32)
    fast = measure(model, data, data.test)
    monkeypatch.setattr("autopeft.readouts._frozen_head.head_of", lambda model: None)
    assert measure(model, data, data.test) == pytest.approx(fast, rel=1e-5)


def test_a_head_that_is_trained_gets_its_gradient() -> None:
    model = model_of("llama").requires_grad_(True)
    ids = torch.randint(5, 99, (2, 6))
    CausalLM().read(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids).sum().backward()
    assert model.lm_head.weight.grad is not None


def test_losses_are_those_of_the_model_with_labels(bench: Bench) -> None:
    hybrid = mixed(LAYERS, 1)[1].hybrid
    batch = collate(bench.data.train, torch.arange(7).numpy(), bench.data.pad_id)
    with Pack(bench.backbone, [Candidate(hybrid)], bench.settings) as pack:
        perturb(pack.attachment.banks)
        weights = pack.weights(0)
        ours = bench.data.readout.loss(pack.forward(batch, {}), batch.labels)
    with Attachment(bench.backbone.model, hybrid) as attached:
        attached.banks.load({n.removeprefix("hybrid."): w for n, w in weights.items()})
        theirs = bench.backbone.model(**batch.inputs, labels=batch.labels).loss
    assert ours.tolist() == pytest.approx([theirs.item()], rel=1e-5)


def test_packed_is_solo(bench: Bench) -> None:
    members = mixed(LAYERS, 3)
    frozen = bench.frozen()
    fresh: dict[int, dict[str, torch.Tensor]] = {}

    def watch(pack: Pack, order: Sequence[int]) -> None:
        for k, i in enumerate(order):
            fresh.setdefault(i, pack.weights(k))

    packed = bench.train(members, frozen, {3: [1]}, watch)
    # From the bottom, with two sizes in a layer and one that others lack; from the top.
    for i in (0, 2, 3):
        alone = bench.train([members[i]])[0]
        assert packed[i].losses == pytest.approx(alone.losses, rel=1e-5)
        torch.testing.assert_close(packed[i].logits, alone.logits, rtol=2e-4, atol=1e-4)
    moved = [any(not torch.equal(w, fresh[i][n]) for n, w in one.weights.items()) for i, one in enumerate(packed)]
    # The second has left, and the last is the backbone alone.
    assert moved == [True, False, True, True, False]


def test_checkpointed_is_the_same(bench: Bench) -> None:
    members = mixed(LAYERS, 4)[1:3]
    again = replace(bench, settings=bench.settings.model_copy(update={"checkpoint": True}))
    for one, other in zip(bench.train(members, bench.frozen()), again.train(members, bench.frozen()), strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-6)
    assert all("forward" not in layer.__dict__ for layer in layers_of(bench.backbone.model))


def test_activations_are_not_kept_when_checkpointed(bench: Bench) -> None:
    batch, member = collate(bench.data.train, torch.arange(12).numpy(), bench.data.pad_id), mixed(LAYERS, 3)[1]

    def kept(**settings: bool) -> int:
        sizes: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with Pack(bench.backbone, [member], bench.settings.model_copy(update=settings)) as pack:
            frozen = {p.data_ptr() for p in [*bench.backbone.model.parameters(), *pack.parameters()]}
            with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
                found = pack.forward(batch, {})
            return sum(size for place, size in sizes.items() if place not in frozen) + 0 * len(found)

    assert kept(checkpoint=True) < kept() / 3


def test_batches_by_tokens(bench: Bench) -> None:
    tokens = bench.data.train
    for epoch in (1, 2):
        groups = training_groups(tokens, TokenSize(40), 1, epoch)
        assert sorted(np.concatenate(groups).tolist()) == list(range(len(tokens)))
        assert all(len(g) * tokens.lengths[g].max() <= 40 for g in groups)
        own = SETTINGS.model_copy(update={"batch_tokens": 40})
        assert steps_of(tokens, own, epoch) == len(groups)
    assert [len(g) for g in training_groups(tokens, TokenSize(1), 1, 1)] == [1] * len(tokens)


def test_a_training_has_as_many_steps_as_batches_by_tokens(bench: Bench) -> None:
    settings = bench.settings.model_copy(update={"batch_tokens": 64, "epochs": 2})
    losses = replace(bench, settings=settings).train(mixed(LAYERS, 3)[1:2])[0].losses
    assert len(losses) == train_steps(settings, bench.data)


def test_parts_of_a_batch_count_by_their_scored_tokens(bench: Bench) -> None:
    index = torch.arange(12).numpy()
    batch, member = collate(bench.data.train, index, bench.data.pad_id), mixed(LAYERS, 3)[1]

    def gradients(budget: int) -> tuple[float, list[torch.Tensor]]:
        with Pack(bench.backbone, [member], bench.settings) as pack:
            perturb(pack.attachment.banks)
            pack.token_budget = budget
            loss = pack.backward(batch, {}, bench.data.readout)
            return float(loss[0]), [p.grad.clone() for p in pack.parameters() if p.grad is not None]

    (whole, wanted), (parts, found) = gradients(10**6), gradients(40)
    assert parts == pytest.approx(whole, rel=1e-5)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_metrics_are_of_scored_tokens(bench: Bench) -> None:
    tokens, member = bench.data.validation, Candidate(Hybrid.uniform(LAYERS))
    with Pack(bench.backbone, [member], bench.settings) as pack:
        found = measure_pack(pack, bench.data, tokens, bench.frozen(0))[0]
    batch = collate(tokens, torch.arange(len(tokens)).numpy(), bench.data.pad_id)
    with torch.no_grad():
        logits = bench.backbone.model(**batch.inputs).logits[:, :-1]
    targets = batch.labels[:, 1:]
    own = targets != IGNORED
    loss = float(functional.cross_entropy(logits[own], targets[own]))
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert found["token_accuracy"] == pytest.approx(float((logits[own].argmax(1) == targets[own]).float().mean()))


def row(*parts: tuple[str, bool]) -> str:
    return json.dumps({"parts": [{"text": text, "scored": scored} for text, scored in parts]})


def test_what_is_cut_off_is_not_scored_and_empty_examples_are_left_out() -> None:
    texts = (row(("w1 w2 ", False), ("w3 w4 w5", True)), row(("w1 w2 w3 w4 ", False), ("w5", True)))
    data = replace(completions((8, 8, 8)), train=Split(texts, None, (0, 0)))
    task = TokenizedTask.of(data, tokenizer(), 4)
    assert len(task.train) == 1
    assert task.train.ids.tolist() == [2, 5, 6, 7]
    assert task.train.labels.tolist() == [IGNORED, IGNORED, IGNORED, 7]
    assert any("1 of train's 2 (50.0%)" in remark and "left out" in remark for remark in task.remarks)


def test_the_token_before_all_texts_is_not_scored() -> None:
    data = replace(completions((8, 8, 8)), train=Split((row(("w1 w2", True)),), None, (0,)))
    assert TokenizedTask.of(data, tokenizer(), 9).train.labels.tolist() == [IGNORED, 5, 6]


def test_nothing_to_score_is_said_with_its_row() -> None:
    data = replace(completions((8, 8, 8)), train=Split((row(("w1 w2", False)),), None, (0,)))
    with pytest.raises(AutopeftError, match=r"train, text 1 of 1 .* it has no token to be scored"):
        TokenizedTask.of(data, tokenizer(), 9)


def test_a_model_that_sees_what_follows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match="'bert': its tokens see those after them"):
        find_model(str(save_model(tmp_path))).head_params(CausalLM())


def test_softcap_scale_and_bias_are_read_from_the_configuration() -> None:
    model = model_of("llama")
    model.config.final_logit_softcapping, model.config.logits_scaling = 30.0, 4.0
    found = _declared(model)
    assert found is not None
    assert (found.scale, found.softcap) == (0.25, 30.0)
    # This model does neither, and so its head is not that.
    assert head_of(model) is None


def test_methods_that_compare_whole_outputs_are_refused(bench: Bench) -> None:
    twice = Hybrid.uniform(LAYERS, METHODS.get("adamix")(2))
    with pytest.raises(AutopeftError, match="adamix"):
        Pack(bench.backbone, [Candidate(twice)], SETTINGS)
