"""What is measured at the start of a search: sane on a real machine, and the right choice on a made-up one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import everywhere
from tiny_task import save_model, task, tokenizer
from tiny_worker import evaluate

from autopeft.attention import FUSED, MATMUL
from autopeft.candidate import Candidate
from autopeft.engine import speed
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.setup import Setup, attention_name, places_of, precision_of
from autopeft.engine.speed import measure
from autopeft.engine.worker import Worker, WorkerSpec
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.sequential import Sequential
from autopeft.models import find_model

SETTINGS = TrainingSettings(head="drawn", method_rates="shared", epochs=1, batch_size=8, precision="fp32", seed=1)
TYPICAL = Candidate(everywhere(LoRA(4)))
#: Seconds of a step of a made-up machine, by precision, attention, number of candidates, and whether only heads train.
Machine = Callable[[torch.dtype, str, int, bool], float]


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(), tokenizer(), 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def spec(folder: Path) -> WorkerSpec:
    return WorkerSpec(find_model(str(folder)), SETTINGS)


def on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: speed._Trial, backbone: Backbone, size: int, candidate: Candidate | None = None) -> float:
        precision = backbone.precision
        assert precision.dtype == backbone.dtype
        return machine(precision.dtype, precision.attention, size, candidate is not None and candidate.hybrid.is_empty)

    monkeypatch.setattr(speed._Trial, "_step", step)
    # A busy machine is late by the real clock.
    monkeypatch.setattr(speed, "_SECONDS", math.inf)


def steady(dtype: torch.dtype, attention: str, size: int, head: bool) -> float:
    """Packs cost what their members cost."""
    return 0.1 * size if head else 1.0 * size


def growing(dtype: torch.dtype, attention: str, size: int, head: bool) -> float:
    """Packs cost little more than one candidate."""
    return (0.1 if head else 1.0) * (10 + size)


# --- a real machine --------------------------------------------------------------------------------------------------


def test_a_measurement_is_sane_and_a_worker_trains_by_it(spec: WorkerSpec, data: TokenizedTask) -> None:
    setup = measure(spec, data, TYPICAL)
    assert (setup.device, setup.precision) == ("cpu", "fp32")
    assert setup.pack >= 1
    assert math.log2(setup.pack).is_integer()
    assert setup.attention in ("fused", "matmul")
    assert 0 < setup.flops_per_second < math.inf
    assert 0 < setup.seconds_per_step < math.inf
    assert setup.milliseconds.keys() >= {setup.attention, "pack of 1"}
    assert min(setup.milliseconds.values()) > 0
    assert Setup.model_validate_json(setup.model_dump_json()) == setup
    worker = Worker(replace(spec, setup=setup), data)
    assert attention_name(worker.backbone.precision) == setup.attention
    assert worker.backbone.dtype == torch.float32
    assert evaluate(worker, TYPICAL).status == "done"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_that_is_asked_for_is_taken(precision: str, spec: WorkerSpec, data: TokenizedTask) -> None:
    asked = SETTINGS.model_copy(update={"precision": precision})
    assert measure(replace(spec, settings=asked), data, TYPICAL).precision == precision


def test_no_pack_is_larger_than_memory_allows(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "memory_here", lambda: 1000)
    assert measure(spec, data, TYPICAL).pack == 1


# --- a made-up machine -----------------------------------------------------------------------------------------------


def test_packs_grow_while_they_are_worth_it(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(steady, monkeypatch)
    assert measure(spec, data, TYPICAL).pack == 1
    on(growing, monkeypatch)
    assert measure(spec, data, TYPICAL).pack == speed._LARGEST["cpu"]
    on(lambda d, a, size, head: 1.0 * max(size, 4), monkeypatch)
    assert measure(spec, data, TYPICAL).pack == 4


@pytest.mark.parametrize(("room", "share", "pack"), [(1, 1, 1), (2, 1, 2), (5, 1, 4), (9, 1, 8), (9, 2, 4), (9, 9, 1)])
def test_memory_bounds_packs_and_workers_share_it(
    room: int, share: int, pack: int, spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`room`: candidates whose activations fit in half of the free memory."""
    on(growing, monkeypatch)
    made = speed._Trial(spec, data, TYPICAL, 1)
    monkeypatch.setattr(speed, "memory_here", lambda: 10**12)
    each = int(0.5 * 10**12 / made._most(made._backbone("fp32")))
    monkeypatch.setattr(speed, "memory_here", lambda: int(2 * each * (room + 0.1)))
    assert measure(spec, data, TYPICAL, share).pack == pack


