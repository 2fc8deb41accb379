"""Rows as people have them: the obviously right reading, or one line with file, row and remedy; remarks beside."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from autopeft.cells import clean, shown
from autopeft.errors import AutopeftError, printable, suggest
from autopeft.tasks import TaskData, _lines, _tables, task_from
from autopeft.tasks._rows import Rows, collect
from autopeft.tasks._splits import allot, pick

REAL = Path(__file__).parents[2] / "shared/data"
LABELS = ("a", "b")


def load(train: Path, **fields: Any) -> TaskData:
    return task_from({"name": "files", "text": "text", **fields, "train": str(train)}).load()


def complaint(train: Path, **fields: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        load(train, **fields)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_rows(*more: str, labels: Sequence[Any] = LABELS, start: int = 0) -> str:
    """Twenty good rows, then lines as they are."""
    rows = [{"text": f"t {i + start}", "label": labels[i % len(labels)]} for i in range(20)]
    return "".join(json.dumps(row) + "\n" for row in rows) + "".join(line + "\n" for line in more)


def table(*more: str, head: str = "text,label", labels: Sequence[str] = LABELS, separator: str = ",") -> str:
    rows = [f"t {i}{separator}{labels[i % len(labels)]}" for i in range(20)]
    return "".join(line + "\n" for line in [head, *rows, *more])


def texts(data: TaskData) -> set[str]:
    return {text for split in (data.train, data.validation, data.test) for text in split.first}


# --- characters ------------------------------------------------------------------------------------------------------


def test_lone_surrogates_become_the_replacement_character_and_are_told(tmp_path: Path) -> None:
    lines = ['{"text": "a\\ud83d b", "label": "x\\udc00"}', '{"text": "\\ud83d\\ude00 \\u0000", "label": "x\\udc00"}']
    path = put(tmp_path / "a.jsonl", json_rows(*lines, '{"text": "c", "label": "x\\udc00"}'))
    data = load(path)
    assert {"a\ufffd b", "\U0001f600 \0"} <= texts(data)
    assert data.label_names == ("a", "b", "x\ufffd")
    assert data.remarks[0] == "1 text of train with half a character (a lone surrogate): U+FFFD stands for it"
    assert data.remarks[1].startswith("3 labels of train with half a character")
    assert int(data.fingerprint, 16) >= 0


def test_halves_that_belong_together_become_one_character() -> None:
    assert clean("\ud83d\ude00\ud83d") == "\U0001f600\ufffd"
    assert clean("plain é") == "plain é"


def test_names_of_columns_with_lone_surrogates_are_shown_in_escapes(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"te\\ud83dxt": "x", "label": 1}\n')
    assert "no text column 'text'; did you mean 'te\\ud83dxt'" in complaint(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str, suffix: str) -> None:
    row = '{"text": "größe", "label": "a"}'
    content = {
        "jsonl": json_rows(row),
        "json": "[" + ",\n".join(json_rows(row).splitlines()) + "]",
        "csv": table("größe,a"),
        "tsv": table("größe\ta", head="text\tlabel", separator="\t"),
    }[suffix]
    data = load(put(tmp_path / f"a.{suffix}", content.encode(encoding)))
    assert "größe" in texts(data)
    assert data.fingerprint == load(put(tmp_path / f"b.{suffix}", content)).fingerprint


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_of_other_systems(tmp_path: Path, end: str) -> None:
    expected = load(put(tmp_path / "a.csv", table())).fingerprint
    for name, content in (("b.csv", table()), ("b.jsonl", json_rows())):
        assert load(put(tmp_path / name, content.rstrip("\n").replace("\n", end))).fingerprint == expected


def test_separators_of_unicode_do_not_split_rows(tmp_path: Path) -> None:
    row = {"text": "a\u2028b\x85c\x0bd", "label": "a"}
    path = put(tmp_path / "a.jsonl", json_rows(json.dumps(row, ensure_ascii=False)))
    assert row["text"] in texts(load(path))


def test_files_put_together_keep_their_marks(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", json_rows('\ufeff{"text": "x", "label": "a"}'))
    assert "x" in texts(load(path))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        (
            "a.csv",
            table("größe,a").encode("cp1252"),
            "a.csv:22: cannot be read as UTF-8 (byte 0xf6 after 2 others); if",
        ),
        ("a.csv", table("größe,a").encode("cp1252"), "if it is Windows-1252, save it as UTF-8"),
        ("a.csv", table().encode("utf-16-le"), "UTF-16 without a byte order mark; save it as UTF-8, for example with"),
        ("a.tsv", table().encode("utf-16-be"), "iconv -f UTF-16BE"),
        ("a.csv", table().encode("utf-16")[:-1], "a.csv: cannot be read as UTF-16 (truncated data)"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "a.jsonl: is compressed (gzip); unpack it"),
        ("a.csv", b"PK\x03\x04\0\0", "a.csv: is an archive or a spreadsheet"),
        ("a.csv", b"PAR1\x15\x04", "name it .parquet"),
        ("a.tsv", b"", "a.tsv: no rows"),
        ("a.csv", b"text,label", "a.csv: no rows"),
        ("a.json", b"[]", "a.json: no rows"),
        ("a.parquet", b"", "a.parquet: no readable parquet"),
    ],
)
def test_other_encodings_and_files_are_named(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    assert part in complaint(put(tmp_path / name, content))


def test_what_is_no_file_is_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    os.symlink("/dev/zero", tmp_path / "zero.jsonl")
    os.symlink(tmp_path / "loop.tsv", tmp_path / "loop.tsv")
    for name in ("pipe.csv", "zero.jsonl"):
        assert f"{name}: is not a file; known: none" in complaint(tmp_path / name)
    assert "no such file" in complaint(tmp_path / "loop.tsv")
    assert "a text with a NUL character" in complaint(Path("a\0.csv"))
    with pytest.raises(AutopeftError, match="File name too long"):
        load(tmp_path / ("x" * 3000 + ".csv"))


def test_a_file_of_zeros_or_of_one_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "MOST_CHARACTERS", 2**20)
    for start, part in ((b"", "many bytes are 0"), (b'{"text": "' + b"a" * 9000, ":1: more than 1,048,576 characters")):
        path = put(tmp_path / "a.jsonl", start)
        os.truncate(path, 10**9)  # sparse: it takes no room
        assert part in complaint(path)


# --- labels ----------------------------------------------------------------------------------------------------------


def labelled(tmp_path: Path, train: Sequence[Any], test: Sequence[Any] | None = None, **fields: Any) -> TaskData:
    """Strings make a CSV, other labels JSON lines."""
    paths = {}
    for split, labels in (("train", train), ("test", test)):
        if labels is not None and all(isinstance(label, str) for label in labels):
            path = tmp_path / f"{split}.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("text", "label"), *((f"{split} {i}", s) for i, s in enumerate(labels))])
            paths[split] = str(path)
        elif labels is not None:
            rows = [{"text": f"{split} {i}", "label": label} for i, label in enumerate(labels)]
            path = put(tmp_path / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            paths[split] = str(path)
    return task_from({"name": "files", "text": "text", **paths, **fields}).load()


@pytest.mark.parametrize(
    ("train", "test", "names", "expected"),
    [
        (["True", "False"] * 6, [True, False], ("False", "True"), (1, 0)),
        ([True, False] * 6, ["TRUE", "false"], ("false", "true"), (1, 0)),
        (["1.0", "0.0"] * 6, [1, 0], ("0.0", "1.0"), (1, 0)),
        (["1", "0"] * 6, [1.0, -0.0], ("0", "1"), (1, 0)),
        (["+1", "-1"] * 6, [1, -1], ("-1", "+1"), (1, 0)),
        ([1, 0] * 6, ["1.00", "0", "+1"], ("0", "1"), (1, 0, 1)),
        ([" A", "A", "B", "B\t"] * 6, ["A ", " B"], ("A", "B"), (0, 1)),
        (["\u00e9", "a"] * 6, ["e\u0301", "a"], ("a", "\u00e9"), (1, 0)),
        (["01", "1", "2"] * 6, ["01", "1.0"], ("01", "1", "2"), (0, 1)),
        (["NA", "EU"] * 6, ["NA"], ("EU", "NA"), (1,)),
    ],
)
def test_spellings_of_one_class_in_several_files(
    tmp_path: Path, train: list[Any], test: list[Any], names: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    data = labelled(tmp_path, train, test)
    assert data.label_names == names
    assert data.test.labels == expected


def test_spellings_of_one_class_in_one_file_are_one_class_and_told(tmp_path: Path) -> None:
    data = labelled(tmp_path, ["1", "1.0", "+1", "-1", "-1.0"] * 6)
    assert data.label_names == ("-1", "1")
    assert "labels '+1', '1', '1.0' are read as one class, '1'" in data.remarks
    data = labelled(tmp_path, ["\u00e9", "e\u0301", "a "] * 6)
    assert data.label_names == ("a", "\u00e9")
    assert "6 labels of train with white space around: it is left out" in data.remarks


def test_classes_that_look_alike_stay_two_and_are_told(tmp_path: Path) -> None:
    assert "labels 'Yes', 'yes' look alike, and are 2 classes" in labelled(tmp_path, ["Yes", "yes", "no"] * 6).remarks
    assert "labels '1', 'true' look alike, and are 2 classes" in labelled(tmp_path, [True, 1, 5] * 6).remarks
    assert any("need a decimal point" in said for said in labelled(tmp_path, ["0,5", "1,25", "2"] * 6).remarks)
    assert any("not as a missing label" in said for said in labelled(tmp_path, ["nan", "good"] * 6).remarks)


@pytest.mark.parametrize("marker", ["NA", "n/a", "None", "null", "nan", "-"])
def test_a_missing_label_among_numbers_is_named(tmp_path: Path, marker: str) -> None:
    for numbers in (["1", "2"], ["0.5", "2"]):
        labels = [*numbers * 10, marker]
        with pytest.raises(AutopeftError, match=r"train.csv:22: label .* stands among numbers and says that there is"):
            labelled(tmp_path, labels)
        assert marker in labelled(tmp_path, [*labels, marker, marker], regression=False).label_names


def test_a_slip_among_real_values_is_named_and_a_class_among_whole_numbers_is_one(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=r"train.csv:22: label '1.5x' stands among numbers \(20 of 21 rows\)"):
        labelled(tmp_path, [*["0.5", "2"] * 10, "1.5x"])
    assert labelled(tmp_path, [*["1", "2"] * 10, *["other"] * 3]).label_names == ("1", "2", "other")


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ("1" + "0" * 400, "a number beyond all bounds"),
        ("1e400", "a number beyond all bounds"),
        ("-Infinity", "a number beyond all bounds"),
        ("NaN", "is empty"),
        ('"  "', "is empty"),
        ("1" * 5000, "broken JSON (a number of too many digits)"),
        ("[" * 900 + "]" * 900, "holds no single value"),
        ("[" * 100_000, "broken JSON (nested too deeply)"),
        ('{"a": 1}', "holds no single value but {'a': 1}"),
    ],
)
def test_labels_that_are_none_are_named(tmp_path: Path, label: str, part: str) -> None:
    message = complaint(put(tmp_path / "a.jsonl", json_rows(f'{{"text": "x", "label": {label}}}')))
    assert message.startswith(f"{tmp_path / 'a.jsonl'}:21: ")
    assert part in message


def test_real_values_stay_within_what_a_model_can_predict(tmp_path: Path) -> None:
    with pytest.raises(AutopeftError, match=r"train.jsonl:2: label 1e\+39 is beyond what a model can predict"):
        labelled(tmp_path, [0.5, 1e39] * 5)
    assert "every label of train is 0.5: there is nothing to learn" in labelled(tmp_path, [0.5] * 9).remarks


def test_a_column_of_texts_taken_for_the_label_is_asked_about(tmp_path: Path) -> None:
    long = "word " * 10_000
    labels = [f"{long}{i}" for i in range(30)]
    with pytest.raises(AutopeftError) as caught:
        labelled(tmp_path, labels)
    assert "30 labels in 30 rows: is their column the right one?" in str(caught.value)
    assert len(str(caught.value)) < 500
    path = put(tmp_path / "k.csv", "text,label\n" + "".join(f"t {i},k{i}\n" for i in range(30)))
    data = load(path, test=str(path), validation=str(path))
    assert "train has 30 labels in 30 rows: is their column the right one?" in data.remarks
    assert "is named as text and as label" in complaint(path, label="text")


# --- tables ----------------------------------------------------------------------------------------------------------


def test_cells_may_be_long(tmp_path: Path) -> None:
    text = "word " * 1_200_000
    for suffix, separator in (("csv", ","), ("tsv", "\t")):
        content = table(f"{text}{separator}a", head=f"text{separator}label", separator=separator)
        assert text in texts(load(put(tmp_path / f"a.{suffix}", content)))


def test_space_around_names_in_the_header_is_no_part_of_them(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", table('"x, y", "a"', head="text , label"))
    data = load(path)
    assert "x, y" in texts(data)
    assert data.label_names == ("a", "b")
    path = put(tmp_path / "b.csv", table(head="text ,label"))
    assert load(path, text="text ").fingerprint == load(path).fingerprint


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", table(head="text,text,label"), ":1: 2 columns are named 'text'; rename all but one"),
        ("a.tsv", "text\tlabel\tlabel\nx\t1\t2\n", ":1: 2 columns are named 'label'"),
        ("a.csv", table(head="text;label", separator=";"), ":1: semicolons separate the columns, not commas; save it"),
        ("a.csv", '"text";"label"\n"x";"a"\n', ":1: semicolons separate the columns"),
        ("a.csv", table(head="text\tlabel", separator="\t"), "or name it .tsv"),
        ("a.tsv", table(), ":1: commas separate the columns, not tabs"),
        (
            "a.csv",
            table(head="great,a"),
            ":1: no text column 'text'; known: a, great; name another in 'text'; the first line names the columns",
        ),
        ("a.csv", table("", '"x,a', "y,b"), ":23: broken row (a quote that opens in it is never closed)"),
        ("a.csv", table('"x\ny\nz",a', "", "short"), ":26: label column 'label' is empty"),
        ("a.csv", '"te\nxt",text,label\n1,x,a\n2,"y\n",b,3\n', ":4: more cells than the header has"),
        ("a.tsv", table("a\tb\tc", head="text\tlabel", separator="\t"), ":22: more cells than the header has; a text"),
    ],
)
def test_tables_gone_wrong_are_named_with_the_line(tmp_path: Path, name: str, content: str, part: str) -> None:
    message = complaint(put(tmp_path / name, content))
    assert message.startswith(f"{tmp_path / name}:")
    assert part in message


def test_columns_that_nobody_asked_for_may_be_odd(tmp_path: Path) -> None:
    content = ",id,id,text,label\n" + "".join(f"{i},1,2,t {i},{LABELS[i % 2]}\n" for i in range(20))
    expected = load(put(tmp_path / "a.csv", table())).fingerprint
    assert load(put(tmp_path / "b.csv", content)).fingerprint == expected


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
def test_one_list_or_objects_over_many_lines_are_read_from_json(tmp_path: Path, indent: int | None) -> None:
    expected = load(put(tmp_path / "a.jsonl", json_rows())).fingerprint
    rows = [json.loads(line) for line in json_rows().splitlines()]
    objects = "\n".join(json.dumps(row, indent=indent) for row in rows)
    for content in (json.dumps(rows, indent=indent), objects):
        assert load(put(tmp_path / "a.json", content)).fingerprint == expected


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.json", '[{"text": "a", "label": 1},\n{"text":\n"b" "label": 2}]', ":3: broken JSON (Expecting ',' delim"),
        ("a.json", '[{"text": "a", "label": 1},\n{"text": "b", "label": 2},\n]', ":3: broken JSON"),
        ("a.json", '[{"text": "a", "label": 1}\n{"text": "b"}]', ":2: broken JSON (a ',' or ']' is missing"),
        ("a.json", '[{"text": "a", "label": 1}]\n\nx', ":3: broken JSON (something follows"),
        ("a.json", '[{"text": "a", "label": 1},\n' + "[" * 100_000, ":2: broken JSON (nested too deeply)"),
        ("a.json", '[\n["a", 1]]', ":2: no JSON object"),
        ("a.json", '{"text": ["a"],\n"label": [1]}', ":1: text column 'text' holds no text but ['a']"),
        ("a.json", '{"data": []}', ":1: no text column 'text'; known: data"),
        ("a.jsonl", '[{"text": "a"}]', ":1: no JSON object; one object per line is expected; name a file that is one"),
        ("a.jsonl", "3\n", ":1: no JSON object"),
        ("a.jsonl", json_rows("[" * 100_000 + "]" * 100_000), ":21: broken JSON (nested too deeply)"),
        ("a.jsonl", json_rows('{"text": "x", "text": "y", "label": 1}'), ":21: key 'text' stands twice"),
        ("a.jsonl", json_rows('{"text": {"en": "x"}, "label": 1}'), ":21: text column 'text' holds no text but {'en'"),
    ],
)
def test_json_gone_wrong_is_named_with_the_line(tmp_path: Path, name: str, content: str, part: str) -> None:
    assert complaint(put(tmp_path / name, content)).startswith(f"{tmp_path / name}{part}")


def test_keys_twice_that_nobody_asked_for_are_no_matter(tmp_path: Path) -> None:
    path = put(
        tmp_path / "a.jsonl", json_rows('{"id": 1, "id": 2, "text": "x", "label": "a", "in": {"text": 1, "text": 2}}')
    )
    assert "x" in texts(load(path))


# --- parquet ---------------------------------------------------------------------------------------------------------

TEXTS = [f"t {i}" for i in range(12)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array(["a", "b"] * 6).dictionary_encode(), ("a", "b")),
        (pa.array([b"a", b"b"] * 6), ("a", "b")),
        (pa.array([decimal.Decimal("1.00"), decimal.Decimal("2.00")] * 6), ("1", "2")),
        (pa.array([decimal.Decimal("1.25"), decimal.Decimal("2.00")] * 6), ()),
        (pa.array([datetime.date(2020, 1, 2), datetime.date(2021, 1, 2)] * 6), ("2020-01-02", "2021-01-02")),
        (pa.array([1, 2] * 6, pa.uint8()), ("1", "2")),
        (pa.array([1, 2] * 6, pa.float16()), ("1", "2")),
        (pa.array([True, False] * 6), ("false", "true")),
        (pa.array(["a", "b"] * 6, pa.large_string()), ("a", "b")),
    ],
)
def test_labels_of_typed_columns(tmp_path: Path, labels: pa.Array, names: tuple[str, ...]) -> None:
    columns = {"text": pa.array([text.encode() for text in TEXTS]), "label": labels, "x.y": [[1]] * 12}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.label_names == names
    assert texts(data) == set(TEXTS)


def _no_utf8() -> pa.Array:
    offsets = pa.py_buffer(np.arange(13, dtype=np.int32).tobytes())
    return pa.Array.from_buffers(pa.string(), 12, [None, offsets, pa.py_buffer(b"a" * 11 + b"\xff")])


@pytest.mark.parametrize(
    ("first", "labels", "names", "part"),
    [
        (TEXTS, [1, None] * 6, ["text", "label"], ", row 2: label column 'label' is empty"),
        (TEXTS, [[1], [2]] * 6, ["text", "label"], ", row 1: label column 'label' holds no single value but [1]"),
        (
            TEXTS,
            pa.array([1, 10**15] * 6, pa.timestamp("s")),
            ["text", "label"],
            ", row 2: column 'label' holds no read",
        ),
        (TEXTS, [b"a", b"\xff"] * 6, ["text", "label"], ", row 2: label column 'label' holds no single value but b'"),
        (_no_utf8(), [1, 2] * 6, ["text", "label"], ", row 12: column 'text' holds no readable value"),
        ([1, 2] * 6, [1, 2] * 6, ["text", "label"], ", row 1: text column 'text' holds no text but 1"),
        (TEXTS, [1, 2] * 6, ["label", "label"], ": no text column 'text'; known: label, label"),
        (TEXTS, [1, 2] * 6, ["text", "text"], ": 2 columns are named 'text'"),
    ],
)
def test_parquet_gone_wrong_is_named_with_the_row(
    tmp_path: Path, first: Any, labels: Any, names: list[str], part: str
) -> None:
    columns = [column if isinstance(column, pa.Array) else pa.array(column) for column in (first, labels)]
    parquet.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "a.parquet")
    assert complaint(tmp_path / "a.parquet").startswith(f"{tmp_path / 'a.parquet'}{part}")


def test_rows_by_the_billion_in_a_few_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tables, "_MOST_ROWS", 11)
    parquet.write_table(pa.table({"text": TEXTS, "label": [1, 2] * 6}), tmp_path / "a.parquet")
    assert ": 12 rows are more than memory holds" in complaint(tmp_path / "a.parquet")


# --- data sets that `datasets` reads ---------------------------------------------------------------------------------


def hub(folder: Path, **fields: Any) -> TaskData:
    return task_from({"name": "hub", "path": str(folder), "text": "text", **fields}).load()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_dict({"text": TEXTS, "label": ["a", "b"] * 6})
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(str(tmp_path / "two"))
    assert texts(hub(tmp_path / "one")) == set(TEXTS)
    assert len(hub(tmp_path / "two").test) == 12
    (tmp_path / "two" / "dataset_dict.json").write_text("{")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"x")
    for name in ("one", "two"):
        with pytest.raises(AutopeftError, match=rf"data set '.*/{name}': cannot be loaded"):
            hub(tmp_path / name)


def _declared(folder: Path, labels: list[int], kind: dict[str, Any]) -> Path:
    """A parquet file whose metadata declare the label's feature, whatever its values are."""
    folder.mkdir()
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": kind}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = pa.table({"text": TEXTS, "label": pa.array(labels, pa.int64())})
    parquet.write_table(columns.replace_schema_metadata(metadata), folder / "train.parquet")
    return folder


