"""Is `training_memory` what training takes? Peaks of processes, above one that has imported the same and does nothing.

A case is a process of its own, forked before any model is there: torch's memory on a CPU is the process's, and its peak
is what the system says of it. Prints a row a case: what was computed, what was measured, their ratio.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import typer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from autopeft.anatomy import shape_of
from autopeft.candidate import Candidate
from autopeft.costs import COSTS
from autopeft.engine.backbone import Backbone, choose_precision
from autopeft.engine.data import Batch
from autopeft.engine.load import load_of
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.models import find_model
from autopeft.readouts import IGNORED
from autopeft.readouts.causal_lm import CausalLM

LAYERS = 4
MODELS = {
    "llama": LlamaConfig(vocab_size=8_000, hidden_size=384, intermediate_size=1_024, num_hidden_layers=LAYERS,
                         num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0),
    "gpt2": GPT2Config(vocab_size=8_000, n_embd=256, n_layer=LAYERS, n_head=4, n_positions=512, pad_token_id=0),
}  # fmt: skip
TINY: dict[str, dict[str, int]] = {
    "llama": {"hidden_size": 12, "intermediate_size": 8, "vocab_size": 100},
    "gpt2": {"n_embd": 8, "vocab_size": 100},
}


def lora(rank: int, *sites: str) -> Hybrid:
    return Hybrid.uniform(LAYERS, METHODS.get("lora")(rank, sites=sites))


def top(hybrid: Hybrid) -> Hybrid:
    return Hybrid(((),) * (LAYERS // 2) + hybrid.layers[LAYERS // 2 :])


MIXED = Hybrid.uniform(LAYERS, METHODS.get("prefix")(16), METHODS.get("sequential")(64))
CASES = {
    "llama, LoRA q v": ("llama", lora(8, "q", "v"), 8, 128, False),
    "llama, LoRA everywhere": ("llama", lora(16, "q", "k", "v", "o", "up", "gate", "down"), 8, 128, False),
    "llama, LoRA in the upper half": ("llama", top(lora(8, "q", "v")), 8, 128, False),
    "llama, LoRA q v, checkpointed": ("llama", lora(8, "q", "v"), 8, 128, True),
    "llama, prefix and adapters, short": ("llama", MIXED, 16, 48, False),
    "gpt2, LoRA q v": ("gpt2", lora(8, "q", "v"), 8, 128, False),
    "gpt2, prefix and adapters, long": ("gpt2", MIXED, 4, 400, False),
}


def save(folder: Path) -> None:
    """The models, and a tokenizer that nothing is read with."""
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tiny = {f"{name}-tiny": type(config)(**config.to_dict() | TINY[name]) for name, config in MODELS.items()}
    for name, config in (MODELS | tiny).items():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
        fast.save_pretrained(folder / name)


def status(field: str) -> int:
    """Bytes that the system says of this process: VmRSS is what it has now, VmHWM the most it had."""
    text = Path("/proc/self/status").read_text()
    return 1_024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith(field)))


def measured(model: str, hybrid: Hybrid, sequences: int, length: int, checkpoint: bool) -> tuple[int, int]:
    """Bytes as computed, and at the peak of two steps above what the process had before."""
    settings = TrainingSettings(batch_size=sequences, max_length=length, precision="fp32", checkpoint=checkpoint)
    # What libraries load when they are used first, they have loaded then.
    train(backbone_of(f"{model}-tiny"), hybrid, settings, 1, 8)
    before = status("VmRSS")
    backbone = backbone_of(model)
    Path("/proc/self/clear_refs").write_text("5")
    train(backbone, hybrid, settings, sequences, length)
    shape = replace(shape_of(backbone.model), load=load_of(settings, kind="cpu"))
    return COSTS.get("training_memory")().of(hybrid, shape, length), status("VmHWM") - before


def backbone_of(model: str) -> Backbone:
    precision = choose_precision("fp32", torch.device("cpu"))
    return Backbone(find_model(model), CausalLM(), precision, torch.device("cpu"), 0)


def train(backbone: Backbone, hybrid: Hybrid, settings: TrainingSettings, sequences: int, length: int) -> None:
    """Two steps on a batch of which all is scored."""
    ids = torch.randint(3, 100, (sequences, length))
    labels = ids.clone()
    labels[:, 0] = IGNORED
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    none = torch.zeros(0, dtype=torch.long)
    weights = (labels != IGNORED).sum(1).numpy()
    batch = Batch(inputs, labels, torch.arange(sequences).numpy(), none, none, weights, length)
    with Pack(backbone, [Candidate(hybrid)], settings, steps=2) as pack:
        for _ in range(2):
            pack.step(batch, {}, CausalLM())


def forked(*case: object) -> tuple[int, int]:
    """The same in a process of its own."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        # Whatever happens, it must not go on with what its parent does.
        try:
            os.write(writing, json.dumps(measured(*case)).encode())  # type: ignore[arg-type]
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    computed, found = json.loads(text)
    return computed, found


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        if not (child := os.fork()):
            try:
                save(Path(name))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for title, (model, *case) in CASES.items():
            computed, found = forked(str(Path(name) / model), *case)
            print(f"{title:<36} {computed / 1e6:8.1f} MB {found / 1e6:8.1f} MB  {computed / found:.2f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
