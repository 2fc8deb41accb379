from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_task import classes

from autopeft.errors import AutopeftError
from autopeft.readouts import complaint as wrong_metrics
from autopeft.readouts import direction, known_metrics
from autopeft.readouts.regression import Regression
from autopeft.tasks import TASKS, Split, TaskData, task_from
from autopeft.tasks._splits import allot, pick

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared/data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")


def rows(n: int, classes: int = 2, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"row {i}", "label": f"c{i % classes}"} for i in range(start, start + n)]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def files(tmp_path: Path, train: list[dict[str, Any]], **fields: Any) -> TaskData:
    for key in ("validation", "test"):
        if isinstance(fields.get(key), list):
            fields[key] = write(tmp_path / f"{key}.jsonl", fields[key])
    spec = {"name": "files", "train": write(tmp_path / "train.jsonl", train), "text": "text", **fields}
    return task_from(spec).load()


def complaint(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- choosing a task -------------------------------------------------------------------------------------------------


def test_tasks_are_found_by_name_and_say_what_they_are() -> None:
    assert {"docstrings", "files", "glue", "hub"} <= set(TASKS.names())
    assert all(kind.description for kind in TASKS.all().values())


def test_listing_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from autopeft.tasks import TASKS; TASKS.names(); "
        "print([m for m in ('torch','transformers','datasets','sklearn','pandas','numpy','scipy','pyarrow') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_with_a_variant_is_the_same_as_the_field() -> None:
    assert task_from("glue/rte") == task_from({"name": "glue", "subset": "rte"})
    assert task_from({"name": "glue/rte", "train_limit": 9}) == task_from(
        {"name": "glue", "subset": "rte", "train_limit": 9}
    )


@pytest.mark.parametrize("spec", ["docstrings", "glue/mnli", {"name": "hub", "path": "a/b", "text": ["x", "y"]}])
def test_a_task_survives_being_written_down(spec: Any) -> None:
    task = task_from(spec)
    assert task_from({"name": task.name, **task.model_dump()}) == task


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("docstring", ["x.yaml: task: unknown task 'docstring'", "did you mean 'docstrings'"]),
        ({"train": "x"}, ["x.yaml: task: name: missing", "glue"]),
        ({"name": 3}, ["name: expected", "3"]),
        (None, ["x.yaml: task: expected a task's name"]),
        ("files/x", ["task 'files' has no variants"]),
        ({"name": "glue/rte", "subset": "mrpc"}, ["subset: given twice"]),
        ("glue/rtee", ["subset", "rtee"]),
        ({"name": "files", "train": "a.csv", "txt": "x", "text": "x"}, ["txt: unknown key", "did you mean 'text'"]),
        ({"name": "files", "train": "a.csv", "readout": "classification"}, ["text: missing"]),
        ({"name": "files", "train": "a.csv", "regression": True}, ["text: missing"]),
        ({"name": "files", "train": "a.csv", "text": "x", "score": "last"}, ["'score' is for", "leave one out"]),
        ({"name": "files", "train": "a.csv", "format": "message"}, ["format 'message'", "did you mean 'messages'"]),
        ({"name": "files", "train": "a.csv", "columns": {"a": "prmpt"}}, ["'a: prmpt'", "did you mean 'prompt'"]),
        ({"name": "files", "train": "a.csv", "score": "first"}, ["score", "'completion'"]),
        ({"name": "files", "train": "a.txt", "text": "x"}, ["train: 'a.txt'", ".jsonl"]),
        ({"name": "files", "train": "a.csv", "text": ["a", "b", "c"]}, ["text: expected"]),
        ({"name": "files", "train": "a.csv", "text": 3}, ["text: expected"]),
        ({"name": "docstrings", "metric": "acuracy"}, ["metric: unknown metric", "did you mean 'accuracy'"]),
        ({"name": "docstrings", "metric": []}, ["metric: expected"]),
        ({"name": "docstrings", "validation_share": 0.5}, ["validation_share", "0.3"]),
        ({"name": "docstrings", "train_limit": 0}, ["train_limit"]),
    ],
)
def test_a_wrong_choice_names_its_place_and_the_remedy(spec: Any, parts: list[str]) -> None:
    message = complaint(task_from, spec, "x.yaml: task")
    assert message.startswith("x.yaml: task: ")
    assert all(part in message for part in parts), message


