from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.anatomy import ModelShape
from autopeft.candidate import Candidate
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.resources import shipped
from autopeft.space import SearchSpace


def shape_of(layers: int, d: int) -> ModelShape:
    sites = dict.fromkeys("qkvo", (d, d)) | {"up": (d, 4 * d), "down": (4 * d, d)}
    return ModelShape("bert", layers, d, 4 * d, d // 64, d // 64, 64, sites, 109_482_240)


BERT = shape_of(12, 768)
TINY = shape_of(2, 64)
LORA = {"lora": {"rank": [0, 2, 4], "sites": ["q", "v"]}}
RATE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}


def test_the_space_of_the_autopeft_paper() -> None:
    space = SearchSpace.load("autopeft_paper", BERT)
    assert len(space.dimensions) == 15
    assert space.size == 5_451_776 == 11**3 * 2**12
    assert space.to_json()["blocks"]["prefix"]["length"] == [0, 1, 3, 6, 12, 24, 48, 96, 192, 384, 768]
    point = {d.name: 0 for d in space.dimensions} | {"sequential.bottleneck": 5, "L00.on": 1, "L11.on": 1}
    candidate = space.decode(point)
    assert candidate.training == {"learning_rate": 1e-4}
    assert candidate.hybrid.describe() == "sequential 24 down in 0,11"


def test_dimensions_of_a_per_layer_space() -> None:
    space = SearchSpace.load({"blocks": {"prefix": {"length": [0, "d", "d/64"]}, **LORA}, "training": RATE}, TINY)
    assert [d.name for d in space.dimensions] == [
        "L00.prefix.length",
        "L00.lora.rank",
        "L01.prefix.length",
        "L01.lora.rank",
        "learning_rate",
    ]
    assert space.size == 81
    point = space.random_point(np.random.default_rng(0)) | {"L00.prefix.length": 2, "L01.lora.rank": 1}
    assert space.sizes_of(point)["L00.prefix.length"] == 64
    assert space.sizes_of(point)["L01.lora.rank"] == 2


def test_sizes_are_scaled_sorted_and_single() -> None:
    space = SearchSpace.load({"blocks": {"lora": {"rank": ["d/512", 4, 0, "d/32", 1, 2]}}}, TINY)
    assert space.dimensions[0].values == (0, 1, 2, 4)  # type: ignore[union-attr]


def test_what_has_one_value_is_no_dimension() -> None:
    raw = {"sizes": "shared", "blocks": {"lora": {"rank": [4]}}, "training": {"learning_rate": 1e-3}}
    space = SearchSpace.load(raw, TINY)
    assert [d.name for d in space.dimensions] == ["L00.on", "L01.on"]
    assert space.decode({"L00.on": 0, "L01.on": 1}).hybrid == Hybrid(((), (LoRA(4),)))


def test_training_choices_are_ordinal() -> None:
    space = SearchSpace.load({"blocks": LORA, "training": {"learning_rate": {"choices": [1e-3, 1e-4]}}}, TINY)
    point = {"L00.lora.rank": 1, "L01.lora.rank": 0, "learning_rate": 1}
    assert space.decode(point).training == {"learning_rate": 1e-3}
    assert space.size == 9


@pytest.mark.parametrize("name", shipped("search_spaces"))
@pytest.mark.parametrize("shape", [BERT, TINY], ids=["bert", "tiny"])
def test_shipped_spaces_round_trip(name: str, shape: ModelShape) -> None:
    space, rng = SearchSpace.load(name, shape), np.random.default_rng(3)
    assert space.description
    assert list(space.distributions()) == [d.name for d in space.dimensions]
    again = SearchSpace.load(space.to_json(), shape)
    assert again.dimensions == space.dimensions
    for _ in range(20):
        candidate = space.decode(space.random_point(rng))
        assert space.decode(space.encode(candidate)) == candidate
        assert Candidate.from_json(candidate.to_json()) == candidate
        # The fast path of decode builds the same value as the public constructor.
        assert Hybrid(candidate.hybrid.layers) == candidate.hybrid
        assert Hybrid.from_json(candidate.hybrid.to_json()) == candidate.hybrid


@settings(max_examples=30, deadline=None)
@given(shared=st.booleans(), seed=st.integers(0, 10**6))
def test_encode_is_the_inverse_with_two_blocks_of_one_method(shared: bool, seed: int) -> None:
    blocks = {**LORA, "ffn": {"method": "lora", "rank": [0, 2, 4], "sites": ["up"]}, "prefix": {"length": [0, 1]}}
    space = SearchSpace.load({"sizes": "shared" if shared else "per_layer", "blocks": blocks, "training": RATE}, TINY)
    candidate = space.decode(space.random_point(np.random.default_rng(seed)))
    assert space.decode(space.encode(candidate)) == candidate


