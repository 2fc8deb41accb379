from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CONFIGS, LAYERS, METHOD_NAMES, everywhere, hybrids, make

from autopeft.anatomy import shape_from_config
from autopeft.candidate import Candidate, Evaluation
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid, canonical_json, short_hash
from autopeft.methods import METHODS, Method
from autopeft.methods.bitfit import BitFit
from autopeft.methods.ia3 import IA3
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel
from autopeft.methods.prefix import Prefix
from autopeft.methods.prompt_tuning import PromptTuning
from autopeft.methods.sequential import Sequential
from autopeft.methods.vera import VeRA

RATES = st.dictionaries(st.sampled_from(["learning_rate", "warmup"]), st.floats(1e-6, 1, allow_nan=False))


def one(*methods: Method) -> Hybrid:
    return Hybrid((methods,))


def complaint(call: Any, *args: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- canonical form --------------------------------------------------------------------------------------------------


@given(hybrids(), st.randoms())
def test_the_order_of_writing_does_not_matter(hybrid: Hybrid, random: Any) -> None:
    written = [random.sample(methods, len(methods)) for methods in (*hybrid.layers, hybrid.model)]
    split = [[m.at(site) for m in methods for site in random.sample(m.sites, len(m.sites))] for methods in written]
    absent = [[replace(make(name), **{METHODS.get(name).size: 0}) for name in METHOD_NAMES] for _ in written]
    for parts in (written, split, [a + w for a, w in zip(absent, written, strict=True)]):
        *layers, model = (tuple(methods) for methods in parts)
        other = Hybrid(tuple(layers), model)
        assert (other, hash(other)) == (hybrid, hash(hybrid))
        assert short_hash(other.to_json()) == short_hash(hybrid.to_json())


@given(hybrids(), hybrids())
def test_hybrids_are_equal_when_they_place_the_same(one: Hybrid, other: Hybrid) -> None:
    def network(hybrid: Hybrid) -> list[Any]:
        return [*hybrid.model, *((i, site, method.at(site)) for i, site, method in hybrid.placed())]

    assert (one == other) == (network(one) == network(other))


def test_size_zero_is_the_absent_method() -> None:
    assert one(*(make(name, 0) for name in METHOD_NAMES)) == one()
    assert one(LoRA(0), Prefix(2)) == one(Prefix(2))
    assert one().is_empty
    assert not one(Prefix(1)).is_empty


def test_sites_joined_or_split_are_equal_where_all_options_are() -> None:
    assert one(LoRA(4, sites=("q",)), LoRA(4, sites=("v",))) == one(LoRA(4, sites=("v", "q")))
    assert one(LoRA(4, sites=("q", "k", "v"))).layers[0] == (LoRA(4, sites=("q", "k", "v")),)
    assert one(LoRA(4, sites=("q",)), LoRA(4, sites=("v",), scale=2)) != one(LoRA(4, sites=("q", "v")))
    assert len(one(LoRA(4, sites=("q",)), LoRA(5, sites=("v",))).layers[0]) == 2


def test_methods_are_kept_in_the_order_in_which_they_act() -> None:
    layer = one(Parallel(1), Sequential(1), LoRA(1), Prefix(1)).layers[0]
    assert [m.name for m in layer] == ["prefix", "lora", "sequential", "parallel"]


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_two_of_a_kind_at_one_site_are_refused(name: str) -> None:
    site = METHODS.get(name).allowed_sites[0]
    twice = (make(name, 1), make(name, 2, sites=(site,)))
    claim = twice[0].claim
    if twice[0].of_model:
        said = complaint(Hybrid, ((), ()), twice)
        assert said == f"hybrid: the model's input has two '{claim}' at site '{site}'; leave one out"
        return
    assert complaint(Hybrid, ((), twice)) == f"hybrid: layer 1 has two '{claim}' at site '{site}'; leave one out"
    assert complaint(Hybrid, ((make(name, 1), make(name, 1)),)).startswith("hybrid: layer 0 has two")


def test_methods_of_the_model_stand_before_the_layers() -> None:
    lora, prompt = LoRA(2), PromptTuning(3)
    hybrid = Hybrid.uniform(2, lora, prompt)
    assert hybrid == Hybrid(((lora,), (lora,)), (prompt,)) == Hybrid.from_layers(2, {0: [lora], 1: [lora]}, [prompt])
    assert Hybrid(((), (lora,)), (prompt,)).first_adapted == 0
    assert list(hybrid.methods()) == [prompt, lora, lora]
    assert not Hybrid.uniform(2, prompt).is_empty
    assert Hybrid.from_json(hybrid.to_json()) == hybrid
    assert "model" not in Hybrid.uniform(2, lora).to_json()
    said = complaint(Hybrid, ((prompt,),))
    assert said == "hybrid: 'prompt_tuning' cannot be at layer 0: it stands before the layers, in `model`"
    assert complaint(Hybrid, ((),), (lora,)) == "hybrid: 'lora' cannot be at the model's input: it stands in layers"
    for wrong in (7, "prompt", [{"method": "prompt"}]):
        assert complaint(Hybrid.from_json, {"layers": [], "model": wrong}).startswith("hybrid: model")


def test_layers_are_chosen_by_number() -> None:
    hybrid = Hybrid.from_layers(4, {3: [LoRA(2)], 1: [Prefix(1)]})
    assert hybrid.layers == ((), (Prefix(1),), (), (LoRA(2),))
    assert Hybrid.uniform(2, LoRA(2)) == Hybrid.from_layers(2, {0: [LoRA(2)], 1: [LoRA(2)]})
    for wrong in (4, -1):
        assert f"layer {wrong} does not exist; layers are 0 to 3" in complaint(Hybrid.from_layers, 4, {wrong: []})


@pytest.mark.parametrize("wrong", [LoRA(2), "lora", ["lora"], 3, [LoRA(2), None]])
def test_what_is_no_list_of_methods_is_refused_with_its_layer(wrong: Any) -> None:
    for said in (complaint(Hybrid.from_layers, 4, {3: wrong}), complaint(Hybrid, ((), (), (), wrong))):
        assert said.startswith("hybrid: layer 3: expected a list of methods, such as [LoRA(8)], not ")
    assert "expected {layer: [method, ...], ...}" in complaint(Hybrid.from_layers, 4, [[LoRA(2)]])
    assert "'0' does not exist" in complaint(Hybrid.from_layers, 4, {"0": [LoRA(2)]})


def test_a_hybrid_counts_only_for_a_model_of_its_depth() -> None:
    shape = shape_from_config(CONFIGS["bert"]())
    assert everywhere(LoRA(2)).num_params(shape) == LAYERS * LoRA(2).num_params(shape)
    said = complaint(Hybrid.uniform(2, LoRA(2)).num_params, shape)
    assert said == "hybrid: made for 2 layers, but the model has 3"


# --- for people ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hybrid", "line"),
    [
        (Hybrid.uniform(6), "head only"),
        (Hybrid.uniform(1, LoRA(8)), "lora 8 q,v in 0"),
        (
            Hybrid.from_layers(6, {i: [LoRA(8)] + [Prefix(4)] * (i == 3) for i in range(6)}),
            "lora 8 q,v in 0-5; prefix 4 in 3",
        ),
        (Hybrid.from_layers(8, {i: [Parallel(2)] for i in (0, 1, 2, 5, 7)}), "parallel 2 in 0-2,5,7"),
        (Hybrid.uniform(2, Sequential(3, sites=("o", "down"))), "sequential 3 o,down in 0-1"),
        (Hybrid.uniform(2, LoRA(3, sites="all-linear"), BitFit(1)), "bitfit in 0-1; lora 3 all-linear in 0-1"),
        (Hybrid.uniform(1, IA3(1, sites=("k",)), Prefix(2)), "prefix 2 in 0; ia3 k in 0"),
    ],
)
def test_describe(hybrid: Hybrid, line: str) -> None:
    assert hybrid.describe() == line