# --- the policy for splits -------------------------------------------------------------------------------------------

counts_and_size = st.lists(st.integers(1, 60), min_size=1, max_size=8).flatmap(
    lambda counts: st.tuples(st.just(counts), st.integers(len(counts), sum(counts)))
)


@given(counts_and_size)
def test_allotted_rows_are_in_proportion(drawn: tuple[list[int], int]) -> None:
    counts, size = drawn
    given_ = allot(counts, size)
    assert sum(given_) == size
    assert all(1 <= number <= count for number, count in zip(given_, counts, strict=True))
    exact = [count * size / sum(counts) for count in counts]
    if min(exact) >= 1:
        assert all(abs(number - share) < 1 for number, share in zip(given_, exact, strict=True))


@given(st.lists(st.integers(0, 4), min_size=5, max_size=80), st.integers(0, 5), st.data())
def test_a_choice_is_seeded_ascending_and_holds_every_class(labels: list[int], seed: int, data: Any) -> None:
    size = data.draw(st.integers(len(set(labels)), len(labels)))
    chosen = pick(labels, len(labels), size, (seed,))
    assert chosen == sorted(set(chosen)) == pick(labels, len(labels), size, (seed,))
    assert len(chosen) == size
    assert {labels[i] for i in chosen} == set(labels)


def load_labels(labels: list[Any], tmp: Path, **fields: Any) -> TaskData:
    return files(tmp, [{"text": f"{i}", "label": label} for i, label in enumerate(labels)], **fields)


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    share=st.sampled_from([0.01, 0.1, 0.15, 0.3]),
    seed=st.integers(0, 3),
)
def test_cut_splits_are_disjoint_cover_all_and_hold_every_class(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], share: float, seed: int
) -> None:
    labels = [f"c{k}" for k, count in enumerate(counts) for _ in range(count)]
    tmp = tmp_path_factory.mktemp("cut")
    data = load_labels(labels, tmp, validation_share=share, seed=seed)
    parts = (data.train, data.validation, data.test)
    texts = [text for part in parts for text in part.first]
    assert sorted(texts, key=int) == [str(i) for i in range(len(labels))]
    assert all(set(part.labels) == set(range(len(counts))) for part in parts)
    for part in parts:
        assert [labels[int(text)] for text in part.first] == [data.label_names[int(label)] for label in part.labels]
    size = max(len(counts), int(share * len(labels)))
    assert len(data.validation) == len(data.test) == size
    again = load_labels(labels, tmp, validation_share=share, seed=seed)
    assert again == data
    assert again.fingerprint == data.fingerprint


def test_labelled_splits_are_used_as_they_are(tmp_path: Path) -> None:
    data = files(tmp_path, rows(20), validation=rows(4, start=20), test=rows(6, start=24))
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 6)
    assert data.note == "validation: the set's validation split; test: the set's test split"


def test_without_a_test_the_validation_split_is_the_test(tmp_path: Path) -> None:
    data = files(tmp_path, rows(20), validation=rows(4, start=20))
    assert data.test.first == tuple(f"row {i}" for i in range(20, 24))
    assert (len(data.train), len(data.validation)) == (18, 2)
    assert data.note == "validation: 10% of train, stratified, seed 0; test: the set's validation split"


def test_without_a_validation_it_is_cut_and_the_test_stays(tmp_path: Path) -> None:
    data = files(tmp_path, rows(20), test=rows(4, start=20), validation_share=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 4)
    assert data.test.first[0] == "row 20"


def test_another_seed_cuts_other_rows(tmp_path: Path) -> None:
    first, other = (files(tmp_path, rows(100), seed=seed) for seed in (0, 1))
    assert first.validation != other.validation
    assert first.test != other.test
    assert first.fingerprint != other.fingerprint


