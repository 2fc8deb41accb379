"""The engine's FLOPs, to the last one those that a worker computes: frozen layers, cut last layer, padding and all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import CONFIGS, LAYERS, TOGETHER, by_token, everywhere, hybrids, make
from tiny_task import save_model, task, tokenizer
from torch.utils.flop_counter import FlopCounterMode

from autopeft.anatomy import FAMILIES, shape_from_config
from autopeft.candidate import Candidate
from autopeft.costs._flops import forward_flops, training_flops
from autopeft.engine import train as train_module
from autopeft.engine import worker as worker_module
from autopeft.engine.data import TokenizedTask
from autopeft.engine.schedule import CostModel, Lengths, Workload
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.setup import Setup
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.prompt_tuning import PromptTuning
from autopeft.models import find_model

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=2, batch_size=3, precision="fp32", learning_rate=1e-3, seed=1
)
#: Two products and a softmax: fused attention is not counted on all devices.
SETUP = Setup(device="cpu", precision="fp32", attention="matmul", pack=1, flops_per_second=1, seconds_per_step=1)
#: Not in the layers, and the same for every candidate.
OUTSIDE = ("pooler", "rotary_emb", "embeddings_project")
TOP = LAYERS - 1
EXAMPLES = [
    everywhere(),
    everywhere(*(make(name) for name in TOGETHER)),
    Hybrid.from_layers(LAYERS, {TOP: [Prefix(2)]}),
    Hybrid.from_layers(LAYERS, {TOP: [LoRA(2, sites=("k",)), make("parallel")]}),
    Hybrid.from_layers(LAYERS, {1: [LoRA(2, sites=("up", "o")), make("sequential")]}),
    Hybrid.from_layers(LAYERS, {0: [LoRA(1, sites=("q", "v"))]}),
    Hybrid.from_layers(LAYERS, {1: [LoRA(2)], TOP: [make("sequential")]}, [PromptTuning(3)]),
]


@pytest.fixture(autouse=True)
def one_example_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is trained, so that nothing is padded there."""
    for module in (train_module, worker_module):
        monkeypatch.setattr(module, "evaluation_tokens", lambda device: 1)


@cache
def data(types: bool) -> TokenizedTask:
    made = TokenizedTask.of(task(sizes=(6, 3, 3)), tokenizer(), 32)
    bare = {name: replace(getattr(made, name), types=None) for name in ("train", "validation", "test")}
    return made if types else replace(made, **bare)


