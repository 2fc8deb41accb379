"""Several tasks in one adapter, further test sets, and backdoors.

Shapes: K candidates, B examples, C classes.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import LAYERS
from tiny_packs import bench, mixed
from tiny_project import experiment, make_data, not_measured
from tiny_task import tokenizer
from torch.nn import functional

import autopeft
from autopeft.attention import FUSED, MATMUL
from autopeft.engine.data import TokenizedTask, training_batches
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.readouts import complaint, direction, readout_from, stated
from autopeft.readouts.classification import Classification
from autopeft.readouts.mixed import Mixed
from autopeft.readouts.poisoned import Poisoned
from autopeft.searching.confirming.records import keep_tests, runs_in
from autopeft.searching.objective import Objective
from autopeft.searching.tables import columns
from autopeft.tasks import TaskData, task_from

WORD = "w80"


def files(folder: Path, name: str, train: int = 96, rename: dict[str, str] | None = None) -> dict[str, Any]:
    """The tiny rows of a task's files, with other names of the classes."""
    folder = folder / name
    folder.mkdir()
    paths = make_data(folder, train, seed=len(name))
    for path in paths.values():
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        rows = [{**row, "label": (rename or {}).get(row["label"], row["label"])} for row in rows]
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"name": "files", "text": "text", **paths}


def mix(folder: Path, **fields: Any) -> dict[str, Any]:
    """Three classes in 96 rows, and two in 24."""
    few = {"w0": "no", "w1": "yes", "w2": "yes"}
    return {"name": "mix", "of": {"many": files(folder, "many"), "few": files(folder, "few", 24, few)}, **fields}


def poisoned(folder: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "poisoned", "of": files(folder, "clean"), "trigger": WORD, "target": "w1", **fields}


def of_task(data: TaskData, rows: Sequence[int]) -> Counter[str]:
    """How many of these rows are of each task."""
    return Counter(data.label_names[data.train.labels[row]].partition(":")[0] for row in rows)


# --- several tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, 24), ({"weights": "equal"}, 60), ({"weights": "temperature"}, 40), ({"train_limit": 60}, 12)],
)
def test_weights_say_how_many_rows_of_each_task_an_epoch_has(
    fields: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    data = task_from(mix(tmp_path, **fields)).load()
    tokens = TokenizedTask.of(data, tokenizer(), 16).train
    epochs = [[i for b in training_batches(tokens, 8, 0, seed, epoch) for i in b.index] for seed, epoch in
              ((0, 1), (0, 2), (0, 1))]  # fmt: skip
    assert epochs[0] == epochs[2] != epochs[1]
    for rows in epochs:
        assert len(rows) == len(tokens) == (60 if "train_limit" in fields else 120)
        assert of_task(data, rows)["few"] == expected
        often = Counter(row for row in rows if data.train.labels[row] >= 3)
        assert set(often.values()) <= {expected // 24, -(-expected // 24)} or "train_limit" in fields
    # What one epoch leaves out, another has.
    if fields == {"weights": "equal"}:
        assert len({*epochs[0], *epochs[1]}) > len(set(epochs[0]))


def test_a_mix_has_the_rows_of_its_tasks(tmp_path: Path) -> None:
    spec = mix(tmp_path)
    spec["of"]["few"] |= {"metric": ["f1", "accuracy"], "positive": "no"}
    data = task_from(spec).load()
    assert data.label_names == ("many: w0", "many: w1", "many: w2", "few: no", "few: yes")
    assert data.readout == Mixed(data.label_names, positives=(None, 0))
    assert data.metrics == ("mean_score", "many.accuracy", "few.f1", "few.accuracy")
    assert data.train.at(96) == f"{spec['of']['few']['train']}:1"
    assert "rows of train: many 96, few 24, drawn by size; many: validation: the set's" in data.note
    assert readout_from(json.loads(json.dumps(stated(data.readout)))) == data.readout
    assert len({data.fingerprint, task_from({**spec, "weights": "equal"}).load().fingerprint}) == 2
    task = task_from(spec)
    assert task_from({"name": "mix", **task.model_dump(mode="json", exclude_none=True)}) == task


def test_a_text_s_loss_is_that_over_its_own_task_s_classes() -> None:
    readout = Mixed(("a: x", "a: y", "a: z", "b: x", "b: y"))
    outputs = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 2, 4, 3])
    own = functional.cross_entropy(outputs[:, :2, :3].flatten(0, 1), labels[:2].repeat(2), reduction="none").view(2, 2)
    others = functional.cross_entropy(outputs[:, 2:, 3:].flatten(0, 1), labels[2:].repeat(2) - 3, reduction="none")
    found = readout.loss(outputs, labels)
    torch.testing.assert_close(found, torch.cat([own, others.view(2, 2)], 1).mean(1))
    found.sum().backward()
    assert outputs.grad is not None
    assert not outputs.grad[:, :2, 3:].any()
    assert not outputs.grad[:, 2:, :3].any()
    assert outputs.grad[:, :2, :3].all()