@given(hybrids())
def test_describe_is_one_line_that_names_every_method(hybrid: Hybrid) -> None:
    line = hybrid.describe()
    assert "\n" not in line
    words = [m.label if m.largest == 1 else f"{m.label} {m.size_value}" for methods in hybrid.layers for m in methods]
    assert all(word in line for word in words)


# --- JSON and keys ---------------------------------------------------------------------------------------------------


@given(hybrids())
def test_json_round_trip(hybrid: Hybrid) -> None:
    read = Hybrid.from_json(json.loads(json.dumps(hybrid.to_json())))
    assert (read, hash(read)) == (hybrid, hash(hybrid))
    assert canonical_json(read.to_json()) == canonical_json(hybrid.to_json())


@given(hybrids(), RATES)
def test_candidates_and_evaluations_round_trip(hybrid: Hybrid, rates: dict[str, float]) -> None:
    candidate = Candidate(hybrid, rates)
    evaluation = Evaluation(candidate, "failed", {"loss": 1.5}, 3, ({"epoch": 1.0},), 7, 0.25, "why", True)
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json()))) == candidate
    read = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
    assert read == evaluation
    assert read.key == candidate.key


@given(hybrids(), RATES, hybrids(), RATES)
def test_keys_differ_as_candidates_do(h: Hybrid, r: dict[str, float], other: Hybrid, s: dict[str, float]) -> None:
    assert (Candidate(h, r).key == Candidate(other, s).key) == ((h, r) == (other, s))
    assert Candidate(h, dict(reversed(r.items()))).key == Candidate(h, r).key


