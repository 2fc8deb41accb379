"""A search on a quantised backbone, from the file to the card: all scores are of that model, and all files say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import experiment, not_measured
from tiny_quantised import KINDS, quantised, save_wide

import autopeft
from autopeft.cli.planning import plan
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import Silent
from autopeft.quantising import Kind, kind_of
from autopeft.session import Session, settings_of

FIELDS = {"trials": 2, "space": "lora_ranks", "budget": {"trainable_params": "30%"}}
RUNNER = {"name": "in_process", "cpus": 1, "pack": 2}


def made(folder: Path, kind: str | None, **changes: Any) -> Experiment:
    if not (folder / "model").is_dir():
        fields = experiment(folder)
        save_wide(folder / "model")
    fields = experiment(folder, **{**FIELDS, "runner": RUNNER, **changes})
    return Experiment.of(fields | ({"backbone": {"quantise": kind}} if kind else {}), "test")


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_its_export_its_card_and_evaluate_agree(kind: Kind, tmp_path: Path) -> None:
    with not_measured():
        result = launch(made(tmp_path, kind), tmp_path / "run", Silent())
    assert all(e.status == "done" for e in result.evaluations)
    out = result.export("best", tmp_path / "out")
    record = json.loads((out / "hybrid.json").read_text())
    assert record["quantise"] == kind
    assert record["peft_type"] == ("AUTOPEFT" if kind == "int4" else "LORA")
    card = (out / "README.md").read_text()
    assert f"kept as {kind}" in card
    reported = {name: value for name, value in record["metrics"].items() if name.startswith("test_")}
    assert autopeft.evaluate(out) == pytest.approx(reported, rel=1e-5)

    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(out)), names)
    assert {kind_of(m) for m in names["model"].modules()} == {None, kind}
    inputs = {"input_ids": torch.tensor([[2, 9, 8, 3], [2, 7, 3, 0]])}
    inputs["attention_mask"] = (inputs["input_ids"] > 0).long()
    with torch.no_grad():
        found = names["model"](**inputs).logits
    torch.testing.assert_close(found, logits(out, tmp_path, kind, inputs), rtol=1e-5, atol=1e-5)


def logits(out: Path, folder: Path, kind: Kind, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the export, as `evaluate` loads it."""
    from autopeft.exporting._record import Record
    from autopeft.exporting.evaluation import load_export

    with torch.no_grad():
        found: torch.Tensor = load_export(out, Record.read(out), quantised(folder / "model", kind), 0)(**inputs).logits
    return found


def test_stock_formats_are_refused_where_stock_peft_cannot_load_them(tmp_path: Path) -> None:
    with not_measured():
        result = launch(made(tmp_path, "int4"), tmp_path / "run", Silent())
    with pytest.raises(AutopeftError, match="stock PEFT does not know maps kept as int4; take format autopeft"):
        result.export("best", tmp_path / "out", format="lora")


@pytest.mark.parametrize(("began", "now"), [("int4", None), (None, "int4")])
def test_another_quantisation_is_another_search(began: str | None, now: str | None, tmp_path: Path) -> None:
    with not_measured():
        launch(made(tmp_path, began), tmp_path / "run", Silent())
        with pytest.raises(AutopeftError, match=r"backbone"):
            launch(made(tmp_path, now), tmp_path / "run", Silent())


def test_without_it_nothing_is_written_of_it_and_costs_are_the_same_with_it(tmp_path: Path) -> None:
    plain, kept = (made(tmp_path, kind) for kind in (None, "int4"))
    assert "backbone" not in plain.resolved()
    assert settings_of(plain, {})["backbone"] is None
    sessions = Session(plain), Session(kept)
    assert replace(sessions[1].shape, load=sessions[0].shape.load) == sessions[0].shape
    assert sessions[0].budget == sessions[1].budget
    facts = [plan(session, 10) for session in sessions]
    assert facts[0]["costs"] == facts[1]["costs"]
    sizes = facts[1]["backbone_bytes"]
    assert facts[0]["backbone_bytes"] == {"fp32": sizes["fp32"], "kept": sizes["fp32"]}
    assert sizes["kept"] < sizes["fp32"]


def test_an_unknown_kind_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    made(tmp_path, None)
    path.write_text(json.dumps(experiment(tmp_path, backbone={"quantise": "nf5"})))
    with pytest.raises(AutopeftError, match=r"bad.yaml: backbone.quantise: .*'nf4', .* \(given: 'nf5'\)"):
        Experiment.load(path)