@pytest.fixture(scope="module", params=["bert", "llama"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    folder = save_model(tmp_path_factory.mktemp(request.param), request.param)
    return WorkerSpec(find_model(str(folder)), SETTINGS, setup=SETUP)


def worker_of(spec: WorkerSpec, cached: bool = True) -> Worker:
    types = spec.source.config().model_type == "bert"
    return Worker(spec if cached else replace(spec, cache=0), data(types))


def counted(worker: Worker, hybrids: Sequence[Hybrid]) -> int:
    """FLOPs in the layers while these are trained and measured as one pack."""
    with FlopCounterMode(display=False) as counter:
        evaluations = drain(worker.run([Candidate(h) for h in hybrids]))
    assert {e.status for e in evaluations} == {"done"}
    counts = counter.get_flop_counts()
    outside = (*OUTSIDE, *worker.backbone.heads)
    left_out = {name: sum(c.values()) for name, c in counts.items() if name.endswith(outside)}
    assert set(worker.backbone.heads) <= {name.rpartition(".")[2] for name in left_out}
    return int(counter.get_total_flops() - sum(left_out.values()))


@pytest.mark.parametrize("hybrid", EXAMPLES, ids=Hybrid.describe)
def test_a_candidate_costs_what_a_worker_computes(hybrid: Hybrid, spec: WorkerSpec) -> None:
    worker = worker_of(spec)
    own, filling = worker.costs.candidate(hybrid), worker.costs.filling(hybrid.first_adapted)
    assert counted(worker, [hybrid]) == own + filling
    assert counted(worker, [hybrid]) == own, "the second time the frozen layers are there"
    assert (filling == 0) == (hybrid.first_adapted == 0)
    whole = worker_of(spec, cached=False)
    assert counted(whole, [hybrid]) == whole.costs.candidate(hybrid)
    assert (whole.costs.candidate(hybrid) > own) == (hybrid.first_adapted > 0)


def test_any_candidate_costs_what_a_worker_computes(spec: WorkerSpec) -> None:
    worker = worker_of(spec)
    worker.frozen.prepare((worker.task.train, worker.task.validation), range(LAYERS + 1))

    @settings(max_examples=5)
    @given(hybrid=hybrids())
    def check(hybrid: Hybrid) -> None:
        hybrid = by_token(hybrid)
        assert counted(worker, [hybrid]) == worker.costs.candidate(hybrid)

    check()


def test_a_pack_costs_the_sum_of_its_members(spec: WorkerSpec) -> None:
    """Of equal sizes, so that there is no padding."""
    low, high = (Hybrid.from_layers(LAYERS, {i: [LoRA(2)] for i in range(first, LAYERS)}) for first in (0, TOP))
    worker = worker_of(spec)
    own, costs = worker.costs.candidate, worker.costs
    assert own(everywhere()) == 0
    assert counted(worker, [high, everywhere(), high]) == 2 * own(high) + costs.filling(LAYERS)
    assert counted(worker, [low, everywhere(), low]) == 2 * own(low)
    # Torch gives the gradient of a layer's input for all sequences or none, so who enters above another pays for it.
    more = counted(worker, [low, high]) - own(low) - own(high)
    assert 0 < more < costs.workload.trained.sum(lambda n: forward_flops((), costs.shape, n, merged=True))


def test_the_first_token_saves_in_its_families_only(spec: WorkerSpec) -> None:
    costs, hybrid = worker_of(spec).costs, everywhere(LoRA(2))
    saves = costs.candidate(hybrid) < replace(costs, first_token=False).candidate(hybrid)
    assert saves == bool(FAMILIES[costs.shape.family].residual)


# --- sums ------------------------------------------------------------------------------------------------------------


@cache
def costs_of(family: str) -> CostModel:
    return CostModel(shape_from_config(CONFIGS[family]()), Workload.of(data(True), SETTINGS), SETTINGS.epochs)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 60), max_size=20),
    hybrid=hybrids(),
    family=st.sampled_from(["bert", "llama"]),
    queries=st.sampled_from([None, 1]),
)
@example([], everywhere(), "bert", None)
def test_a_sum_over_lengths_is_the_sum_of_each(
    lengths: list[int], hybrid: Hybrid, family: str, queries: int | None
) -> None:
    shape, sums = costs_of(family).shape, Lengths.of(np.array(lengths, dtype=np.int64))
    for flops in (
        lambda n: training_flops(hybrid, shape, n, hybrid.first_adapted, queries),
        lambda n: sum(forward_flops(methods, shape, n, False, queries) for methods in hybrid.layers),
    ):
        expected = sum(flops(n) for n in lengths)
        assert sums.sum(flops) == expected
        assert sums.times(3).sum(flops) == 3 * expected


@settings(max_examples=40)
@given(chosen=st.lists(hybrids(), max_size=4), family=st.sampled_from(["bert", "llama"]))
def test_no_schedule_computes_less_than_the_optimum(chosen: list[Hybrid], family: str) -> None:
    costs = costs_of(family)
    deepest = max((h.first_adapted for h in chosen), default=0)
    cached = sum(map(costs.candidate, chosen)) + costs.filling(deepest)
    assert 0 <= costs.optimum(chosen) <= cached
    # Frozen layers come twice for one candidate where there is one epoch; here there are two.
    assert costs.optimum(chosen) <= sum(map(replace(costs, caching=False).candidate, chosen))


def test_padding_is_what_the_optimum_leaves_out() -> None:
    costs, hybrid = costs_of("bert"), everywhere(LoRA(2))
    work = costs.workload
    assert work.real_trained.tokens == 2 * int(data(True).train.lengths.sum()) < work.trained.tokens
    assert work.trained.sequences == work.real_trained.sequences == 2 * 6
    assert work.measured == work.real_measured == Lengths.of(data(True).validation.lengths).times(2)
    assert costs.optimum([hybrid]) < costs.candidate(hybrid)
    even = replace(costs, workload=replace(work, trained=work.real_trained))
    assert even.optimum([hybrid]) == even.candidate(hybrid)


def test_what_was_stopped_early_counts_by_its_epochs() -> None:
    costs, hybrid = costs_of("bert"), everywhere(LoRA(2))
    assert costs.share([hybrid, hybrid], 1, [2, 2]) == costs.share([hybrid, hybrid], 1)
    assert costs.optimum([hybrid, hybrid], [1, 1]) == costs.optimum([hybrid])
    assert 0 < costs.share([hybrid, hybrid], 1, [2, 0]) <= 1


def test_estimated_seconds() -> None:
    setup = SETUP.model_copy(update={"flops_per_second": 1e9, "seconds_per_step": 0.01})
    assert setup.seconds(5 * 10**9, 100) == pytest.approx(6)
    assert torch.float32 == setup.chosen.dtype
