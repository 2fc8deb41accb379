"""Methods of the whole model: vectors among those of the text, on models, in packs, in spaces, and taken home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from test_costs import MODELS as BASES
from test_costs import SHAPES, cost, counted
from tiny_models import (
    CONFIGS,
    FAMILIES,
    HIDDEN,
    LABELS,
    LAYERS,
    classifier,
    everywhere,
    perturb,
    randomise,
    right_padded,
    tokens,
)  # fmt: skip
from tiny_project import experiment, not_measured
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from autopeft import attach, evaluate, export
from autopeft.anatomy import shape_from_config
from autopeft.attaching import Attachment
from autopeft.attention import FUSED, MATMUL
from autopeft.budget import Budget, costs_of
from autopeft.engine.data import Batch
from autopeft.engine.pack import parts_of
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.hybrid import Hybrid
from autopeft.launch import launch
from autopeft.methods import Method
from autopeft.methods.lora import LoRA
from autopeft.methods.mpt import MPT
from autopeft.methods.p_tuning import PTuning
from autopeft.methods.prefix import Prefix
from autopeft.methods.prompt_tuning import PromptTuning
from autopeft.methods.sequential import Sequential
from autopeft.progress import Silent
from autopeft.searching.known_cost.points import Points
from autopeft.session import Session
from autopeft.space import SearchSpace

Tensor = torch.Tensor
DEFAULT = ("bert", "llama")
each_family = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in DEFAULT else pytest.mark.slow) for f in FAMILIES]
)
LENGTHS = (7, 4, 9)


# --- on a model ------------------------------------------------------------------------------------------------------


def logits_by_hand(model: Any, prompt: Tensor, ids: Tensor) -> Tensor:
    """Prompts as PyTorch has them: embeddings that are put together, for texts without padding."""
    rows, texts = prompt.expand(len(ids), -1, -1), model.get_input_embeddings()(ids)
    if model.config.model_type == "bert":
        hidden = model.bert(inputs_embeds=torch.cat([texts[:, :1], rows, texts[:, 1:]], dim=1))
        return model.classifier(hidden.pooler_output)
    hidden = model.model(inputs_embeds=torch.cat([rows, texts], dim=1))
    return model.score(hidden.last_hidden_state[:, -1])


@pytest.mark.parametrize("family", DEFAULT)
def test_training_is_that_of_a_loop_by_hand(family: str) -> None:
    ids, labels = tokens(6, 5), torch.arange(6) % LABELS
    ours, theirs = classifier(family), classifier(family)
    head = theirs.classifier if family == "bert" else theirs.score
    theirs.requires_grad_(False)
    head.requires_grad_(True)
    with attach(ours, everywhere(PromptTuning(3)), seed=5) as attached:
        prompt = torch.nn.Parameter(next(iter(attached.banks.weights().values())).detach().clone())
        optimiser = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=1e-2)
        by_hand = torch.optim.AdamW([prompt, *head.parameters()], lr=1e-2)
        for _ in range(5):
            losses = []
            for logits, step in ((ours(ids).logits, optimiser), (logits_by_hand(theirs, prompt, ids), by_hand)):
                loss = cross_entropy(logits, labels)
                step.zero_grad()
                loss.backward()
                step.step()
                losses.append(loss.item())
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        torch.testing.assert_close(next(iter(attached.banks.weights().values())), prompt, rtol=1e-4, atol=1e-5)


def left_padded(model: PreTrainedModel) -> dict[str, Tensor]:
    right = right_padded(model, LENGTHS)
    left = {name: torch.stack([row.roll(max(LENGTHS) - n) for row, n in zip(x, LENGTHS, strict=True)])
            for name, x in right.items()}  # fmt: skip
    if model.config.model_type in ("roberta",):
        # It counts the tokens that are no padding by itself.
        return left
    return left | {"position_ids": (left["attention_mask"].cumsum(1) - 1).clamp(min=0)}


@each_family
@pytest.mark.parametrize("attention", [FUSED, MATMUL])
def test_padding_on_either_side_and_other_candidates_change_nothing(family: str, attention: str) -> None:
    model = classifier(family)
    hybrids = [everywhere(PromptTuning(2), MPT(1)), everywhere(), everywhere(PromptTuning(5), Prefix(2))]
    padded = {"right": right_padded(model, LENGTHS)}
    if model.config.model_type in ("gpt2", "llama", "qwen2", "qwen3"):
        # Heads of encoders read the first token, which is padding then.
        padded["left"] = left_padded(model)
    found: dict[str, Tensor] = {}
    for side, inputs in padded.items():
        with Attachment(model, hybrids, 0, attention) as attached, torch.no_grad():
            perturb(attached.banks)
            own = [attached.banks.weights(k) for k in range(3)]
            found[side] = model(**{n: x.repeat(3, 1) for n, x in inputs.items()}).logits.unflatten(0, (3, -1))
    ids = padded["right"]["input_ids"]
    for k, hybrid in enumerate(hybrids):
        with Attachment(model, hybrid, 0, attention) as attached, torch.no_grad():
            attached.banks.load(own[k])
            alone = torch.cat([model(ids[i : i + 1, :n]).logits for i, n in enumerate(LENGTHS)])
        for logits in found.values():
            torch.testing.assert_close(logits[k], alone, rtol=1e-4, atol=1e-5)


def test_the_last_hidden_state_is_that_of_the_text() -> None:
    model, ids = classifier("llama"), tokens()
    with attach(model, everywhere(PromptTuning(4))):
        assert model.base_model(ids).last_hidden_state.shape == (*ids.shape, HIDDEN)
        assert model.base_model(ids, return_dict=False)[0].shape == (*ids.shape, HIDDEN)


def test_embeddings_may_be_given_in_the_place_of_ids() -> None:
    for family in DEFAULT:
        model, ids = classifier(family), tokens()
        embedded = model.get_input_embeddings()(ids)
        with attach(model, everywhere(PromptTuning(4))), torch.no_grad():
            one, other = model.base_model(input_ids=ids), model.base_model(inputs_embeds=embedded)
        torch.testing.assert_close(one.last_hidden_state, other.last_hidden_state)


def test_generation_with_a_cache_is_that_without_one() -> None:
    model = randomise(AutoModelForCausalLM.from_config(CONFIGS["llama"]()), 0)
    ids = tokens(2, 5)
    with attach(model, everywhere(PromptTuning(3))) as attached, torch.no_grad():
        perturb(attached.banks)
        cached, plain = (
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, use_cache=use,
                output_logits=True, return_dict_in_generate=True,
            )
            for use in (True, False)
        )  # fmt: skip
        assert torch.equal(cached.sequences, plain.sequences)
        torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not torch.equal(model(ids).logits[:, -1], plain.logits[0])


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_of_texts_without_padding_causal_models_say_what_stock_peft_says(family: str) -> None:
    model, ids, method = classifier(family), tokens(), PromptTuning(4)
    stock = get_peft_model(classifier(family), PromptTuningConfig(TaskType.SEQ_CLS, num_virtual_tokens=4))
    vectors = stock.prompt_encoder["default"].embedding.weight
    assert vectors.numel() == method.num_params(shape_from_config(CONFIGS[family]()))
    with attach(model, everywhere(method)) as attached, torch.no_grad():
        attached.banks.load({"model.input.prompt_tuning.prompt": vectors})
        torch.testing.assert_close(model(ids).logits, stock(input_ids=ids).logits, rtol=1e-4, atol=1e-6)


def test_prompts_begin_as_vectors_of_the_vocabulary() -> None:
    for family in ("bert", "electra"):
        model = classifier(family)
        with Attachment(model, [everywhere(PromptTuning(4)), everywhere(MPT(2))], [3, 4]) as attached:
            table = model.get_input_embeddings().weight
            for k, name in enumerate(("prompt_tuning", "mpt")):
                prompt = attached.banks.weights(k)[f"model.input.{name}.prompt"]
                assert all((table == row).all(dim=1).any() for row in prompt)
                assert len(prompt.unique(dim=0)) > 1


@pytest.mark.parametrize("method", [PTuning(5, hidden=16), MPT(5, rank=2)], ids=lambda m: m.name)
def test_what_is_folded_computes_the_same(method: Method) -> None:
    model, ids = classifier("bert"), tokens()
    shape = shape_from_config(CONFIGS["bert"]())
    with Attachment(model, everywhere(method)) as attached, torch.no_grad():
        perturb(attached.banks)
        before = model(ids).logits
        own = {n.rpartition(".")[2]: w for n, w in attached.banks.weights().items()}
        folded = {n: w.clone() for n, w in method.fold(shape, "input", own, {}).items()}
    assert method.kept_params(shape) == method.folded().num_params(shape) == 5 * HIDDEN
    with Attachment(model, everywhere(method.folded())) as attached, torch.no_grad():
        attached.banks.load({f"model.input.prompt_tuning.{n}": w for n, w in folded.items()})
        torch.testing.assert_close(model(ids).logits, before)


def test_too_long_a_text_is_refused_in_one_line() -> None:
    model = classifier("bert")
    with attach(model, everywhere(PromptTuning(4))):
        said = r"a text of 62 tokens and a prompt of 4 .* the 64 positions .* training.max_length to at most 60$"
        with pytest.raises(AutopeftError, match=said):
            model(tokens(2, 62))
        assert model(tokens(2, 60)).logits.isfinite().all()


# --- counts ----------------------------------------------------------------------------------------------------------


def test_counts_of_the_papers_and_of_peft() -> None:
    base = CONFIGS["bert"](hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=2)
    assert Hybrid.uniform(2, PromptTuning(20)).num_params(shape_from_config(base)) == 15_360
    tiny = shape_from_config(CONFIGS["bert"]())
    assert PTuning(5, hidden=16).num_params(tiny) == 1_504
    assert MPT(5).num_params(tiny) == 197
    assert PTuning(5, hidden=16).stored_bytes(tiny) == 4 * 160
    # Tokens of ELECTRA are looked up with a width of their own.
    assert PromptTuning(5).num_params(shape_from_config(CONFIGS["electra"]())) == 5 * 16


@pytest.mark.parametrize("family", DEFAULT)
def test_flops_are_those_that_torch_counts(family: str) -> None:
    for hybrid in (
        everywhere(PromptTuning(3)),
        everywhere(PromptTuning(3), LoRA(2), Sequential(3), Prefix(2)),
        Hybrid.from_layers(LAYERS, {2: [Sequential(2)]}, [PromptTuning(5)]),
    ):
        assert cost("training_flops", hybrid, SHAPES[family]) == counted(BASES[family], hybrid, train=True)
    kept = everywhere(PromptTuning(3), Sequential(3))
    assert cost("inference_flops", kept, SHAPES[family]) == counted(BASES[family], kept, train=False)


def test_a_batch_is_cut_by_the_tokens_of_texts_and_prompts() -> None:
    ids = torch.ones(8, 10, dtype=torch.long)
    batch = Batch(
        {"input_ids": ids}, torch.zeros(8), np.arange(8), torch.arange(80), torch.arange(80), np.ones(8), (10,)
    )
    assert len(parts_of(batch, 40)) == 2
    assert len(parts_of(batch, 40, more=10)) == 4


# --- spaces ----------------------------------------------------------------------------------------------------------

BLOCKS = {"prompt_tuning": {"length": [0, 2, 5]}, "lora": {"rank": [0, 1, 4]}, "sequential": {"bottleneck": [0, 3]}}
NAMES = ["trainable_params", "stored_bytes", "kept_params", "inference_flops"]


@pytest.mark.parametrize("sizes", ["per_layer", "shared"])
def test_a_block_before_the_layers_has_one_dimension(sizes: str) -> None:
    shape = shape_from_config(CONFIGS["bert"]())
    space = SearchSpace({"sizes": sizes, "blocks": BLOCKS, "training": {"learning_rate": 1e-3}}, shape)
    names = [d.name for d in space.dimensions]
    assert names.count("model.prompt_tuning.length") == 1
    assert len(names) == (1 + 2 * LAYERS if sizes == "per_layer" else 3 + LAYERS)
    assert space.input_tokens == 5
    rng = np.random.default_rng(0)
    budget = Budget.resolve({"trainable_params": 300, "inference_flops": 10**7}, shape, 16)
    points = [space.random_point(rng) for _ in range(40)]
    for point in points:
        candidate = space.decode(point)
        assert space.decode(space.encode(candidate)) == candidate
        assert candidate.hybrid == Hybrid.from_json(candidate.hybrid.to_json())
        length = space.sizes_of(point)["model.prompt_tuning.length"]
        assert candidate.hybrid.model == ((PromptTuning(int(length)),) if length else ())
        assert space.block_sizes(candidate.hybrid)[0]["prompt_tuning"] == length
        assert budget.fits(space.hybrid(budget.repair(space, point, rng)[0]), shape)
    table = Points(space, Budget({}, 16), NAMES)
    rows = np.array([table.row(point) for point in points])
    exact = [[costs_of(space.hybrid(p), shape, 16)[name] for name in NAMES] for p in points]
    np.testing.assert_array_equal(table.costs(rows), exact)
    assert table.features(rows).shape == (40, 3 * LAYERS)
    assert (table.extent[:, 0] > 0).all()
    # Without any layer too.
    assert table.extent[0, 0] == min(LoRA(1).num_params(shape), 2 * HIDDEN)


def test_a_space_that_the_positions_do_not_suffice_for_is_refused(tmp_path: Path) -> None:
    training = experiment(tmp_path)["training"] | {"max_length": 64}
    asked = experiment(tmp_path, space={"blocks": BLOCKS}, training=training)
    with pytest.raises(AutopeftError, match=r"prompts of up to 5 .* set training.max_length to at most \d+$"):
        Session(Experiment.of(asked, "test"))


def test_a_search_from_start_to_end_and_what_is_taken_home(tmp_path: Path) -> None:
    space = {"blocks": {"prompt_tuning": {"length": [2, 5]}, "p_tuning": {"length": [0, 3], "hidden": 8},
                        "lora": {"rank": [0, 2], "sites": ["q", "v"]}}}  # fmt: skip
    with not_measured():
        asked = experiment(tmp_path, space=space, budget={}, sampler={"name": "known_cost", "seed": 0}, trials=5)
        result = launch(Experiment.of(asked, "test"), tmp_path / "run", Silent())
    assert [e.status for e in result.evaluations] == ["done"] * 5
    assert all(e.candidate.hybrid.model for e in result.evaluations)
    best = result.front.pick("best")
    out = export(tmp_path / "run", best.key, to=tmp_path / "out")
    measured = evaluate(out)
    assert {k: v for k, v in measured.items() if k in best.metrics} == pytest.approx(
        {k: v for k, v in best.metrics.items() if k in measured}
    )
