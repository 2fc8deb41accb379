"""What a search has learned: shares of the score's variance, the front's layers and methods, files and the verb."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from test_cli import autopeft
from tiny_project import write_experiment

from autopeft import launch
from autopeft.anatomy import ModelShape
from autopeft.begin import open_study
from autopeft.budget import Budget
from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching import explain as explaining
from autopeft.searching.advice import advice
from autopeft.searching.explain import Explanation, explain, front_use, r_squared
from autopeft.searching.front import ParetoFront
from autopeft.searching.importance import forest_shares, sobol_shares
from autopeft.searching.objective import Objective
from autopeft.session import Session
from autopeft.space import SearchSpace

SITES = dict.fromkeys("qkvo", (64, 64)) | {"up": (64, 256), "down": (256, 64)}
SHAPE = ModelShape("bert", 4, 64, 256, 2, 2, 32, SITES, 100_000)
BLOCKS = {"prefix": {"length": [0, 1, 4]}, "lora": {"rank": [0, 2, 4, 8]}}
RATE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
PER_LAYER = SearchSpace.load({"blocks": BLOCKS, "training": RATE}, SHAPE)
SHARED = SearchSpace.load({"blocks": BLOCKS, "sizes": "shared"}, SHAPE)
ONE = (Objective.of("accuracy"),)
TWO = (*ONE, Objective.of("trainable_params"))

Sizes = Mapping[str, int | float]


def evaluations(
    space: SearchSpace, count: int, score: Callable[[Sizes], float], noise: float = 0.01
) -> list[Evaluation]:
    """Random candidates, scored by their sizes."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        point = space.random_point(rng)
        candidate = space.decode(point)
        metrics = {
            "accuracy": score(space.sizes_of(point)) + noise * rng.normal(),
            "trainable_params": candidate.hybrid.num_params(SHAPE),
        }
        found.append(Evaluation(candidate, "done", metrics, number=number))
    return found


def explained(space: SearchSpace, count: int, score: Callable[[Sizes], float], **noise: float) -> Explanation:
    return explain(ParetoFront(evaluations(space, count, score, **noise), TWO), space, Budget({}))


def first_of(shares: Mapping[Any, explaining.Share], attribute: str) -> Any:
    return max(shares, key=lambda name: getattr(shares[name], attribute))


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_place() -> Explanation:
    """Only LoRA in layer 2 matters."""
    return explained(PER_LAYER, 60, lambda sizes: 0.1 * sizes["L02.lora.rank"])


@pytest.mark.parametrize("attribute", ["first", "total", "forest"])
def test_the_only_layer_and_method_that_matter_are_first(one_place: Explanation, attribute: str) -> None:
    assert first_of(one_place.layers, attribute) == 2
    assert first_of(one_place.blocks, attribute) == "lora"
    assert first_of(one_place.cells, attribute) == (2, "lora")
    assert getattr(one_place.cells[2, "lora"], attribute) > 0.8
    assert getattr(one_place.training["learning_rate"], attribute) < 0.05
    assert one_place.quality.surrogate_r2 > 0.9
    assert one_place.quality.surrogate_rank > 0.9
    assert one_place.warnings == ()


def test_the_only_rate_that_matters_is_first() -> None:
    found = explained(PER_LAYER, 40, lambda sizes: float(np.log(sizes["learning_rate"])))
    for attribute in ("first", "total", "forest"):
        others = [*found.layers.values(), *found.blocks.values()]
        assert getattr(found.training["learning_rate"], attribute) > 2 * max(getattr(s, attribute) for s in others)


def test_a_cost_of_errors_is_explained_as_a_score_is() -> None:
    plain = evaluations(PER_LAYER, 40, lambda sizes: float(sizes["L00.prefix.length"]))
    turned = [Evaluation(e.candidate, "done", {"loss": -e.metrics["accuracy"]}, number=e.number) for e in plain]
    a = explain(ParetoFront(plain, ONE), PER_LAYER, Budget({}))
    b = explain(ParetoFront(turned, [Objective.of("loss")]), PER_LAYER, Budget({}))
    assert a.layers == b.layers
    assert (a.score, b.score, b.front.members) == ("accuracy", "loss", 1)


