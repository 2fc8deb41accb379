"""What is absurd is refused at once, in one line, before anything is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mutations import written
from test_fuzz import EXPERIMENT, FRONT, HYBRID, SPACE, shape
from typer.testing import CliRunner

from autopeft.attaching import Banks
from autopeft.budget import Budget
from autopeft.candidate import Candidate, Evaluation
from autopeft.cli.app import app
from autopeft.config import read_yaml
from autopeft.doors import check_plain, door, read_json, read_text, within
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.experiment import Experiment
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, LoRA
from autopeft.run_folder import RunFolder
from autopeft.searching.front import ParetoFront
from autopeft.space import SearchSpace


def short(value: Any) -> str:
    """A test's name: pytest would write out a number of 5,000 digits."""
    return shown(value)[:40]


def complaint(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(AutopeftError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message.isprintable()
    assert 0 < len(message) < 600
    return message


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_is_one_line_whatever_it_holds() -> None:
    said = str(AutopeftError("file\n\x1b[31m: \ud800 bad\tname " + "x" * 10_000 + "; the remedy"))
    assert said.isprintable()
    assert len(said) < 600
    assert said.startswith("file\\n\\x1b[31m: \\ud800 bad\\tname x")
    assert said.endswith("; the remedy")


@pytest.mark.parametrize(
    "value", [10**5_000, "x" * 10**6, [[[[[1]]]]] * 1_000, {i: i for i in range(9_999)}, b"\0"], ids=short
)
def test_values_are_shown_short(value: Any) -> None:
    assert len(shown(value)) <= 200


def test_small_values_are_shown_as_they_are() -> None:
    assert [shown(v) for v in (1, 0.5, "a", [1, 2], None, {"a": 1})] == [
        "1",
        "0.5",
        "'a'",
        "[1, 2]",
        "None",
        "{'a': 1}",
    ]


def test_a_long_word_is_suggested_nothing_at_once() -> None:
    assert suggest("x" * 10**7, ["lora"]) == suggest(None, ["lora"]) == "known: lora"


def test_a_place_stands_before_the_complaint() -> None:
    def fail() -> None:
        with within("a.yaml", "mend it"), door("field", "wrong"):
            raise ValueError("why\nnot")

    assert complaint(fail) == "a.yaml: field: wrong (why); mend it"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.file"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert complaint(read_text, path) == f"{path}: cannot be read (not a file, but a pipe or a device)"
    for path in (tmp_path, tmp_path / "none", tmp_path / "loop", Path("x" * 5_000), Path("a\0b")):
        assert "cannot be read (" in complaint(read_text, path)


def test_a_file_of_many_bytes_is_not_read(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(10**12)
    assert "1,000,000,000,000 bytes are more than such a file has" in complaint(read_text, file, "make it anew")


def test_a_byte_order_mark_is_no_part_of_the_text(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\n")
    assert read_yaml(file) == {"a": "é"}
    file.write_bytes("a: é\n".encode("utf-16"))
    assert "not UTF-8 text; save it as UTF-8" in complaint(read_yaml, file)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' + "[" * 1_000 + "]" * 1_000 + "}", '{"a": ' + "9" * 5_000 + "}", '{"a": ' + "9" * 50 + "}",
        '{"a": "\\ud800"}', '{"a\\u0000": 1}', "[" + "{}," * 3 * 10**5 + "0]", "[1]", "1", "", "{", "{'a': 1}", "\0",
        '{"a": [' + "0," * 2 * 10**6 + "0]}",
    ], ids=short)  # fmt: skip
def test_json_of_absurd_content(text: str, file: Path) -> None:
    file.write_text(text)
    assert complaint(read_json, file, "make it anew").startswith(f"{file}: ")


def test_data_that_hold_themselves_are_refused() -> None:
    inside: list[Any] = []
    inside.append(inside)
    assert "levels deep" in complaint(check_plain, {"a": inside}, "x")
    bomb: list[Any] = ["x"]
    for _ in range(20):
        bomb = [bomb] * 9
    assert "more than" in complaint(check_plain, bomb, "x")


# --- YAML -------------------------------------------------------------------------------------------------------------


def bomb(leaf: str, level: str) -> str:
    """Nine aliases of nine aliases, eight levels."""
    lines = [f"a0: &a0 {leaf}"]
    return "\n".join(lines + [f"a{i}: &a{i} {level.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, 9)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb("[x, x]", "[{}]"), "line 6: not valid YAML (more than 100,000 values, aliases written out)"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "line 6: not valid YAML (more than 100,000 values, aliases written out)"),
        ("a: &a [*a]", "line 1: not valid YAML (alias 'a' of nothing before it, or of what it stands in)"),
        ("a: &a {<<: *a}", "alias 'a' of nothing before it"),
        ("a: &a 1\nb: &a 2", "line 2: not valid YAML (anchor 'a' twice)"),
        ("x: 1\na: !!int x", "line 2: not valid YAML (not a value of type 'int'"),
        ("a: 0x_", "line 1: not valid YAML (not a value of type 'int'"),
        ("a: !!bool x", "line 1: not valid YAML (not a value of type 'bool'"),
        ("a: !!timestamp x", "line 1: not valid YAML (type 'timestamp' is not used here; write plain values)"),
        ("a: !!python/object/apply:os.system [ls]", "type 'python/object/apply:os.system' is not used here"),
        ("a: !!set {b}", "type 'set' is not used here"),
        ("a: " + "9" * 5_000, "line 1: not valid YAML (a number of 5,000 digits)"),
        ("a: 0x" + "f" * 5_000, "a number of 5,002 digits"),
        ("a: " + "9" * 50, "a number of more than 40 digits"),
        ("a: " + "1" * 49_999 + "e", "expected"),
        ("a: " + "[" * 1_000 + "]" * 1_000, "line 1: not valid YAML (nested more than 64 levels deep)"),
        ("\n".join(" " * i + "a:" for i in range(1_000)), "line 65: not valid YAML (nested more than 64 levels deep)"),
        ("- " * 100_000, "nested more than 64 levels deep"),
        ("a: &a " + "[" * 60 + "]" * 60 + "\nb: " + "[" * 40 + "*a" + "]" * 40, "nested more than 64 levels deep"),
        ("a: [" + "1, " * 200_000 + "1]", "line 1: not valid YAML (more than 100,000 values"),
        ("a: " + "x" * 100_000, "a value of 100,000 characters"),
        ("? [a]\n: 1", "a key that is no text"),
        ("a: 1\n---\nb: 1", "line 2: not valid YAML (but found another document)"),
        ('a: "\\0"', "a text with a NUL character"),
        ('a: "\\ud800"', "line 1: not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("a:\n\t- b", "line 2: not valid YAML"),
        ("#" + "x" * 3 * 2**20, "bytes are more than such a file has"),
    ],
    ids=short,
)
def test_yaml_of_absurd_content(text: str, said: str, file: Path) -> None:
    file.write_text(text if said != "expected" else f"- {text}")
    assert said in complaint(read_yaml, file)


def test_dates_are_texts(file: Path) -> None:
    file.write_text("a: 2001-99-99\nb: 2001-01-01\n")
    assert read_yaml(file) == {"a": "2001-99-99", "b": "2001-01-01"}


# --- sizes ------------------------------------------------------------------------------------------------------------


def changed(data: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    if not path:
        return value
    head, *rest = path
    copy = list(data) if isinstance(data, list) else dict(data)
    copy[head] = changed(copy[head] if not isinstance(copy, dict) or head in copy else {}, *rest, value=value)
    return copy


@pytest.mark.parametrize(
    "layers",
    [
        [[]] * 10**6, [[{"method": "lora", "rank": 10**7}]], [[{"method": "parallel", "bottleneck": 10**9}]],
        [[{"method": "prefix", "length": 10**400}]], [[{"method": "lora", "rank": 0}] * 10**6],
        [[{"method": "lora", "rank": 1, "scale": 1e300}]], [[{"method": "lora", "rank": 1, "alpha": 10**400}]],
        [[{"method": "lora", "rank": 1, "sites": None}]], [[{"method": ["lora"]}]], [[["method", "lora"]]], [[{}]], 7,
        None,
    ], ids=short)  # fmt: skip
def test_absurd_hybrids(layers: Any) -> None:
    assert complaint(Hybrid.from_json, {"layers": layers}).startswith("hybrid: ")


def test_hybrids_of_absurdly_many_layers_are_never_made() -> None:
    assert "1,000,000,000,000 layers" in complaint(Hybrid.uniform, 10**12, LoRA(4))
    assert "1,000,000,000,000 layers" in complaint(Hybrid.from_layers, 10**12, {})


@pytest.mark.parametrize("name", METHODS.names(), ids=short)
def test_no_method_has_an_absurd_size(name: str) -> None:
    cls = METHODS.get(name)
    assert cls.largest <= 65_536
    assert f"must be at most {cls.largest:,}" in complaint(cls, 10**7)
    assert f"must be at most {cls.largest:,}" in complaint(cls, 10**5_000)


def test_a_hybrid_far_larger_than_the_model_gets_no_memory() -> None:
    hybrid = Hybrid.uniform(shape().layers, LoRA(65_536, sites=("q", "k", "v", "o", "up", "down")))
    assert "parameters on a model of" in complaint(Banks, [hybrid], shape(), [0])
    assert "is no whole number of 64 bits" in complaint(Banks, [Hybrid.from_json(HYBRID)], shape(), [10**30])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("blocks", "lora", "rank"), list(range(10**6))),
        (("blocks", "lora", "rank"), [0, 10**7]),
        (("blocks", "lora", "rank"), [0, "d/" + "9" * 5_000]),
        (("blocks", "lora", "scale"), float("inf")),
        (("blocks",), {f"b{i}": {"method": "lora", "rank": [0, 4]} for i in range(5_000)}),
        (("training", "learning_rate"), {"low": 1e-4, "high": float("inf")}),
        (("training", "learning_rate"), {"choices": [1e-3] * 10_000}),
        (("training", "learning_rate"), 1e39),
        (("training", "warmup"), 1.5),
    ],
    ids=short,
)
def test_absurd_spaces(path: tuple[str, ...], value: Any, file: Path) -> None:
    space = changed(SPACE, *path, value=value)
    assert "search space: " in complaint(SearchSpace.load, space, shape())
    file.write_text(written(space))
    complaint(SearchSpace.load, file, shape())


def test_a_space_of_too_many_hybrids_is_refused() -> None:
    from dataclasses import replace

    deep, blocks = (
        replace(shape(), layers=1_000),
        {"lora": {"rank": list(range(0, 1_000))}, "prefix": SPACE["blocks"]["prefix"]},
    )
    assert "10^3301 hybrids" not in complaint(SearchSpace.load, {"blocks": {**SPACE["blocks"], **blocks}}, deep)
    blocks = {"lora": {"rank": [0, 2, 4]}, "sequential": {"bottleneck": [0, 8]}}
    assert len(str(SearchSpace.load({"blocks": blocks}, replace(shape(), layers=200)).size)) == 156


@pytest.mark.parametrize(
    "amount", ["1e999999999", "9" * 5_000, "1e400", 10**30, 10**5_000, "nan", float("inf"), [1]], ids=short
)
def test_absurd_budgets(amount: Any) -> None:
    assert complaint(Budget.resolve, {"trainable_params": amount}, shape(), 128).startswith("budget.trainable_params: ")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), ".."), (("name",), "."), (("name",), "-x"), (("name",), ".hidden"), (("name",), "x" * 300),
        (("name",), "a\nb"), (("name",), "a/b"), (("name",), "é" * 100), (("name",), ""), (("name",), "a\n"),
        (("trials",), 10**9), (("trials",), 10**30), (("time_limit",), float("inf")),
        (("time_limit",), "9" * 400 + "h"),
        (("time_limit",), float("nan")), (("time_limit",), "nan"), (("model",), "x" * 10**5), (("model",), "a\0b"),
        (("training", "epochs"), 10**9), (("training", "batch_size"), 10**9), (("training", "max_length"), 10**9),
        (("training", "seed"), 10**30), (("training", "learning_rate"), float("inf")), (("sampler", "startup"), 10**9),
        (("sampler", "seed"), 2**64), (("runner", "pack"), 10**9), (("runner", "cache"), float("inf")),
        (("stopping", "rungs"), [1] * 10**5), (("objectives",), ["accuracy"] * 1_000), (("description",), "\ud800"),
    ], ids=short)  # fmt: skip