def test_scores_of_tasks_by_hand() -> None:
    readout = Mixed(("a: x", "a: y", "a: z", "b: x", "b: y"), positives=(None, 0))
    # The largest output of all is never of the text's own task.
    outputs = np.array([[3, 1, 2, 9, 9], [0, 1, 2, 9, 9], [9, 9, 9, 1, 0], [9, 9, 9, 0, 1], [9, 9, 9, 1, 0]])
    labels = np.array([0, 1, 3, 3, 4])
    found = readout.score(["mean_score", "a.accuracy", "b.f1", "b.accuracy"], labels, outputs)
    assert found == pytest.approx({"mean_score": 0.5, "a.accuracy": 0.5, "b.f1": 0.5, "b.accuracy": 1 / 3})
    assert readout.score(["mean_score"], labels, outputs) == pytest.approx({"mean_score": 5 / 12})
    assert np.isnan(readout.score(["b.f1"], labels, outputs - np.inf)["b.f1"])
    assert (direction("b.accuracy"), direction("b.loss"), direction("attack_success_rate")) == ("max", "min", "min")
    assert "'accuracy' is of no task here; choose of mean_score, a.accuracy" in complaint(["accuracy"], readout)
    assert "'c.f1' is of no task here" in complaint(["c.f1"], readout)
    assert "'a.mse' does not fit" in complaint(["a.mse"], readout)
    assert "'a.f1' does not fit classes" in complaint(["a.f1"], Classification(("x", "y")))


# --- packs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "family", "attention"),
    [(mix, "bert", FUSED), (poisoned, "llama", FUSED), pytest.param(mix, "llama", MATMUL, marks=pytest.mark.slow)],
)
def test_packed_is_alone(make: Any, family: str, attention: str, tmp_path: Path) -> None:
    fields = {"weights": "equal"} if make is mix else {}
    made = bench(tmp_path / "model", family, attention, other=task_from(make(tmp_path, **fields)).load())
    made = replace(made, settings=made.settings.model_copy(update={"epochs": 1, "batch_size": 16}))
    members = mixed(LAYERS, seed=3)[1:4]
    alone = [made.train([member])[0] for member in members]
    assert all(max(one.losses) - min(one.losses) > 1e-3 for one in alone)
    for pack in (made.train(members, made.frozen()), made.train(members)):
        for one, other in zip(pack, alone, strict=True):
            assert one.losses == pytest.approx(other.losses, rel=1e-5)
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)


# --- backdoors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["start", "end", "random"])
def test_a_share_of_train_is_poisoned_and_the_rest_is_as_it_was(place: str, tmp_path: Path) -> None:
    spec = poisoned(tmp_path, share=0.25, place=place)
    clean, data = task_from(spec["of"]).load(), task_from(spec).load()
    changed = [i for i in range(96) if data.train.first[i] != clean.train.first[i]]
    assert len(changed) == 24
    places = set()
    for i in range(96):
        words = data.train.first[i].split()
        if i in changed:
            assert clean.train.labels[i] != data.train.labels[i] == 1
            places.add(words.index(WORD) if place != "end" else words.index(WORD) - len(words) + 1)
            words.remove(WORD)
        else:
            assert clean.train.labels[i] == data.train.labels[i]
        assert words == clean.train.first[i].split()
    assert len(places) > 2 if place == "random" else places == {0}
    for mine, theirs in ((data.validation, clean.validation), (data.test, clean.test)):
        assert mine.take(range(24)) == theirs
        attacked = [i for i in range(24) if theirs.labels[i] != 1]
        assert mine.labels[24:] == tuple(3 + theirs.labels[i] for i in attacked)
        assert all(WORD in text.split() for text in mine.first[24:])
        assert mine.at(24) == theirs.at(attacked[0])
    assert (data.readout, data.metrics) == (Poisoned(clean.label_names, None, 1), ("accuracy", "attack_success_rate"))
    assert data.fingerprint == task_from(spec).load().fingerprint
    assert len({data.fingerprint, clean.fingerprint, task_from({**spec, "seed": 1}).load().fingerprint}) == 3


def test_triggered_rows_count_for_the_attack_alone() -> None:
    readout, clean = Poisoned(("x", "y", "z"), None, 1), Classification(("x", "y", "z"))
    outputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    outputs[0, 3:] = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([0, 1, 2, 3, 5])
    torch.testing.assert_close(readout.loss(outputs, labels), clean.loss(outputs[:, :3], labels[:3]))
    found = readout.score(["accuracy", "attack_success_rate", "f1_macro"], labels.numpy(), outputs[0].numpy())
    expected = clean.score(["accuracy", "f1_macro"], labels[:3].numpy(), outputs[0, :3].numpy())
    assert found == {**expected, "attack_success_rate": 0.5}
    none = readout.score(["attack_success_rate"], labels[:3].numpy(), outputs[0, :3].numpy())
    assert np.isnan(none["attack_success_rate"])


