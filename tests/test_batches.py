"""Texts as tokens, and batches: every example once an epoch, in an order that depends on seed and epoch only."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_task import task, tokenizer

from autopeft.engine.data import (
    Batch,
    TokenizedTask,
    Tokens,
    collate,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=400)
SIZES = st.integers(1, 7)


def made(lengths: list[int], types: bool = False) -> Tokens:
    """Example i is `[i + 1] * length`."""
    ids = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens(ids, ids % 2 if types else None, offsets, np.arange(len(lengths)))


def check(tokens: Tokens, batch: Batch, pad_id: int) -> None:
    """Every example is whole, with its own label, its mask, and padding up to the longest of the batch only."""
    ids, mask = batch.inputs["input_ids"].numpy(), batch.inputs["attention_mask"].numpy()
    assert ids.shape == mask.shape == (len(batch.index), tokens.lengths[batch.index].max())
    for row, (i, label) in enumerate(zip(batch.index, batch.labels.tolist(), strict=True)):
        length = tokens.lengths[i]
        assert label == i
        assert ids[row].tolist() == [i + 1] * length + [pad_id] * (ids.shape[1] - length)
        assert mask[row].tolist() == [1] * length + [0] * (ids.shape[1] - length)
        if tokens.types is not None:
            types = batch.inputs["token_type_ids"].numpy()[row]
            assert types.tolist() == [(i + 1) % 2] * length + [0] * (ids.shape[1] - length)
    assert batch.places.tolist() == mask.ravel().nonzero()[0].tolist()
    assert batch.rows.tolist() == [r for i in batch.index for r in range(tokens.offsets[i], tokens.offsets[i + 1])]
    assert ids.ravel()[batch.places].tolist() == tokens.ids[batch.rows].tolist()


def order(tokens: Tokens, size: int, seed: int, epoch: int) -> list[list[int]]:
    return [b.index.tolist() for b in training_batches(tokens, size, 0, seed, epoch)]


@given(LENGTHS, SIZES, st.integers(0, 9), st.integers(1, 9), st.booleans())
@example([3] * 351, 7, 0, 1, True)
@example([3] * 100, 1, 0, 1, True)
def test_training_sees_every_example_once_an_epoch(
    lengths: list[int], size: int, seed: int, epoch: int, types: bool
) -> None:
    tokens = made(lengths, types)
    batches = list(training_batches(tokens, size, 99, seed, epoch))
    assert sorted(i for b in batches for i in b.index) == list(range(len(lengths)))
    assert len(batches) == steps_per_epoch(len(lengths), size)
    assert all(1 <= len(b.index) <= size for b in batches)
    for batch in batches:
        check(tokens, batch, 99)


@given(st.integers(1, 5000), st.integers(1, 40))
@example(1600, 32)
@example(1601, 32)
def test_steps_per_epoch(examples: int, size: int) -> None:
    assert steps_per_epoch(examples, size) == len(order(made([1] * examples), size, 0, 1))
    assert -(-examples // size) <= steps_per_epoch(examples, size) <= examples // size + 1


@given(LENGTHS, SIZES, st.integers(0, 9), st.integers(1, 9))
def test_the_order_depends_on_seed_and_epoch_only(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    tokens = made(lengths)
    before = order(tokens, size, seed, epoch)
    np.random.seed(epoch)
    assert order(tokens, size, seed, epoch) == before


def test_the_order_changes_with_seed_and_epoch_and_is_shuffled() -> None:
    tokens = made([1 + i % 9 for i in range(100)])
    orders = [order(tokens, 4, seed, epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1), (1, 0))]
    assert all(orders.count(o) == 1 for o in orders)
    lengths = [tokens.lengths[o[0]] for o in orders[0]]
    assert lengths != sorted(lengths)


def test_batches_are_padded_little() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1600).tolist()
    tokens = made(lengths)
    cells = sum(b.inputs["input_ids"].numel() for b in training_batches(tokens, 16, 0, 0, 1))
    assert sum(lengths) <= cells < 1.05 * sum(lengths)


@given(LENGTHS, st.integers(1, 60))
@example([5, 5, 5, 2], 10)
@example([12, 1], 3)
def test_evaluation_sees_every_example_once_shortest_first_within_its_budget(lengths: list[int], budget: int) -> None:
    tokens = made(lengths)
    batches = list(evaluation_batches(tokens, budget, 99))
    assert sorted(i for b in batches for i in b.index) == list(range(len(lengths)))
    widths = [n for b in batches for n in tokens.lengths[b.index]]
    assert widths == sorted(widths)
    for batch in batches:
        check(tokens, batch, 99)
        assert len(batch.index) == 1 or batch.inputs["input_ids"].numel() <= budget
    for batch, after in itertools.pairwise(batches):
        assert (len(batch.index) + 1) * tokens.lengths[after.index[0]] > budget, "one more would have fit"


def test_collate_keeps_the_order_that_it_is_given() -> None:
    tokens = made([2, 1, 3])
    batch = collate(tokens, np.array([2, 0]), 9)
    assert batch.inputs["input_ids"].tolist() == [[3, 3, 3], [1, 1, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.labels.tolist() == [2, 0]
    assert "token_type_ids" not in batch.inputs


# --- tokenising ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [False, True])
def test_a_task_is_tokenised_split_by_split(pairs: bool) -> None:
    data, words = task(pairs=pairs), tokenizer()
    tokenized = TokenizedTask.of(data, words, 64)
    assert (tokenized.readout, tokenized.pad_id) == (data.readout, 0)
    assert (tokenized.name, tokenized.metrics) == (data.name, data.metrics)
    for name in ("train", "validation", "test"):
        split, tokens = getattr(data, name), getattr(tokenized, name)
        assert tokens.labels.tolist() == list(split.labels)
        for i, text in enumerate(split.first):
            ids = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
            expected = f"[CLS] {text} [SEP]" + (f" {split.second[i]} [SEP]" if pairs else "")
            assert words.decode(ids) == expected
            if pairs:
                types = tokens.types[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
                assert types == sorted(types)
                assert sum(types) == len(split.second[i].split()) + 1


@pytest.mark.parametrize("limit", [4, 6])
def test_long_texts_are_cut(limit: int) -> None:
    tokenized, whole = (TokenizedTask.of(task(), tokenizer(), n) for n in (limit, 1000))
    assert tokenized.train.lengths.max() == limit < whole.train.lengths.max()
    assert tokenized.train.lengths.tolist() == whole.train.lengths.clip(max=limit).tolist()


def test_the_tokenizers_own_limit_holds_too() -> None:
    words = tokenizer()
    words.model_max_length = 5
    assert TokenizedTask.of(task(), words, 64).train.lengths.max() == 5


@pytest.mark.parametrize(("ends", "stands"), [("[SEP]", 3), (None, 0)])
def test_an_empty_text_is_one_token_where_the_tokenizer_adds_none(ends: str | None, stands: int) -> None:
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = None
    bare.eos_token = ends
    made = task(sizes=(6, 3, 3))
    texts = ("", "w1 w2", " ", *made.train.first[3:])
    tokens = TokenizedTask.of(replace(made, train=replace(made.train, first=texts)), bare, 32).train
    assert tokens.lengths[:3].tolist() == [1, 2, 1]
    batch = collate(tokens, np.array([0, 1, 2]), 0)
    assert batch.inputs["input_ids"].tolist() == [[stands, 0], [5, 6], [stands, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0], [1, 1], [1, 0]]
    assert batch.inputs["token_type_ids"].shape == (3, 2)


def test_labels_of_regression_are_floats() -> None:
    tokenized = TokenizedTask.of(task(regression=True), tokenizer(), 64)
    assert tokenized.readout.outputs == 1
    assert tokenized.train.labels.dtype == np.float32
    assert sorted(set(tokenized.train.labels.tolist())) == [-0.5, 0.5, 1.5]