@pytest.mark.usefixtures("cache")
def test_features_that_do_not_fit_their_values_are_named(tmp_path: Path) -> None:
    classes = {"names": ["no", "yes"], "_type": "ClassLabel"}
    for number in (5, -2):  # -2 would be the last but one of a list
        folder = _declared(tmp_path / f"n{number}", [0, 1, number] * 4, classes)
        with pytest.raises(AutopeftError, match=f"split train, row 3: class {number} is none of the 2 that the set"):
            hub(folder)
    with pytest.raises(AutopeftError, match=r"cannot be loaded; .*Feature type 'Nope' not found"):
        hub(_declared(tmp_path / "odd", [0, 1] * 6, {"_type": "Nope"}))


@pytest.mark.usefixtures("cache")
def test_scripts_in_a_data_set_do_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    put(folder / "train.jsonl", json_rows())
    put(folder / "mine.py", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    put(folder / "README.md", "---\nconfigs: !!python/object/apply:os.system ['exit']\n---\n")
    with pytest.raises(AutopeftError, match="scripts are no longer supported"):
        hub(folder)
    (folder / "mine.py").unlink()
    with pytest.raises(AutopeftError, match="cannot be loaded"):
        hub(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("train.jsonl", json_rows('{"text": '), "the task 'files', which names the row"),
        ("train.jsonl", json_rows("[" * 100_000), "cannot be loaded"),
        ("train.jsonl", "", "cannot be loaded"),
        ("train.csv", "text,label\nö,1\n".encode("cp1252"), "cannot be loaded"),
        (
            "train.jsonl",
            json_rows('{"text": "x", "label": null}'),
            "split train, row 21: label column 'label' is empty",
        ),
        ("train.txt", "x\n", "split train: no label column 'label'; known: text"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_data_sets_gone_wrong_are_one_line(tmp_path: Path, name: str, content: str | bytes, part: str) -> None:
    (tmp_path / "set").mkdir()
    put(tmp_path / "set" / name, content)
    with pytest.raises(AutopeftError) as caught:
        hub(tmp_path / "set")
    assert str(caught.value).isprintable()
    assert part in str(caught.value)


def test_a_copy_that_cannot_be_kept_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "/proc/none/datasets")
    (tmp_path / "set").mkdir()
    put(tmp_path / "set" / "train.jsonl", json_rows())
    with pytest.raises(AutopeftError, match=r"cannot be kept .*/proc/none/datasets; set HF_HOME to a folder with room"):
        hub(tmp_path / "set")


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "/dev/zero", "a b/c", "a/b/c/d", "\ud800"])
def test_paths_of_no_data_set_are_one_line(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AutopeftError) as caught:
        hub(Path(path) if path else path)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()


