"""What is done with trained adapters. Shapes: N examples, C classes, P weights of the head's last map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_export import Project
from tiny_models import LAYERS, everywhere, make, perturb
from tiny_packs import SETTINGS, Bench, bench
from tiny_task import classes, save_model, sets, tags, task, tokenizer

from autopeft.after import AFTER
from autopeft.after._calibration import Calibration, expected_calibration_error
from autopeft.after.laplace import _features, _last_map, calibrate, curvature, laplace
from autopeft.after.lorahub import lightest, lorahub
from autopeft.after.moelora import Gate, TaskExperts, moelora
from autopeft.after.task_arithmetic import task_arithmetic
from autopeft.attention import FUSED
from autopeft.baselines._kept import Kept, load_baseline, record_of, save_baseline
from autopeft.baselines._training import own_backbone
from autopeft.baselines.l_lora import LLoRA
from autopeft.baselines.lst import LST
from autopeft.engine.data import TokenizedTask, collate
from autopeft.engine.train import measure
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.dora import DoRA
from autopeft.methods.lora import LoRA
from autopeft.models import ModelSource, find_model
from autopeft.tasks import TaskData


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.of(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def exported(project: Project) -> Path:
    return project.export(project.folder / "trained", everywhere(LoRA(4, ("q", "v"))))


@pytest.fixture(scope="module", params=["bert", "llama"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("model"), request.param, FUSED)


def logits(model: Any, data: TokenizedTask, *task_name: str) -> torch.Tensor:
    batch = collate(data.validation, np.arange(6), data.pad_id)
    with torch.no_grad():
        found: torch.Tensor = model(*task_name, **batch.inputs).logits
    return found


def test_every_record_names_a_function() -> None:
    import importlib

    assert AFTER.names() == ["laplace", "lorahub", "moelora", "task_arithmetic"]
    for record in AFTER.all().values():
        module, _, name = record.function.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
        assert record.description
        assert record.paper


# --- Laplace ---------------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    # Two bins are in use: .6 and .65 (one of two right), and 1.0 (right); 1 / 3 is in the bin that ends with it.
    probabilities = torch.tensor([[0.6, 0.4], [0.35, 0.65], [1.0, 0.0]], dtype=torch.double)
    labels = torch.tensor([0, 0, 0])
    found = expected_calibration_error(probabilities, labels, bins=5)
    # .6 is the end of the third of five bins, .65 in the fourth.
    assert found == pytest.approx((abs(1 - 0.6) + abs(0 - 0.65) + 0) / 3)
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(abs(2 - 2.25) / 3)
    of = Calibration.of(probabilities, labels)
    assert of.accuracy == pytest.approx(2 / 3)
    assert of.nll == pytest.approx(-(np.log(0.6) + np.log(0.35)) / 3)


def test_the_curvature_is_that_of_the_loss() -> None:
    torch.manual_seed(0)
    features, weights = torch.randn(7, 3, dtype=torch.double), torch.randn(4 * 3, dtype=torch.double)
    labels = torch.arange(7) % 4

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(features @ w.view(4, 3).T, labels, reduction="sum")

    # In the last layer the generalised Gauss-Newton matrix is the Hessian.
    hessian = torch.autograd.functional.hessian(loss, weights)
    torch.testing.assert_close(curvature(features, (features @ weights.view(4, 3).T).softmax(1)), hessian)


@pytest.mark.parametrize("choose", ["validation", "marginal_likelihood"])
def test_laplace_softens_and_keeps_the_predictions(choose: Any, exported: Path, project: Project) -> None:
    found = laplace(exported, choose)
    assert found.kept >= 0.95
    batch = collate(project.task.test, np.arange(len(project.task.test)), project.task.pad_id)
    with torch.no_grad():
        plain = found.posterior.model(**batch.inputs).logits.double().softmax(1)
    softer = found.posterior.probabilities(**batch.inputs)
    # Every variance is positive: no probability of a prediction that stays gets sharper.
    same = plain.argmax(1) == softer.argmax(1)
    assert bool((softer.max(1).values <= plain.max(1).values + 1e-9)[same].all())
    labels = torch.from_numpy(project.task.test.labels)
    assert found.before.ece == pytest.approx(_error_by_hand(plain, labels), abs=1e-4)
    assert found.after.ece == pytest.approx(_error_by_hand(softer, labels), abs=1e-4)
    if choose == "validation":
        assert found.after.nll < found.before.nll + 0.05


def _error_by_hand(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    bins: dict[int, list[tuple[float, float]]] = {}
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        bins.setdefault(int(np.ceil(max(row) * 15)), []).append((max(row), float(row.index(max(row)) == label)))
    gaps = [abs(sum(right for _, right in b) - sum(sure for sure, _ in b)) for b in bins.values()]
    return sum(gaps) / len(labels)


def test_variances_are_those_of_the_posterior(made: Bench) -> None:
    model = own_backbone(made.source, made.data, SETTINGS).model
    found = calibrate(model, made.data)
    posterior, wide = found.posterior, _last_map(model)
    batch = collate(made.data.validation, np.arange(3), made.data.pad_id)
    features, means = _features(model, batch.inputs)
    bias = wide.bias if wide.bias is not None else torch.zeros(1)
    torch.testing.assert_close(
        means.float(), features[:, : wide.in_features].float() @ wide.weight.T + bias, rtol=1e-5, atol=1e-5
    )
    covariance = (posterior.vectors / (posterior.values + posterior.prior_precision)) @ posterior.vectors.T
    classes = means.shape[1]
    jacobian = torch.zeros(classes, classes, features.shape[1], dtype=torch.double)
    jacobian[range(classes), range(classes)] = features[0]
    expected = (jacobian.flatten(1) @ covariance @ jacobian.flatten(1).T).diagonal()
    variances = posterior.variances(features, torch.tensor([posterior.prior_precision]))[0, :, 0]
    torch.testing.assert_close(variances, expected)


@pytest.mark.parametrize("other", [None, sets(), tags()], ids=["regression", "sets", "words"])
def test_what_is_not_a_class_has_no_calibration(other: TaskData | None, tmp_path: Path) -> None:
    made = bench(tmp_path / "model", "bert", FUSED, regression=True, other=other)
    with pytest.raises(AutopeftError, match="only classes can be calibrated"):
        calibrate(own_backbone(made.source, made.data, SETTINGS).model, made.data)


# --- LoRAHub ---------------------------------------------------------------------------------------------------------


def test_the_best_weights_of_a_known_toy_are_found() -> None:
    best = (1.0, -0.5)

    def loss(weights: Sequence[float]) -> float:
        return sum((w - b) ** 2 for w, b in zip(weights, best, strict=True))

    # The penalty p / N |w| pulls every weight p / 2N towards zero.
    for penalty, expected in ((0.0, best), (0.8, (0.8, -0.3))):
        found = lightest(loss, 2, trials=18, penalty=penalty, seed=0)
        assert np.abs(np.subtract(found, expected)).max() < 0.15


def test_a_mixture_finds_the_adapter_that_knows_the_task(exported: Path, project: Project, tmp_path: Path) -> None:
    mixed = Hybrid.from_layers(LAYERS, {1: [LoRA(2, ("k",)), LoRA(3, ("up",))]})
    others = [project.export(tmp_path / str(i), mixed, epochs=0, seed=i) for i in (1, 2)]
    few = replace(project.task, train=project.task.validation)
    mixture = lorahub([others[0], exported, others[1]], few, trials=12)
    assert abs(mixture.weights[1]) > max(abs(mixture.weights[0]), abs(mixture.weights[2]))
    alone = _alone(exported, project)
    assert measure(mixture.model, project.task, project.task.test)["loss"] < alone["loss"] + 0.2
    mixture.save(tmp_path / "mixture")
    assert (tmp_path / "mixture" / "adapter_model.safetensors").is_file()


def _alone(folder: Path, project: Project) -> dict[str, float]:
    from autopeft.exporting.evaluation import open_export

    return measure(open_export(folder).model, project.task, project.task.test)


def test_a_weight_of_one_is_that_adapter(exported: Path, project: Project, tmp_path: Path) -> None:
    from autopeft.after.lorahub import _opened, set_mixture
    from autopeft.exporting.evaluation import open_export

    other = project.export(tmp_path / "other", Hybrid.from_layers(LAYERS, {0: [LoRA(5, ("o",))]}), epochs=1)
    states, model = _opened([exported, other], project.task, False)
    for weights, folder in (((1.0, 0.0), exported), ((0.0, 1.0), other)):
        set_mixture(model, states, weights)
        expected = logits(open_export(folder).model, project.task)
        torch.testing.assert_close(logits(model, project.task), expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_mixed_is_refused(exported: Path, project: Project, tmp_path: Path) -> None:
    hybrid = project.export(tmp_path / "hybrid", everywhere(make("prefix", 2)), epochs=0)
    dora = project.export(tmp_path / "dora", everywhere(DoRA(2, ("q",))), epochs=0)
    for folders, changes, what in (
        ([exported, dora], {}, "is DoRA, whose magnitudes cannot be added up"),
        ([exported], {}, "two exports or more"),
        ([exported, hybrid], {}, "is no LoRA alone"),
        ([exported, exported], {"readout": classes(5)}, "the task needs 5"),
        ([exported, exported], {"readout": sets().readout}, "are for classes, and the task has sets of classes"),
        ([exported, tmp_path / "nothing"], {}, "nothing"),
    ):
        with pytest.raises(AutopeftError, match=what):
            lorahub(folders, replace(project.task, **changes), trials=1)  # type: ignore[arg-type]


# --- MOELoRA ---------------------------------------------------------------------------------------------------------


def two_tasks() -> list[TokenizedTask]:
    """The tiny task, and the same with its classes named otherwise: no single adapter can do both with one gate."""
    first = TokenizedTask.of(task(sizes=(60, 30, 30)), tokenizer(), 16)
    other = {s: replace(getattr(first, s), labels=(getattr(first, s).labels + 1) % 3) for s in ("train", "validation")}
    return [first, replace(first, name="turned", **other)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return find_model(str(save_model(tmp_path_factory.mktemp("bert"))))


def test_a_gate_chooses_for_each_task(source: ModelSource, tmp_path: Path) -> None:
    from peft import PeftModel

    tasks = two_tasks()
    settings = SETTINGS.model_copy(update={"epochs": 8, "batch_size": 20, "learning_rate": 2e-2})
    model, scores = moelora(source, tasks, settings, rank=4, experts=2)
    assert all(score["accuracy"] > 0.5 for score in scores.values())
    shares = [model.gate(t) for t in range(2)]
    assert all(bool(s.sum().isclose(torch.tensor(1.0))) for s in shares)
    assert float((shares[0] - shares[1]).abs().max()) > 0.05
    # A task's own adapter is a plain LoRA, which computes the same without a gate.
    for one in tasks:
        model.export(source, one, tmp_path / one.name)
        base = source.model(one.readout, torch.float32, one.pad_id)
        plain = PeftModel.from_pretrained(base, str(tmp_path / one.name)).eval()
        torch.testing.assert_close(logits(plain, one), logits(model, one, one.name), rtol=1e-4, atol=1e-5)


def test_a_shut_gate_leaves_an_expert_out(source: ModelSource) -> None:
    tasks = two_tasks()
    model = TaskExperts(own_backbone(source, tasks[0], SETTINGS), ["tiny", "turned"], 4, 2, ("q", "up"), 0)
    low: Any = model.low.maps["1:up"]
    with torch.no_grad():
        torch.nn.init.normal_(low.B)
        model.gate.tasks.copy_(torch.eye(2, 16) * 200)
        model.gate.W.copy_(torch.eye(2, 16))
    with pytest.raises(AutopeftError, match="moelora: it was not trained on task 'turn'; did you mean 'turned'"):
        model.weights("turn")
    before = [logits(model, tasks[0], name) for name in model.tasks]
    with torch.no_grad():
        low.B[:, :2] += 1.0
    after = [logits(model, tasks[0], name) for name in model.tasks]
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert sum(p.numel() for p in model.gate.parameters()) == 2 * 16 + 16 * 2


def test_tasks_that_do_not_fit_are_refused(source: ModelSource) -> None:
    tasks = two_tasks()
    for given, options, what in (
        (tasks[:1], {}, "two tasks or more"),
        ([tasks[0], tasks[0]], {}, "a name of its own"),
        ([tasks[0], replace(tasks[1], readout=classes(4))], {}, "heads of different sizes"),
        ([tasks[0], replace(tasks[1], readout=sets().readout)], {}, "heads of different sizes or kinds"),
        (tasks, {"rank": 3, "experts": 2}, "2 experts cannot share a rank of 3"),
        (tasks, {"sites": ("qq",)}, "unknown site 'qq'"),
    ):
        with pytest.raises(AutopeftError, match=what):
            moelora(source, given, SETTINGS, **options)  # type: ignore[arg-type]


def test_a_gate_is_a_softmax_of_the_tasks_vector() -> None:
    gate = Gate(2, 3, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(gate(1), torch.softmax(gate.W @ gate.tasks[1], 0))


# --- L-LoRA ----------------------------------------------------------------------------------------------------------


def test_a_linearised_lora_is_linear_in_its_weights(made: Bench, tmp_path: Path) -> None:
    kind = LLoRA(rank=2, sites="q,down")
    fitted = kind.fit(made.source, made.data, SETTINGS.model_copy(update={"epochs": 1, "batch_size": 26}))
    model: Any = fitted.model
    drawn = [torch.randn_like(p) for p in model.changes]
    assert all(bool(p.any()) for p in model.changes)

    def at(scale: float) -> torch.Tensor:
        with torch.no_grad():
            for p, d in zip(model.changes, drawn, strict=True):
                p.copy_(scale * d)
        return logits(model, made.data)

    zero, one, three = at(0.0), at(1.0), at(3.0)
    assert not torch.allclose(zero, one, atol=1e-3)
    torch.testing.assert_close(three - zero, 3 * (one - zero), rtol=1e-4, atol=1e-4)
    # At zero it is the model itself, and near zero LoRA's own outputs.
    torch.testing.assert_close(zero, logits(model.model, made.data), rtol=1e-5, atol=1e-5)
    small = at(1e-3)
    with torch.no_grad():
        for low, change in zip(model.low.maps.values(), model.changes, strict=True):
            low.B.copy_(change)
    own = logits(model.low, made.data)
    assert float((own - small).abs().max()) < 0.05 * float((small - zero).abs().max())
    shape = made.backbone.shape
    assert fitted.trainable_params == 2 * LAYERS * (shape.sites["q"][1] + shape.sites["down"][1])


def test_tasks_add_up(source: ModelSource, tmp_path: Path) -> None:
    data = two_tasks()[0]
    for name, start in (("a", 0), ("b", 0), ("c", 3)):
        kind = LLoRA(2, start=start)
        model = kind._linearised(own_backbone(source, data, SETTINGS), record_of(kind, source, data))
        perturb(model.changes, seed=ord(name))
        save_baseline(model, tmp_path / name)
        assert torch.equal(logits(load_baseline(tmp_path / name), data), logits(model, data))
    pair = [tmp_path / "a", tmp_path / "b"]
    one, none = task_arithmetic(pair, (1.0, 0.0)), task_arithmetic(pair, (0.0, 0.0))
    assert torch.equal(logits(one, data), logits(load_baseline(tmp_path / "a"), data))
    base, first, second = (logits(m, data) for m in (none, one, task_arithmetic(pair, (0.0, 1.0))))
    both = logits(task_arithmetic(pair, (0.5, 2.0)), data)
    torch.testing.assert_close(both - base, 0.5 * (first - base) + 2 * (second - base), rtol=1e-4, atol=1e-4)
    with pytest.raises(AutopeftError, match="began at other weights"):
        task_arithmetic([tmp_path / "a", tmp_path / "c"], (1.0, 1.0))
    with pytest.raises(AutopeftError, match="one for each"):
        task_arithmetic(pair, (1.0,))
    kept = Kept.read(tmp_path / "b")
    lost = next(name for name in kept.tensors if name.startswith("change."))
    for tensors in ({n: t for n, t in kept.tensors.items() if n != lost}, kept.tensors | {lost: torch.zeros(1, 2)}):
        Kept(kept.record, tensors).write(tmp_path / "spoilt")
        with pytest.raises(AutopeftError, match=rf"spoilt: '{lost}' is missing, or of another shape than in .*a;"):
            task_arithmetic([tmp_path / "a", tmp_path / "spoilt"], (1.0, 1.0))
    Kept(kept.record.model_copy(update={"files": {"config.json": "0"}}), kept.tensors).write(tmp_path / "spoilt")
    with pytest.raises(AutopeftError, match="began at other weights"):
        task_arithmetic([tmp_path / "a", tmp_path / "spoilt"], (1.0, 1.0))
    beside = LST()._beside(own_backbone(source, data, SETTINGS), record_of(LST(), source, data), 0)
    save_baseline(beside, tmp_path / "lst")
    for folders in ([tmp_path / "lst"], [tmp_path / "a", tmp_path / "lst"]):
        with pytest.raises(AutopeftError, match="lst: is no L-LoRA"):
            task_arithmetic(folders, [1.0] * len(folders))
