"""Methods that take part in the training: the hooks that are called, and that company changes nothing.

Shapes: K candidates of a pack.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from test_stopped import drive
from tiny_models import LAYERS, METHOD_NAMES
from tiny_task import save_model, task, tokenizer
from tiny_worker import evaluate

from autopeft import engine
from autopeft.candidate import Candidate, Evaluation
from autopeft.engine import pack as pack_module
from autopeft.engine.company import Company, unjudged
from autopeft.engine.data import TokenizedTask, training_batches
from autopeft.engine.kept import load_weights
from autopeft.engine.pack import Pack
from autopeft.engine.procedures import Generators, Moment
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import measure_pack, phase_steps, prepare_pack, train_epoch
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods._bank import Bank
from autopeft.methods._weights import Weight
from autopeft.methods.lora import LoRA
from autopeft.models import find_model
from autopeft.searching.courses import Courses
from autopeft.searching.objective import Objective
from autopeft.searching.stopping import Course, StoppingPlugin

SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=4, batch_size=8, precision="fp32", learning_rate=1e-2, seed=1
)
STEPS = 3


@dataclass(frozen=True)
class Toy(LoRA):
    """LoRA that remembers how large its gradients were, in `seen`."""

    name: ClassVar[str] = "toy"

    def weights(self, shape: Any, place: str) -> Mapping[str, Weight]:
        wide_in, wide_out = shape.width(place)
        return {
            "A": Weight((self.rank, wide_in), "kaiming"),
            "B": Weight((wide_out, self.rank)),
            "seen": Weight((wide_out, self.rank), kind="state"),
            "mask": Weight((wide_out, self.rank), "ones", kind="frozen"),
        }

    def apply(self, bank: Bank, output: torch.Tensor, site_input: torch.Tensor, block_input: Any) -> torch.Tensor:
        middle = bank.compress(site_input, "A")
        if (drawn := bank.__dict__.get("drawn")) is not None:
            middle = middle * drawn[:, None]
        changed = torch.bmm(middle, (bank.B * bank.mask).transpose(1, 2)) * bank.scale[:, None, None]
        return output + changed.view(output.shape)


class Drawing(Toy):
    """Draws which ranks are there at each step, and measures with all of them."""

    name: ClassVar[str] = "drawing"

    @classmethod
    def before_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        for bank in banks:
            drawn = torch.ones(bank.A.shape[:2])
            for k, method in enumerate(bank.methods):
                if method is not None:
                    share = torch.rand(method.rank, generator=moment.generators[k])
                    drawn[k, : method.rank] = (share < 0.5).float() * 2
            bank.__dict__["drawn"] = drawn

    @classmethod
    def before_measure(cls, banks: Sequence[Bank]) -> None:
        for bank in banks:
            bank.__dict__.pop("drawn", None)


class Everything(Drawing):
    """A penalty, random numbers at each step, and a state that decides what is left of the weights."""

    name: ClassVar[str] = "everything"

    @classmethod
    def penalty(cls, banks: Sequence[Bank]) -> torch.Tensor:
        most = max(len(bank.methods) for bank in banks)
        total, count = torch.zeros(most), torch.zeros(most)
        for bank in banks:
            here = len(bank.methods)
            excess = (bank.A @ bank.A.transpose(1, 2) * bank.own("A").amax(2)[..., None]).square().sum((1, 2))
            total = total + torch.nn.functional.pad(excess, (0, most - here))
            count = count + torch.nn.functional.pad(bank.per_candidate(lambda m: 1), (0, most - here))
        return total / count.clamp(min=1)

    @classmethod
    def after_backward(cls, banks: Sequence[Bank], moment: Moment) -> None:
        for bank in banks:
            bank.seen.lerp_(bank.B.grad.abs(), 0.1)

    @classmethod
    def after_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        assert moment.steps == SETTINGS.epochs * STEPS
        for bank in banks:
            bank.B.mul_(1 - torch.tanh(30 * bank.seen) * (moment.step + 1) / moment.steps / 4)


class Pruned(Toy):
    """A mask of the entries of B with large gradients on two batches; another where this was not called."""

    name: ClassVar[str] = "pruned"

    @classmethod
    def prepare(cls, banks: Sequence[Bank], gradients: Callable[[int], None]) -> None:
        gradients(2)
        found = [[bank.B.grad[at["B"]].abs() for bank in banks if (at := bank.corners(k))] for k in range(9)]
        limits = [torch.cat([g.flatten() for g in own]).median() if own else 0 for own in found]
        for bank in banks:
            for k in range(len(bank.methods)):
                bank.mask[k] *= bank.B.grad[k].abs() > limits[k]


class Twice(Drawing):
    """Two passes of other ranks, held together."""

    name: ClassVar[str] = "twice"
    twice: ClassVar[bool] = True

    @classmethod
    def pair_loss(
        cls, banks: Sequence[Bank], first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        one, other = first.log_softmax(-1), second.log_softmax(-1)
        return ((one.exp() - other.exp()) * (one - other)).sum(-1).mean(1) / 2


class Rewound(Toy):
    """Keeps the larger half of what it has learned as a mask, and learns again from nothing."""

    name: ClassVar[str] = "rewound"
    phases: ClassVar[tuple[float, ...]] = (0.5, 0.5)
    judged_from: ClassVar[float] = 0.5

    @classmethod
    def end_phase(cls, banks: Sequence[Bank]) -> None:
        for bank in banks:
            for k in range(len(bank.methods)):
                if at := bank.corners(k):
                    size = bank.B[at["B"]].abs()
                    bank.mask[at["mask"]] = (size > size.median()).float()
            bank.B.zero_()


class Alone(Toy):
    name: ClassVar[str] = "alone"

    def company(self) -> Hashable:
        return "alone"


class Large(Toy):
    name: ClassVar[str] = "large"
    max_pack: ClassVar[int] = 2


@pytest.fixture(scope="module")
def data() -> TokenizedTask:
    return TokenizedTask.of(task(sizes=(24, 16, 16)), tokenizer(), 16)


@pytest.fixture(scope="module")
def worker(data: TokenizedTask, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("model")
    return Worker(WorkerSpec(find_model(str(save_model(folder))), SETTINGS, keep=folder / "weights"), data)


def candidate(method: type[Toy], *sizes: int, **training: float) -> Candidate:
    """The method in the first layers with these ranks, 0 for none; at two places of one of them."""
    layers = {i: [method(size, sites=("q", "down") if i == 1 else ("v",))] for i, size in enumerate(sizes)}
    return Candidate(Hybrid.from_layers(LAYERS, layers), training)


def members(method: type[Toy]) -> list[Candidate]:
    """Two sizes in one layer, absent members, starts above the first layer, another rate."""
    return [candidate(method, 2, 5, 1), candidate(method, 0, 2, 3, learning_rate=3e-3), candidate(method, 4, 0, 2)]


def weights_of(worker: Worker, found: Evaluation) -> dict[str, torch.Tensor]:
    weights = load_weights(worker.spec.keep, found.key)
    assert weights is not None
    return weights


def assert_equal(worker: Worker, packed: Evaluation, solo: Evaluation, kept: Mapping[str, torch.Tensor] | None) -> None:
    """The curves as far as the packed one goes; the weights where it went to the end."""
    assert packed.candidate == solo.candidate
    for own, other in zip(packed.curve, solo.curve, strict=False):
        assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert own["loss"] == pytest.approx(other["loss"], rel=1e-5)
    if kept is not None:
        weights = weights_of(worker, packed)
        assert weights.keys() == kept.keys()
        for name, value in kept.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


# --- what is called --------------------------------------------------------------------------------------------------

CALLS: list[tuple[Any, ...]] = []


class Recorder(Toy):
    name: ClassVar[str] = "recorder"
    phases: ClassVar[tuple[float, ...]] = (0.5, 0.5)

    @classmethod
    def prepare(cls, banks: Sequence[Bank], gradients: Callable[[int], None]) -> None:
        CALLS.append(("prepare",))

    @classmethod
    def before_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        CALLS.append(("before_step", moment.step, moment.steps))
        assert banks[0].B.grad is None

    @classmethod
    def penalty(cls, banks: Sequence[Bank]) -> None:
        CALLS.append(("penalty",))

    @classmethod
    def after_backward(cls, banks: Sequence[Bank], moment: Moment) -> None:
        CALLS.append(("after_backward", banks[0].B.grad is not None, moment.step))

    @classmethod
    def after_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
        CALLS.append(("after_step", banks[0].B.grad is not None, moment.step))

    @classmethod
    def end_phase(cls, banks: Sequence[Bank]) -> None:
        CALLS.append(("end_phase",))

    @classmethod
    def before_measure(cls, banks: Sequence[Bank]) -> None:
        CALLS.append(("before_measure",))


def test_hooks_are_called_in_order_and_once_a_step(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each batch goes through in several parts.
    monkeypatch.setitem(pack_module.TOKEN_BUDGETS, "cpu", 20)
    CALLS.clear()
    assert evaluate(worker, candidate(Recorder, 2)).error is None
    epoch = SETTINGS.epochs // 2

    def step(i: int) -> list[tuple[Any, ...]]:
        return [("before_step", i, epoch * STEPS), ("penalty",), ("after_backward", True, i), ("after_step", False, i)]

    phase = []
    for e in range(epoch):
        phase += [call for i in range(e * STEPS, (e + 1) * STEPS) for call in step(i)]
        phase.append(("before_measure",))
    assert [("prepare",), *phase, ("end_phase",), *phase] == CALLS


def test_what_a_method_does_not_define_is_not_called(worker: Worker) -> None:
    with Pack(worker.backbone, [candidate(Drawing, 2), candidate(Toy, 2)], SETTINGS) as pack:
        called = {hook: [m.name for m, _ in found] for hook, found in pack.procedures._hooks.items() if found}
    assert called == {"before_step": ["drawing"], "before_measure": ["drawing"]}


def test_hooks_are_given_the_banks_of_places_with_what_they_share(worker: Worker, data: TokenizedTask) -> None:
    """A state that a model has once goes along too, when another candidate is sliced out."""

    class Sharing(Toy):
        name: ClassVar[str] = "sharing"

        def shared(self, shape: Any) -> Mapping[str, Weight]:
            return {"count": Weight((self.rank,), kind="state")}

        @classmethod
        def after_step(cls, banks: Sequence[Bank], moment: Moment) -> None:
            assert [(bank.layer, bank.site) for bank in banks] == [(0, "v"), (1, "q"), (1, "down")]
            assert len({id(bank.shared) for bank in banks}) == 1
            banks[0].shared.count += banks[0].shared.own("count")

    chosen = [candidate(Sharing, 2, 4), candidate(Sharing, 1, 3)]
    batches = list(training_batches(data.train, SETTINGS.batch_size, data.pad_id, SETTINGS.seed, 1))
    with Pack(worker.backbone, chosen, SETTINGS, steps=STEPS) as pack:
        pack.step(batches[0], {}, pack.backbone.readout)
        pack.keep([1])
        pack.step(batches[1], {}, pack.backbone.readout)
        assert pack.attachment.banks.shared["sharing"].count.tolist() == [[2.0, 2.0, 2.0]]
        assert len(pack.weights(0)) == 3 * len(("A", "B", "mask")) + len(pack._heads["classifier"].names)


def test_generators_depend_on_the_seed_and_the_place_alone() -> None:
    one, other = Generators([3, 7], "a", 1), Generators([5, 3], "a", 1)
    assert torch.equal(torch.rand(9, generator=one[0]), torch.rand(9, generator=other[-1]))
    assert not torch.equal(torch.rand(9, generator=one[1]), torch.rand(9, generator=other[0]))
    assert not torch.equal(*(torch.rand(9, generator=Generators([3], "a", step)[0]) for step in (1, 2)))
    with pytest.raises(IndexError):
        one[2]


def test_the_trainer_names_no_method() -> None:
    for path in Path(engine.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Constant) and node.value in METHOD_NAMES
            imported = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autopeft.methods.")
            assert not named, f"{path.name}: {ast.unparse(node)}"
            assert not imported or "._" in node.module, f"{path.name}: {ast.unparse(node)}"


# --- company changes nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Drawing, Everything, Pruned, Twice, Rewound])
def test_packed_is_solo(method: type[Toy], worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is stopped after the first epoch, inside a phase; batches go through in other parts than alone."""
    chosen = members(method)
    solo = [evaluate(worker, one) for one in chosen]
    kept = [weights_of(worker, one) for one in solo]
    monkeypatch.setitem(pack_module.TOKEN_BUDGETS, "cpu", 300)
    found, seen = drive(worker.run(chosen), {1: [0]})
    assert seen == [[0, 1, 2]] + [[1, 2]] * 3
    assert [e.fidelity for e in found] == [1, 4, 4]
    for i, (packed, alone) in enumerate(zip(found, solo, strict=True)):
        assert_equal(worker, packed, alone, kept[i] if i else None)
    plain = evaluate(worker, Candidate(Hybrid(tuple(tuple(Toy(m.rank, m.sites) for m in ms) for ms in
                                                    chosen[0].hybrid.layers)), chosen[0].training))  # fmt: skip
    assert abs(plain.curve[-1]["loss"] - solo[0].curve[-1]["loss"]) > 2e-4, "the procedure does something"
    moved = [w.abs().max().item() for name, w in kept[1].items() if name.endswith(".B")]
    assert min(moved) > 1e-3


