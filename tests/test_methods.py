"""The conformance suite of PEFT methods: one on a layer. A new plug-in is tested on arrival.

The checks stand in `conformance.py`; `test_conformance.py` shows that they find broken methods.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import conformance
import pytest
import torch
from conformance import Trial
from tiny_models import (
    CONFIGS,
    FAMILIES,
    METHOD_NAMES,
    base_model,
    classifier,
    everywhere,
    in_layers,
    make,
    perturb,
    tokens,
)
from tiny_packs import Bench

from autopeft.anatomy import shape_from_config
from autopeft.attaching import Attachment
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, method_from_json
from autopeft.methods.compacter import Compacter
from autopeft.methods.lora import LoRA
from autopeft.methods.p_tuning import PTuning
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential

#: An encoder and a decoder; the others have no more than other names (and fused maps, which trials are about).
DEFAULT = ("bert", "llama")
each_method = pytest.mark.parametrize("name", METHOD_NAMES)
each_family = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in DEFAULT else pytest.mark.slow) for f in FAMILIES]
)


# --- what it says of itself ------------------------------------------------------------------------------------------


@each_method
@each_family
def test_num_params_is_what_the_banks_hold_and_train(name: str, family: str) -> None:
    conformance.check_count(METHODS.get(name), family)


@each_method
def test_more_of_a_method_costs_more(name: str) -> None:
    conformance.check_size(METHODS.get(name), "llama")


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


@each_method
@each_family
def test_zero_init_says_whether_the_output_is_the_backbones(name: str, family: str) -> None:
    conformance.check_neutral(METHODS.get(name), family)


@each_method
def test_initial_weights_depend_on_the_seed_only(name: str) -> None:
    conformance.check_seed(METHODS.get(name), "llama")


@each_method
def test_initial_weights_do_not_depend_on_what_stands_elsewhere(name: str) -> None:
    conformance.check_neighbours(METHODS.get(name), "llama")


# --- on a model ------------------------------------------------------------------------------------------------------


@each_method
@each_family
def test_every_new_weight_gets_a_gradient_and_the_backbone_none(name: str, family: str) -> None:
    conformance.check_gradients(METHODS.get(name), family)


@each_method
@each_family
def test_layers_below_the_first_adapted_one_are_unchanged(name: str, family: str) -> None:
    conformance.check_locality(METHODS.get(name), family)


@each_method
@each_family
def test_detaching_leaves_no_trace(name: str, family: str) -> None:
    conformance.check_detaching(METHODS.get(name), family)


def test_detached_also_after_an_error() -> None:
    model = classifier("bert")
    before = conformance.state(model)
    with pytest.raises(KeyError), Attachment(model, everywhere(make(METHOD_NAMES[0]))):
        raise KeyError
    conformance.assert_same_state(before, conformance.state(model))


def test_hybrids_are_attached_once_and_fit_the_model() -> None:
    model = classifier("bert")
    before = conformance.state(model)
    with Attachment(model, everywhere()), pytest.raises(ValueError, match="detach"):
        Attachment(model, everywhere())
    with pytest.raises(AutopeftError, match="made for 2 layers, but the model has 3"):
        Attachment(model, Hybrid.uniform(2, LoRA(2)))
    conformance.assert_same_state(before, conformance.state(model))


# --- in training -----------------------------------------------------------------------------------------------------


def trials() -> list[Any]:
    """(Method, family): beside the default families one with fused maps, for methods that stand at a slice of one."""
    found = []
    for name in METHOD_NAMES:
        sliced = {"q", "k", "v"} & set(METHODS.get(name).allowed_sites)
        for family in FAMILIES:
            default = family in DEFAULT or (family == "gpt2" and sliced)
            found.append(pytest.param((name, family), id=f"{name}-{family}", marks=() if default else pytest.mark.slow))
    return found


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    return cache(lambda family: conformance.bench(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="module", params=trials())
def trial(request: pytest.FixtureRequest, bench_of: Callable[[str], Bench]) -> Trial:
    name, family = request.param
    return conformance.trial(METHODS.get(name), bench_of(family))


def test_the_trial_says_something(trial: Trial) -> None:
    conformance.check_the_trial_says_something(trial)


def test_packed_is_alone(trial: Trial) -> None:
    conformance.check_packed(trial)


def test_num_params_is_what_the_optimiser_holds(trial: Trial) -> None:
    conformance.check_trained(trial)


def test_padding_is_zero_and_slicing_leaves_the_others_alone(trial: Trial) -> None:
    conformance.check_kept_apart(trial)


# --- values ----------------------------------------------------------------------------------------------------------


@each_method
def test_json_round_trip(name: str) -> None:
    method = make(name, 5)
    assert method_from_json(method.to_json()) == method
    assert method.to_json()["method"] == name
    hybrid = in_layers({1: [method]})
    assert Hybrid.from_json(hybrid.to_json()) == hybrid


@each_method
@pytest.mark.parametrize("size", [-1, True, 2.0, "8", None])
def test_a_wrong_size_is_refused_by_the_name_of_its_field(name: str, size: Any) -> None:
    with pytest.raises(AutopeftError, match=f"method '{name}': {METHODS.get(name).size} must be a whole number"):
        make(name, size)


@each_method
def test_a_size_that_the_method_has_not_is_refused(name: str) -> None:
    cls = METHODS.get(name)
    for size in {cls.largest + cls.step, cls.step + 1 if cls.step > 1 else cls.largest + 1}:
        with pytest.raises(AutopeftError, match=f"method '{name}': {cls.size} must be "):
            cls(**{cls.size: size})


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


@pytest.mark.parametrize("cls", [Sequential, Parallel, Compacter, PTuning])
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


@pytest.mark.parametrize("sites", [5, None, {"q": 1}])
def test_sites_are_a_list_of_names(sites: Any) -> None:
    with pytest.raises(AutopeftError, match="method 'lora': sites must be a list of names, not"):
        method_from_json({"method": "lora", "rank": 4, "sites": sites})


def test_compacters_n_is_a_whole_number() -> None:
    with pytest.raises(AutopeftError, match=r"method 'compacter': n must be 1, 2 or 4, not 4\.0"):
        method_from_json({"method": "compacter", "bottleneck": 4, "n": 4.0})


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