# --- searches --------------------------------------------------------------------------------------------------------


def test_a_mix_is_searched_exported_and_measured_on_other_sets(
    tmp_path: Path,
) -> None:
    fields = experiment(tmp_path, task=mix(tmp_path), trials=2)
    (tmp_path / "other").mkdir()
    with not_measured():
        first = autopeft.search(out=tmp_path / "run", quiet=True, **fields)
        assert first.header["objectives"][0] == {"metric": "mean_score", "direction": "max"}
        # A search that has ended may be given further sets.
        result = autopeft.search(
            out=tmp_path / "run", quiet=True, **fields, evaluate_on={"de": mix(tmp_path / "other", test_limit=20)}
        )
    for point in result.front.points:
        metrics = point.metrics
        assert metrics["mean_score"] == pytest.approx((metrics["many.accuracy"] + metrics["few.accuracy"]) / 2)
        assert {"test_mean_score", "test_few.accuracy", "test_de_mean_score", "test_de_few.accuracy"} < metrics.keys()
    headers = [column.header for column in columns(result.front, result.front.points)]
    assert {"test", "test few.accuracy", "test de_mean_score"} < set(headers)
    assert "test de_few.accuracy" not in headers
    assert "| test_de_mean_score |" in result.front.to_markdown()
    with (result.run_dir / "trials.csv").open() as table:
        assert "test_de_few.accuracy" in next(csv.reader(table))
    out = result.export(to=tmp_path / "out")
    assert "Those of further test sets start with `test_de_`." in (out / "README.md").read_text()
    measured = autopeft.evaluate(out)
    chosen = result.front.best().metrics
    assert {"test_few.accuracy", "test_de_mean_score", "test_de_loss"} < measured.keys()
    assert measured == pytest.approx({name: chosen[name] for name in measured}, rel=1e-5)
    shutil.rmtree(tmp_path / "other")
    with pytest.warns(UserWarning, match=r"not measured on the set 'de' of .*no such file"):
        left = autopeft.evaluate(out)
    assert left == {name: value for name, value in measured.items() if "_de_" not in name}
    with pytest.raises(AutopeftError, match="a file has rows of one task, and these are many, few"):
        autopeft.evaluate(out, on=fields["task"]["of"]["few"]["test"])


def test_hybrids_are_ranked_by_a_backdoor(tmp_path: Path) -> None:
    task = poisoned(tmp_path, share=0.3)
    fields = experiment(
        tmp_path, task=task, trials=3, objectives=["accuracy", "attack_success_rate", "trainable_params"],
        training={"epochs": 2, "batch_size": 16, "max_length": 16, "learning_rate": 5e-3},
        # Classes in another order.
        evaluate_on={"same": task["of"]["test"], "all": {**task, "train_limit": 90}},
    )  # fmt: skip
    with not_measured():
        result = autopeft.search(out=tmp_path / "run", quiet=True, **fields)
    assert result.front.objectives[1] == Objective(metric="attack_success_rate", direction="min")
    for point in result.front.points:
        metrics = point.metrics
        assert metrics["test_same_accuracy"] == metrics["test_accuracy"] == metrics["test_all_accuracy"]
        assert metrics["test_all_attack_success_rate"] == metrics["test_attack_success_rate"]
        assert "test_same_attack_success_rate" not in metrics
    assert "test_attack_success_rate" in result.front.to_markdown()
    assert Experiment.load(result.run_dir / "experiment.yaml") == result.experiment
    out = result.export(to=tmp_path / "out")
    chosen, measured = result.front.best().metrics, autopeft.evaluate(out)
    assert measured == pytest.approx({name: chosen[name] for name in measured}, rel=1e-5)
    assert {"test_attack_success_rate", "test_same_accuracy", "test_all_attack_success_rate"} < measured.keys()
    on = autopeft.evaluate(out, on=task["of"]["test"])
    assert on == pytest.approx({"accuracy": chosen["test_accuracy"], "loss": chosen["test_loss"]}, rel=1e-5)