def test_a_frozen_mask_is_kept_with_the_weights(worker: Worker, data: TokenizedTask) -> None:
    found = evaluate(worker, members(Pruned)[0])
    weights = weights_of(worker, found)
    masks = {name: w for name, w in weights.items() if name.endswith(".mask")}
    assert len(masks) == 4
    assert not any(name.endswith(".seen") for name in weights)
    assert 0.3 < torch.cat([w.flatten() for w in masks.values()]).mean() < 0.7
    with Pack(worker.backbone, [found.candidate], SETTINGS) as pack:
        pack.load(0, weights)
        again = measure_pack(pack, data, data.validation, worker.frozen)[0]
    assert again["loss"] == pytest.approx(found.metrics["loss"], rel=1e-6)


def test_gradients_are_means_over_the_batches_that_come(worker: Worker, data: TokenizedTask) -> None:
    seen: list[torch.Tensor] = []

    class Asking(Toy):
        name: ClassVar[str] = "asking"

        @classmethod
        def prepare(cls, banks: Sequence[Bank], gradients: Callable[[int], None]) -> None:
            for count in (2, 1):
                gradients(count)
                seen.append(banks[0].B.grad.clone())

    with Pack(worker.backbone, [candidate(Asking, 2)], SETTINGS) as pack:
        before = pack.weights(0)
        prepare_pack(pack, data, worker.frozen)
        batches = training_batches(data.train, SETTINGS.batch_size, data.pad_id, SETTINGS.seed, 1)
        each = []
        for batch, _ in zip(batches, range(3), strict=False):
            assert pack.attachment.banks.layers["0"]["v"]["asking"].B.grad is None
            pack.backward(batch, {}, pack.backbone.readout)
            each.append(pack.attachment.banks.layers["0"]["v"]["asking"].B.grad.clone())
            for parameter in pack.parameters():
                parameter.grad = None
        assert all(torch.equal(before[name], value) for name, value in pack.weights(0).items())
    torch.testing.assert_close(seen[0], (each[0] + each[1]) / 2)
    torch.testing.assert_close(seen[1], each[2])