# --- remarks ---------------------------------------------------------------------------------------------------------


def test_rows_in_two_splits_are_counted(tmp_path: Path) -> None:
    train = put(tmp_path / "train.jsonl", json_rows())
    validation = put(tmp_path / "validation.jsonl", json_rows(start=100))
    test = put(tmp_path / "test.jsonl", json_rows(start=15).replace("t 15", " t   15 "))
    data = load(train, validation=str(validation), test=str(test))
    assert data.remarks == ("5 of test's 20 rows (25.0%) are in train too (the same text): scores on test flatter",)
    assert load(train).remarks == ()


def test_rows_in_two_splits_are_counted_after_cuts_and_limits(tmp_path: Path) -> None:
    row = '{"text": "the same", "label": "a"}'
    said = " ".join(load(put(tmp_path / "a.jsonl", json_rows(*[row] * 80))).remarks)
    assert "of test's 10 rows" in said
    assert "of validation's 10 rows" in said
    assert "in validation too" in said
    train = put(tmp_path / "b.jsonl", json_rows())
    assert "of test's 4 rows (100.0%)" in " ".join(
        load(train, test=str(train), validation=str(train), test_limit=4).remarks
    )


def test_pairs_are_the_same_only_as_pairs(tmp_path: Path) -> None:
    for name, shift in (("a", 0), ("b", 1)):
        rows = [{"text": "premise", "other": f"o {i // 2 + shift * 50}", "label": i % 2} for i in range(20)]
        put(tmp_path / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    paths = {"validation": str(tmp_path / "b.jsonl"), "test": str(tmp_path / "b.jsonl")}
    said = load(tmp_path / "a.jsonl", text=["text", "other"], **paths).remarks
    assert said[0] == "10 texts of train with different labels (in 20 rows): some of these must be wrong"
    assert not any("in train too" in sentence for sentence in said)


def test_empty_texts_are_counted(tmp_path: Path) -> None:
    said = load(put(tmp_path / "a.csv", table(*[" ,a"] * 80))).remarks
    assert any(sentence.endswith("empty texts in train") for sentence in said)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
def test_real_sets_share_rows() -> None:
    said = load(REAL / "trec/train.jsonl", text="text_a", test=str(REAL / "trec/test.jsonl")).remarks
    assert any(sentence.endswith("in train too (the same text): scores on test flatter") for sentence in said)
    said = load(REAL / "cola/train.jsonl", text="text_a").remarks
    assert any("with different labels" in sentence for sentence in said)


# --- the policy for splits, quick for many classes -------------------------------------------------------------------


def _slow_allot(counts: Sequence[int], size: int) -> list[int]:
    have = np.asarray(counts)
    exact = have * size / have.sum()
    given_ = np.maximum(1, np.floor(exact).astype(int))
    while given_.sum() < size:
        given_[np.argmax(np.where(given_ < have, exact - given_, -np.inf))] += 1
    while given_.sum() > size:
        given_[np.argmax(np.where(given_ > 1, given_ - exact, -np.inf))] -= 1
    return [int(number) for number in given_]


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12).flatmap(
        lambda counts: st.tuples(st.just(counts), st.integers(len(counts), sum(counts)))
    )
)
def test_shares_are_those_of_one_step_at_a_time(drawn: tuple[list[int], int]) -> None:
    assert allot(*drawn) == _slow_allot(*drawn)


