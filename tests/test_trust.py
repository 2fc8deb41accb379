"""A folder from a stranger is data: whatever its files say, no verb and no function runs code that lies in it."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_cli import autopeft
from tiny_project import make_data, not_measured, write_experiment

import autopeft as package
from autopeft import AutopeftError, SearchResult, evaluate, export, search, train
from autopeft.trust import trusted

#: Registered by both model and tokenizer; importing it is what must not happen.
EVIL = """
open({mark!r}, "w").close()
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast
class C(BertConfig): pass
class M(BertModel): config_class = C
class S(BertForSequenceClassification): config_class = C
class T(PreTrainedTokenizerFast): pass
"""
MAPS = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForSequenceClassification": "evil.S"}


class Project:
    """A model, data, a finished search and an export in a folder, and the mark that the trap leaves when it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, folder / "MARK"
        self.model, self.run, self.export = folder / "model", folder / "run", folder / "export"
        self.yaml = folder / "tiny.yaml"

    def arm(self, says: bool, model: bool = True, tokenizer: bool = True, family: str = "bert") -> None:
        """Set the trap in the model's folder; `says`: whether all files ask for it to be run."""
        # transformers would not import one of the same name twice.
        name = f"evil_{self.folder.parent.name}"
        (self.model / f"{name}.py").write_text(EVIL.format(mark=str(self.mark)))
        maps = {key: value.replace("evil", name) for key, value in MAPS.items()}
        if model:
            change(self.model / "config.json", auto_map=maps, model_type=family)
        if tokenizer:
            change(self.model / "tokenizer_config.json", auto_map={"AutoTokenizer": [f"{name}.T", f"{name}.T"]})
        for path in (self.yaml, self.run / "experiment.yaml"):
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"trust_remote_code": says}))
        change(self.export / "hybrid.json", trust_remote_code=says)

    def task(self, path: Path | str) -> None:
        """Give the experiment a data set to load."""
        fields = yaml.safe_load(self.yaml.read_text()) | {"task": {"name": "hub", "path": str(path), "text": "text"}}
        self.yaml.write_text(yaml.safe_dump(fields))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class Boom:
    """Pickled, it leaves the mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "project"
    folder.mkdir()
    path = write_experiment(folder, trials=2)
    with not_measured():
        result = search(path, out=folder / "run", quiet=True)
    export(result, to=folder / "export")
    return folder


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Project:
    """A copy whose files name the copy."""
    made = Project(shutil.copytree(original, tmp_path / "project"))
    for path in (made.yaml, made.run / "experiment.yaml", made.export / "hybrid.json"):
        path.write_text(path.read_text().replace(str(original), str(made.folder)))
    return made


VERBS: dict[str, Callable[[Project], tuple[str, ...]]] = {
    "search": lambda p: ("search", str(p.yaml), "--out", str(p.folder / "new"), "-q"),
    "resume": lambda p: ("search", str(p.run / "experiment.yaml"), "--out", str(p.run), "-q"),
    "plan": lambda p: ("plan", str(p.yaml), "--samples", "10"),
    "compare": lambda p: ("compare", str(p.yaml), "--methods", "head_only", "--out", str(p.folder / "c"), "-q"),
    "train": lambda p: ("train", str(p.export), str(p.yaml), "-q"),
    "explain": lambda p: ("explain", str(p.run)),
    "export": lambda p: ("export", str(p.run), "--to", str(p.folder / "out")),
    "evaluate": lambda p: ("evaluate", str(p.export)),
    "on": lambda p: ("evaluate", str(p.export), "--on", str(p.folder / "test.jsonl")),
}
FUNCTIONS: dict[str, Callable[[Project], object]] = {
    "search": lambda p: search(p.yaml, out=p.folder / "new", quiet=True),
    "explain": lambda p: SearchResult.open(p.run).explain(),
    "export": lambda p: export(p.run, to=p.folder / "out"),
    "method": lambda p: SearchResult.open(p.run).export(to=p.folder / "out"),
    "evaluate": lambda p: evaluate(p.export),
    "train": lambda p: train(p.export, p.yaml, quiet=True),
}
TRAPS: dict[str, dict[str, Any]] = {"both": {}, "model": {"tokenizer": False}, "tokenizer": {"model": False}}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_refuses_what_a_file_asks_for(verb: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.arm(says=True)
    status, _, err = autopeft(capsys, *VERBS[verb](project))
    assert not project.mark.exists(), "a stranger's code ran"
    assert (status, len(err.strip().splitlines())) == (2, 1), err
    assert "trust_remote_code" in err
    assert "--trust-remote-code" in err


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_refuses_what_a_file_asks_for(name: str, project: Project) -> None:
    project.arm(says=True)
    with pytest.raises(AutopeftError, match="trust_remote_code=True"):
        FUNCTIONS[name](project)
    assert not project.mark.exists(), "a stranger's code ran"


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("verb", ["plan", "export", "evaluate", "train"])
def test_code_that_no_file_asks_for_does_not_run(
    verb: str, trap: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.arm(says=False, **TRAPS[trap])
    status, _, err = autopeft(capsys, *VERBS[verb](project))
    assert not project.mark.exists(), "a stranger's code ran"
    assert status in (0, 2), err
    assert "Traceback" not in err


def test_front_opens_no_model(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.arm(says=True)
    assert autopeft(capsys, "front", str(project.run))[0] == 0
    assert not project.mark.exists()


def test_the_trap_is_alive_and_the_flag_trusts(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the tests above could not fail."""
    project.arm(says=True)
    autopeft(capsys, *VERBS["evaluate"](project), "--trust-remote-code")
    assert project.mark.exists()