def test_two_phases_are_two_trainings(worker: Worker, data: TokenizedTask) -> None:
    """Written by hand: a training of one epoch, what happens between, and another of the other three."""

    class Early(Rewound):
        name: ClassVar[str] = "early"
        phases: ClassVar[tuple[float, ...]] = (0.25, 0.75)

    chosen = members(Early)[0]
    found = evaluate(worker, chosen)
    steps = phase_steps(SETTINGS, data, Company.of(chosen.hybrid))
    assert steps == [STEPS, 3 * STEPS]
    losses = []
    with Pack(worker.backbone, [chosen], SETTINGS, steps=steps[0]) as pack:
        losses.append(train_epoch(pack, data, worker.frozen, 1)[0])
        halfway = pack.weights(0)
    for name in [name for name in halfway if name.endswith(".B")]:
        size = halfway[name].abs()
        halfway[name.removesuffix("B") + "mask"] = (size > size.median()).float()
        halfway[name] = torch.zeros_like(size)
    with Pack(worker.backbone, [chosen], SETTINGS, steps=steps[1]) as pack:
        pack.load(0, halfway)
        losses += [train_epoch(pack, data, worker.frozen, epoch)[0] for epoch in (2, 3, 4)]
        expected = pack.weights(0)
    assert [e["train_loss"] for e in found.curve] == pytest.approx(losses, rel=1e-6)
    for name, value in weights_of(worker, found).items():
        torch.testing.assert_close(value, expected[name])