def test_shares_are_parts_and_add_up(one_place: Explanation) -> None:
    x = one_place
    for shares in (x.layers, x.blocks, x.training, x.cells):
        for share in shares.values():
            assert 0 <= share.first <= share.total <= 1
            assert 0 <= share.forest <= 1
    for layer, share in x.layers.items():
        assert share.forest == pytest.approx(sum(s.forest for (at, _), s in x.cells.items() if at == layer))
    for block, share in x.blocks.items():
        assert share.forest == pytest.approx(sum(s.forest for (_, of), s in x.cells.items() if of == block))
    assert sum(s.forest for s in [*x.cells.values(), *x.training.values()]) <= 1 + 1e-9
    assert set(x.cells) == {(layer, block) for layer in range(4) for block in ("prefix", "lora")}


def test_a_group_explains_what_its_members_do_together() -> None:
    # Two coins that only matter together, and a third that matters less, one time in ten up.
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.tile([0.0, 1.0], 500), rng.permutation(np.tile([0.0, 1.0], 500)), np.arange(1000) < 100])
    first, total = sobol_shares(
        lambda x: (2 * x[:, 0] - 1) * (2 * x[:, 1] - 1) + 2 * x[:, 2], rows, [(0,), (1,), (2,), (0, 1), (0, 1, 2)]
    )
    # Variances: 1 of the pair, 4 * 0.1 * 0.9 of the third.
    assert first == pytest.approx([0, 0, 0.36 / 1.36, 1 / 1.36, 1], abs=0.02)
    assert total == pytest.approx([1 / 1.36, 1 / 1.36, 0.36 / 1.36, 1 / 1.36, 1], abs=0.02)


def test_what_does_not_vary_has_no_share() -> None:
    rows = np.random.default_rng(0).random((20, 9))
    assert [x.tolist() for x in sobol_shares(lambda x: np.full(len(x), 0.3), rows, [(0,), (1, 2)])] == [[0, 0]] * 2
    assert forest_shares(PER_LAYER.dimensions, rows, np.full(20, 0.5)).tolist() == [0.0] * 9
    half = rows.copy()
    half[:, 0] = 0.5
    first, total = sobol_shares(lambda x: x.sum(axis=1), half, [(0,)])
    assert (first.tolist(), total.tolist()) == ([0], [0])


def test_leaving_one_out_in_closed_form() -> None:
    from autopeft.searching.known_cost.surrogate import Data, Surrogate

    rng = np.random.default_rng(0)
    features, variances = rng.random((12, 5)), rng.random(12) * 0.01
    scores = features.sum(axis=1) + 0.05 * rng.normal(size=12)
    whole = Surrogate(Data(features, scores, variances, (2, 2, 1)))
    for i, predicted in enumerate(whole.leave_one_out()):
        others = np.arange(12) != i
        left = Surrogate(Data(features[others], scores[others], variances[others], (2, 2, 1)), whole.fitted, steps=0)
        left._center, left._scale = whole._center, whole._scale
        assert left.posterior(features[i : i + 1])[0][0] == pytest.approx(predicted, abs=1e-6)


def test_r_squared() -> None:
    scores = np.array([1.0, 2.0, 3.0])
    assert r_squared(scores, scores) == 1
    assert r_squared(scores, np.full(3, 2.0)) == 0
    assert r_squared(np.ones(3), scores) == 0


# --- spaces, evaluations ----------------------------------------------------------------------------------------------


def test_shared_sizes_with_bits_and_no_training() -> None:
    found = explained(SHARED, 60, lambda s: s["L03.on"] * (1 + s["lora.rank"]))
    assert (first_of(found.layers, "total"), first_of(found.blocks, "total")) == (3, "lora")
    assert (first_of(found.layers, "forest"), first_of(found.blocks, "forest")) == (3, "lora")
    assert (found.cells, found.training) == ({}, {})


def test_a_space_of_training_alone() -> None:
    space = SearchSpace.load({"blocks": {"lora": {"rank": [4]}}, "training": RATE}, SHAPE)
    found = explained(space, 30, lambda s: float(np.log(s["learning_rate"])))
    assert found.training["learning_rate"].first > 0.9
    assert (found.layers, found.blocks, found.cells) == ({}, {}, {})
    assert found.front.shares.tolist() == [[1.0]] * 4


