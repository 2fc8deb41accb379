"""Workers of one machine map one file of frozen weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, everywhere
from tiny_task import classes, save_model, task, tokenizer

from autopeft.candidate import Candidate
from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.sharing import map_frozen, write_frozen
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.methods.lora import LoRA
from autopeft.models import find_model


@pytest.mark.parametrize("family", FAMILIES)
def test_mapped_weights_are_the_models_own(family: str, tmp_path: Path) -> None:
    source = find_model(str(save_model(tmp_path / "model", family)))
    model, other = (source.model(classes(3), torch.bfloat16) for _ in range(2))
    file = write_frozen(model, tmp_path / "frozen.safetensors")
    assert map_frozen(other, file)
    for (name, own), (_, mapped) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        if name.startswith(f"{model.base_model_prefix}."):
            assert torch.equal(own, mapped), name
            assert not mapped.requires_grad
    maps = Path("/proc/self/maps")
    if maps.is_file():
        place = next(other.base_model.parameters()).data_ptr()
        spans = re.findall(r"^(\w+)-(\w+) .*frozen\.safetensors$", maps.read_text(), re.MULTILINE)
        assert any(int(a, 16) <= place < int(b, 16) for a, b in spans), "pages of the file, not a copy"


def test_what_does_not_fit_is_left_alone(tmp_path: Path) -> None:
    source = find_model(str(save_model(tmp_path / "model")))
    narrow, wide = source.model(classes(3), torch.bfloat16), source.model(classes(3), torch.float32)
    before = {n: p.clone() for n, p in wide.named_parameters()}
    assert not map_frozen(wide, write_frozen(narrow, tmp_path / "frozen.safetensors"))
    assert not map_frozen(wide, tmp_path / "nowhere.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    assert not map_frozen(wide, tmp_path / "broken.safetensors")
    assert all(torch.equal(p, before[n]) for n, p in wide.named_parameters())
    assert write_frozen(wide, tmp_path / "no folder" / "frozen.safetensors") is None


def test_a_worker_on_shared_weights_trains_the_same(tmp_path: Path) -> None:
    source = find_model(str(save_model(tmp_path / "model")))
    data = TokenizedTask.of(task(), tokenizer(), 32)
    spec = WorkerSpec(
        source, TrainingSettings(head="drawn", method_rates="shared", epochs=1, batch_size=8, precision="fp32")
    )
    file = write_frozen(source.model(classes(3), torch.float32), tmp_path / "frozen.safetensors")
    candidate = Candidate(everywhere(LoRA(2)))
    alone, shared = (drain(Worker(s, data).run([candidate]))[0] for s in (spec, replace(spec, frozen=file)))
    assert replace(alone, seconds=0.0) == replace(shared, seconds=0.0)
