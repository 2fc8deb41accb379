from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from autopeft.config import Strict, dump_yaml, parse, read_plugin, read_yaml
from autopeft.errors import AutopeftError, suggest
from autopeft.tasks import TASKS


class Inner(Strict):
    rate: float = Field(0.1, gt=0)
    kind: Literal["fast", "slow"] = "fast"


class Outer(Strict):
    size: int
    inner: Inner = Field(Inner(), description="how it goes")
    either: str | list[str] = ""
    many: list[Inner] = []
    perhaps: Inner | None = None

    @field_validator("size")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd; give an even number")
        return value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.yaml"


def complaint(call: Any, *args: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def value_of(file: Path, text: str) -> Any:
    file.write_text(f"x: {text}\n", encoding="utf-8")
    return read_yaml(file)["x"]


# --- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1e-4", "1.e-4", "0.1e-3", ".1e-3", "1.0e-4", "1_0e-5"])
def test_numbers_with_an_exponent_are_numbers(text: str, file: Path) -> None:
    assert value_of(file, text) == pytest.approx(1e-4, rel=1e-12)
    assert isinstance(value_of(file, text), float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("1.5", 1.5), (".5", 0.5), ("-.5", -0.5), ("2e3", 2000.0), ("-1e3", -1000.0),
        ("1_000", 1000), (".inf", math.inf), ("true", True), ("null", None),
        ("'1e-4'", "1e-4"), ("1e", "1e"), ("e-4", "e-4"),
        ("1e-4x", "1e-4x"), ("1.2.3", "1.2.3"), ("v1e-4", "v1e-4"), (".", "."), ("[1e-4, a]", [1e-4, "a"]),
    ],
)  # fmt: skip
def test_other_values_are_what_yaml_says(text: str, value: Any, file: Path) -> None:
    read = value_of(file, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [("a: 1\nb: 2\na: 3\n", 3, "a"), ("a:\n  b: 1\n  c: 2\n  b: 1\n", 4, "b"), ("a: [{x: 1, x: 2}]\n", 1, "x")],
)
def test_a_key_given_twice_is_refused_at_its_line(text: str, line: int, key: str, file: Path) -> None:
    file.write_text(text)
    assert complaint(read_yaml, file) == f"{file}, line {line}: not valid YAML (key '{key}' twice)"


def test_the_same_key_in_two_mappings_is_fine(file: Path) -> None:
    file.write_text("a: {x: 1}\nb: {x: 1}\n")
    assert read_yaml(file) == {"a": {"x": 1}, "b": {"x": 1}}


def test_anchors_and_merged_keys_work(file: Path) -> None:
    file.write_text("base: &base {x: 1, y: 2}\nother:\n  <<: *base\n  y: 3\n")
    assert read_yaml(file)["other"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [1, 2\nb: 3\n", 2), ("a: 1\n  b: 2\n", 2), ("a: 'x\n", 2), ("a: !!python/name:os.system\n", 1)],
)
def test_what_is_not_yaml_is_named_with_its_line(text: str, line: int, file: Path) -> None:
    file.write_text(text)
    assert complaint(read_yaml, file).startswith(f"{file}, line {line}: not valid YAML (")


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("# a comment\n", "nothing"), ("- a\n", "no mapping"), ("a\n", "no mapping")]
)
def test_a_file_without_a_mapping(text: str, found: str, file: Path) -> None:
    file.write_text(text)
    assert complaint(read_yaml, file) == f"{file}: expected 'key: value' lines, found {found}"


def test_a_file_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    assert complaint(read_yaml, file) == f"{file}: cannot be read (No such file or directory)"
    assert complaint(read_yaml, tmp_path) == f"{tmp_path}: cannot be read (Is a directory)"
    file.write_bytes(b"a: \xff\xfe\n")
    assert complaint(read_yaml, file) == f"{file}: cannot be read (not UTF-8 text; save it as UTF-8)"


@pytest.mark.parametrize("text", ["[1, 2]: 3", "{a: 1}: 2", "? [x]\n: 1"])
def test_a_key_that_is_no_text_is_a_clear_error(text: str, file: Path) -> None:
    file.write_text(text)
    assert str(file) in complaint(read_yaml, file)