def test_a_typical_candidates_activations_are_counted(spec: WorkerSpec, data: TokenizedTask) -> None:
    """A larger candidate keeps more, and the backbone's own weights are not counted."""
    rooms = []
    for rank in (1, 40):
        made = speed._Trial(spec, data, Candidate(everywhere(LoRA(rank, sites=("q", "k", "v", "o", "up", "down")))), 1)
        rooms.append(made._most(made._backbone("fp32")))
    assert rooms[1] < rooms[0]


@pytest.mark.parametrize(
    ("milliseconds", "trials", "workers", "pack"),
    [
        ({1: 8, 2: 4, 4: 2, 8: 1}, 1000, 1, 8),
        # Never more than a quarter of the search at once.
        ({1: 8, 2: 4, 4: 2, 8: 1}, 16, 1, 4),
        ({1: 4, 2: 3, 4: 2.5, 8: 2.3}, 1000, 2, 8),
        ({1: 4, 2: 3, 4: 2.5, 8: 2.3}, 100, 2, 4),
        ({1: 4, 2: 3, 4: 2.5, 8: 2.3}, 20, 2, 2),
        ({1: 4, 2: 3, 4: 2.5, 8: 2.3}, 20, 8, 1),
        ({1: 4, 2: 3, 16: 1}, 100, 1, 2),
        ({}, 100, 1, 8),
        ({}, 3, 1, 1),
    ],
)
def test_packs_are_smaller_where_a_search_would_learn_too_late(
    milliseconds: dict[int, float], trials: int, workers: int, pack: int
) -> None:
    tried = {"fused": 4.0} | {f"pack of {n}": float(each) for n, each in milliseconds.items()}
    setup = Setup(
        device="cpu",
        precision="fp32",
        attention="fused",
        pack=8,
        flops_per_second=1,
        seconds_per_step=1,
        milliseconds=tried,
    )
    assert setup.pack_of(trials, workers) == pack