def test_a_choice_among_many_classes_is_as_before() -> None:
    rng = random.Random(0)
    labels = [rng.randrange(200) for _ in range(3000)]
    labels += range(200)
    random_ = np.random.default_rng([7])
    values, (present, counts) = np.asarray(labels), np.unique(labels, return_counts=True)
    expected: list[int] = []
    for value, number in zip(present, _slow_allot(counts.tolist(), 700), strict=True):
        expected += random_.choice(np.flatnonzero(values == value), number, replace=False).tolist()
    assert pick(labels, len(labels), 700, [7]) == sorted(expected)


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_stay_on_one_line_and_short_whatever_is_named() -> None:
    assert str(AutopeftError("a\nb\ud800\u2028\0é")) == "a\\nb\\ud800\\u2028\\x00é"
    assert printable("plain") == "plain"
    names = [f"column {i}" for i in range(100_000)]
    assert suggest("colum 1", names).endswith("and 99,970 more")
    assert len(suggest("x" * 10**6, [*names, "y" * 10**6])) < 1000
    assert suggest("x", []) == "known: none"
    assert shown(10**5000) == "a huge int"
    assert len(shown({"a": "x" * 10**6})) <= 60


def test_values_of_numpy_and_bytes_are_read_like_others() -> None:
    rows = collect([(1, {"t": b"x", "l": np.int64(3)}), (2, {"t": "y", "l": np.float32(0.5)})], ["t"], "l", "here")
    assert rows == Rows("here", ["x", "y"], None, [3, 0.5], [1, 2])
    assert [type(label) for label in rows.labels] == [int, float]
