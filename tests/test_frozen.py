"""Frozen layers' outputs: computed once, kept in memory or on disk, and given up when there is no room.

Shapes: N examples of a split, L tokens, d width.
"""

from __future__ import annotations

import errno
import os
import resource
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, HIDDEN, LAYERS, everywhere, make, perturb
from tiny_packs import SETTINGS, Bench, bench, mixed
from tiny_worker import evaluate

from autopeft.anatomy import FAMILIES as ROWS
from autopeft.anatomy import layers_of
from autopeft.attention import FUSED
from autopeft.candidate import Candidate
from autopeft.engine.data import collate
from autopeft.engine.frozen import Store
from autopeft.engine.pack import Pack
from autopeft.engine.worker import Worker, WorkerSpec
from autopeft.hybrid import Hybrid

CPU = torch.device("cpu")
HEAD = Candidate(everywhere())


def lora_from(first: int) -> Candidate:
    return Candidate(Hybrid.from_layers(LAYERS, {i: [make("lora", 2)] for i in range(first, LAYERS)}))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = bench(tmp_path_factory.mktemp("model"), "bert", FUSED)
    return replace(made, settings=SETTINGS.model_copy(update={"epochs": 2}))


def splits_of(made: Bench) -> tuple[Any, Any]:
    return made.data.train, made.data.validation


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """A limit on the size of files looks like a full disk to the one who asks for room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def rows_by_layer(made: Bench) -> Iterator[Counter[int]]:
    """How many sequences each layer really computes; a layer that is passed over computes none."""
    seen: Counter[int] = Counter()
    name = ROWS[made.backbone.shape.family].site("q").module
    handles = [
        layer.get_submodule(name).register_forward_hook(lambda m, args, o, i=i: seen.update({i: args[0].shape[0]}))
        for i, layer in enumerate(layers_of(made.backbone.model))
    ]
    yield seen
    for handle in handles:
        handle.remove()


# --- room ------------------------------------------------------------------------------------------------------------


def test_memory_first_and_files_that_nobody_sees_above_the_limit(tmp_path: Path) -> None:
    store = Store(100, CPU, tmp_path)
    files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    made = [store.empty((rows, 5), torch.float32) for rows in (3, 3, 2)]
    on_disk = [not tensor.untyped_storage().resizable() for tensor in made]
    assert on_disk == [False, True, False]
    assert not store.room(1)
    assert store.room(0)
    for number, tensor in enumerate(made):
        tensor.fill_(number)
    assert [tensor.unique().tolist() for tensor in made] == [[0.0], [1.0], [2.0]]
    assert list(tmp_path.iterdir()) == []
    assert files == 0 or len(os.listdir("/proc/self/fd")) == files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_full_disk_says_so_before_anything_is_written(dtype: torch.dtype, tmp_path: Path) -> None:
    store = Store(1, CPU, tmp_path)
    with small_files(1000), pytest.raises(OSError, match="too large"):
        store.empty((100_000, 2), dtype)
    assert list(tmp_path.iterdir()) == []
    assert store.empty((100_000, 2), dtype).shape == (100_000, 2)


@pytest.mark.parametrize("how", ["limit", "no space"])
def test_training_goes_on_without_frozen_layers_when_the_disk_is_full(
    how: str, bert: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = mixed(LAYERS, seed=0)
    expected, frozen = bert.train(members), bert.frozen(1, tmp_path)
    with monkeypatch.context() as patched, small_files(1000 if how == "limit" else 10**9):
        if how == "no space":
            patched.setattr(os, "posix_fallocate", _no_space)
        with pytest.warns(UserWarning, match=r"^frozen layers are not kept: (File too large|No space left)"):
            found = bert.train(members, frozen)
    assert [f.losses for f in found] == [e.losses for e in expected]
    assert list(tmp_path.iterdir()) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bert.train([HEAD], frozen)[0].losses == bert.train([HEAD])[0].losses
    assert frozen.computed == 0


def test_a_worker_goes_on_too(bert: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, high = WorkerSpec(bert.source, bert.settings, cache=1), lora_from(2)
    expected = evaluate(Worker(replace(spec, cache=0), bert.data), high)
    monkeypatch.setattr(os, "posix_fallocate", _no_space)
    worker = Worker(spec, bert.data)
    with pytest.warns(UserWarning, match="frozen layers are not kept: No space left"):
        found = evaluate(worker, high)
    assert (found.status, found.curve) == ("done", expected.curve)
    assert not worker.spoilt


def _no_space(*args: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- once ------------------------------------------------------------------------------------------------------------


def test_each_frozen_layer_is_computed_once_an_example(bert: Bench) -> None:
    frozen, examples = bert.frozen(), sum(map(len, splits_of(bert)))
    with rows_by_layer(bert) as seen:
        bert.train([lora_from(2), lora_from(2)], frozen)
        trained = 2 * (2 * len(bert.data.train) + len(bert.data.validation))
        assert seen == {0: examples, 1: examples, 2: trained}
        # What was passed on the way is there.
        frozen.prepare(splits_of(bert), [1])
        assert seen[0] == examples
        # And what is not begins at the nearest below it.
        bert.train([HEAD], frozen)
        assert seen == {0: examples, 1: examples, 2: trained + examples}
        bert.train([HEAD, lora_from(2), HEAD, lora_from(1)], frozen)
    assert seen[0] == examples
    assert seen[1] - examples == trained / 2
    assert seen[2] - examples == 2 * trained


def test_a_head_alone_runs_no_layer_once_its_inputs_are_there(bert: Bench) -> None:
    frozen = bert.frozen()
    frozen.prepare(splits_of(bert), [LAYERS])
    with rows_by_layer(bert) as seen:
        bert.train([HEAD, HEAD], frozen)
    assert not seen


def test_a_limit_of_nothing_keeps_nothing(bert: Bench) -> None:
    frozen = bert.frozen(0)
    assert not frozen.prepare(splits_of(bert), [2])
    assert frozen.states(bert.data.train, collate(bert.data.train, np.arange(2), 0), [0]) == {}


def test_on_the_way_nothing_is_kept_that_would_need_the_disk(bert: Bench, tmp_path: Path) -> None:
    one_layer = 4 * HIDDEN * sum(int(tokens.offsets[-1]) for tokens in splits_of(bert))
    examples = sum(map(len, splits_of(bert)))
    for layers, computed in ((1, {0: 2 * examples, 1: examples}), (2, {0: examples, 1: examples})):
        frozen = bert.frozen(layers * one_layer, tmp_path)
        with rows_by_layer(bert) as seen:
            frozen.prepare(splits_of(bert), [2])
            frozen.prepare(splits_of(bert), [1])
        assert seen == computed


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_layers_inputs_in_every_family(family: str, tmp_path: Path) -> None:
    made = bench(tmp_path / "model", family, FUSED)
    tokens, once, twice = made.data.train, made.frozen(), made.frozen(1, tmp_path)
    once.prepare([tokens], range(LAYERS + 1))
    for start in (1, LAYERS):
        twice.prepare([tokens], [start])
    seen: dict[int, torch.Tensor] = {}
    layers = layers_of(made.backbone.model)
    handles = [
        layer.register_forward_pre_hook(lambda m, a, i=i: seen.update({i: a[0]})) for i, layer in enumerate(layers)
    ]
    handles.append(layers[-1].register_forward_hook(lambda m, a, output: seen.update({LAYERS: output})))
    batch = collate(tokens, np.array([5, 0, 17]), made.data.pad_id)
    with torch.no_grad(), made.backbone.attending():
        made.backbone.model(**batch.inputs)
    for handle in handles:
        handle.remove()
    mask = batch.inputs["attention_mask"][..., None].bool()
    for frozen, wanted in ((once, range(1, LAYERS + 1)), (twice, (1, LAYERS))):
        states = frozen.states(tokens, batch, [0, *wanted])
        assert states.keys() == set(wanted)
        for i, state in states.items():
            torch.testing.assert_close(state, seen[i].where(mask, 0), rtol=1e-5, atol=1e-5)
    # The embeddings' output is kept for networks beside the backbone, whatever was kept before.
    for frozen in (made.frozen(), twice):
        frozen.prepare_all([tokens])
        states = frozen.all_states(tokens, batch)
        assert list(states) == list(range(LAYERS + 1))
        for i, state in states.items():
            torch.testing.assert_close(state, seen[i].where(mask, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_entered_at_any_layer(family: str, tmp_path: Path) -> None:
    made, members = bench(tmp_path / "model", family, FUSED), mixed(LAYERS, seed=7)
    batch, frozen = collate(made.data.train, np.array([5, 0, 17]), made.data.pad_id), made.frozen()
    members.sort(key=lambda c: c.hybrid.first_adapted)
    starts = [c.hybrid.first_adapted for c in members]
    assert frozen.prepare([made.data.train], starts)
    for first in (0, 1, starts.index(2), len(members) - 1):
        outputs = []
        for own in ([0] * (len(members) - first), starts[first:]):
            with torch.no_grad(), Pack(made.backbone, members[first:], SETTINGS, own) as pack:
                for k in range(len(pack.candidates)):
                    pack.load(k, _noisy(pack.weights(k), k))
                outputs.append(pack.forward(batch, frozen.states(made.data.train, batch, own)))
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def _noisy(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    module = torch.nn.ParameterList(weights.values())
    perturb(module, seed + 1)
    return dict(zip(weights, (p.detach() for p in module), strict=True))