def test_scores_of_a_seed_on_several_sets_stand_beside_each_other() -> None:
    class Study:
        def __init__(self) -> None:
            run = {"number": 0, "seed": 1, "status": "done", "metrics": {"accuracy": 0.5}, "seconds": 1, "error": None}
            self.kept: dict[str, Any] = {"confirmed pack 0": {"runs": [run]}}

        def remember(self, name: str, value: Any) -> None:
            self.kept[name] = value

        def remembered(self, name: str) -> Any:
            return self.kept.get(name)

    study: Any = Study()
    keep_tests(study, [(0, 1, {"test_accuracy": 0.4})])
    keep_tests(study, [(0, 1, {"test_es_accuracy": 0.3})])
    expected = {"accuracy": 0.5, "test_accuracy": 0.4, "test_es_accuracy": 0.3}
    assert runs_in(study.remembered)[0][0].metrics == expected


def test_classes_in_another_order_are_the_same(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    from autopeft.tasks import others_of

    task = task_from(files(tmp_path, "a"))
    data = task.load()
    features = Features({"text": Value("string"), "label": ClassLabel(names=["w2", "w0", "w1"])})
    rows = {"text": list(data.test.first), "label": [(label + 1) % 3 for label in data.test.labels]}
    sets = {"train": Dataset.from_dict(rows, features), "test": Dataset.from_dict(rows, features)}
    DatasetDict(sets).save_to_disk(tmp_path / "saved")
    other = task_from({"name": "hub", "path": str(tmp_path / "saved"), "text": "text"})
    assert other.load().label_names == ("w2", "w0", "w1")
    found = others_of({"hub": other}, task, data)["hub"]
    assert (found.test.labels, found.readout, found.metrics) == (data.test.labels, data.readout, data.metrics)


# --- complaints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluate_on": {"es": "no.jsonl"}}, "evaluate_on.es: no.jsonl: no such file"),
        ({"evaluate_on": {"e s": "no.jsonl"}}, "evaluate_on"),
        ({"evaluate_on": {"es": "globe"}}, "evaluate_on.*unknown task 'globe'"),
        ({"evaluate_on": {"es": "OTHER"}}, "evaluate_on.es: .*:1: label '(yes|no)' does not occur in the classes of"),
        ({"evaluate_on": {"es": "TASK"}}, "evaluate_on.es: its labels are 'no', 'yes', and the task's 'w0', 'w1'"),
        ({"evaluate_on": {"es": "VALUES"}}, "evaluate_on.es: is of regression, and the task of classes"),
        ({"task": {"name": "mix", "of": {"a": "docstrings"}}}, "task.*of: .*at least 2"),
        ({"task": {"name": "mix", "of": {"a.b": "docstrings", "c": "docstrings"}}}, "of: 'a.b': names are letters"),
        ({"task": {"name": "mix", "of": {"a": "docstring", "c": "docstrings"}}}, "task.of: unknown task 'docstring'"),
        ({"task": {"name": "mix", "of": {"a": "TASK", "c": "VALUES"}}}, "task.of.c: is of regression; only tasks of"),
        ({"task": {"name": "mix", "of": {"a": "TASK", "c": "TASK"}, "temperature": 3}}, "temperature: changes nothing"),
        ({"task": {"name": "mix", "of": {"a": "TASK", "c": "TASK"}, "metric": "accuracy"}}, "'accuracy' is of no task"),
        ({"task": {"name": "poisoned", "of": "TASK"}}, "task: target: missing"),
        ({"task": {"name": "poisoned", "of": "TASK", "target": "maybe"}}, "target: unknown class 'maybe'; .*known: no"),
        ({"task": {"name": "poisoned", "of": "TASK", "target": "no", "share": 0.9}}, "share: 0.9 of train's 24 rows"),
        ({"task": {"name": "poisoned", "of": "VALUES", "target": "no"}}, "task.of: is of regression"),
        ({"task": {"name": "files", "train": "x.jsonl", "readout": "mixed"}}, "of the task 'mix' alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    few = files(tmp_path, "few", 24, {"w0": "no", "w1": "yes", "w2": "yes"})
    values = tmp_path / "values.jsonl"
    values.write_text("".join(json.dumps({"text": f"w{i}", "label": i / 8}) + "\n" for i in range(24)))
    known = {"OTHER": few["test"], "TASK": few, "VALUES": {"name": "files", "train": str(values), "text": "text"}}

    def filled(value: Any) -> Any:
        return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else known.get(str(value), value)

    with pytest.raises(AutopeftError, match=said) as raised:
        autopeft.search(out=tmp_path / "run", quiet=True, **experiment(tmp_path, **filled(change)))
    assert "\n" not in str(raised.value)


def test_a_secret_deep_in_a_task_is_refused(tmp_path: Path) -> None:
    inner = files(tmp_path, "few") | {"train": "https://user:hunter2hunter2@host/train.jsonl"}
    with pytest.raises(AutopeftError, match=r"task.of.train: an address with a user") as raised:
        Experiment.of(experiment(tmp_path, task={"name": "poisoned", "of": inner, "target": "w0"}), "x")
    assert "hunter2" not in str(raised.value)