def test_stopped_ones_count_where_they_point_to() -> None:
    found = []
    for e in evaluations(PER_LAYER, 40, lambda sizes: 0.1 * sizes["L02.lora.rank"]):
        final = e.metrics["accuracy"]
        curve = tuple({"accuracy": final * (epoch + 1) / 3, "loss": 1 - final} for epoch in range(3))
        short = e.number % 4 == 3
        metrics = {**e.metrics, "accuracy": final / 3} if short else e.metrics
        status = "stopped" if short else "done"
        found.append(Evaluation(e.candidate, cast(Any, status), metrics, e.number, curve[: 1 if short else 3]))
    x = explain(ParetoFront([*found, Evaluation(found[0].candidate, "failed", {})], TWO), PER_LAYER, Budget({}), 3)
    assert (x.observations, x.stopped) == (40, 10)
    assert first_of(x.cells, "first") == (2, "lora")


def test_warnings_of_few_and_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    few = explained(PER_LAYER, 19, lambda sizes: float(sizes["L02.lora.rank"]))
    assert any("only 19 finished evaluations" in line for line in few.warnings)
    noise = explained(PER_LAYER, 40, lambda sizes: 0.0, noise=1.0)
    for model in ("surrogate", "forest"):
        assert any(f"the {model} predicts" in line and "poorly" in line for line in noise.warnings)
    monkeypatch.setattr(explaining, "MOST", 25)
    some = explained(PER_LAYER, 30, lambda sizes: float(sizes["L02.lora.rank"]))
    assert some.observations == 25
    assert "fitted to 25 of 30 evaluations, drawn at random" in some.warnings


def test_a_front_at_the_end_of_a_range_is_told() -> None:
    spread = explained(PER_LAYER, 30, lambda sizes: float(sizes["L02.lora.rank"]))
    assert not any("end of its range" in line for line in spread.advice)
    rate = next(d for d in PER_LAYER.dimensions if d.name == "learning_rate")
    found = [
        replace(e, candidate=replace(e.candidate, training={"learning_rate": rate.at(0.96)}))
        for e in evaluations(PER_LAYER, 30, lambda sizes: float(sizes["L02.lora.rank"]))
    ]
    front = ParetoFront(found, TWO)
    (line,) = [w for w in explain(front, PER_LAYER, Budget({})).advice if "end of its range" in w]
    assert line.startswith(f"{len(front.points)} of the front's {len(front.points)} members have learning_rate")
    empty = ParetoFront(found, TWO, {"trainable_params": -1})
    assert not empty.points
    assert explain(empty, PER_LAYER, Budget({})).advice == ()


def test_sizes_and_limits_that_bind_are_told() -> None:
    large = [e for e in evaluations(PER_LAYER, 60, lambda sizes: float(sizes["L02.lora.rank"])) if _is_large(e)]
    cost = max(int(e.metrics["trainable_params"]) for e in large)
    found = advice(ParetoFront(large, TWO, {"trainable_params": cost}), PER_LAYER)
    assert any("the largest size that the space lists of lora (8, " in line for line in found), found
    # The best of the front is its dearest member.
    best = ParetoFront(large, TWO).best().metrics["trainable_params"]
    said = [line for line in found if "of the limit on trainable_params" in line]
    assert len(said) == (best / cost >= 0.9 or best / cost <= 0.5)
    # Of a limit that the space does not come near, nothing is left unused.
    for limit, told in ((2 * int(best), True), (100 * cost, False)):
        idle = advice(ParetoFront(large, TWO, {"trainable_params": limit}), PER_LAYER)
        assert any("what is larger gained nothing" in line for line in idle) == told, limit
    # Sizes of 1 have no smaller ones.
    assert not any("smallest" in line for line in found)


def _is_large(e: Evaluation) -> bool:
    """Whether LoRA is at its largest size wherever it is."""
    ranks = [m.size_value for m in e.candidate.hybrid.methods() if m.name == "lora"]
    return bool(ranks) and 2 * ranks.count(8) > len(ranks)


def test_what_the_front_does_not_have_is_told() -> None:
    found = []
    for e in evaluations(PER_LAYER, 60, lambda sizes: 0.0):
        has = any(m.name == "prefix" for m in e.candidate.hybrid.methods())
        found.append(replace(e, metrics={**e.metrics, "accuracy": 0.1 if has else 0.9}))
    count = sum(e.metrics["accuracy"] == 0.1 for e in found)
    front = ParetoFront(found, ONE)
    assert f"no member of the front has prefix ({count} candidates had it): the space may do without" in advice(
        front, PER_LAYER
    )


