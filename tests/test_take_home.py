"""What an export's folder holds, where it may be written, what it needs afterwards, and how it comes to the hub."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from test_cli import autopeft
from test_predicting import predicted
from test_trust import Project, change, original, project  # noqa: F401 - fixtures
from tiny_hub import Hub
from tiny_project import experiment, not_measured
from transformers import AutoTokenizer, pipeline

from autopeft import AutopeftError, evaluate, export, search
from autopeft.exporting.evaluation import open_export
from autopeft.exporting.predicting import Predictor

MERGES = {"sizes": "per_layer", "blocks": {"lora": {"rank": [0, 2]}, "bitfit": {"active": [1]}}}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and the merged export of its best candidate; the model is gone."""
    folder = tmp_path_factory.mktemp("merged")
    with not_measured():
        result = search(out=folder / "run", quiet=True, **experiment(folder, trials=1, space=MERGES, budget={}))
        result.export(to=folder / "out", format="merged")
    (folder / "model").rename(folder / "moved")
    return folder


def test_a_merged_export_is_complete_and_needs_no_base_model(merged: Path) -> None:
    out = merged / "out"
    record = json.loads((out / "hybrid.json").read_text())
    assert (record["format"], record["peft_type"]) == ("merged", "MERGED")
    assert sorted(record["files"]) == sorted(path.name for path in out.iterdir())
    measured = evaluate(out)
    assert measured == {name: pytest.approx(record["metrics"][name], rel=1e-5) for name in measured}
    assert len(measured) >= 2
    classify = pipeline("text-classification", str(out))
    said = list(Predictor(out)(["w5 w1 w7", "w2"]))
    for one, text in zip(said, ["w5 w1 w7", "w2"], strict=True):
        (found,) = classify(text)
        assert found["label"] == one["label"]
        assert found["score"] == pytest.approx(one["probabilities"][one["label"]], rel=1e-5)


