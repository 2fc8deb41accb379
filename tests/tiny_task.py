"""A tiny BERT with a tokenizer of its own on disk, and tasks that it can learn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiny_families import MORE
from tiny_models import CONFIGS, randomise
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from autopeft.readouts.causal_lm import CausalLM
from autopeft.readouts.classification import Classification
from autopeft.readouts.multi_label import MultiLabel
from autopeft.readouts.regression import Regression
from autopeft.readouts.tokens import Tokens
from autopeft.tasks import Split, TaskData

WORDS = [f"w{i}" for i in range(90)]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, model_input_names=inputs, **names)


def save_model(folder: Path, family: str = "bert") -> Path:
    """A tiny random base model and the tokenizer."""
    randomise(AutoModel.from_config((CONFIGS | MORE)[family]()), 0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_language_model(folder: Path, family: str = "llama", **options: Any) -> Path:
    """A tiny random language model and the tokenizer."""
    randomise(AutoModelForCausalLM.from_config(CONFIGS[family](**options)), 0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def completions(sizes: tuple[int, int, int] = (104, 40, 40)) -> TaskData:
    """A few words, and after them the scored ones: the first of these again, and more."""

    def row(rng: random.Random) -> tuple[str, int]:
        words = rng.choices(WORDS, k=rng.randrange(1, 7))
        answer = [words[0], *rng.choices(WORDS[:5], k=rng.randrange(4))]
        parts = [{"scored": False, "text": " ".join(words)}, {"scored": True, "text": " ".join(answer)}]
        return json.dumps({"parts": parts}), 0

    metrics = ("loss", "perplexity", "token_accuracy")
    return TaskData("completions", *_splits(sizes, row), CausalLM(), metrics, "made up")


def classes(count: int) -> Classification:
    """A readout of so many classes."""
    return Classification(tuple(f"class {i}" for i in range(count)))


def task(regression: bool = False, pairs: bool = False, sizes: tuple[int, int, int] = (120, 40, 40)) -> TaskData:
    """Which of three words occurs in a text of random length (or, for regression, how large that word's number is)."""
    splits = [_split(n, seed, regression, pairs) for seed, n in enumerate(sizes)]
    readout = Regression() if regression else Classification(("none", "one", "two"))
    return TaskData("tiny", *splits, readout, ("pearson", "mse") if regression else ("accuracy", "f1_macro"), "made up")


def sets(sizes: tuple[int, int, int] = (104, 40, 40)) -> TaskData:
    """Which of three words, none or all of them, occur in a text."""

    def row(rng: random.Random) -> tuple[str, tuple[int, ...]]:
        words = rng.choices(WORDS[:3], k=rng.randrange(3)) + rng.choices(WORDS[3:], k=rng.randrange(1, 7))
        return " ".join(words), tuple(i for i in range(3) if WORDS[i] in words)

    return TaskData("sets", *_splits(sizes, row), MultiLabel(("a", "b", "c")), ("f1_micro",), "made up")


def tags(sizes: tuple[int, int, int] = (104, 40, 40)) -> TaskData:
    """The first three words are of persons, of places or their second words."""
    readout = Tokens(("B-LOC", "B-PER", "I-LOC", "O"))

    def row(rng: random.Random) -> tuple[str, tuple[int, ...]]:
        words = rng.choices(WORDS[:12], k=rng.randrange(1, 9))
        return " ".join(words), tuple(min(WORDS.index(word), 3) for word in words)

    return TaskData("tags", *_splits(sizes, row), readout, ("f1_entity", "accuracy"), "made up")


def _splits(sizes: tuple[int, ...], row: Callable[[random.Random], tuple[str, Any]]) -> Iterator[Split]:
    for seed, size in enumerate(sizes):
        rng = random.Random(seed)
        texts, labels = zip(*(row(rng) for _ in range(size)), strict=True)
        yield Split(texts, None, labels)


def _split(size: int, seed: int, regression: bool, pairs: bool) -> Split:
    rng = random.Random(seed)
    classes = [i % 3 for i in range(size)]
    texts = []
    for kind in classes:
        words = rng.choices(WORDS[3:], k=rng.randrange(2, 9))
        texts.append(" ".join([WORDS[kind], *words]))
    second = tuple(" ".join(rng.choices(WORDS[3:], k=rng.randrange(1, 4))) for _ in classes) if pairs else None
    return Split(tuple(texts), second, tuple(c - 0.5 for c in classes) if regression else tuple(classes))
