"""A search of an encoder-decoder from rows to adapters that generate."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_models import perturb
from tiny_project import search
from tiny_seq2seq import ENCODER, LAYERS, row, save
from tiny_task import classes, save_language_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner

import autopeft.peft_tuner  # noqa: F401 - registers the PEFT type
from autopeft.attaching import Attachment
from autopeft.candidate import Candidate
from autopeft.cli.app import app
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.exporting import write_adapter
from autopeft.exporting.evaluation import measure_export
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.models import find_model
from autopeft.readouts.causal_lm import CausalLM
from autopeft.readouts.seq2seq_lm import Seq2SeqLM

BLOCKS = {
    "own": {"method": "lora", "rank": [0, 2, 4], "sites": ["q", "v"]},
    "cross": {"method": "lora", "rank": [0, 4], "sites": ["cross.q", "cross.v"]},
    "prefix": {"length": [0, 3]},
}


def fields(folder: Path, family: str) -> dict[str, Any]:
    """The fields of an experiment on a tiny model and rows, which are made."""
    save(folder / "model", family)
    files = {}
    for seed, (name, count) in enumerate({"train": 64, "validation": 24, "test": 24}.items()):
        rng, files[name] = random.Random(seed), str(folder / f"{name}.jsonl")
        Path(files[name]).write_text("".join(json.dumps(row(rng)) + "\n" for _ in range(count)))
    return {
        "model": str(folder / "model"),
        "task": {"name": "files", "readout": "seq2seq_lm", **files},
        "space": {"blocks": BLOCKS, "training": {"learning_rate": 1e-2}},
        "training": {"epochs": 2, "batch_size": 16, "max_length": 12, "precision": "fp32"},
        "budget": {"trainable_params": "10%"},
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "marian"])
def test_a_search_ends_in_an_adapter_that_gives_what_was_reported(family: str, tmp_path: Path) -> None:
    asked = {"metrics": ["bleu", "chrf"], "max_new_tokens": 8, "beams": 2}
    found = search(tmp_path, tmp_path / "run", {**fields(tmp_path, family), "generation": asked}, trials=4)
    done = [e for e in found.evaluations if e.status == "done"]
    assert len(done) == 4
    best = found.front.best()
    assert best.metrics["loss"] == min(e.metrics["loss"] for e in done)
    assert {"perplexity", "token_accuracy", "test_loss"} <= best.metrics.keys()
    to = found.export(to=tmp_path / "out")
    recorded = json.loads((to / "hybrid.json").read_text())["metrics"]
    measured = measure_export(to)
    assert measured["test_loss"] == pytest.approx(recorded["test_loss"], rel=1e-5)
    # Written in a pack, and alone.
    assert [measured[name] for name in ("test_bleu", "test_chrf")] == [recorded["test_bleu"], recorded["test_chrf"]]
    card = (to / "README.md").read_text()
    assert "model.generate" in card
    assert "AutoModelForSeq2SeqLM" in card
    assert AutoTokenizer.from_pretrained(to).chat_template is None


def test_a_plan_shows_source_and_target(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps({"name": "tiny", **fields(tmp_path, "t5"), "tracking": {"name": "none"}, "trials": 4}))
    said = CliRunner().invoke(app, ["plan", str(path), "--json"])
    assert said.exit_code == 0, said.output
    plan = json.loads(said.stdout)
    first = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert plan["example"]["text"] == f"{first['source']} => [[{first['target']}]]"
    assert plan["tokens"]["train"]["rows"] == 64


def test_readout_and_model_go_together(tmp_path: Path) -> None:
    pair, alone = find_model(str(save(tmp_path / "pair", "t5"))), find_model(str(save_language_model(tmp_path / "lm")))
    with pytest.raises(AutopeftError, match=r"pair': has an encoder and a decoder.* set readout: seq2seq_lm in the ta"):
        pair.shape(CausalLM())
    with pytest.raises(AutopeftError, match="has an encoder and a decoder, which are not for classes"):
        pair.shape(classes(2))
    with pytest.raises(AutopeftError, match=r"lm': has no encoder and decoder, .* take one of t5, mt5, bart"):
        alone.shape(Seq2SeqLM())


KINDS: dict[str, list[Method]] = {
    "LORA": [LoRA(2, sites=("q", "up", "cross.q", "cross.v"))],
    "AUTOPEFT": [LoRA(3, sites=("v", "cross.k")), Prefix(2), Sequential(3)],
}


@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_an_exported_hybrid_generates_as_in_its_pack(kind: str, tmp_path: Path) -> None:
    source = find_model(str(save(tmp_path / "model", "t5", scale_decoder_outputs=True)))
    hybrid = Hybrid.from_layers(LAYERS, {1: [m for m in KINDS[kind] if kind != "LORA"], ENCODER: KINDS[kind]})
    backbone = Backbone(source, Seq2SeqLM(), REPORTED, torch.device("cpu"))
    inputs = {"input_ids": torch.tensor([[2, 9, 8, 7, 3], [2, 5, 3, 0, 0]])}
    inputs["attention_mask"] = inputs["input_ids"].ne(0).long()
    options = {"max_new_tokens": 5, "eos_token_id": None, "do_sample": False}
    with Pack(backbone, [Candidate(hybrid)] * 2, TrainingSettings()) as pack:
        perturb(pack)
        twice = {name: x.repeat(2, 1) for name, x in inputs.items()}
        model: Any = backbone.model
        expected, weights = model.generate(**twice, **options).chunk(2), pack.weights(1)
    assert write_adapter(source, Candidate(hybrid), weights, Seq2SeqLM(), tmp_path / "adapter") == kind
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    base = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    bare = base.generate(**inputs, **options)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert torch.equal(loaded.generate(**inputs, **options), expected[1])
    assert not torch.equal(expected[1], bare)
    with Attachment(backbone.model, Hybrid.uniform(LAYERS)):
        assert torch.equal(model.generate(**inputs, **options), bare)
