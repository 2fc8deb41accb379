"""Texts as token arrays, and batches of about equal lengths.

Shapes: N examples, B of them in a batch, L tokens of the longest in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autopeft.anatomy import InputLimits
from autopeft.engine.batch import Batch, collate, fill, ranges
from autopeft.engine.labels import labels_of
from autopeft.engine.masking import read_masked
from autopeft.engine.settings import TokenSize, TrainingSettings
from autopeft.engine.targets import read_targets
from autopeft.engine.texts import Encoded, Reader
from autopeft.formats import Totals, remarks, with_template
from autopeft.generating.asking import Asking
from autopeft.readouts import IGNORED, Readout
from autopeft.tasks import Split, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Batches that are sorted by length together; more is tighter padding and less shuffling.
_CHUNK = 50
#: Share of unknown tokens from which on a user should hear of it.
_MANY = 0.2


@dataclass(frozen=True)
class Tokens:
    """One split as flat arrays, so that processes share it without copies.

    `ids` and `types` hold all examples end to end; example i is `offsets[i]:offsets[i + 1]`. `types` (segment ids)
    is None for families without them. `labels` are of examples, [N, ...], or of tokens, int64 [T] (`per_token`), where
    `IGNORED` stands for none. `draws` [N]: how often each example is drawn in an epoch, in the mean, N times in all;
    None for each once. `sources` [N]: how many tokens of each example an encoder reads; then comes the one that its
    decoder begins with, and the rest is what that shall write.
    """

    ids: np.ndarray
    types: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray
    per_token: bool = False
    draws: np.ndarray | None = None
    sources: np.ndarray | None = None

    @classmethod
    def of(cls, read: Encoded, labels: np.ndarray, per_token: bool = False) -> Tokens:
        """What a reader made of texts, with their labels."""
        offsets = np.concatenate([[0], np.cumsum([len(x) for x in read.ids])])
        types = _flat(read.types) if read.types is not None else None
        sources = None if read.sources is None else np.asarray(read.sources, dtype=np.int64)
        return Tokens(_flat(read.ids), types, offsets, labels, per_token, sources=sources)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, [N]."""
        return np.diff(self.offsets)

    @cached_property
    def frozen_offsets(self) -> np.ndarray:
        """Where each example begins [N + 1] among the tokens that frozen layers are kept of: all, or the sources'."""
        return self.offsets if self.sources is None else np.concatenate([[0], np.cumsum(self.sources)])

    @cached_property
    def weights(self) -> np.ndarray:
        """What each example counts in a mean loss, [N]: 1, or its labelled tokens."""
        if not self.per_token:
            return np.ones(len(self), dtype=np.int64)
        before = np.concatenate([[0], np.cumsum(self.labels != IGNORED)])
        return before[self.offsets[1:]] - before[self.offsets[:-1]]

    @property
    def weight(self) -> int:
        """The sum of these."""
        return int(self.weights.sum())

    def inputs(self, index: np.ndarray, filled: np.ndarray, rows: np.ndarray, pad_id: int) -> dict[str, torch.Tensor]:
        """What a model is given of the examples at `index` [B].

        `filled` [B, L] says where there are tokens, and `rows` where these stand in the split.
        """
        found = {"input_ids": fill(self.ids[rows], filled, pad_id), "attention_mask": torch.from_numpy(filled).long()}
        if self.types is not None:
            found["token_type_ids"] = fill(self.types[rows], filled, 0)
        return found

    def take(self, index: np.ndarray) -> Tokens:
        """The examples at `index` alone, in that order, each drawn once an epoch."""
        places = ranges(self.offsets[index], self.offsets[index + 1])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[index])])
        types = None if self.types is None else self.types[places]
        labels = self.labels[places if self.per_token else index]
        sources = None if self.sources is None else self.sources[index]
        return replace(
            self, ids=self.ids[places], types=types, offsets=offsets, labels=labels, draws=None, sources=sources
        )


@dataclass(frozen=True)
class TokenizedTask:
    """A task ready for training; `remarks` are sentences on what tokenising did to it (see `Session.remarks`).

    `totals` are of splits of conversations, by name. `asking`: what models are to write, where that is measured.
    """

    name: str
    train: Tokens
    validation: Tokens
    test: Tokens
    readout: Readout
    metrics: tuple[str, ...]
    pad_id: int
    remarks: tuple[str, ...] = ()
    totals: Mapping[str, Totals] = field(default_factory=dict)
    asking: Asking | None = None

    @classmethod
    def of(
        cls, data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int, limits: InputLimits | None = None
    ) -> TokenizedTask:
        """Tokenise all splits, cutting at `max_length` tokens (or the tokenizer's or the model's own limit).

        `limits`: what the model can be given. `AutopeftError` names the split and the row of what it cannot take.
        """
        if data.readout.tokenises:
            tokenizer = with_template(tokenizer, data.template)
        reader = Reader(tokenizer, max_length, limits)
        found = {name: _read(reader, name, getattr(data, name), data.readout) for name in _SPLITS}
        read = {name: encoded for name, (encoded, _) in found.items()}
        splits: dict[str, Any] = {
            name: Tokens.of(encoded, labels, data.readout.per_token) for name, (encoded, labels) in found.items()
        }
        if data.draws is not None:
            splits["train"] = replace(splits["train"], draws=np.asarray(data.draws))
        totals = {name: encoded.totals for name, encoded in read.items() if encoded.totals is not None}
        # Models with an encoder have no chat template.
        dressed = () if data.readout.encodes else remarks(totals, tokenizer, data.train.first)
        said = (*_remarks(reader, read, splits["train"].ids), *dressed)
        return cls(data.name, **splits, readout=data.readout, metrics=tuple(data.metrics), pad_id=reader.pad_id,
                   remarks=said, totals=totals)  # fmt: skip

    def measured_on(self, other: TokenizedTask) -> TokenizedTask:
        """The same with the test split of another one, and what is measured there."""
        return replace(self, test=other.test, metrics=other.metrics, asking=other.asking)


