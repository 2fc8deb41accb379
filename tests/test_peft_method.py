"""Tuners of PEFT as one method: what stock PEFT computes, in packs of many, taken home as stock PEFT."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from test_export import export
from tiny_models import LABELS, LAYERS, bank_parts, classifier, perturb, right_padded
from tiny_packs import Bench, bench
from tiny_task import classes
from transformers import AutoModelForSequenceClassification

from autopeft.anatomy import shape_of
from autopeft.attaching import Attachment
from autopeft.attention import FUSED
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError
from autopeft.exporting._tuner import tuner_config, tuner_state
from autopeft.hybrid import Hybrid
from autopeft.methods import method_from_json
from autopeft.methods.lora import LoRA
from autopeft.methods.peft import PeftBlock
from autopeft.peft_tuners.setting import SIZE_FIELDS, tuner_types
from autopeft.peft_tuners.verdicts import verdict
from autopeft.readouts.tokens import Tokens
from autopeft.space import SearchSpace

#: Of other kinds: a product of two products, a rotation, shared projections, a switch.
FOUR = ("loha", "oft", "vera", "ia3")
OPTIONS: dict[str, dict[str, Any]] = {"road": {"group_size": 8}, "vblora": {"vector_length": 8}}
WORKING = {
    "adalora", "adamss", "beft", "boft", "c3a", "deft", "delora", "fourierft", "frod", "glora", "gralora", "hira",
    "hra", "ia3", "ln_tuning", "loha", "lokr", "lora", "miss", "oft", "osf", "peanut", "psoft", "pvera",
    "randlora", "road", "shira", "supertuning", "tinylora", "unilora", "vblora", "vera", "waveft",
}  # fmt: skip


def block(tuner: str, amount: int = 4, **more: Any) -> PeftBlock:
    """A tuner at two places that it can stand at."""
    switched = SIZE_FIELDS.get(tuner.upper()) == "on"
    sites = ("norm1", "norm2") if tuner == "ln_tuning" else ("q", "v")
    return PeftBlock(1 if switched else amount, tuner, **{"sites": sites, "options": OPTIONS.get(tuner, {}), **more})


def in_ends(*methods: Any) -> Hybrid:
    """The methods in the lowest and the highest layer."""
    return Hybrid.from_layers(LAYERS, {0: methods, LAYERS - 1: methods})


def check_stock(family: str, hybrid: Hybrid) -> None:
    """Counts, stored bytes and outputs of a hybrid are those of `get_peft_model` with its weights, to the bit."""
    model, shape = classifier(family), shape_of(classifier(family))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = right_padded(model, (7, 4, 1))
    state_of_generator = torch.random.get_rng_state()
    with torch.no_grad():
        plain = model(**inputs).logits
    with Attachment(model, hybrid, seeds=3) as attached:
        assert torch.equal(state_of_generator, torch.random.get_rng_state())
        perturb(attached.banks, scale=0.05)
        weights = {f"hybrid.{n}": w.detach().clone() for n, w in attached.banks.weights().items()}
        logits = model(**inputs).logits
        logits.square().sum().backward()
        for name, bank in bank_parts(attached.banks):
            for parameter in bank.parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.any(), name
        trained = sum(p.numel() for p in attached.banks.parameters())
    assert not torch.equal(logits, plain)
    config = tuner_config(hybrid, model, classes(LABELS))
    assert config is not None
    config.inference_mode = False
    state = tuner_state(hybrid, weights, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = get_peft_model(model, config).eval()
    own = {n: t for n, t in get_peft_model_state_dict(stock).items() if ".classifier." not in n and ".score." not in n}
    assert own.keys() == state.keys()
    counted = sum(p.numel() for n, p in stock.named_parameters() if p.requires_grad and "modules_to_save" not in n)
    assert hybrid.num_params(shape) == counted == trained
    methods = [m for methods in hybrid.layers for m in methods]
    stored = sum(m.stored_bytes(shape) for m in methods) + sum(m.shared_bytes(shape) for m in hybrid.sharing(shape))
    assert stored == sum(t.numel() * t.element_size() for t in own.values())
    heads = {n: t for n, t in get_peft_model_state_dict(stock).items() if n not in own}
    set_peft_model_state_dict(stock, state | heads)
    with torch.no_grad():
        assert torch.equal(stock(**inputs).logits, logits)


@pytest.mark.parametrize("tuner", FOUR)
def test_a_tuner_is_that_of_stock_peft_to_the_bit(tuner: str) -> None:
    check_stock("bert" if tuner in ("loha", "vera") else "llama", in_ends(block(tuner)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("tuner", sorted(WORKING))
def test_every_tuner_is_that_of_stock_peft_to_the_bit(tuner: str, family: str) -> None:
    check_stock(family, in_ends(block(tuner)))


def test_one_configuration_holds_sizes_of_single_modules() -> None:
    hybrid = Hybrid.from_layers(LAYERS, {0: [block("loha", 2)], 1: [block("loha", 5, sites=("q",))]})
    check_stock("bert", hybrid)
    shared = Hybrid.from_layers(2, {0: [block("vera", 2)], 1: [block("vera", 3)]})
    assert tuner_config(shared, classifier("bert"), classes(LABELS)) is None


def test_the_task_is_named_in_the_configuration() -> None:
    config = tuner_config(in_ends(block("loha")), classifier("bert"), Tokens(("O", "B-PER")))
    assert config is not None
    assert (config.task_type, config.modules_to_save) == ("TOKEN_CLS", ["classifier"])


def test_ia3_scales_the_input_of_the_last_map() -> None:
    check_stock("bert", in_ends(block("ia3", sites=("k", "v", "down"))))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    found = bench(tmp_path_factory.mktemp("bert"), "bert", FUSED)
    return replace(found, settings=found.settings.model_copy(update={"epochs": 1}))


def check_pack(bench: Bench, hybrids: list[Hybrid]) -> None:
    """A pack with the frozen layers' cache, one candidate leaving early, trains each as it would alone."""
    members = [Candidate(hybrid) for hybrid in hybrids]
    packed = bench.train(members, bench.frozen(), leaving={8: [0]})
    for k, member in enumerate(members):
        alone = bench.train([member])[0]
        assert packed[k].losses == pytest.approx(alone.losses[: len(packed[k].losses)], rel=1e-5), k
        assert k == 0 or packed[k].weights.keys() == alone.weights.keys()


