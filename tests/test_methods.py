"""The conformance suite of PEFT methods: one on a layer. A new plug-in is tested on arrival."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import (
    CONFIGS,
    FAMILIES,
    LAYERS,
    METHOD_NAMES,
    base_model,
    classifier,
    everywhere,
    make,
    own_gradients,
    perturb,
    tokens,
)
from transformers import PreTrainedModel

from autopeft.anatomy import head_names, shape_from_config, shape_of
from autopeft.attaching import NAME, Attachment, Banks
from autopeft.attention import FUSED
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, method_from_json
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential

each_method = pytest.mark.parametrize("name", METHOD_NAMES)
each_family = pytest.mark.parametrize("family", FAMILIES)


def state(model: PreTrainedModel) -> dict[str, Any]:
    """All that attaching may not change for good; module attributes too, where a prefix hides."""
    modules = dict(model.named_modules())
    return {
        "weights": {n: t.clone() for n, t in model.state_dict().items()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules.items()},
        "attributes": {n: sorted(vars(m)) for n, m in modules.items()},
        "attention": model.config._attn_implementation,
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    weights, others = before.pop("weights"), after.pop("weights")
    assert before == after
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[n], others[n]) for n in weights)


# --- counting --------------------------------------------------------------------------------------------------------


@each_method
@each_family
def test_num_params_is_what_the_bank_holds_and_what_is_trained(name: str, family: str) -> None:
    model, method = classifier(family), make(name)
    hybrid = Hybrid.from_layers(LAYERS, {0: [method], 2: [method]})
    expected = hybrid.num_params(shape_of(model))
    assert expected == 2 * method.num_params(shape_of(model)) > 0
    heads = sum(p.numel() for h in head_names(model) for p in model.get_submodule(h).parameters())
    with Attachment(model, hybrid) as attached:
        assert sum(p.numel() for p in attached.banks.parameters()) == expected
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected + heads
        assert sum(w.numel() for w in attached.banks.weights().values()) == expected


@each_method
def test_site_params_add_up(name: str) -> None:
    shape = shape_from_config(CONFIGS["qwen3"]())
    method = make(name)
    assert method.num_params(shape) == sum(method.at(s).num_params(shape) for s in method.allowed_sites)
    assert make(name, 0).num_params(shape) == 0


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (LoRA(8, sites=("q", "v")), 24_576),
        (Sequential(48, sites=("down",)), 74_544),
        (Sequential(48, sites=("o", "down")), 149_088),
        (Parallel(48), 74_544),
        (Prefix(20), 30_720),
    ],
    ids=["lora", "sequential", "houlsby", "parallel", "prefix"],
)
def test_counts_of_the_papers_at_the_size_of_bert_base(method: Any, count: int) -> None:
    config = CONFIGS["bert"](hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=1)
    assert method.num_params(shape_from_config(config)) == count


# --- before training -------------------------------------------------------------------------------------------------


@each_method
@each_family
def test_zero_init_says_whether_the_output_is_the_backbones(name: str, family: str) -> None:
    model, ids = classifier(family), tokens()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with Attachment(model, everywhere(make(name))):
            attached = model(input_ids=ids).logits
    assert torch.equal(before, attached) == METHODS.get(name).zero_init


@each_method
def test_initial_weights_depend_on_the_seed_only(name: str) -> None:
    shape, hybrid = shape_from_config(CONFIGS["llama"]()), everywhere(make(name))
    one, same, other = (Banks([hybrid], shape, [seed]).weights() for seed in (3, 3, 4))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)


# --- gradients and locality ------------------------------------------------------------------------------------------


@each_method
@each_family
def test_every_new_weight_gets_a_gradient_and_the_backbone_none(name: str, family: str) -> None:
    model, ids = classifier(family), tokens()
    # Of size 8, so that no bottleneck is all dead.
    with Attachment(model, everywhere(make(name, 8))) as attached:
        perturb(attached.banks)
        torch.nn.functional.cross_entropy(model(input_ids=ids).logits, torch.arange(4) % 3).backward()
        gradients = own_gradients(attached.banks)
        heads = tuple(f"{h}." for h in head_names(model))
        frozen = [p for n, p in model.named_parameters() if not n.startswith((f"{NAME}.", *heads))]
        assert frozen
        assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert gradients
    for weight, gradient in gradients.items():
        assert gradient.isfinite().all(), weight
        assert gradient.count_nonzero() > 0, weight


@each_method
@each_family
def test_layers_below_the_first_adapted_one_are_unchanged(name: str, family: str) -> None:
    model, ids = base_model(family), tokens()

    def hidden(hybrid: Hybrid) -> tuple[torch.Tensor, ...]:
        with Attachment(model, hybrid, attention=FUSED) as attached, torch.no_grad():
            perturb(attached.banks)
            return model(input_ids=ids, output_hidden_states=True).hidden_states

    before, after = hidden(everywhere()), hidden(Hybrid.from_layers(LAYERS, {1: [make(name)]}))
    assert len(before) == LAYERS + 1
    assert [torch.equal(b, a) for b, a in zip(before, after, strict=True)] == [True, True, False, False]


@each_method
@each_family
def test_detaching_leaves_no_trace(name: str, family: str) -> None:
    model, ids = classifier(family), tokens()
    model.get_submodule(head_names(model)[0]).requires_grad_(False)
    with torch.no_grad():
        before, logits = state(model), model(input_ids=ids).logits
        attached = Attachment(model, everywhere(make(name)))
        perturb(attached.banks)
        assert not torch.equal(model(input_ids=ids).logits, logits)
        attached.detach()
        attached.detach()
        assert torch.equal(model(input_ids=ids).logits, logits)
    assert_same_state(before, state(model))


def test_detached_also_after_an_error() -> None:
    model = classifier("bert")
    before = state(model)
    with pytest.raises(KeyError), Attachment(model, everywhere(make(METHOD_NAMES[0]))):
        raise KeyError
    assert_same_state(before, state(model))


def test_hybrids_are_attached_once_and_fit_the_model() -> None:
    model = classifier("bert")
    before = state(model)
    with Attachment(model, everywhere()), pytest.raises(ValueError, match="detach"):
        Attachment(model, everywhere())
    with pytest.raises(AutopeftError, match="made for 2 layers, but the model has 3"):
        Attachment(model, Hybrid.uniform(2, LoRA(2)))
    assert_same_state(before, state(model))


# --- values ----------------------------------------------------------------------------------------------------------


@each_method
def test_json_round_trip(name: str) -> None:
    method = make(name, 5)
    assert method_from_json(method.to_json()) == method
    assert method.to_json()["method"] == name
    hybrid = Hybrid.from_layers(LAYERS, {1: [method]})
    assert Hybrid.from_json(hybrid.to_json()) == hybrid


@each_method
@pytest.mark.parametrize("size", [-1, True, 2.0, "8", None])
def test_a_wrong_size_is_refused_by_the_name_of_its_field(name: str, size: Any) -> None:
    with pytest.raises(AutopeftError, match=f"method '{name}': {METHODS.get(name).size} must be a whole number"):
        make(name, size)


@each_method
def test_a_wrong_site_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(AutopeftError, match=f"method '{name}': unknown site 'nowhere'; .*known: "):
        make(name, sites=("nowhere",))
    with pytest.raises(AutopeftError, match="sites must not be empty"):
        make(name, sites=())


@each_method
def test_sites_are_put_in_order_and_one_may_be_a_string(name: str) -> None:
    cls = METHODS.get(name)
    assert make(name, sites=tuple(reversed(cls.allowed_sites))) == make(name)
    assert make(name, sites=cls.allowed_sites[0]).sites == cls.allowed_sites[:1]


@each_method
def test_every_method_says_what_it_is(name: str) -> None:
    cls = METHODS.get(name)
    assert cls.description
    assert "\n" not in cls.description
    assert {cls.size, "sites"} <= set(cls.option_names())


@pytest.mark.parametrize("cls", [Sequential, Parallel])
def test_an_unknown_activation_is_refused_with_the_nearest(cls: Any) -> None:
    with pytest.raises(AutopeftError, match=f"method '{cls.name}': unknown activation 'gleu'; did you mean 'gelu'"):
        cls(4, activation="gleu")


@pytest.mark.parametrize("cls", [LoRA, Parallel])
@pytest.mark.parametrize("scale", [0, -1.0, float("nan")])
def test_a_scale_is_above_zero(cls: Any, scale: float) -> None:
    with pytest.raises(AutopeftError, match=f"method '{cls.name}': scale must be above 0"):
        cls(4, scale=scale)


def test_unknown_methods_and_fields_suggest_the_nearest() -> None:
    with pytest.raises(AutopeftError, match="unknown method 'lroa'; did you mean 'lora'"):
        method_from_json({"method": "lroa", "rank": 1})
    with pytest.raises(AutopeftError, match="method 'lora': unknown field 'rnak'; did you mean 'rank'"):
        method_from_json({"method": "lora", "rnak": 1})


# --- the scale of LoRA -----------------------------------------------------------------------------------------------


def test_the_scale_of_lora_does_not_change_with_the_rank_unless_alpha_is_given() -> None:
    assert LoRA(2).output_scale() == LoRA(64).output_scale() == 1.0
    assert LoRA(2, scale=3).output_scale() == LoRA(64, scale=3).output_scale() == 3.0
    assert LoRA(4, alpha=16).output_scale() == 4.0
    assert LoRA(8, alpha=16) == LoRA(8, scale=2.0) == method_from_json({"method": "lora", "rank": 8, "alpha": 16})


def test_lora_adds_its_scale_times_b_a_x() -> None:
    model, ids, method = base_model("bert", num_hidden_layers=1), tokens(), LoRA(2, sites=("down",), alpha=5)
    place, seen = model.encoder.layer[0].output.dense, {}
    with Attachment(model, Hybrid.uniform(1, method)) as attached, torch.no_grad():
        perturb(attached.banks)
        place.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
        model(input_ids=ids)
        a, b = attached.banks.weights().values()
    expected = seen["x"] @ place.weight.T + place.bias + 2.5 * seen["x"] @ a.T @ b.T
    torch.testing.assert_close(seen["y"], expected)