_SPLITS = ("train", "validation", "test")


def training_batches(tokens: Tokens, size: int | TokenSize, pad_id: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Every example once, or as often as it is drawn, in batches of about equal lengths, by seed and epoch only."""
    for group in training_groups(tokens, size, seed, epoch):
        yield collate(tokens, group, pad_id)


def training_groups(tokens: Tokens, size: int | TokenSize, seed: int, epoch: int) -> list[np.ndarray]:
    """The examples of each of those batches."""
    rng = np.random.default_rng((seed, epoch))
    order = _drawn(tokens, rng)
    groups, several = [], _CHUNK * examples_in(tokens, size)
    for start in range(0, len(order), several):
        chunk = order[start : start + several]
        chunk = chunk[np.argsort(tokens.lengths[chunk], kind="stable")]
        if isinstance(size, int):
            groups += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        else:
            groups += [chunk[a:b] for a, b in _filled(tokens.lengths[chunk], size.tokens)]
    return [groups[i] for i in rng.permutation(len(groups))]


def _drawn(tokens: Tokens, rng: np.random.Generator) -> np.ndarray:
    """As many examples as there are, in a random order."""
    order = rng.permutation(len(tokens))
    if tokens.draws is None:
        return order
    # Systematic sampling: where those that are drawn equally often stand together, each kind has its share to one.
    order = order[np.argsort(tokens.draws[order], kind="stable")]
    ends = np.floor(np.cumsum(tokens.draws[order]) + 0.5).astype(np.int64)
    return rng.permutation(np.repeat(order, np.diff(ends, prepend=0)))


def examples_in(tokens: Tokens, size: int | TokenSize) -> int:
    """Examples of usual length in a batch."""
    return size if isinstance(size, int) else max(1, int(size.tokens / tokens.lengths.mean()))


def steps_of(tokens: Tokens, settings: TrainingSettings, epoch: int) -> int:
    """Number of batches of an epoch; of batches by tokens it depends on who meets whom."""
    if settings.batch_tokens is None:
        return steps_per_epoch(len(tokens), settings.batch_size)
    return len(training_groups(tokens, settings.batches, settings.seed, epoch))


def steps_per_epoch(examples: int, size: int) -> int:
    """Number of batches of `size` examples that `training_batches` gives."""
    full, rest = divmod(examples, size * _CHUNK)
    return full * _CHUNK + -(-rest // size)


def evaluation_batches(tokens: Tokens, budget: int, pad_id: int, more: int = 0) -> Iterator[Batch]:
    """Every example once, shortest first, in batches of at most `budget` tokens with padding (or of one example).

    Each example has `more` tokens than its text.
    """
    order = np.argsort(tokens.lengths, kind="stable")
    for start, end in _filled(tokens.lengths[order] + more, budget):
        yield collate(tokens, order[start:end], pad_id)


def _filled(lengths: np.ndarray, budget: int) -> Iterator[tuple[int, int]]:
    """Spans of rising lengths with at most `budget` tokens each with padding, or one example."""
    start = 0
    while start < len(lengths):
        # Lengths rise, so a batch is as long as its last example.
        sizes = np.arange(1, len(lengths) - start + 1) * lengths[start:]
        end = start + max(1, int(np.searchsorted(sizes, budget, side="right")))
        yield start, end
        start = end


def _read(reader: Reader, name: str, split: Split, readout: Readout) -> tuple[Encoded, np.ndarray]:
    if readout.masks:
        return read_masked(reader, name, split, getattr(readout, "seed", 0))
    if readout.tokenises:
        return read_targets(reader, name, split, readout)
    read = reader.read(name, split)
    return read, labels_of(name, split, read, readout, reader)


def _remarks(reader: Reader, read: Mapping[str, Encoded], train: np.ndarray) -> tuple[str, ...]:
    """What was lost of the texts, a sentence each."""
    found = []
    if shares := _shares(read, lambda one: one.cut):
        found.append(f"texts of more than {reader.limit} tokens ({reader.reason}) are cut: {shares}")
    if shares := _shares(read, lambda one: one.dropped):
        found.append(f"examples of which nothing is left to score are left out: {shares}")
    if shares := _shares(read, lambda one: one.empty):
        found.append(f"texts that are no token for the tokenizer: {shares}")
    if (unknown := reader.unknown(train)) >= _MANY:
        found.append(f"{unknown:.0%} of train's tokens are unknown to the tokenizer")
    return tuple(found)


def _shares(read: Mapping[str, Encoded], count: Callable[[Encoded], int]) -> str:
    """Of each split that has any, how many examples, and their share."""
    counts = {name: (count(one), len(one.ids) + one.dropped) for name, one in read.items() if count(one)}
    return ", ".join(f"{n:,} of {name}'s {size:,} ({n / size:.1%})" for name, (n, size) in counts.items())


def _flat(lists: list[list[int]]) -> np.ndarray:
    return np.fromiter((x for values in lists for x in values), dtype=np.int32)