# --- who is trained with whom ----------------------------------------------------------------------------------------


def test_other_companies_are_trained_apart(worker: Worker) -> None:
    chosen = [members(Toy)[0], members(Rewound)[0], members(Alone)[1], members(Toy)[1], members(Rewound)[2],
              members(Twice)[0], Candidate(Hybrid.uniform(LAYERS))]  # fmt: skip
    found, seen = drive(worker.run(chosen), {1: [3], 6: [4]})
    epochs = SETTINGS.epochs
    assert seen == [[0, 3, 6], *[[0, 6]] * 3, [1, 4], [1, 4], [1], [1], *[[2]] * epochs, *[[5]] * epochs]
    assert [e.candidate for e in found] == chosen
    assert [e.fidelity for e in found] == [4, 4, 4, 1, 2, 4, 4]
    for packed in (found[1], found[6]):
        assert_equal(worker, packed, evaluate(worker, packed.candidate), None)


def test_large_methods_are_trained_few_at_once(worker: Worker) -> None:
    chosen = [candidate(Large, 1), candidate(Toy, 2), candidate(Large, 2), candidate(Large, 3)]
    found, seen = drive(worker.run(chosen), {})
    epochs = SETTINGS.epochs
    assert seen == [*[[0, 2]] * epochs, *[[3]] * epochs, *[[1]] * epochs]
    assert [e.candidate for e in found] == chosen