def test_a_search_with_the_flag_says_so_to_whoever_resumes_it(project: Project) -> None:
    result = search(project.yaml, out=project.folder / "trusting", quiet=True, trust_remote_code=True, trials=1)
    assert result.experiment.trust_remote_code
    with pytest.raises(AutopeftError, match="give --trust-remote-code"):
        search(result.run_dir / "experiment.yaml", out=result.run_dir, quiet=True)
    search(result.run_dir / "experiment.yaml", out=result.run_dir, quiet=True, trust_remote_code=True)


def test_only_the_caller_gives_trust() -> None:
    """What opens a model takes trust from `trusted` alone, and nobody else makes a source of a model."""
    assert trusted(needed=False, given=False, where="x") is False
    assert trusted(needed=True, given=True, where="x") is True
    given, made = [], []
    for path in Path(package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "find_model":
                given += [(path.name, ast.unparse(a)) for a in [*node.args[1:], *(k.value for k in node.keywords)]]
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ModelSource":
                made.append(path.name)
    assert set(made) == {"models.py"}
    assert given, "nobody opens models?"
    for file, argument in given:
        assert argument.startswith("trusted(") or ((file, argument) == ("evaluation.py", "trust")), file


def refused(capsys: pytest.CaptureFixture[str], project: Project, verb: str, *parts: str) -> None:
    status, _, err = autopeft(capsys, *VERBS[verb](project))
    assert not project.mark.exists(), "a stranger's code ran"
    assert status == 2, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err, err


def test_pickled_weights_in_an_export_are_refused(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.export / "adapter_model.safetensors").unlink()
    torch.save(Boom(project.mark), project.export / "adapter_model.bin")
    refused(capsys, project, "evaluate", "adapter_model.bin", "not opened")


@pytest.mark.parametrize("verb", ["evaluate", "export", "search"])
def test_pickled_weights_of_a_base_model_run_nothing(
    verb: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.model / "model.safetensors").unlink()
    torch.save(Boom(project.mark), project.model / "pytorch_model.bin")
    # A run folder knows that it is not the model that it had.
    refused(capsys, project, verb, "model.safetensors" if verb == "export" else str(project.model))


def test_pickled_weights_of_a_run_are_trained_again(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (project.run / "weights").iterdir():
        path.write_bytes(pickle.dumps(Boom(project.mark)))
    status, _, err = autopeft(capsys, *VERBS["export"](project))
    assert (status, project.mark.exists()) == (0, False), err
    assert "cannot be read: training it again" in err


ADAPTER_CONFIGS: dict[str, dict[str, Any]] = {
    "another type": {"peft_type": "PROMPT_TUNING"},
    "a module to import": {"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "megatron_evil"},
    "another hybrid": {"hybrid": {"layers": [[], [], []]}},
}


@pytest.mark.parametrize("case", ADAPTER_CONFIGS)
def test_an_adapter_configuration_must_be_that_of_the_hybrid(
    case: str, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(project.folder))
    (project.folder / "megatron_evil.py").write_text(f"open({str(project.mark)!r}, 'w')")
    change(project.export / "adapter_config.json", **ADAPTER_CONFIGS[case])
    refused(capsys, project, "evaluate", "adapter_config.json", "not that of the hybrid")


def test_what_an_adapter_configuration_says_of_others_is_not_followed(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "base_model_name_or_path": "/nowhere",
        "auto_mapping": {"parent_library": "evil", "base_model_class": "X"},
    }
    change(project.export / "adapter_config.json", **places)
    assert autopeft(capsys, *VERBS["evaluate"](project))[0] == 0


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_attention_code_of_the_hub_is_not_fetched(
    field: str, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import modeling_utils

    def fetched(*args: Any, **kwargs: Any) -> None:
        project.mark.touch()

    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", fetched)
    change(project.model / "config.json", **{field: "someone/kernel"})
    status, _, err = autopeft(capsys, *VERBS["evaluate"](project))
    assert not project.mark.exists(), "a kernel of the hub would have been run"
    assert status in (0, 2), err


def data_set(kind: str, project: Project) -> Path | str:
    folder, boom = project.folder / "set", pickle.dumps(Boom(project.mark))
    folder.mkdir()
    if kind.startswith("script"):
        (folder / "set.py").write_text(f"open({str(project.mark)!r}, 'w')")
        if kind == "script beside rows":
            make_data(folder)
        return folder / "set.py" if kind == "script file" else folder
    if kind == "archive":
        with tarfile.open(folder / "train.tar", "w") as archive:
            for name in ("a.pth", "a.pkl", "a.npy", "a.pyd"):
                member = tarfile.TarInfo(name)
                member.size = len(boom)
                archive.addfile(member, BytesIO(boom))
        return folder
    (folder / f"train.{kind}").write_bytes(boom)
    return folder


@pytest.mark.parametrize("kind", ["script", "script file", "script beside rows", "archive", "pkl", "pt"])
def test_a_data_set_runs_nothing(kind: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.task(data_set(kind, project))
    refused(capsys, project, "plan", "set")


def test_yaml_makes_no_objects(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.yaml.write_text(f"name: !!python/object/apply:os.mknod ['{project.mark}']\n")
    refused(capsys, project, "plan", "not valid YAML")


@pytest.mark.parametrize("pick", ["../../model/model", "..", "/etc/passwd", "*"])
def test_a_key_is_no_path(pick: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = autopeft(capsys, *VERBS["export"](project), "--pick", pick)
    assert status == 2
    assert f"no candidate {pick!r}" in err


LINKS = ["explain.png", "pareto.png", "pareto.html", "front.json", "trials.csv", "task.json", "experiment.yaml"]


def test_nothing_is_written_through_a_link(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    before: dict[Path, bytes] = {}
    for name in LINKS:
        link, other = project.run / name, project.folder / f"precious-{name}"
        other.write_bytes(link.read_bytes() if link.exists() else b"precious")
        before[other] = other.read_bytes()
        link.unlink(missing_ok=True)
        os.symlink(other, link)
    assert autopeft(capsys, "search", str(project.yaml), "--out", str(project.run), "-q", "--trials", "5")[0] == 0
    assert autopeft(capsys, "explain", str(project.run))[0] == 0
    for other, content in before.items():
        assert other.read_bytes() == content, other.name


def test_only_our_own_leftovers_are_removed(project: Project) -> None:
    elsewhere = project.folder / "elsewhere"
    (project.run / "weights").rename(elsewhere)
    os.symlink(elsewhere, project.run / "weights")
    cut = ".0123456789ab-cut-500-seed1.safetensors.7.partial"
    for name in (".mine.partial", ".0123456789ab.7.partial", cut):
        (elsewhere / name).touch()
    search(project.yaml, out=project.run, quiet=True)
    assert (elsewhere / ".mine.partial").exists()
    assert not (elsewhere / ".0123456789ab.7.partial").exists()
    assert not (elsewhere / cut).exists()


def test_an_export_overwrites_exports_only(project: Project) -> None:
    mine = project.folder / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    with pytest.raises(AutopeftError, match=r"README\.md that is not of an export"):
        export(project.run, to=mine)
    (mine / "README.md").unlink()
    with pytest.raises(AutopeftError, match="is the folder of a search"):
        export(project.run, to=project.run)
    with pytest.raises(AutopeftError, match="is the folder of a model"):
        export(project.run, to=project.model)
    (mine / "hybrid.json").symlink_to(project.yaml)
    with pytest.raises(AutopeftError, match="is a link"):
        export(project.run, to=mine)
    export(project.run, to=project.export)


#: What a terminal, rich, Markdown and HTML would each obey.
NAME = "[/x] [link=file:///a]a[/link] \x1b[31m | <script>alert(1)</script> `a` \n# b"


def test_names_are_shown_as_they_are(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    from autopeft.cli.shown import safe
    from autopeft.markup import markdown

    assert markdown(NAME).count("&lt;") == 2
    assert "\n" not in markdown(NAME)
    assert "\x1b" not in safe(NAME)
    assert "\\[/x]" in safe(NAME)
    status, _, err = autopeft(capsys, "front", str(project.folder / NAME))
    assert (status, "\x1b" in err) == (2, False)


def decoys(folder: Path, mark: Path) -> None:
    """Modules that libraries look for, whichever comes first; each leaves the mark."""
    for name in (
        "numpy",
        "scipy",
        "mlflow",
        "transformers",
        "sentencepiece",
        "sitecustomize",
        "uvicorn",
        "flask",
        "pydantic",
        "rich",
        "yaml",
        "typer",
    ):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise ImportError('{name}')\n")


def test_the_command_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    decoys(tmp_path, tmp_path / "MARK")
    command = [sys.executable, "-m", "autopeft", "list", "samplers"]
    done = subprocess.run(command, cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True)
    assert "known_cost" in done.stdout
    assert not (tmp_path / "MARK").exists(), "what lay in the current folder was imported"


@pytest.mark.slow
def test_workers_import_nothing_from_the_current_folder(project: Project) -> None:
    decoys(project.folder, project.mark)
    command = "import sys; from autopeft.cli import main; sys.argv[0] = 'autopeft'; main()"
    fields = yaml.safe_load(project.yaml.read_text()) | {"runner": {"name": "ray", "workers": 2}}
    project.yaml.write_text(yaml.safe_dump(fields))
    subprocess.run(
        [sys.executable, "-P", "-c", command, "search", str(project.yaml), "--out", str(project.folder / "ray"), "-q"],
        cwd=project.folder, check=True, timeout=300,
    )  # fmt: skip
    assert not project.mark.exists(), "what lay in the current folder was imported"


@pytest.mark.slow
def test_mlflows_pages_import_nothing_from_the_current_folder(project: Project) -> None:
    import socket
    import time
    import urllib.request

    tracked = {"tracking": {"name": "mlflow"}, "name": "tracked"}
    search(project.yaml, out=project.folder / "tracked", quiet=True, trials=1, **tracked)
    decoys(project.folder, project.mark)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "import sys; from autopeft.cli import main; sys.argv[0] = 'autopeft'; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", command, "ui", str(project.folder / "tracked"), "--port", str(port)],
        cwd=project.folder, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None, "the pages ended"
                time.sleep(0.5)
        else:
            pytest.fail("the pages never answered")
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
    assert not project.mark.exists(), "what lay in the current folder was imported"
