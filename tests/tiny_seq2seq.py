"""Tiny models of an encoder and a decoder, of every family that has both, and texts that they can learn to write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tiny_models import randomise
from tiny_packs import SETTINGS, Bench
from tiny_task import WORDS, tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from autopeft.engine.data import TokenizedTask
from autopeft.engine.settings import TrainingSettings
from autopeft.models import find_model
from autopeft.readouts.seq2seq_lm import Seq2SeqLM
from autopeft.tasks import Split, TaskData

#: Layers of the encoder and of the decoder, which differ in heads and widths where a family lets them. (Transformers
#: makes the cache of a T5 as long as its encoder, so that a decoder cannot have more.)
ENCODER, DECODER = 3, 2
LAYERS = ENCODER + DECODER

_SPECIAL = {"vocab_size": 99, "pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
_T5 = _SPECIAL | {
    "d_model": 32,
    "d_kv": 4,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": ENCODER,
    "num_decoder_layers": DECODER,
}
_BART = _SPECIAL | {
    "d_model": 32, "encoder_layers": ENCODER, "decoder_layers": DECODER, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 64,
    "bos_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
#: M2M-100 counts positions of what is no padding.
_NOT_PADDING = _BART | {"decoder_start_token_id": 3}
_OPTIONS: dict[str, dict[str, Any]] = {
    "t5": _T5,
    "t5-gated": _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": _T5,
    "bart": _NOT_PADDING,
    "marian": _BART,
    "mbart": _NOT_PADDING,
    "m2m_100": _NOT_PADDING,
    "pegasus": _BART,
}
FAMILIES = list(_OPTIONS)


def config(family: str, **options: Any) -> PretrainedConfig:
    found: PretrainedConfig = CONFIG_MAPPING[family.partition("-")[0]](**_OPTIONS[family] | options)
    return found


def model_of(family: str, seed: int = 0, **options: Any) -> PreTrainedModel:
    """With all weights random, in evaluation mode."""
    return randomise(AutoModelForSeq2SeqLM.from_config(config(family, **options)), seed).requires_grad_(False)


def inputs_of(sources: tuple[int, ...] = (6, 4, 5), targets: tuple[int, ...] = (3, 5, 4)) -> dict[str, torch.Tensor]:
    """Padded on the right, each text otherwise."""
    found = {}
    for name, lengths in (("", sources), ("decoder_", targets)):
        seed = torch.Generator().manual_seed(len(name))
        ids = torch.randint(4, 99, (len(lengths), max(lengths)), generator=seed)
        mask = (torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]).long()
        found |= {f"{name}input_ids": ids * mask, f"{name}attention_mask": mask}
    return found


def words() -> PreTrainedTokenizerFast:
    """The tiny tokenizer, for which a text ends with `[SEP]`."""
    found = tokenizer()
    found.eos_token = "[SEP]"
    return found


def save(folder: Path, family: str, **options: Any) -> Path:
    """A tiny random model and the tokenizer."""
    model_of(family, **options).save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


def row(rng: random.Random) -> dict[str, str]:
    """A few words, of which the first and the last are to be written."""
    said = rng.choices(WORDS[:20], k=rng.randrange(2, 7))
    return {"source": " ".join(said), "target": f"{said[0]} {said[-1]}"}


def translations(sizes: tuple[int, int, int] = (104, 40, 40)) -> TaskData:
    """Such rows as a task."""
    splits = []
    for seed, size in enumerate(sizes):
        rng = random.Random(seed)
        drawn = [row(rng) for _ in range(size)]
        texts = [
            json.dumps({"parts": [{"text": r["source"], "scored": False}, {"text": r["target"], "scored": True}]})
            for r in drawn
        ]
        splits.append(Split(tuple(texts), None, (0,) * size))
    return TaskData("translations", *splits, Seq2SeqLM(), ("loss", "perplexity", "token_accuracy"), "made up")


def bench(
    folder: Path, family: str, sizes: tuple[int, int, int] = (48, 16, 16), settings: TrainingSettings = SETTINGS
) -> Bench:
    """A tiny model, and texts to be written."""
    source = find_model(str(save(folder, family)))
    data = TokenizedTask.of(translations(sizes), source.tokenizer(), 32, source.limits())
    return Bench.of(source, data, "autopeft_sdpa", settings)