def test_limits_keep_the_classes_and_do_not_move_other_rows(tmp_path: Path) -> None:
    train = rows(90) + [{"text": f"rare {i}", "label": "rare"} for i in range(5)]
    whole = files(tmp_path, train)
    small = files(tmp_path, train, train_limit=10, test_limit=5)
    assert (len(small.train), len(small.test)) == (10, 5)
    assert set(small.train.labels) == {0, 1, 2}
    assert set(small.train.first) < set(whole.train.first)
    assert small.validation == whole.validation
    assert small.note.endswith("train at most 10 rows; test at most 5 rows")
    assert files(tmp_path, train, train_limit=1000).train == whole.train
    message = complaint(files, tmp_path, train, train_limit=2)
    assert "train_limit: 2 rows can't hold all 3 labels; give at least 3" in message


def test_regression_is_cut_and_limited_without_classes(tmp_path: Path) -> None:
    data = load_labels([i / 7 for i in range(50)], tmp_path, train_limit=30)
    assert data.readout == Regression()
    assert data.readout.outputs == 1
    assert data.label_names == ()
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 5, 5)
    assert all(int(text) / 7 == label for text, label in zip(data.train.first, data.train.labels, strict=True))
    assert data.metrics == ("spearman",)
    assert "at random" in data.note


def test_pairs_stay_together(tmp_path: Path) -> None:
    train = [{"a": f"a{i}", "b": f"b{i}", "label": i % 2} for i in range(30)]
    data = files(tmp_path, train, text=["a", "b"])
    assert data.train.second is not None
    assert all(a[1:] == b[1:] for a, b in zip(data.train.first, data.train.second, strict=True))


def test_take_keeps_rows_together() -> None:
    split = Split(("a", "b", "c"), ("x", "y", "z"), (0, 1, 2))
    assert split.take([2, 0]) == Split(("c", "a"), ("z", "x"), (2, 0))
    assert len(split.take([])) == 0


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "2"], ("2", "9", "10")),
        ([1.0, 0.0, -1.0], ("-1", "0", "1")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([True, False], ("false", "true")),
        (["nan", "inf", "1.5"], ("1.5", "inf", "nan")),
    ],
)
def test_classes_are_in_a_fixed_order(tmp_path: Path, labels: list[Any], names: tuple[str, ...]) -> None:
    data = load_labels(labels * 10, tmp_path)
    assert data.label_names == names
    assert data.readout.outputs == len(names)


def test_numbers_can_be_read_as_classes_or_as_values(tmp_path: Path) -> None:
    assert load_labels([0.5, 1.5] * 10, tmp_path, regression=False).label_names == ("0.5", "1.5")
    data = load_labels([0, 1, 2, 3] * 5, tmp_path, regression=True)
    assert data.readout == Regression()
    assert all(isinstance(label, float) for label in data.train.labels)


def test_the_fingerprint_changes_with_the_data_and_the_metrics(tmp_path: Path) -> None:
    base = rows(20)
    changed_text = [{**base[0], "text": "other"}, *base[1:]]
    changed_label = [{**base[0], "label": "c1"}, *base[1:]]
    prints = [files(tmp_path, train).fingerprint for train in (base, changed_text, changed_label)]
    prints.append(files(tmp_path, base, metric="f1").fingerprint)
    for pair in ("x", "y"):
        train = [{**row, "other": pair} for row in base]
        prints.append(files(tmp_path, train, text=["text", "other"]).fingerprint)
    assert len(set(prints)) == 6
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)


# --- what is wrong with the rows -------------------------------------------------------------------------------------