@pytest.mark.parametrize(
    "hybrid",
    [Hybrid(((LoRA(3),), ())), Hybrid(((LoRA(4, sites=("k",)),), ())), Hybrid(((LoRA(4, scale=2.0),), ()))],
    ids=["size", "site", "option"],
)
def test_encode_refuses_what_is_not_in_the_space(hybrid: Hybrid) -> None:
    space = SearchSpace.load({"blocks": LORA}, TINY)
    with pytest.raises(AutopeftError, match="not in the search space"):
        space.encode(Candidate(hybrid))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"blocks": {}}, "search space: blocks: needs at least one block"),
        ({"blocks": LORA, "size": "shared"}, "size: unknown key; did you mean 'sizes'"),
        ({"blocks": {"lroa": {"rank": [1]}}}, "blocks.lroa: unknown method 'lroa'; did you mean 'lora'"),
        ({"blocks": {"x": {"method": "prefx", "length": [1]}}}, "blocks.x.method: unknown method 'prefx'; did you"),
        ({"blocks": {"lora": {"ranks": [1]}}}, "blocks.lora.ranks: unknown key; did you mean 'rank'"),
        ({"blocks": {"lora": {"sites": ["q"]}}}, "blocks.lora: missing 'rank'"),
        ({"blocks": {"lora": {"rank": 8}}}, "blocks.lora.rank: expected a list"),
        ({"blocks": {"lora": {"rank": [0]}}}, "blocks.lora.rank: needs a size above 0"),
        ({"blocks": {"lora": {"rank": []}}}, "blocks.lora.rank: needs a size above 0"),
        ({"blocks": {"lora": {"rank": [-1]}}}, "blocks.lora.rank: a size is a whole number"),
        ({"blocks": {"lora": {"rank": [1.5]}}}, "blocks.lora.rank: a size is a whole number"),
        ({"blocks": {"lora": {"rank": ["f/2"]}}}, "blocks.lora.rank: a size is a whole number"),
        ({"blocks": {"lora": {"rank": [1], "sites": ["w"]}}}, "blocks.lora: method 'lora': unknown site 'w'"),
        ({"blocks": {"lora": {"rank": [1], "scale": "big"}}}, "blocks.lora: "),
        ({"blocks": {**LORA, "b": {"method": "lora", "rank": [1], "sites": ["v"]}}}, "already in blocks.lora"),
        ({"blocks": LORA, "training": {"learning_rat": 1}}, "training.learning_rat: unknown key; did you mean"),
        ({"blocks": LORA, "training": {"learning_rate": {"low": 1}}}, "training.learning_rate: expected a number"),
        ({"blocks": LORA, "training": {"learning_rate": {"low": 2, "high": 1}}}, "needs 0 < low < high"),
        ({"blocks": LORA, "training": {"learning_rate": -1}}, "learning_rate: choices must be numbers above 0"),
        ({"blocks": LORA, "training": {"learning_rate": {"choices": [1], "log": True}}}, "give either choices"),
    ],
)
def test_a_wrong_space_is_refused_at_load(raw: dict, message: str) -> None:
    with pytest.raises(AutopeftError) as error:
        SearchSpace.load(raw, TINY)
    assert message in str(error.value)


def test_messages_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("blocks: {lora: {rank: [0, x]}}\n")
    with pytest.raises(AutopeftError, match=r"mine\.yaml: blocks\.lora\.rank: "):
        SearchSpace.load(path, TINY)
    with pytest.raises(AutopeftError, match=r"unknown search space 'hybird'.*did you mean 'hybrid'"):
        SearchSpace.load("hybird", TINY)
    with pytest.raises(AutopeftError, match="cannot be read"):
        SearchSpace.load(tmp_path / "none.yaml", TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"L00.lora.rnk": 0}, "unknown dimension.*did you mean"), ({"L00.lora.rank": 3}, "outside its domain")],
)
def test_decode_refuses_a_wrong_point(change: dict, message: str) -> None:
    space = SearchSpace.load({"blocks": LORA}, TINY)
    with pytest.raises(AutopeftError, match=message):
        space.decode({"L00.lora.rank": 0, "L01.lora.rank": 0} | change)
    with pytest.raises(AutopeftError, match="missing"):
        space.decode({"L00.lora.rank": 0})


def test_suggest_in_ones_own_study() -> None:
    space = SearchSpace.load("hybrid", TINY)
    trial = optuna.create_study().ask()
    candidate = space.suggest(trial)
    assert trial.distributions == space.distributions()
    assert space.decode(trial.params) == candidate


def test_space_and_budget_import_neither_torch_nor_optuna() -> None:
    code = "import sys, autopeft.space, autopeft.budget; print({'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