def test_a_pack_of_many_tuners_is_each_of_them_alone(bert: Bench) -> None:
    layers = bert.backbone.shape.layers
    check_pack(bert, [
        Hybrid.from_layers(layers, {0: [block("loha", 2)]}),
        Hybrid.from_layers(layers, {0: [block("loha", 4), LoRA(2)], 1: [block("vera", 4)]}),
        Hybrid.uniform(layers),
        Hybrid.from_layers(layers, {1: [block("vera", 4, sites=("q",)), block("oft", sites=("up",)), block("ia3")]}),
    ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_pack_of_all_tuners_is_each_of_them_alone(family: str, tmp_path: Path) -> None:
    own = bench(tmp_path, family, FUSED)
    layers = own.backbone.shape.layers
    for tuners in (sorted(WORKING)[i::5] for i in range(5)):
        check_pack(own, [Hybrid.from_layers(layers, {i % layers: [block(t)]}) for i, t in enumerate(tuners)])


def test_weights_that_are_loaded_decide_all(tmp_path: Path) -> None:
    model = classifier("bert")
    hybrid = in_ends(block("shira"), block("randlora", sites=("k",)), block("supertuning", sites=("up",)))
    inputs = right_padded(model, (7, 4, 1))
    with Attachment(model, hybrid, seeds=1) as attached, torch.no_grad():
        perturb(attached.banks)
        weights, expected = {n: w.clone() for n, w in attached.banks.weights().items()}, model(**inputs).logits
    with Attachment(model, hybrid, seeds=2) as attached, torch.no_grad():
        attached.banks.load(weights)
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize(("family", "tuner", "kind"), [("bert", "loha", "LOHA"), ("gpt2", "vera", "AUTOPEFT")])
def test_an_export_loads(family: str, tuner: str, kind: str, tmp_path: Path) -> None:
    classifier(family).base_model.save_pretrained(tmp_path / "base")
    written, inputs, logits = export(tmp_path / "base", in_ends(block(tuner)), tmp_path / "out")
    fresh = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=LABELS)
    model = PeftModel.from_pretrained(fresh, tmp_path / "out").eval()
    assert written == kind
    with torch.no_grad():
        # The head is a product of another form here.
        torch.testing.assert_close(model(**inputs).logits, logits, rtol=1e-6, atol=1e-6)


def test_a_block_of_a_space() -> None:
    yaml = {"blocks": {"hada": {"method": "peft", "tuner": "loha", "size": [0, 4, 8], "options": {"alpha": 16}}}}
    space = SearchSpace.load(yaml, shape_of(classifier("bert")))
    candidate = space.decode({d.name: 1 for d in space.dimensions})
    assert candidate.hybrid.describe() == "peft:loha 4 q,v in 0-2"
    assert space.decode(space.encode(candidate)) == candidate
    assert SearchSpace.load(space.to_json(), space.shape).decode(space.encode(candidate)) == candidate
    (method,) = candidate.hybrid.layers[0]
    assert method_from_json(method.to_json()) == method == PeftBlock(4, "loha", options={"alpha": 16})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tuner": "lohaa"}, "unknown tuner 'lohaa'; did you mean 'loha'"),
        ({"tuner": 3}, "unknown tuner 3"),
        ({"tuner": "poly"}, "tuner 'poly' of PEFT .* cannot be used: needs a task's number"),
        ({"tuner": "prompt_tuning"}, "cannot be used: acts on the model's input"),
        ({"options": {"aplha": 1}}, "option 'aplha' is unknown; did you mean 'alpha'"),
        ({"options": {"r": 1}}, "option 'r' is its size"),
        ({"options": {"target_modules": "all"}}, "option 'target_modules' cannot be chosen"),
        ({"tuner": "lora", "options": {"megatron_core": "os"}}, "option 'megatron_core' cannot be chosen"),
        ({"options": {"rank_dropout": 0.1}}, "option 'rank_dropout' must be 0"),
        ({"options": {"alpha": 10**9}}, "must be a number up to 1,000,000"),
        ({"options": {"alpha": [1]}}, "must be a number up to"),
        ({"options": 3}, "options must be a mapping"),
        ({"options": [1]}, "options must be a mapping"),
        ({"size_field": "rank"}, "has no size field 'rank'"),
        ({"size_field": "module_dropout"}, "has no size field 'module_dropout'"),
        ({"tuner": "ia3", "amount": 2}, "is on .1. or off .0., not 2"),
        ({"tuner": "ln_tuning", "amount": 1, "sites": ["attention"]}, "unknown site 'attention'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(AutopeftError, match=said) as caught:
        method_from_json({"method": "peft", "amount": 4, **fields})
    assert "\n" not in str(caught.value)


def test_a_size_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(AutopeftError, match=r"peft:vblora: r 4 at q does not fit the model: .*divisible"):
        in_ends(block("vblora", options={})).num_params(shape_of(classifier("bert")))


def test_options_that_multiply_are_refused_before_anything_is_allocated() -> None:
    options = {"num_vectors": 10**6, "vector_length": 16}
    with pytest.raises(AutopeftError, match=r"^peft:vblora: r 65536 at q does .*: its tensors have more than 268,435"):
        PeftBlock(65_536, "vblora", options=options).num_params(shape_of(classifier("bert")))


@pytest.mark.slow
def test_verdicts_of_the_installed_version() -> None:
    found = {kind.lower(): verdict(kind.lower()) for kind in tuner_types()}
    if peft.__version__.startswith("0.21."):
        assert {name for name, v in found.items() if v.works} == WORKING
        assert found["lily"].reason == "what it says of a token depends on the others of the batch"
    assert all(v.works or ("\n" not in v.reason and v.reason) for v in found.values())
    assert {n for n, v in found.items() if v.growth == "falls"} >= {"randlora", "c3a", "osf"}


def test_flops_are_those_of_the_same_method_in_a_bank() -> None:
    shape = shape_of(classifier("llama"))
    for site in ("q", "v", "down"):
        assert block("lora", 3).flops(shape, site, 16) == LoRA(3).flops(shape, site, 16)
