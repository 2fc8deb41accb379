"""Merged models, heads alone, biases, prompts and prefixes load in a process that never imports autopeft."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import LABELS, LAYERS, classifier, everywhere, perturb, right_padded
from tiny_seq2seq import ENCODER, inputs_of
from tiny_seq2seq import LAYERS as PAIR
from tiny_seq2seq import save as save_pair
from tiny_task import classes, save_language_model
from transformers import AutoConfig

from autopeft.candidate import Candidate
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.exporting import Format, format_of, write_adapter
from autopeft.hybrid import Hybrid
from autopeft.methods import Method
from autopeft.methods.bitfit import BitFit
from autopeft.methods.dora import DoRA
from autopeft.methods.hadamard import Hadamard
from autopeft.methods.ia3 import IA3
from autopeft.methods.lora import LoRA
from autopeft.methods.norm import Norm
from autopeft.methods.prefix import Prefix
from autopeft.methods.prompt_tuning import PromptTuning
from autopeft.methods.sequential import Sequential
from autopeft.models import find_model
from autopeft.readouts import Readout
from autopeft.readouts.causal_lm import CausalLM
from autopeft.readouts.seq2seq_lm import Seq2SeqLM

MIXED = Hybrid.from_layers(LAYERS, {0: [LoRA(2, scale=2.5), IA3(1)], 1: [DoRA(2, ("up",)), Norm(1)], 2: [LoRA(3)]})
RANKS = Hybrid.from_layers(LAYERS, {0: [LoRA(2, ("q",), 2.0)], 2: [LoRA(5, ("k", "v")), LoRA(1, ("o", "up"))]})
CROSSED = Hybrid.from_layers(PAIR, {1: [LoRA(2)], ENCODER: [LoRA(3, ("q", "cross.v")), IA3(1, ("down_in",))]})


@dataclass(frozen=True)
class Case:
    """A hybrid on a model, how it is asked to be written, and the PEFT type that it becomes."""

    family: str
    readout: Readout
    hybrid: Hybrid
    asked: Format | None
    kind: str


CASES = {
    "bert merged": Case("bert", classes(LABELS), MIXED, "merged", "MERGED"),
    "bert merged, biases": Case("bert", classes(LABELS), everywhere(BitFit(1), LoRA(1)), "merged", "MERGED"),
    "bert merged, a head alone": Case("bert", classes(LABELS), everywhere(), "merged", "MERGED"),
    "gpt2 merged": Case("gpt2", classes(LABELS), RANKS, "merged", "MERGED"),
    "llama merged": Case("llama", classes(LABELS), MIXED, "merged", "MERGED"),
    "llama merged, language model": Case("llama", CausalLM(), RANKS, "merged", "MERGED"),
    "t5 merged": Case("t5", Seq2SeqLM(), CROSSED, "merged", "MERGED"),
    "bert a head alone": Case("bert", classes(LABELS), everywhere(), "peft", "LORA"),
    "llama a head alone": Case("llama", classes(LABELS), everywhere(), None, "LORA"),
    "bert biases": Case("bert", classes(LABELS), Hybrid.from_layers(LAYERS, {1: [BitFit(1)]}), "peft", "LORA"),
    "gpt2 biases": Case("gpt2", classes(LABELS), everywhere(BitFit(1, ("q", "v", "norm1"))), None, "LORA"),
    "llama prompt": Case("llama", CausalLM(), Hybrid.uniform(LAYERS, PromptTuning(3)), "peft", "PROMPT_TUNING"),
    "gpt2 prompt": Case("gpt2", CausalLM(), Hybrid.uniform(LAYERS, PromptTuning(3)), None, "PROMPT_TUNING"),
    "llama prefix": Case("llama", CausalLM(), everywhere(Prefix(3)), "peft", "PREFIX_TUNING"),
    "llama padded": Case("llama", CausalLM(), RANKS, "lora-padded", "LORA"),
}
SCRIPT = """
import json, sys
import torch, transformers
from peft import PeftModel
from safetensors.torch import load_file

torch.set_num_threads(1)
found = {}
for name, auto_class, base, adapter, labels in json.loads(sys.argv[1]):
    inputs = load_file(adapter + ".inputs")
    expected = inputs.pop("logits")
    load = getattr(transformers, auto_class).from_pretrained
    options = {} if labels is None else {"num_labels": labels}
    model = load(adapter) if base is None else PeftModel.from_pretrained(load(base, **options), adapter)
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    # PEFT's prompts have logits too.
    logits = logits[:, -expected.shape[1]:]
    found[name] = ((logits - expected).abs().max() / expected.abs().max()).item()