@pytest.mark.parametrize(("faster", "chosen"), [(FUSED, "fused"), (MATMUL, "matmul")])
def test_the_faster_attention_is_taken(
    faster: str, chosen: str, spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(lambda d, attention, size, head: size * (1.0 if attention == faster else 1.5), monkeypatch)
    setup = measure(spec, data, TYPICAL)
    assert setup.attention == chosen
    assert setup.chosen == precision_of("fp32", chosen)
    slower = "matmul" if chosen == "fused" else "fused"
    assert setup.milliseconds == {chosen: 1000, slower: 1500, "pack of 1": 1000, "pack of 2": 1000}


@pytest.mark.parametrize(("slower", "trials"), [(1.1, 2), (2.0, 1)])
def test_what_is_clear_is_tried_once(
    slower: float, trials: int, spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def machine(dtype: torch.dtype, attention: str, size: int, head: bool) -> float:
        tried.append(attention)
        return size * (slower if attention == MATMUL else 1.0)

    on(machine, monkeypatch)
    assert measure(spec, data, TYPICAL).attention == "fused"
    assert tried.count(MATMUL) == trials


def test_the_slow_first_step_of_a_process_decides_nothing(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def machine(dtype: torch.dtype, attention: str, size: int, head: bool) -> float:
        steps.append(attention)
        return 10.0 if len(steps) == 1 else size * (2.0 if attention == MATMUL else 1.0)

    on(machine, monkeypatch)
    assert measure(spec, data, TYPICAL).attention == "fused"


def test_what_is_usual_stays_where_there_is_no_time_to_compare(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(lambda d, attention, size, head: 1.0 if attention == MATMUL else 10.0 + size, monkeypatch)
    monkeypatch.setattr(speed, "_SECONDS", 0.0)
    setup = measure(spec, data, TYPICAL)
    assert (setup.attention, setup.pack) == ("fused", 1)
    assert setup.milliseconds == {"fused": 11_000, "pack of 1": 11_000}


@pytest.mark.parametrize(
    ("fast", "times", "precision"),
    [(True, 0.5, "bf16"), (True, 1.9, "bf16"), (True, 2.1, "fp32"), (False, 0.5, "fp32")],
)
def test_bf16_where_the_device_is_made_for_it_and_it_is_not_much_slower(
    fast: bool, times: float, precision: str, spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "fast_bf16", lambda device: fast)
    on(lambda dtype, a, size, head: size * (times if dtype == torch.bfloat16 else 1.0), monkeypatch)
    auto = replace(spec, settings=SETTINGS.model_copy(update={"precision": "auto"}))
    assert measure(auto, data, TYPICAL).precision == precision


def test_rates_give_the_time_that_was_measured(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(growing, monkeypatch)
    setup, made = measure(spec, data, TYPICAL), speed._Trial(spec, data, TYPICAL, 1)
    each = (10 + setup.pack) / setup.pack
    assert setup.seconds_per_step == pytest.approx(each / 10)
    assert setup.seconds(made._flops(made._backbone("fp32")), 1) == pytest.approx(each)


def test_places_and_products_are_told_apart(
    spec: WorkerSpec, data: TokenizedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A step takes .01, .002 a place, and the rest by FLOPs.
    rate = 1e7

    def step(self: speed._Trial, backbone: Backbone, size: int, candidate: Candidate | None = None) -> float:
        given = candidate or self.typical
        work = 0.0 if given.hybrid.is_empty else self._flops(backbone, given) / rate
        return size * (0.01 + 0.002 * places_of(given.hybrid) + work)

    monkeypatch.setattr(speed._Trial, "_step", step)
    monkeypatch.setattr(speed, "_SECONDS", math.inf)
    setup, made = measure(spec, data, TYPICAL), speed._Trial(spec, data, TYPICAL, 1)
    assert places_of(TYPICAL.hybrid) > 1
    assert (setup.seconds_per_step, setup.seconds_per_place) == pytest.approx((0.01, 0.002))
    assert setup.flops_per_second == pytest.approx(rate)
    backbone = made._backbone("fp32")
    for candidate in (TYPICAL, Candidate(everywhere(LoRA(2), Sequential(2)))):
        expected = setup.seconds(made._flops(backbone, candidate), 1, places_of(candidate.hybrid))
        assert expected == pytest.approx(step(made, backbone, 1, candidate))


def test_a_hybrid_of_one_place_has_no_places_to_tell_apart(spec: WorkerSpec, data: TokenizedTask) -> None:
    layers = len(TYPICAL.hybrid.layers)
    one = Candidate(Hybrid.from_layers(layers, {0: [LoRA(4, sites=("q",))]}))
    assert measure(spec, data, one).seconds_per_place == 0
    assert measure(spec, data, Candidate(Hybrid.uniform(layers))).seconds_per_place == 0


def test_what_was_measured_before_places_is_read() -> None:
    known = Setup(
        device="cpu", precision="fp32", attention="fused", pack=1, flops_per_second=1, seconds_per_step=1
    ).model_dump()
    del known["seconds_per_place"]
    assert Setup.model_validate(known).seconds(2, 3, 100) == 5