def test_absurd_experiments(path: tuple[str, ...], value: Any) -> None:
    assert complaint(Experiment.of, changed(EXPERIMENT, *path, value=value), "here").startswith("here: ")


@pytest.mark.parametrize("key", ["candidate", "status", "metrics", "curve", "new"])
@pytest.mark.parametrize("value", [None, 7, "x", [7]], ids=short)
def test_evaluations_that_nobody_wrote(key: str, value: Any) -> None:
    evaluation = Evaluation(Candidate(Hybrid.from_json(HYBRID)), "done", {"accuracy": 0.5})
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    complaint(Evaluation.from_json, {**evaluation.to_json(), key: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x", None, 10**400, []], ids=short)
def test_rates_of_candidates_are_numbers(value: Any) -> None:
    candidate = {"hybrid": HYBRID, "training": {"learning_rate": value}}
    assert complaint(Candidate.from_json, candidate).startswith("candidate: ")
    assert complaint(ParetoFront.from_json, changed(FRONT, "points", 0, "training", "learning_rate", value=value))


def test_a_damaged_measurement_of_the_engine_is_not_made_anew_in_silence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.setup() is None
    for text in ("", "{", "{}", "[1]", '{"pack": 1000000000}', "\0"):
        folder.setup_file.write_text(text)
        assert str(folder.setup_file) in complaint(folder.setup)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "x.yaml", "--out", ""], ["search", "x.yaml", "--out", "a\nb"], ["search", "x.yaml", "--out", " "],
        ["search", "x.yaml", "--warm-start", ""], ["search", "x.yaml", "--trials", "0"],
        ["search", "x.yaml", "--trials", "-1"], ["plan", "x.yaml", "--samples", "1000000000000"],
        ["plan", "x.yaml", "--samples", "0"], ["front", ""], ["export", "runs/x", "--to", ""], ["evaluate", ""],
        ["export", "runs/x", "--max-params", "-5"], ["ui", "--port", "99999999"], ["ui", "--port", "0"], ["ui", ""],
    ], ids=short)  # fmt: skip