def test_texts_that_look_like_numbers_stay_texts(file: Path) -> None:
    data = {"a": "1e5", "b": "1_000", "c": "0.5%", "d": "yes", "e": 1e-5, "f": ["1e-4", 3]}
    file.write_text(dump_yaml(data))
    assert read_yaml(file) == data


TEXT = st.text(st.sampled_from("ab01.eE+-_:#'\"\\ \n{}[],&*!|>%@`~é漢"), max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=5)


@settings(max_examples=60)
@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=3))
def test_json_is_yaml(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    assert json.dumps(read_yaml(path)) == json.dumps(data)


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b c", "d"]), st.integers() | st.floats() | st.booleans() | st.none(), min_size=1
    )
)
def test_what_yaml_dumps_is_loaded(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert repr(read_yaml(path)) == repr(dict(sorted(data.items())))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_as_python_writes_it_is_read_back(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    path = tmp_path_factory.getbasetemp() / "number.yaml"
    read = value_of(path, repr(number))
    assert isinstance(read, float)
    assert read == number


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "f.yaml: size: missing"),
        (
            {"size": 2, "siez": 1},
            "f.yaml: siez: unknown key; did you mean 'size'? known: either, inner, many, perhaps, size",
        ),
        ({"size": 2, "zzz": 1}, "f.yaml: zzz: unknown key; known: either, inner, many, perhaps, size"),
        ({"size": 2, "inner": {"raet": 1}}, "f.yaml: inner.raet: unknown key; did you mean 'rate'? known: kind, rate"),
        (
            {"size": 2, "perhaps": {"raet": 1}},
            "f.yaml: perhaps.raet: unknown key; did you mean 'rate'? known: kind, rate",
        ),
        ({"size": 3}, "f.yaml: size: 3 is odd; give an even number (given: 3)"),
        ({"size": 2, "inner": {"rate": 0}}, "f.yaml: inner.rate: Input should be greater than 0 (given: 0)"),
        (
            {"size": 2, "inner": {"kind": "quick"}},
            "f.yaml: inner.kind: Input should be 'fast' or 'slow' (given: 'quick')",
        ),
        ({"size": 2, "inner": 3}, "f.yaml: inner: expected a mapping of options (given: 3; inner: how it goes)"),
        ({"size": 2, "either": [1]}, "f.yaml: either: Input should be a valid string (given: [1])"),
    ],
)
def test_complaints_name_the_place_and_the_remedy(data: dict[str, Any], message: str) -> None:
    assert complaint(parse, Outer, data, "f.yaml") == message


def test_a_wrong_key_in_a_list_is_named_by_its_place() -> None:
    said = complaint(parse, Outer, {"size": 2, "many": [{}, {"raet": 1}]}, "f.yaml")
    assert said.startswith("f.yaml: many.1.raet: unknown key")


def test_what_is_right_is_a_frozen_value() -> None:
    outer = parse(Outer, {"size": 2, "inner": {"rate": 1e-4}, "many": [{}]}, "f.yaml")
    assert (outer.size, outer.inner.rate, outer.many) == (2, 1e-4, [Inner()])
    assert parse(Outer, outer.model_dump(), "f.yaml") == outer
    with pytest.raises(ValueError, match="frozen"):
        outer.size = 4


@pytest.mark.parametrize(
    ("spec", "start"),
    [
        ("flies", "f: task: unknown task 'flies'; did you mean 'files'?"),
        ({"name": "files", "trian": "x"}, "f: task: "),
        ({"nmae": "files"}, "f: task: expected a name or a mapping with 'name'; known: "),
        (None, "f: task: expected a name or a mapping with 'name'; known: "),
        (["files"], "f: task: expected a name or a mapping with 'name'; known: "),
        ({"name": 3}, "f: task: expected a name or a mapping with 'name'; known: "),
    ],
)
def test_plugins_are_asked_for_by_name(spec: Any, start: str) -> None:
    assert complaint(read_plugin, TASKS, spec, "f: task").startswith(start)


def test_suggestions() -> None:
    assert suggest("lroa", ["prefix", "lora"]) == "did you mean 'lora'? known: lora, prefix"
    assert suggest("xyz", ["prefix", "lora"]) == "known: lora, prefix"