def test_a_training_that_is_too_short_fails_with_its_reason(worker: Worker, data: TokenizedTask) -> None:
    class Thirds(Toy):
        name: ClassVar[str] = "thirds"
        phases: ClassVar[tuple[float, ...]] = (0.2, 0.2, 0.6)

    mixed = Candidate(Hybrid.from_layers(LAYERS, {0: [Thirds(1), Rewound(1)]}))
    found = drain(worker.run([candidate(Toy, 1), mixed]))
    assert [e.status for e in found] == ["done", "failed"]
    assert found[1].error == (
        "methods 'rewound' and 'thirds' divide the training into different phases; leave one of them out"
    )
    short = replace(worker.spec, settings=SETTINGS.model_copy(update={"epochs": 2}))
    found = drain(Worker(short, data).run([candidate(Thirds, 1), candidate(Rewound, 1)]))
    assert [(e.status, e.fidelity) for e in found] == [("failed", 0), ("done", 2)]
    assert found[0].error == "the training has 3 phases and 2 epochs; set training.epochs to at least 3"


@pytest.mark.parametrize(
    ("phases", "epochs", "expected"),
    [
        ((1.0,), 1, [1]),
        ((0.5, 0.5), 2, [1, 1]),
        ((0.5, 0.5), 5, [2, 3]),
        ((0.1, 0.9), 3, [1, 2]),
        ((0.9, 0.1), 3, [2, 1]),
        ((0.01, 0.01, 0.98), 3, [1, 1, 1]),
        ((0.98, 0.01, 0.01), 10, [8, 1, 1]),
        ((1 / 3, 1 / 3, 1 / 3), 9, [3, 3, 3]),
        ((0.1, 0.2, 0.7), 10, [1, 2, 7]),
    ],
)
def test_every_phase_has_whole_epochs(phases: tuple[float, ...], epochs: int, expected: list[int]) -> None:
    assert Company(phases=phases).epochs(epochs) == expected


def test_a_second_pass_costs_as_much_as_the_first(worker: Worker) -> None:
    one, two = (worker.costs.candidate(candidate(method, 2, 3).hybrid) for method in (Toy, Twice))
    workload = replace(worker.costs.workload, trained=worker.costs.workload.trained.times(0))
    measured = replace(worker.costs, workload=workload).candidate(candidate(Toy, 2, 3).hybrid)
    assert 0 < measured < one
    assert two - measured == 2 * (one - measured)


# --- stopping --------------------------------------------------------------------------------------------------------


class Seeing(StoppingPlugin):
    name: ClassVar[str] = "seeing"
    description: ClassVar[str] = "stops all that it sees"
    seen: list[list[int]] = []

    def stop(self, courses: Sequence[Course], epochs: int) -> set[int]:
        self.seen.append([c.number for c in courses])
        return {c.number for c in courses}


def test_a_first_phase_is_neither_judged_nor_measured_against() -> None:
    rule = Seeing()
    courses = Courses(rule, [Objective.of("accuracy"), Objective.of("trainable_params")], 4)
    for number, method in enumerate((Rewound, Toy)):
        courses.begin(number, {"trainable_params": 1}, candidate(method, 1).hybrid)
    stopped = []
    for epoch in (1, 2, 3):
        for number in (0, 1):
            courses.epoch(number, {"epoch": epoch, "accuracy": 0.5, "loss": 1.0})
        stopped.append(courses.stop([0, 1]))
    assert stopped == [{1}, {1}, {0, 1}]
    assert rule.seen == [[1], [1], [0, 1]]


def test_epochs_that_are_not_judged_are_those_of_the_phase() -> None:
    class Early(Toy):
        name: ClassVar[str] = "early"
        phases: ClassVar[tuple[float, ...]] = (0.1, 0.9)
        judged_from: ClassVar[float] = 0.1

    assert [unjudged(candidate(Rewound, 1).hybrid, epochs) for epochs in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2]
    assert [unjudged(candidate(Early, 1).hybrid, epochs) for epochs in (2, 10, 20)] == [1, 1, 2]
    assert unjudged(candidate(Toy, 1).hybrid, 3) == 0
    with pytest.raises(AutopeftError, match="at least 2"):
        Company.of(candidate(Early, 1).hybrid).epochs(1)