@pytest.mark.parametrize(
    ("count", "noise", "message"),
    [
        (0, 0.01, "there are 0"),
        (4, 0.01, "needs at least 5 finished candidates, there are 4"),
        (9, 0.0, "same accuracy"),
    ],
)
def test_nothing_to_explain(count: int, noise: float, message: str) -> None:
    with pytest.raises(AutopeftError, match=message):
        explained(PER_LAYER, count, lambda sizes: 0.5, noise=noise)


def test_a_space_without_a_choice() -> None:
    space = SearchSpace.load({"blocks": {"lora": {"rank": [4]}}}, SHAPE)
    with pytest.raises(AutopeftError, match="nothing to choose"):
        explained(space, 9, lambda sizes: 0.5)


# --- the front --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [PER_LAYER, SHARED], ids=["per_layer", "shared"])
def test_the_heat_map_counts_the_front(space: SearchSpace) -> None:
    front = ParetoFront(evaluations(space, 60, lambda sizes: 0.01 * sum(sizes.values())), TWO)
    use, names = front_use(front, space), list(space.methods)
    assert use.members == len(front.points) > 3
    for layer in range(4):
        for i, block in enumerate(names):
            found = [m.size_value for e in front.points for m in e.candidate.hybrid.layers[layer] if m.name == block]
            assert use.counts[layer, i] == len(found)
            assert use.shares[layer, i] == len(found) / use.members
            assert use.sizes[layer, i] == pytest.approx(np.mean(found) if found else 0)


def test_blocks_of_one_method_are_told_apart() -> None:
    two = {"lora": {"rank": [0, 4], "sites": ["q"]}, "ffn": {"method": "lora", "rank": [0, 4], "sites": ["up"]}}
    space = SearchSpace.load({"blocks": two}, SHAPE)
    point = {d.name: 0 for d in space.dimensions} | {"L01.lora.rank": 1, "L01.ffn.rank": 1, "L02.ffn.rank": 1}
    sizes = space.block_sizes(space.decode(point).hybrid)
    assert sizes == tuple({"lora": 4 * (i == 1), "ffn": 4 * (i in (1, 2))} for i in range(4))