def test_complaints_about_rows_name_the_line(tmp_path: Path) -> None:
    place = f"{tmp_path / 'train.jsonl'}:2: "
    good = rows(1)[0]
    for bad, parts in [
        ({"label": "c1"}, ["no text column 'text'", "known: label"]),
        ({"txt": "x", "label": "c1"}, ["did you mean 'txt'"]),
        ({"text": "x"}, ["no label column 'label'"]),
        ({"text": None, "label": "c1"}, ["text column 'text' is empty"]),
        ({"text": 3, "label": "c1"}, ["holds no text but 3"]),
        ({"text": "x", "label": None}, ["label column 'label' is empty"]),
        ({"text": "x", "label": ""}, ["label column 'label' is empty"]),
        ({"text": "x", "label": math.nan}, ["label column 'label' is empty"]),
        ({"text": "x", "label": [1]}, ["no single value"]),
    ]:
        message = complaint(files, tmp_path, [good, bad])
        assert message.startswith(place), message
        assert all(part in message for part in parts), message


def test_labels_that_train_does_not_have_are_refused(tmp_path: Path) -> None:
    message = complaint(files, tmp_path, rows(20), test=[*rows(3), {"text": "x", "label": "c7"}])
    assert f"{tmp_path / 'test.jsonl'}:4: label 'c7' does not occur in {tmp_path / 'train.jsonl'}" in message


def test_labels_that_are_no_numbers_are_refused_for_regression(tmp_path: Path) -> None:
    message = complaint(load_labels, [0.5, 1.5, "high"], tmp_path, regression=True)
    assert f"{tmp_path / 'train.jsonl'}:3: label 'high' is not a number" in message


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ([1] * 20, "every row has the label '1'"),
        ([0, 0, 0, 1, 1], "2 rows of label '1' are too few to cut validation and test from (needs 3)"),
        ([0.5, 1.5], "2 rows are too few to cut validation and test from (needs 3)"),
    ],
)
def test_too_little_to_learn_or_to_cut_from(tmp_path: Path, labels: list[Any], part: str) -> None:
    message = complaint(load_labels, labels, tmp_path)
    assert message.startswith(str(tmp_path / "train.jsonl"))
    assert part in message


def test_metrics_must_fit_the_labels(tmp_path: Path) -> None:
    assert files(tmp_path, rows(20), metric=["f1", "accuracy"]).metrics == ("f1", "accuracy")
    message = complaint(files, tmp_path, rows(20), metric="spearman")
    assert "metric: 'spearman' does not fit classes; choose of accuracy" in message
    assert "'f1' does not fit regression" in complaint(load_labels, [0.5, 1.5] * 9, tmp_path, metric="f1")


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_data(tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    records = [{"text": f"Größe {i}, so", "other": f"o{i}", "label": i % 3} for i in range(30)]
    expected = files(tmp_path, records, text=["text", "other"])
    path = tmp_path / f"data.{suffix}"
    frame = pd.DataFrame(records)
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="," if suffix == "csv" else "\t")
    else:
        frame.to_json(path, orient="records", lines=True)
    data = task_from({"name": "files", "train": str(path), "text": ["text", "other"]}).load()
    assert data == expected
    assert data.fingerprint == expected.fingerprint


def load_file(path: Path, **fields: Any) -> TaskData:
    return task_from({"name": "files", "train": str(path), "text": "text", **fields}).load()


def test_real_values_in_a_csv_are_regression(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f'"t, {i}",{i / 4}\n' for i in range(20)), encoding="utf-8-sig")
    data = load_file(path)
    assert data.readout == Regression()
    assert data.train.first[0].startswith("t, ")


