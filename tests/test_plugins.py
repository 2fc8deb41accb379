"""Plug-ins from outside: a folder that the user names, and packages with entry points; a file alone brings none."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import autopeft
from tiny_models import base_model
from tiny_project import not_measured, write_experiment

from autopeft import AutopeftError, SearchResult, evaluate, plugins, search, use_plugins
from autopeft.anatomy import shape_of
from autopeft.comparing.contenders import contenders
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import WorkerSpec
from autopeft.methods import METHODS
from autopeft.metrics import OTHERS, Metric
from autopeft.models import ModelSource
from autopeft.plugins import codes_of
from autopeft.registry import Registry

METHOD = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
import torch
from autopeft.methods import Method, MethodFlops, Weight

@dataclass(frozen=True)
class Shift(Method):
    # A vector on a map's output, in the first `width` of its entries.
    name: ClassVar[str] = "shift"
    description: ClassVar[str] = "a vector on the output"
    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "partial"
    formula: ClassVar[str] = "width"
    usual: ClassVar[Mapping[str, Any]] = {"width": 4}
    size: ClassVar[str] = "width"
    allowed_sites: ClassVar[tuple[str, ...]] = ("q", "v")
    stage: ClassVar[int] = 30
    random_init: ClassVar[bool] = False
    width: int
    sites: tuple[str, ...] = ("v",)

    def weights(self, shape, place):
        return {"shift": Weight((self.width,))}

    def flops(self, shape, site, length):
        return MethodFlops(0, 0, 0)

    def apply(self, bank, output, site_input, block_input):
        vector = torch.nn.functional.pad(bank.shift, (0, output.shape[-1] - bank.shift.shape[-1]))
        return output + bank.rows(vector, output)
"""
COST = """
from typing import ClassVar
from autopeft.costs import Cost

class AdaptedLayers(Cost):
    name: ClassVar[str] = "adapted_layers"
    description: ClassVar[str] = "layers with a method"
    unit: ClassVar[str] = "layers"

    def of(self, hybrid, shape, length):
        return sum(1 for methods in hybrid.layers if methods)

    def reference(self, shape, length):
        return shape.layers
"""
METRIC = """
from typing import ClassVar
from autopeft.metrics import Labels, Metric
from ._half import half

class Doubt(Metric):
    name: ClassVar[str] = "doubt"
    description: ClassVar[str] = "half of the share of rows whose class is not found"
    direction: ClassVar[str] = "min"
    labels: ClassVar[Labels] = "classes"

    def of(self, labels, outputs, positive=None):
        return half((outputs.argmax(axis=1) != labels).mean())
"""
SAMPLER = """
from typing import ClassVar
from autopeft.searching.samplers import SamplerPlugin

class Least(SamplerPlugin):
    name: ClassVar[str] = "least"
    description: ClassVar[str] = "uniform, in another's words"

    def make(self, seed, problem):
        from optuna.samplers import RandomSampler
        return RandomSampler(seed=seed)
"""
HALF = "def half(x):\n    return x / 2\n"
FILES = {
    "shift": METHOD,
    "layers": COST,
    "doubt": METRIC,
    "least": SAMPLER,
    "_half": HALF,
}