def test_the_card_of_a_merged_export_runs(merged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = (merged / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "transformers", "pipeline_tag": "text-classification", "tags": ["autopeft"]}
    names: dict[str, Any] = {}
    for block in card.split("```python\n")[1:]:
        exec(block.partition("```")[0].replace("path/to/this/folder", str(merged / "out")), names)
    (first, *_) = Predictor(merged / "out")(["a text"])
    assert first["label"] in capsys.readouterr().out
    for said in ("## Data", "- Classes: 0: w0; 1: w1; 2: w2", "cut at 16 tokens", "| kept_params |", "## Limits"):
        assert said in card, said


def test_an_adapter_is_complete(project: Project, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    record = json.loads((project.export / "hybrid.json").read_text())
    assert record["id2label"] == {"0": "w0", "1": "w1", "2": "w2"}
    assert record["max_length"] == 16
    assert sorted(record["files"]) == sorted(path.name for path in project.export.iterdir())
    tokenizer = AutoTokenizer.from_pretrained(project.export)
    assert len(tokenizer(" ".join(["w1"] * 50), truncation=True)["input_ids"]) == 16
    names: dict[str, Any] = {}
    for block in (project.export / "README.md").read_text().split("```python\n")[1:]:
        exec(block.partition("```")[0].replace("path/to/this/folder", str(project.export)), names)
    opened = open_export(project.export).model
    with torch.no_grad():
        torch.testing.assert_close(names["outputs"], opened(**names["inputs"]).logits.softmax(-1), rtol=1e-5, atol=1e-6)


def test_the_base_model_may_be_moved(
    project: Project,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured, new = evaluate(project.export), project.folder / "elsewhere"
    project.model.rename(new)
    for command in (("evaluate", str(project.export)), ("export", str(project.run), "--to", str(project.folder / "o"))):
        status, _, err = autopeft(capsys, *command)
        assert (status, len(err.splitlines())) == (2, 1), err
    assert "--model" in autopeft(capsys, "evaluate", str(project.export))[2]
    status, out, err = autopeft(capsys, "evaluate", str(project.export), "--model", str(new), "--json")
    assert (status, json.loads(out)) == (0, measured), err
    assert predicted(project.export, "-", "--model", new, input="w1\n")[0] == 0
    (project.folder / "train.jsonl").unlink()
    status, _, err = autopeft(
        capsys, "export", str(project.run), "--to", str(project.folder / "o"), "--model", str(new)
    )  # fmt: skip
    assert status == 0, err
    found, before = ((f / "adapter_model.safetensors").read_bytes() for f in (project.folder / "o", project.export))
    assert found == before
    change(new / "config.json", layer_norm_eps=1e-3)
    with pytest.raises(AutopeftError, match="model"):
        export(project.run, to=project.folder / "o2", model=str(new))


def test_a_folder_that_no_export_wrote_is_left_alone(project: Project) -> None:  # noqa: F811
    mine = project.folder / "mine"
    mine.mkdir()
    (mine / ".gitattributes").write_text("")
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(AutopeftError, match=r"holds notes\.txt that is not of an export; give another folder"):
        export(project.run, to=mine)
    (mine / "hybrid.json").write_text(json.dumps({"layers": [[]]}))
    with pytest.raises(AutopeftError, match=r"holds hybrid\.json that is not of an export"):
        export(project.run, to=mine)
    for name in ("hybrid.json", "notes.txt"):
        (mine / name).unlink()
    export(project.run, to=mine)
    assert (mine / ".gitattributes").exists()


def test_an_export_in_an_exports_place_leaves_nothing_of_it(merged: Path, tmp_path: Path) -> None:
    out = shutil.copytree(merged / "out", tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    before = os.umask(0o027)
    try:
        export(merged / "run", to=out, format="autopeft", model=str(merged / "moved"))
    finally:
        os.umask(before)
    there = {path.name: path.stat().st_mode & 0o777 for path in out.iterdir()}
    assert there.keys() >= {"notes.txt", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert not there.keys() & {"config.json", "model.safetensors"}
    assert {mode for name, mode in there.items() if name != "notes.txt"} == {0o640}
    # A record that names what lies elsewhere removes nothing there.
    change(out / "hybrid.json", files=["../safe", "notes.txt/..", ".."])
    (tmp_path / "safe").write_text("")
    export(merged / "run", to=out, format="autopeft", model=str(merged / "moved"))
    assert (tmp_path / "safe").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Hub("hf_of_the_environment") as made:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", made.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", made.token)
        yield made


def test_an_export_is_pushed(project: Project, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    to = project.folder / "pushed"
    status, out, err = autopeft(
        capsys, "export", str(project.run), "--to", str(to), "--push", "me/mine", "--private"
    )  # fmt: skip
    assert status == 0, err
    assert f"pushed to {hub.address}/me/mine" in out
    assert "--format merged" in out
    files = {path.name: path.read_bytes() for path in to.iterdir()}
    assert hub.files["me/mine"] == files
    assert (hub.private, hub.tokens - {None}) == ({"me/mine": True}, {hub.token})
    (to / "notes.txt").write_text("mine")
    status, _, err = autopeft(capsys, "export", str(project.run), "--to", str(to), "--push", "me/mine")
    assert (status, "notes.txt" in hub.files["me/mine"]) == (0, False), err


def test_what_cannot_be_pushed_is_one_line(
    project: Project,  # noqa: F811
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pushed(*more: str) -> str:
        to = project.folder / "pushed"
        status, _, err = autopeft(capsys, "export", str(project.run), "--to", str(to), *more)
        assert (status, len(err.splitlines())) == (2, 1), err
        return err

    assert "no name of a repository" in pushed("--push", "a/b/c")
    assert "give --push USER/NAME too" in pushed("--private")
    monkeypatch.delenv("HF_TOKEN")
    assert "set the variable HF_TOKEN" in pushed("--push", "me/mine")
    assert not (project.folder / "pushed").exists()
    monkeypatch.setenv("HF_TOKEN", "hf_another_one")
    said = pushed("--push", "me/mine")
    assert "hub repository 'me/mine': cannot be written to" in said
    assert "hf_another_one" not in said
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "the hub does not answer" in pushed("--push", "me/mine")