assert "autopeft" not in sys.modules
print(json.dumps(found))
"""


def saved(case: Case, folder: Path) -> Path:
    if isinstance(case.readout, Seq2SeqLM):
        return save_pair(folder, case.family)
    if isinstance(case.readout, CausalLM):
        return save_language_model(folder, case.family)
    classifier(case.family).base_model.save_pretrained(folder)
    return folder


def written(case: Case, to: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The PEFT type written to `to`; inputs, and the logits that the hybrid gives for them, weights noisy."""
    source = find_model(str(saved(case, to.with_name(f"{to.name}-base"))))
    backbone = Backbone(source, case.readout, REPORTED, torch.device("cpu"))
    settings = TrainingSettings(head="drawn", seed=1)
    with Pack(backbone, [Candidate(case.hybrid)], settings) as pack, torch.no_grad():
        perturb(pack)
        model: Any = backbone.model
        inputs = inputs_of() if case.family == "t5" else right_padded(model, (7, 4, 1))
        inputs.pop("labels", None)
        expected, weights = model(**inputs).logits, pack.weights(0)
    kind = write_adapter(source, Candidate(case.hybrid), weights, case.readout, to, case.asked)
    return kind, inputs | {"logits": expected}


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Largest relative difference of logits by case; starting a process is slow."""
    folder, tasks = tmp_path_factory.mktemp("exports"), []
    for number, (name, case) in enumerate(CASES.items()):
        to = folder / str(number)
        kind, tensors = written(case, to)
        assert kind == case.kind, name
        save_file({n: t.contiguous() for n, t in tensors.items()}, f"{to}.inputs")
        base = None if case.asked == "merged" else f"{to}-base"
        labels = case.readout.configuration().get("num_labels")
        tasks.append([name, case.readout.auto_class, base, str(to), labels])
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(tasks)],
        env=env, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_hybrid_does_without_autopeft(name: str, differences: dict[str, float]) -> None:
    assert differences[name] < 1e-5


def test_a_merged_folder_is_an_ordinary_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        written(CASES["bert merged"], tmp_path / "out")
    finally:
        os.umask(before)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert list(config.id2label.values()) == list(classes(LABELS).labels)
    assert config.label2id[classes(LABELS).labels[1]] == 1
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json": 0o640, "model.safetensors": 0o640}


# Learned positions would move by the prefix's length, and a sequence head looks for the text's last token.
@pytest.mark.parametrize(
    ("family", "readout", "method"),
    [
        ("gpt2", CausalLM(), Prefix(2)),
        ("llama", classes(LABELS), Prefix(2)),
        ("llama", classes(LABELS), PromptTuning(2)),
        ("llama", CausalLM(), BitFit(1)),
    ],
)
def test_what_stock_peft_computes_otherwise_is_not_written_so(
    family: str, readout: Readout, method: Method, tmp_path: Path
) -> None:
    case = Case(family, readout, Hybrid.uniform(LAYERS, method), None, "AUTOPEFT")
    assert written(case, tmp_path / "out")[0] == "AUTOPEFT"
    with pytest.raises(AutopeftError, match=r"^format 'peft': .*; take format autopeft$"):
        written(Case(family, readout, case.hybrid, "peft", ""), tmp_path / "asked")
    assert not (tmp_path / "asked").exists()


def test_what_does_not_merge_is_named() -> None:
    hybrid = everywhere(LoRA(1), Sequential(2), Prefix(1))
    with pytest.raises(AutopeftError, match=r"^format 'merged': 'prefix', 'sequential' do not merge.*servable: merged"):
        format_of("merged", hybrid)
    with pytest.raises(AutopeftError, match=r"^format 'merged': the backbone is kept as nf4"):
        format_of("merged", everywhere(LoRA(1)), "nf4")
    assert format_of("merged", everywhere(Hadamard(1))) == "merged"
    assert format_of("peft", everywhere(LoRA(1))) == "lora"
    assert (format_of(None, everywhere()), format_of(None, everywhere(BitFit(1)))) == ("peft", "peft")