#: An experiment that uses all four.
USED: dict[str, Any] = {
    "space": {"blocks": {"shift": {"width": [0, 2, 4, 8]}, "lora": {"rank": [0, 2]}}},
    "budget": {"adapted_layers": 2},
    "objectives": ["doubt", "adapted_layers"],
    "sampler": {"name": "least", "seed": 0},
}


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folders in use are those of one test."""
    monkeypatch.setattr(plugins, "_folders", {})
    plugins._all_entry_points.cache_clear()
    yield
    plugins._all_entry_points.cache_clear()


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / f"{name}.py").write_text(text)
    return path


def project_of(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """(An experiment that uses all plug-ins, their folder)."""
    path = write_experiment(folder, **(USED | changes))
    data = yaml.safe_load(path.read_text())
    data["task"]["metric"] = ["doubt", "accuracy"]
    path.write_text(yaml.safe_dump(data))
    return path, folder_of(folder / "mine", **FILES)


def assert_used(result: SearchResult) -> None:
    done = [e for e in result.evaluations if e.status == "done"]
    assert len(done) == len(result.evaluations) >= 4
    for e in done:
        assert e.metrics["doubt"] == pytest.approx((1 - e.metrics["accuracy"]) / 2)
        assert e.metrics["adapted_layers"] == sum(1 for methods in e.candidate.hybrid.layers if methods) <= 2
    assert any("shift" in e.candidate.hybrid.summary() for e in done)
    assert [(o.metric, o.direction) for o in result.front.objectives] == [("doubt", "min"), ("adapted_layers", "min")]


@not_measured()
def test_a_comparison_with_a_folder_of_plug_ins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, mine = project_of(tmp_path)
    asked = ("--methods", "shift", "--seeds", "1", "--rates", "1", "--out", str(tmp_path / "compared"), "--json")
    status, out, err = autopeft(capsys, "compare", str(path), *asked, "--plugins", str(mine))
    assert status == 0, err
    assert "shift" in out


@not_measured()
def test_a_search_with_a_folder_of_plug_ins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mine = project_of(tmp_path, trials=4)
    run, to = str(tmp_path / "run"), str(tmp_path / "to")
    # Without being named it is not used, wherever the command stands.
    monkeypatch.chdir(mine)
    status, _, err = autopeft(capsys, "search", str(path), "--out", run, "-q")
    assert (status, "--plugins FOLDER" in err.splitlines()[-1]) == (2, True), err
    named = ("--plugins", str(mine))
    assert autopeft(capsys, "search", str(path), "--out", run, "-q", *named) == (0, "", "")
    assert_used(SearchResult.open(run))
    result = SearchResult.open(run)
    pick = next(e.key for e in result.evaluations if "shift" in e.candidate.hybrid.summary())
    status, out, _ = autopeft(capsys, "export", run, "--pick", pick, "--to", to, *named)
    # The commands that it says need the folder too; here it is the current one.
    assert (status, out.splitlines()[-1]) == (0, f"measure it again:  autopeft evaluate {to} --plugins .")
    shown = autopeft(capsys, "show", run, pick, *named)[1].splitlines()
    assert shown[-1].strip().endswith("--plugins ."), shown
    status, out, _ = autopeft(capsys, "evaluate", to, "--json", *named)
    metrics = json.loads(out)
    assert status == 0
    assert metrics["test_doubt"] == pytest.approx((1 - metrics["test_accuracy"]) / 2)
    assert "doubt" in autopeft(capsys, "list", "metrics", *named)[1]
    assert_known_again(capsys, tmp_path, path, pick)
    plugins._folders.clear()
    with pytest.raises(AutopeftError, match=r"unknown metric 'doubt'|unknown method 'shift'"):
        evaluate(to)
    with pytest.raises(AutopeftError, match="unknown"):
        _ = SearchResult.open(run).front
    # Where they were never imported it is known that they are what is missing.
    command = [sys.executable, "-m", "autopeft", "front", run]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (
        2,
        f"autopeft: error: {run}: was searched with plug-ins that are not in use here, "
        "doubt.Doubt, layers.AdaptedLayers, least.Least, shift.Shift; give --plugins FOLDER\n",
    )


def assert_known_again(capsys: pytest.CaptureFixture[str], tmp_path: Path, path: Path, pick: str) -> None:
    """The search in `run` goes on with the same code wherever it lies, and with no other."""
    run = str(tmp_path / "run")
    same = folder_of(tmp_path / "same", **FILES, other="x = 1\n")
    plugins._folders.clear()
    assert autopeft(capsys, "search", str(path), "--out", run, "-q", "--plugins", str(same)) == (0, "", "")
    for file, changed, named in (("_half", "x / 4", "doubt.Doubt"), ("shift", "2 * bank.shift", "shift.Shift")):
        text = FILES[file].replace("x / 2" if file == "_half" else "bank.shift", changed, 1)
        other = folder_of(tmp_path / f"with{file}", **FILES | {file: text})
        plugins._folders.clear()
        status, _, err = autopeft(capsys, "search", str(path), "--out", run, "-q", "--plugins", str(other))
        assert (status, err.count("\n"), f"plug-in {named} is not what" in err) == (2, 1, True), err
    weights = ("--pick", pick, "--to", str(tmp_path / "again"), "--plugins", str(other))
    status, _, err = autopeft(capsys, "export", run, *weights)
    assert (status, "plug-in shift.Shift is not what" in err) == (2, True), err


@pytest.mark.slow
@not_measured()
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_ray_find_the_same_plug_ins(workers: int, tmp_path: Path) -> None:
    path, mine = project_of(tmp_path, trials=6, runner={"name": "ray", "workers": workers})
    result = search(path, out=tmp_path / "run", quiet=True, plugins=[mine])
    assert_used(result)
    if workers == 1:
        here = search(path, out=tmp_path / "here", quiet=True, plugins=[mine], runner={"name": "in_process", "cpus": 1})
        assert [e.metrics for e in result.evaluations] == [e.metrics for e in here.evaluations]


BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "syntax": ({"bad": "x = 1\ndef f(:\n"}, r"plug-in .*bad\.py:2: cannot be imported \("),
    "import": ({"bad": "import os\nimport no_such_thing\n"}, r"bad\.py:2: cannot be imported \(.*no_such_thing"),
    "within": ({"bad": "from ._in import f\nf()\n", "_in": "def f():\n    1 / 0\n"}, r"_in\.py:2: cannot be imported"),
    "exit": ({"bad": "raise SystemExit(3)\n"}, r"bad\.py:1: cannot be imported"),
    "abstract": ({"bad": METRIC.replace("    def of", "    def off"), "_half": HALF}, "lacks of;"),
    "attribute": ({"bad": METRIC.replace("    labels:", "    label:"), "_half": HALF}, "lacks labels;"),
    "no name": ({"bad": METRIC.replace("    name:", "    title:"), "_half": HALF}, "needs a class attribute"),
    "taken": ({"bad": METRIC.replace('"doubt"', '"f1"'), "_half": HALF}, r"named 'f1' is there already .*f1\.py"),
    "loss": ({"bad": METRIC.replace('"doubt"', '"loss"'), "_half": HALF}, "the name 'loss' has another meaning"),
    "twice": ({"a": METRIC, "b": METRIC, "_half": HALF}, r"b\.py: Doubt: .* already \(.*a\.py\)"),
    "file name": ({"my-metric": METRIC}, r"my-metric\.py: a file's name must be a Python name"),
    "empty": ({}, "has no Python file"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_broken_plug_in_is_one_line_with_its_place(mistake: str, tmp_path: Path) -> None:
    files, expected = BROKEN[mistake]
    folder = folder_of(tmp_path / "mine", **files)
    registry: Registry[Metric] = Registry("autopeft.metrics", Metric, "metric", lambda: OTHERS)

    def found() -> list[str]:
        use_plugins(folder)
        return registry.names()

    with pytest.raises(AutopeftError, match=expected) as error:
        found()
    assert "\n" not in str(error.value)
    if mistake in ("syntax", "import", "within", "exit"):
        # Mended, it is read again.
        (folder / "bad.py").write_text(METRIC.replace("from ._half import half", "half = float"))
        assert "doubt" in found()


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = autopeft(capsys, "list", "costs", "--plugins", str(tmp_path / "nowhere"))
    assert (status, err.count("\n")) == (2, 1), err
    assert "nowhere" in err


def test_a_working_directory_that_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "accuracy" in Registry("autopeft.metrics", Metric, "metric", lambda: OTHERS).names()
    with pytest.raises(AutopeftError, match="plug-ins: mine: no such place"):
        use_plugins("mine")
    status, _, err = autopeft(capsys, "list", "costs")
    assert (status, err.count("\n"), "working directory: is gone" in err) == (2, 1, True), err


def test_a_worker_has_the_code_of_its_search(tmp_path: Path) -> None:
    mine = folder_of(tmp_path / "mine", **FILES)
    use_plugins(mine)
    (mine / "_half.py").write_text("half = float\n")
    spec = WorkerSpec(ModelSource("tiny", "tiny"), TrainingSettings())
    assert pickle.loads(pickle.dumps(spec)) == spec
    # A comparison trains what has other code anew.
    (shift,) = contenders(shape_of(base_model("llama")), "shift")
    assert codes_of([METHODS.get("shift")])["shift.Shift"] in shift.key
    build, (folders, codes, values) = spec.__reduce__()
    doubt = next(name for name in codes if name.endswith(".doubt"))
    with pytest.raises(AutopeftError, match=r"plug-in doubt\.py: was changed while it is in use"):
        build(folders, codes | {doubt: "0" * 12}, values)


def installed(folder: Path, name: str, points: str, **files: str) -> Path:
    """A package as pip would have installed it in `folder`."""
    folder_of(folder / f"{name}-1.0.dist-info")
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(points)
    for module, text in files.items():
        (folder / f"{module}.py").write_text(text)
    return folder


def test_entry_points_of_a_package(tmp_path: Path) -> None:
    """In a process of its own: what is imported stays."""
    metric = METRIC.replace("from ._half import half", "half = float")
    points = "[autopeft.metrics]\nany = their_doubt\n[autopeft.costs]\nlayers = their_layers:AdaptedLayers\n"
    site = installed(tmp_path / "site", "theirs", points, their_doubt=metric, their_layers=COST)
    said = _lists(site, tmp_path)
    assert "doubt" in said["metrics"]
    assert "adapted_layers" in said["costs"]
    # The current folder is no place where packages are installed.
    said = _lists(site, site)
    assert "doubt" not in said["metrics"]
    assert "adapted_layers" not in said["costs"]


def _lists(site: Path, here: Path) -> dict[str, list[str]]:
    code = (
        "import json\nfrom autopeft.costs import COSTS\nfrom autopeft.metrics import METRICS\n"
        "print(json.dumps({'costs': COSTS.names(), 'metrics': METRICS.names()}))"
    )
    path = os.pathsep.join([str(Path(plugins.__file__).parents[1]), str(site)])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, cwd=here, capture_output=True, check=True
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("their_broken:Doubt", "entry point 'x' of package theirs: cannot be imported"),
        ("their_broken_no", "cannot be imported"),
        ("json:loads", "expected a metric, a subclass of autopeft.metrics._base.Metric"),
    ],
)
def test_a_broken_entry_point_is_one_line(
    point: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = installed(tmp_path / "site", "theirs", f"[autopeft.metrics]\nx = {point}\n", their_broken="1 / 0\n")
    monkeypatch.syspath_prepend(str(site))
    registry: Registry[Metric] = Registry("autopeft.metrics", Metric, "metric", lambda: OTHERS)
    with pytest.raises(AutopeftError, match=expected):
        registry.names()


def test_a_file_can_not_bring_a_plug_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an experiment nor a run folder nor the environment names a folder whose code is run."""
    mark = tmp_path / "MARK"
    mine = folder_of(tmp_path / "mine", **FILES, trap=f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.setenv("AUTOPEFT_PLUGINS", str(mine))
    path = write_experiment(tmp_path, plugins=[str(mine)])
    status, _, err = autopeft(capsys, "search", str(path), "--out", str(mine / "run"), "-q")
    assert (status, "plugins" in err) == (2, True), err
    path = write_experiment(tmp_path, task={"name": "files", "text": "text", "metric": "doubt", "train": "x.jsonl"})
    monkeypatch.chdir(mine)
    assert autopeft(capsys, "search", str(path), "--out", str(mine / "run"), "-q")[0] == 2
    assert not mark.exists()