def test_pictures_and_json(one_place: Explanation, tmp_path: Path) -> None:
    figure = one_place.plot()
    use, cells, *bars = figure.data
    assert np.array(use.z).tolist() == one_place.front.shares.tolist()
    assert cells.z[2][1] == one_place.cells[2, "lora"].total
    assert [bar.y[2] for bar in bars[:3]] == [getattr(one_place.layers[2], a) for a in ("first", "total", "forest")]
    assert list(bars[3].x) == ["prefix", "lora", "learning rate"]
    one_place.still(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads(json.dumps(one_place.to_json()))
    assert Explanation.from_json(data).to_json() == data
    assert repr(one_place).startswith("Explanation(accuracy of 60 evaluations")
    assert "<script" not in replace(one_place, advice=("<script>",))._repr_html_()
    for damage in ({"layers": 1}, {"front": {"members": 1, "cells": [{"layer": 10**9}]}}, {"quality": {}}):
        with pytest.raises(AutopeftError, match="explanation: not what"):
            Explanation.from_json({**data, **damage})
    assert data["layers"][2] == {"layer": 2, **vars(one_place.layers[2])}
    cell = next(c for c in data["front"]["cells"] if (c["layer"], c["block"]) == (2, "lora"))
    assert cell["count"] == one_place.front.counts[2, 1]


# --- run folders ------------------------------------------------------------------------------------------------------


def run_folder(tmp_path: Path, count: int, **changes: Any) -> tuple[Session, RunFolder, Any]:
    """A run folder whose candidates were scored by a formula."""
    experiment = Experiment.load(write_experiment(tmp_path, **changes))
    session, folder = Session(experiment), RunFolder(tmp_path / "run")
    folder.path.mkdir()
    study = open_study(session, folder)
    for _ in range(count):
        proposal = study.ask()
        costs = session.costs(proposal.candidate.hybrid)
        score = 1 - 1 / (2 + len(proposal.candidate.hybrid.layers[-1])) + 0.01 * proposal.number
        metrics = {"accuracy": score, **costs}
        study.tell(
            Evaluation(proposal.candidate, "done", metrics, proposal.number, ({"accuracy": score},), seconds=2.0)
        )
    return session, folder, study


@pytest.mark.parametrize(
    "changes",
    [{}, {"sampler": "random", "space": "autopeft_paper", "objectives": ["accuracy"], "budget": {}}],
    ids=["two objectives", "one objective, shared sizes, no training"],
)
def test_the_verb(changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(tmp_path, 8, **changes)
    capsys.readouterr()
    status, out, err = autopeft(capsys, "explain", str(tmp_path / "run"))
    assert status == 0
    assert all(line.startswith("working out what the score depends on") for line in err.splitlines()), err
    for part in ("by layer", "by block", "members of the front", "R2", "only 8 finished", "explain.html"):
        assert part in out.replace("only member of", "members of"), out
    # In a file tables are as wide as most terminals, and no sentence is broken.
    tables, said = out.split("\nFrom ")
    assert max(map(len, tables.splitlines())) <= 80
    assert {line.split()[0] for line in said.splitlines()[1:]} <= {"advice:", "warning:", "wrote"}
    assert "explain.json" in out
    # What explains nothing is one line a table, and all of it with --all.
    shares = json.loads((tmp_path / "run/explain.json").read_text())["blocks"]
    more = autopeft(capsys, "explain", str(tmp_path / "run"), "--all")[1]
    nil = [s["block"] for s in shares if max(s["first"], s["total"], s["forest"]) < 0.001]
    assert (": below 0.001 (--all shows each)" in out, "below 0.001" in more) == (bool(nil), False)
    of_blocks = [text.split("by block\n")[1].split("\n\n")[0] for text in (out, more)]
    for block in (s["block"] for s in shares):
        shown = [re.search(rf"^{block} +[0-9.]+ ", text, re.MULTILINE) is not None for text in of_blocks]
        assert shown == [block not in nil, True], block
    data = json.loads((tmp_path / "run/explain.json").read_text())
    assert "plotly" in (tmp_path / "run/explain.html").read_text()
    assert (tmp_path / "run/explain.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(autopeft(capsys, "explain", str(tmp_path / "run"), "--json")[1]) == data
    assert SearchResult.open(tmp_path / "run").explain().to_json() == data


@pytest.mark.parametrize(("count", "message"), [(0, "there are 0"), (3, "needs at least 5 finished candidates")])
def test_a_run_with_too_few_is_one_line(
    count: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path, count)
    capsys.readouterr()
    status, out, err = autopeft(capsys, "explain", str(tmp_path / "run"))
    # On a busy machine it says before what takes a while.
    *_, last = err.splitlines()
    assert (status, out, err.count("autopeft: ")) == (2, "", 1), err
    assert last.startswith("autopeft: error: ")
    assert message in err
    assert not list((tmp_path / "run").glob("explain.*"))


def finished(session: Session, folder: RunFolder, study: Any, status: Any = "FINISHED") -> list[str]:
    """The names of the files that the end of a search hands to the tracker."""
    handed: list[Path] = []
    tracker = SimpleNamespace(sync=lambda *_: None, finish=lambda *args: handed.extend(args[2]))
    launch.Views(session, folder, study, cast(Any, tracker)).finish(status)
    return [path.name for path in handed]


def test_a_search_ends_with_an_explanation_where_it_is_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = run_folder(tmp_path, 8)
    files = {"explain.html", "explain.png", "explain.json"}
    assert not files & set(finished(*ended)), "too few"
    monkeypatch.setattr(explaining, "ENOUGH", 6)
    assert not files & set(finished(*ended)), "the search was over in seconds"
    monkeypatch.setattr(launch, "_WORTH_EXPLAINING", 10.0)
    assert not files & set(finished(*ended, status="KILLED"))
    assert files <= set(finished(*ended))
    assert all((tmp_path / "run" / name).stat().st_size for name in files)


@pytest.mark.parametrize("error", [RuntimeError("of all\nthings"), KeyboardInterrupt()])
def test_an_explanation_that_fails_takes_no_search_with_it(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    ended = run_folder(tmp_path, 8)
    monkeypatch.setattr(launch, "_WORTH_EXPLAINING", 10.0)
    monkeypatch.setattr(explaining, "ENOUGH", 6)
    monkeypatch.setattr(explaining, "explain", fail)
    with pytest.warns(UserWarning, match="'autopeft explain' tries again"):
        assert "pareto.png" in finished(*ended)