def test_keys_are_the_same_in_every_process() -> None:
    code = (
        "from autopeft.candidate import Candidate; from autopeft.hybrid import Hybrid\n"
        "from autopeft.methods.lora import LoRA; from autopeft.methods.prefix import Prefix\n"
        "print(Candidate(Hybrid.uniform(2, Prefix(3), LoRA(4, alpha=2)), {'warmup': 0.1, 'learning_rate': 1e-4}).key)\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env=env | {"PYTHONHASHSEED": s}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for s in ("1", "2")
    }
    hybrid = Hybrid.uniform(2, LoRA(4, scale=0.5), Prefix(3))
    assert keys == {Candidate(hybrid, {"learning_rate": 1e-4, "warmup": 0.1}).key}
    # Names of files and rows of old studies: a change of this value is a change of the format.
    assert keys == {"73a015808ea2"}


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        ({"method": "lroa", "rank": 2}, "unknown method 'lroa'; did you mean 'lora'?"),
        ({"rank": 2}, "unknown method None"),
        ({"method": "lora", "rank": -2}, "rank must be a whole number from 0 up, not -2"),
        ({"method": "lora", "rnak": 2}, "unknown field 'rnak'; did you mean 'rank'?"),
        ({"method": "lora", "rank": 2, "sites": ["w"]}, "unknown site 'w'"),
        ({"method": "lora"}, "not a method"),
        ({"method": "lora", "rank": 2, "scale": "big"}, "scale must be above 0"),
        ("lora", "not a method"),
        (7, "not a method"),
        (None, "not a method"),
    ],
)
def test_errors_name_the_layer(layer: Any, what: str) -> None:
    said = complaint(Hybrid.from_json, {"layers": [[], [layer]]})
    assert said.startswith("hybrid: layer 1: ")
    assert what in said


@pytest.mark.parametrize("data", [{}, {"layers": None}, {"layers": "lora"}, {"layers": [{}]}, {"layers": 3}])
def test_what_is_no_hybrid_is_refused(data: Any) -> None:
    assert "expected {'layers'" in complaint(Hybrid.from_json, data)


def test_a_method_without_any_place_on_the_model_is_refused() -> None:
    """Llama's norms have no bias that BitFit could change: nothing would be trained."""
    hybrid = Hybrid.uniform(LAYERS, BitFit(1, ("norm1",)))
    hybrid.check(shape_from_config(CONFIGS["bert"]()))
    assert "'bitfit' at norm1: models of family 'llama' have none" in complaint(
        hybrid.check, shape_from_config(CONFIGS["llama"]())
    )


def test_what_is_kept_and_not_trained_has_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopeft.hybrid._SMALL", 0)
    shape = shape_from_config(CONFIGS["bert"]())
    everywhere(VeRA(256)).check_room(shape)
    with pytest.raises(AutopeftError, match=r"^hybrid: [\d,]+ numbers are kept beside a model of"):
        everywhere(VeRA(8_192)).check_room(shape)