def test_quotes_in_a_tsv_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f'"unpaired {i}\t{i % 2}\n' for i in range(20)), encoding="utf-8")
    data = load_file(path)
    assert len(data.train) + len(data.validation) + len(data.test) == 20
    assert data.train.first[0].startswith('"unpaired')


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', "a.jsonl:2: broken JSON"),
        ("a.jsonl", b'\n[{"text": "x"}]\n', "a.jsonl:2: no JSON object"),
        ("a.jsonl", b"\n\n", "a.jsonl: no rows"),
        ("a.jsonl", b"", "a.jsonl: no rows"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl:1: cannot be read as UTF-8"),
        ("a.csv", b"", "a.csv: no rows"),
        ("a.csv", b"text,label\n", "a.csv: no rows"),
        ("a.csv", b"text,label\nx,1\ny, z,1\n", "a.csv:3: more cells"),
        ("a.csv", b"text,label\nx,1\ny\n", "a.csv:3: label column 'label' is empty"),
        ("a.csv", b'text,label\n"x"y,1\n', "a.csv:2: broken row"),
        ("a.csv", b"text,lable\nx,1\n", "a.csv:1: no label column 'label'; did you mean 'lable'"),
        ("a.parquet", b"no parquet", "a.parquet: no readable parquet"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = complaint(load_file, path)
    assert message.startswith(str(tmp_path))
    assert part in message


def test_a_missing_file_is_named_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", rows(3))
    message = complaint(load_file, tmp_path / "trian.jsonl")
    assert message.startswith(str(tmp_path / "trian.jsonl"))
    assert "no such file; did you mean 'train.jsonl'" in message
    assert "there is no folder" in complaint(load_file, tmp_path / "none" / "train.jsonl")
    (tmp_path / "folder.csv").mkdir()
    assert "is not a file" in complaint(load_file, tmp_path / "folder.csv")


# --- metrics ---------------------------------------------------------------------------------------------------------


def logits(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[predicted] * 5.0


def test_metrics_of_two_classes() -> None:
    labels = np.array([1, 1, 1, 0, 0])
    found = classes(2).score(["accuracy", "f1", "f1_macro", "matthews"], labels, logits([1, 1, 0, 0, 1], 2))
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["f1_macro"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_f1_of_more_classes_is_the_mean_over_them() -> None:
    labels, outputs = np.array([0, 1, 2, 2]), logits([0, 1, 2, 1], 3)
    found = classes(3).score(["f1", "f1_macro"], labels, outputs)
    assert found["f1"] == found["f1_macro"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_metrics_of_regression() -> None:
    labels = np.array([0.0, 1.0, 2.0, 4.0])
    found = Regression().score(["spearman", "pearson", "mse"], labels, np.array([[0.0], [1.0], [4.0], [3.0]]))
    assert found["spearman"] == pytest.approx(0.8)
    assert found["mse"] == pytest.approx(5 / 4)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)), min_size=2, max_size=30))
def test_correlations_agree_with_scipy(pairs: list[tuple[float, float]]) -> None:
    from scipy import stats

    labels, predictions = (np.array(column) for column in zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stats.spearmanr(labels, predictions).statistic
    found = Regression().score(["spearman", "pearson"], labels, predictions[:, None])
    assert found["spearman"] == pytest.approx(0.0 if math.isnan(expected) else expected, abs=1e-9)
    assert -1.000001 <= found["pearson"] <= 1.000001


def test_constant_outputs_score_nothing_and_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Regression().score(["spearman", "pearson"], np.array([0.5, 1.5, 2.5]), np.full((3, 1), 0.1)) == {
            "spearman": 0.0,
            "pearson": 0.0,
        }
        found = classes(2).score(["f1", "matthews", "f1_macro"], np.array([0, 1, 1]), logits([0, 0, 0], 2))
        assert found["f1"] == found["matthews"] == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_of_a_diverged_run_score_nan(bad: float) -> None:
    outputs = logits([0, 1], 2)
    outputs[0, 0] = bad
    assert all(math.isnan(value) for value in classes(2).score(["accuracy", "f1"], np.array([0, 1]), outputs).values())
    assert math.isnan(Regression().score(["mse"], np.array([0.0, 1.0]), np.array([[bad], [0.0]]))["mse"])


def test_misfitting_shapes_are_a_programming_error() -> None:
    for labels, outputs in [([0, 1], np.zeros((3, 2))), ([0, 1], np.zeros(2)), ([], np.zeros((0, 2)))]:
        with pytest.raises(ValueError, match="don't fit"):
            classes(2).score(["accuracy"], np.array(labels), outputs)


def test_names_of_metrics_are_checked() -> None:
    small = {"mse", "loss", "perplexity", "attack_success_rate"}
    assert {name for name in known_metrics() if direction(name) == "min"} == small
    assert wrong_metrics(["f1", "accuracy"], classes(2)) == ""
    assert wrong_metrics(["F1_macro"], classes(2)).startswith("unknown metric 'F1_macro'; did you mean")
    assert "at least one metric" in wrong_metrics([], Regression())


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def save(folder: Path, split: str, labels: list[Any], names: list[str] | None = None, **columns: list[str]) -> None:
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    texts = columns or {"text": [f"{split} {i}" for i in range(len(labels))]}
    features = {column: datasets.Value("string") for column in texts}
    features["label"] = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    table = datasets.Dataset.from_dict({**texts, "label": labels}, features=datasets.Features(features))
    table.to_parquet(str(folder / f"{split}.parquet"))


@pytest.mark.usefixtures("hub_cache")
def test_a_local_folder_with_hidden_labels_and_class_names(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    save(folder, "train", [0, 1, -1] * 10, ["no", "yes"])
    save(folder, "validation", [0, 1], ["no", "yes"])
    save(folder, "test", [-1, -1, -1], ["no", "yes"])
    data = task_from({"name": "hub", "path": str(folder), "text": "text"}).load()
    assert data.label_names == ("no", "yes")
    assert data.test.first == ("validation 0", "validation 1")
    assert (len(data.train), len(data.validation)) == (18, 2)
    assert data.note.endswith("test: the set's validation split; 10 rows of train have no label and are left out")


@pytest.mark.usefixtures("hub_cache")
def test_a_local_folder_of_json_lines_with_one_split(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", rows(40, classes=4))
    spec = {"name": "hub", "path": str(folder), "text": "text"}
    data = task_from(spec).load()
    assert data.label_names == ("c0", "c1", "c2", "c3")
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 4, 4)
    assert "no split 'dev'; known: train" in complaint(task_from({**spec, "validation": "dev"}).load)
    assert "split train: no text column 'txt'; did you mean 'text'" in complaint(
        task_from({**spec, "text": "txt"}).load
    )
    assert "no label column 'y'" in complaint(task_from({**spec, "label": "y"}).load)


@pytest.mark.usefixtures("hub_cache")
def test_a_declared_class_that_train_does_not_have_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "set", "train", [0, 1] * 10, ["no", "yes", "perhaps"])
    save(tmp_path / "set", "test", [0, 2], ["no", "yes", "perhaps"])
    message = complaint(task_from({"name": "hub", "path": str(tmp_path / "set"), "text": "text"}).load)
    assert "split test, row 2: label 'perhaps' does not occur in" in message


@pytest.mark.usefixtures("hub_cache")
def test_folders_that_hold_no_data_set(tmp_path: Path) -> None:
    assert "cannot be loaded" in complaint(task_from({"name": "hub", "path": str(tmp_path / "no"), "text": "x"}).load)
    write(tmp_path / "train.jsonl", [{"text": "x", "label": None}])
    message = complaint(task_from({"name": "hub", "path": str(tmp_path), "text": "text"}).load)
    assert "split train: no row has a label" in message


@pytest.mark.usefixtures("hub_cache")
def test_glue_subsets_from_a_folder(tmp_path: Path) -> None:
    card = ["---", "configs:"]
    for name, splits in [("stsb", ("train", "validation", "test")), ("mnli", ("train", "validation_matched"))]:
        card += [f"- config_name: {name}", "  data_files:"]
        for split in (*splits, *(("test_matched",) if name == "mnli" else ())):
            card += [f"  - split: {split}", f"    path: {name}/{split}.parquet"]
    (tmp_path / "README.md").write_text("\n".join([*card, "---"]) + "\n")
    pair = {key: [f"{key} {i}" for i in range(30)] for key in ("sentence1", "sentence2")}
    for split in ("train", "validation", "test"):
        labels = [-1.0] * 30 if split == "test" else [i / 6 for i in range(30)]
        save(tmp_path / "stsb", split, labels, **pair)
    pair = {key: [f"{key} {i}" for i in range(30)] for key in ("premise", "hypothesis")}
    for split in ("train", "validation_matched", "test_matched"):
        labels = [-1] * 30 if split == "test_matched" else [0, 1, 2] * 10
        save(tmp_path / "mnli", split, labels, ["entailment", "neutral", "contradiction"], **pair)
    stsb = task_from({"name": "glue/stsb", "path": str(tmp_path)}).load()
    assert (stsb.name, stsb.metrics, stsb.readout) == ("glue/stsb", ("spearman", "pearson"), Regression())
    assert (len(stsb.train), len(stsb.validation), len(stsb.test)) == (27, 3, 30)
    mnli = task_from({"name": "glue/mnli", "path": str(tmp_path), "train_limit": 9}).load()
    assert mnli.label_names == ("entailment", "neutral", "contradiction")
    assert mnli.metrics == ("accuracy",)
    assert (len(mnli.train), len(mnli.test)) == (9, 30)
    assert mnli.test.second is not None


def test_an_unreachable_hub_is_said_in_one_line_and_soon(tmp_path: Path) -> None:
    code = (
        "import time; from autopeft.errors import AutopeftError; from autopeft.tasks import task_from\n"
        "import datasets\n"
        "start = time.monotonic()\n"
        "for task in (task_from('glue/rte'), task_from({'name': 'hub', 'path': 'no/such', 'text': 'x'})):\n"
        "    try: task.load()\n"
        "    except AutopeftError as error: print(error)\n"
        "print(time.monotonic() - start < 5)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    first, second, soon = done.stdout.splitlines()
    assert first.startswith("data set 'nyu-mll/glue', configuration 'rte': the hub can't be reached")
    assert second.startswith("data set 'no/such': the hub can't be reached")
    assert soon == "True"


# --- real data -------------------------------------------------------------------------------------------------------


def real(name: str, **fields: Any) -> TaskData:
    paths = {
        key: str(REAL / name / f"{file}.jsonl")
        for key, file in [("train", "train"), ("validation", "dev"), ("test", "test")]
        if (REAL / name / f"{file}.jsonl").exists()
    }
    return task_from({"name": "files", "text": "text_a", **paths, **fields}).load()


@needs_real_data
def test_real_question_classes() -> None:
    data = real("trec")
    assert (len(data.train), len(data.validation), len(data.test)) == (4952, 500, 500)
    assert data.label_names == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    small = real("trec", train_limit=600)
    shares = [Counter(part.labels)[0] / len(part) for part in (data.train, small.train)]
    assert shares[0] == pytest.approx(shares[1], abs=1 / 600)


@needs_real_data
def test_real_paraphrases() -> None:
    data = real("mrpc", text=["text_a", "text_b"], metric=["f1", "accuracy"])
    assert (len(data.train), len(data.validation), len(data.test)) == (3668, 408, 1725)
    assert data.label_names == ("0", "1")
    assert data.train.second is not None
    assert data.metrics == ("f1", "accuracy")


@needs_real_data
def test_real_similarities() -> None:
    data = real("stsb", text=["text_a", "text_b"])
    assert (len(data.train), len(data.validation), len(data.test)) == (5749, 1500, 1379)
    assert data.readout == Regression()
    assert (min(data.train.labels), max(data.train.labels)) == (0.0, 5.0)


@needs_real_data
def test_real_acceptability_without_a_test() -> None:
    data = real("cola", metric="matthews")
    assert (len(data.train), len(data.validation), len(data.test)) == (8551 - 855, 855, 1043)
    assert not set(data.train.first) & {None, ""}
    shares = [Counter(part.labels)[1] / len(part) for part in (data.train, data.validation)]
    assert shares[0] == pytest.approx(shares[1], abs=1 / 855)


def test_a_file_for_a_task_of_pairs_has_its_columns() -> None:
    assert task_from("glue/rte").labelled == (["sentence1", "sentence2"], "label")
