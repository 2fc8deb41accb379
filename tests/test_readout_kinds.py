"""Searches for sets of classes and for labels of words, from rows in files to an adapter that PEFT loads."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, AutoPeftModelForTokenClassification
from tiny_project import experiment, not_measured
from tiny_task import WORDS, save_model, tokenizer

import autopeft
from autopeft.engine.kept import load_weights

Row = dict[str, Any]


def _sets(rng: random.Random) -> Row:
    """A text has the classes whose words it holds."""
    words = rng.choices(WORDS[:2], k=rng.randrange(0, 3)) + rng.choices(WORDS[3:], k=rng.randrange(2, 7))
    rng.shuffle(words)
    return {"text": " ".join(words), "label": sorted({word for word in words if word in WORDS[:2]})}


def _tags(rng: random.Random) -> Row:
    """`w0` is a person, `w1` and what follows it a place."""
    words = rng.choices(WORDS[:3] + WORDS[60:], k=rng.randrange(3, 9))
    tags = ["B-PER" if word == "w0" else "B-LOC" if word == "w1" else "O" for word in words]
    return {
        "tokens": words,
        "labels": ["I-LOC" if a == "B-LOC" and b == "O" else b for a, b in zip(["O", *tags], tags, strict=False)],
    }


KINDS: dict[str, tuple[Callable[[random.Random], Row], dict[str, Any], str]] = {
    "multi_label": (_sets, {"text": "text", "metric": ["f1_micro", "subset_accuracy"]}, "test_f1_micro"),
    "tokens": (_tags, {"metric": ["f1_entity", "accuracy"]}, "test_f1_entity"),
}
LOADERS = {
    "multi_label": AutoPeftModelForSequenceClassification,
    "tokens": AutoPeftModelForTokenClassification,
}


@pytest.mark.parametrize(
    ("kind", "family"),
    [("multi_label", "bert"), ("tokens", "bert"), pytest.param("tokens", "llama", marks=pytest.mark.slow)],
)
def test_a_search_exports_what_evaluates_and_loads_like_the_card_says(kind: str, family: str, tmp_path: Path) -> None:
    make, task, score = KINDS[kind]
    save_model(tmp_path / "model", family)
    files = {}
    for seed, (split, count) in enumerate({"train": 64, "validation": 16, "test": 16}.items()):
        files[split] = str(tmp_path / f"{split}.jsonl")
        rng = random.Random(seed)
        Path(files[split]).write_text("".join(json.dumps(make(rng)) + "\n" for _ in range(count)))
    changes = {"task": {"name": "files", "readout": kind, **files, **task}, "trials": 2}
    if kind == "tokens":
        # Whose export is stock LoRA.
        changes["space"] = "lora_ranks"
    with not_measured():
        result = autopeft.search(out=tmp_path / "run", quiet=True, **experiment(tmp_path) | changes)
    chosen, out = result.front.points[0], tmp_path / "out"
    assert result.header["objectives"][0]["metric"] == score.removeprefix("test_")
    result.export(pick=chosen.key, to=out)
    measured = autopeft.evaluate(out)
    assert {score, "test_loss"} < measured.keys()
    assert measured == pytest.approx({name: chosen.metrics[name] for name in measured}, rel=1e-5)
    assert list(autopeft.evaluate(out, on=files["test"]).values()) == list(measured.values())
    record = json.loads((out / "hybrid.json").read_text())
    assert (record["readout"]["name"], record["readout"]["labels"]) == (kind, record["labels"])
    names: dict[str, Any] = {}
    card = (out / "README.md").read_text()
    exec(card.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(out)), names)
    loaded = [names["model"], LOADERS[kind].from_pretrained(out, num_labels=record["num_labels"])]
    inputs = tokenizer()(["w1 w5 w7", "w0 w80"], return_tensors="pt", padding=True)
    if family == "llama":
        del inputs["token_type_ids"]
    with torch.no_grad():
        logits = [model.eval()(**inputs).logits for model in loaded]
    assert torch.equal(logits[0], logits[1])
    weights = load_weights(tmp_path / "run" / "weights", chosen.key)
    head = next(w for name, w in weights.items() if name.startswith("head.") and name.endswith("weight"))
    saved = [w for name, w in loaded[0].named_parameters() if "modules_to_save" in name and w.shape == head.shape]
    assert any(torch.equal(w, head) for w in saved)
