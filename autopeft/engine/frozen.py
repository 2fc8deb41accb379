"""The frozen layers' outputs: computed once an example, kept in memory or on disk, and read by every pack and epoch.

Shapes: T tokens of a split (without padding), B examples in a batch, L tokens of the longest of them, d width.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from autopeft.engine.backbone import Backbone
from autopeft.engine.data import Batch, Tokens, evaluation_batches
from autopeft.engine.encoded import CaptureEncoder
from autopeft.engine.entrances import Capture, States
from autopeft.errors import AutopeftError


class Store:
    """Room for tensors: in the device's memory up to a limit, in files that nobody else sees above it."""

    def __init__(self, limit: int, device: torch.device, folder: Path | None = None) -> None:
        self._left, self._device = limit, device
        self._folder = folder

    def room(self, size: int) -> bool:
        """Whether so many bytes still fit in memory."""
        return size <= self._left

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor to be filled; `OSError` when the disk has no room for it."""
        size = math.prod(shape) * dtype.itemsize
        if self.room(size):
            self._left -= size
            return torch.empty(shape, dtype=dtype, device=self._device)
        handle, name = tempfile.mkstemp(prefix="autopeft-", suffix=".states", dir=self._folder)
        try:
            # A file with holes would kill the process when the disk is full; this asks for the room now.
            os.posix_fallocate(handle, 0, max(size, 1))
            flat = torch.from_file(name, shared=True, size=math.prod(shape), dtype=dtype)
        finally:
            os.close(handle)
            # The mapping keeps the room; nothing is left behind however the process ends.
            with suppress(OSError):
                os.unlink(name)
        return flat.view(shape)


class FrozenStates:
    """Inputs of layers of the bare backbone for one split.

    Layer l's input is [T, d]: tokens end to end as in `Tokens`, in the backbone's data type. Number 0 is the
    embeddings' output, number L (of L layers) the last layer's.
    """

    def __init__(self, backbone: Backbone, tokens: Tokens, pad_id: int, store: Store, batch_tokens: int) -> None:
        self._backbone, self._tokens, self._pad_id = backbone, tokens, pad_id
        self._store, self._batch_tokens = store, batch_tokens
        self._kept: dict[int, torch.Tensor] = {}
        #: Tokens times layers computed so far, padding included.
        self.computed = 0

    @property
    def _total(self) -> int:
        """Tokens that states are of."""
        return int(self._tokens.frozen_offsets[-1])

    def prepare(self, wanted: Iterable[int]) -> None:
        """Compute the inputs of these layers, from the nearest that is kept below; nothing may be attached.

        What is passed on the way is kept too while it fits in memory. `OSError` when the disk is full.
        """
        missing = sorted(set(wanted) - self._kept.keys())
        if not missing:
            return
        below = max((i for i in self._kept if i < missing[0]), default=0)
        size = self._total * self._backbone.shape.hidden * self._backbone.dtype.itemsize
        stacked = bool(self._backbone.shape.stacks)
        on_the_way = (
            [] if stacked else [i for i in range(below + 1, missing[-1]) if i not in self._kept and i not in missing]
        )
        spare = len(on_the_way) if self._store.room(size * (len(missing) + len(on_the_way))) else 0
        self._fill(below, {*missing, *on_the_way[:spare]})

    def states(self, batch: Batch, wanted: Iterable[int]) -> States:
        """The prepared inputs [B, L, d] of a batch, on the backbone's device; zero where it is padded."""
        return {i: self._padded(self._kept[i], batch) for i in wanted}

    def _padded(self, kept: torch.Tensor, batch: Batch) -> torch.Tensor:
        values = kept.index_select(0, batch.rows.to(kept.device)).to(batch.places.device, non_blocking=True)
        padded = values.new_zeros(math.prod(batch.shape), kept.shape[1])
        # By position, not by mask: a mask would make the host wait for a GPU to count it.
        return padded.index_copy_(0, batch.places, values).view(*batch.shape, -1)

    def _fill(self, below: int, wanted: set[int]) -> None:
        backbone, total = self._backbone, self._total
        made = {i: self._store.empty((total, backbone.shape.hidden), backbone.dtype) for i in sorted(wanted)}
        stacked = bool(backbone.shape.stacks)
        capturing = CaptureEncoder(backbone.model, max(wanted)) if stacked else Capture(backbone.model, wanted, below)
        with backbone.attending(), capturing as capture:
            for batch in evaluation_batches(self._tokens, self._batch_tokens, self._pad_id):
                batch = batch.to(backbone.device)
                states = capture(batch.inputs, self.states(batch, {below} & self._kept.keys()).get(below))
                for i, state in states.items():
                    values = state.flatten(0, 1).index_select(0, batch.places)
                    made[i].index_copy_(0, batch.rows.to(made[i].device), values.to(made[i].device))
                self.computed += math.prod(batch.shape) * (max(wanted) - below)
        self._kept |= made


class FrozenLayers:
    """The frozen states of the splits that a worker trains and measures on, up to `limit` bytes in memory.

    A limit of 0 switches it off: candidates then start at the embeddings, all of them.
    """

    def __init__(self, backbone: Backbone, pad_id: int, limit: int, batch_tokens: int, folder: Path | None = None):
        self._backbone, self._pad_id, self._batch_tokens = backbone, pad_id, batch_tokens
        self._store = Store(limit, backbone.device, folder) if limit else None
        self._splits: dict[int, FrozenStates] = {}

    def prepare(self, splits: Iterable[Tokens], starts: Sequence[int]) -> bool:
        """Make states of these splits ready for candidates with these starts; False when they cannot be kept."""
        return self._prepare(splits, [i for i in starts if i > 0])

    def prepare_all(self, splits: Iterable[Tokens]) -> bool:
        """Make every layer's states of these splits ready, 0 to L, for networks beside the backbone; False as above.

        `AutopeftError` for a model of an encoder and a decoder, of which only what the encoder gives is kept.
        """
        if self._backbone.shape.stacks:
            raise AutopeftError("networks beside a backbone need one stack of layers; use another baseline or model")
        return self._prepare(splits, range(self._backbone.shape.layers + 1))

    def all_states(self, tokens: Tokens, batch: Batch) -> States:
        """What `prepare_all` made ready, of a batch of a split."""
        return self._splits[id(tokens)].states(batch, range(self._backbone.shape.layers + 1))

    def _prepare(self, splits: Iterable[Tokens], numbers: Sequence[int]) -> bool:
        if self._store is None:
            return False
        try:
            for tokens in splits:
                fresh = FrozenStates(self._backbone, tokens, self._pad_id, self._store, self._batch_tokens)
                self._splits.setdefault(id(tokens), fresh).prepare(numbers)
        except OSError as error:
            warnings.warn(f"frozen layers are not kept: {error.strerror or error}", stacklevel=2)
            self._store = None
            self._splits.clear()
            return False
        return True

    def states(self, tokens: Tokens, batch: Batch, starts: Iterable[int]) -> States:
        """What candidates with these starts need of a batch of a split: nothing when all start at the embeddings."""
        wanted = {i for i in starts if i > 0}
        return self._splits[id(tokens)].states(batch, wanted) if wanted else {}

    @property
    def computed(self) -> int:
        """Tokens times layers that were computed to fill it, padding included."""
        return sum(states.computed for states in self._splits.values())