def test_arguments_that_nothing_can_be_done_with(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "options",
    [
        ["--trials", "1" + "0" * 30], ["--time-limit", "nan"],
        ["--time-limit", "inf"], ["--time-limit", "-1s"], ["--time-limit", ""], ["--time-limit", "9" * 400],
    ], ids=short)  # fmt: skip
def test_overrides_that_nothing_can_be_done_with(options: list[str], file: Path) -> None:
    path = file.with_suffix(".yaml")
    path.write_text(written(EXPERIMENT))
    result = CliRunner().invoke(app, ["search", str(path), *options])
    assert isinstance(result.exception, AutopeftError)
    assert str(result.exception).startswith("command line: ")


_MAIN = """
import sys
import autopeft.cli, autopeft.cli.app as app
def broken():
    raise ValueError("a mistake\\nof ours")
app.app = broken
autopeft.cli.main()
"""


def test_a_mistake_of_our_own_is_one_line_and_a_file_to_report(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "AUTOPEFT_TRACEBACK"} | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _MAIN], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    assert line.startswith("autopeft: bug: ValueError: a mistake\\nof ours; ")
    (report,) = tmp_path.glob("autopeft-*.txt")
    assert str(report) in line
    assert "in broken" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0
    shown = subprocess.run(
        [sys.executable, "-c", _MAIN],
        env=environment | {"AUTOPEFT_TRACEBACK": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "in broken" in shown.stderr


_FRUGAL = """
import json, resource, sys
from pathlib import Path
from autopeft.config import read_yaml
from autopeft.doors import read_json
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.hybrid import Hybrid
read_yaml(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for path in map(Path, sys.argv[2:]):
    try:
        Hybrid.from_json(read_json(path)) if path.suffix == ".json" else read_yaml(path)
    except AutopeftError:
        refused += 1
print(json.dumps([refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def test_absurd_files_take_little_memory(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(written(SPACE))
    texts = {
        "bomb.yaml": bomb("[x, x]", "[{}]"),
        "merge.yaml": bomb("{x: 1}", "{{<<: [{}]}}"),
        "many.yaml": "a: [" + "{}, " * 600_000 + "1]",
        "layers.json": json.dumps({"layers": [[]] * 10**6}),
        "objects.json": '{"a": [' + '{"b": 0},' * 800_000 + "0]}",
        "text.json": '{"a": "é' + "x" * 7 * 2**20 + '"}',
        "ranks.json": json.dumps({"layers": [[{"method": "lora", "rank": 10**7}]]}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-c", _FRUGAL, str(good), *(str(tmp_path / name) for name in texts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    refused, megabytes = json.loads(done.stdout)
    assert refused == len(texts)
    assert megabytes < 100
