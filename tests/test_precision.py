"""A checkpoint of 16 bits: what is reported is what `evaluate` and the model card's snippet give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_models import LAYERS, everywhere, perturb, right_padded
from tiny_task import classes, save_model, task, tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec
from autopeft.exporting import evaluation, write_adapter, write_card, write_record
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.sequential import Sequential
from autopeft.models import find_model

SETTINGS = TrainingSettings(head="drawn", method_rates="shared", batch_size=8)
HYBRIDS = {
    "LORA": everywhere(LoRA(4, scale=2)),
    "AUTOPEFT": Hybrid.from_layers(LAYERS, {0: [LoRA(2), Prefix(2)], 2: [Sequential(3)]}),
}


def narrow(folder: Path, dtype: torch.dtype, family: str = "bert") -> Path:
    save_model(folder, family)
    AutoModel.from_pretrained(folder).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", HYBRIDS)
def test_what_is_reported_is_what_is_exported(
    kind: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, made = find_model(str(narrow(tmp_path / "model", dtype))), task()
    data, candidate = TokenizedTask.of(made, tokenizer(), 32), Candidate(HYBRIDS[kind])
    worker = Worker(WorkerSpec(source, SETTINGS), data, purpose="report")
    with Pack(worker.backbone, [candidate], SETTINGS) as pack, torch.no_grad():
        perturb(pack)
        weights = pack.weights(0)
        inputs = right_padded(worker.backbone.model, (7, 4, 1))
        logits = worker.backbone.model(**inputs).logits
    reported = worker.test_metrics(candidate, weights)
    assert write_adapter(source, candidate, weights, classes(3), tmp_path / "out") == kind

    base = AutoModelForSequenceClassification.from_pretrained(source.location, num_labels=3, dtype="float32")
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(base, tmp_path / "out").eval()(**inputs).logits
    torch.testing.assert_close(loaded, logits, rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(evaluation, "task_from", lambda *_: SimpleNamespace(load=lambda: made))
    write_record(tmp_path / "out", record_of(candidate, source) | {"peft_type": kind})
    measured = evaluation.measure_export(tmp_path / "out")
    assert measured == pytest.approx(reported, rel=1e-5)


def test_layers_below_the_adapted_ones_are_computed_once_for_all_that_are_reported(tmp_path: Path) -> None:
    source, data = find_model(str(save_model(tmp_path / "model"))), TokenizedTask.of(task(), tokenizer(), 32)
    once = Worker(WorkerSpec(source, SETTINGS), data, purpose="report")
    anew = Worker(WorkerSpec(source, SETTINGS, cache=0), data, purpose="report")
    computed = []
    for block in (LoRA(2), Sequential(3)):
        candidate = Candidate(Hybrid.from_layers(LAYERS, {LAYERS - 1: [block]}))
        with Pack(anew.backbone, [candidate], SETTINGS) as pack, torch.no_grad():
            perturb(pack)
            weights = pack.weights(0)
        assert once.test_metrics(candidate, weights) == pytest.approx(anew.test_metrics(candidate, weights), rel=1e-5)
        computed.append(once.frozen.computed)
    assert computed[0] == computed[1] > 0 == anew.frozen.computed


@pytest.mark.parametrize("pad_id", [None, 0, 5])
def test_the_snippet_of_the_card_runs_on_batches(pad_id: int | None, tmp_path: Path) -> None:
    """`pad_id` is the configuration's; the tokenizer's is 0."""
    folder = narrow(tmp_path / "model", torch.bfloat16, "gpt2")
    config = AutoModel.from_pretrained(folder).config
    config.pad_token_id = pad_id
    config.save_pretrained(folder)
    source, out = find_model(str(folder)), tmp_path / "out"
    data, candidate = TokenizedTask.of(task(), tokenizer(), 32), Candidate(HYBRIDS["LORA"])
    worker = Worker(WorkerSpec(source, SETTINGS), data, purpose="report")
    inputs = {"input_ids": torch.tensor([[9, 8, 7], [9, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    with Pack(worker.backbone, [candidate], SETTINGS) as pack, torch.no_grad():
        weights, logits = pack.weights(0), worker.backbone.model(**inputs).logits
    write_adapter(source, candidate, weights, classes(3), out)
    write_card(out, record_of(candidate, source), source)
    snippet = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert ("pad_token_id" in snippet) == (pad_id != 0)
    names: dict[str, Any] = {}
    exec(snippet.replace("path/to/this/folder", str(out)), names)
    with torch.no_grad():
        torch.testing.assert_close(names["model"](**inputs).logits, logits, rtol=1e-5, atol=1e-5)


def record_of(candidate: Candidate, source: Any) -> dict[str, Any]:
    return {
        "key": candidate.key, "peft_type": "LORA", "hybrid": candidate.hybrid.to_json(), "training": {}, "seed": 1,
        "metrics": {"accuracy": 0.5}, "model": {"name": source.name, "location": source.location},
        "trust_remote_code": False, "num_labels": 3, "labels": ["none", "one", "two"], "task": {"name": "tiny"},
        "splits": "made up", "settings": SETTINGS.model_dump(), "data": task().fingerprint, "scores": ["accuracy"],
    }  # fmt: skip
