"""The most that torch holds at once while something runs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counter(TorchDispatchMode):
    """Adds up the storages that operations make, as long as each lives."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.most, self.paused = 0, 0, False
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if not self.paused:
            # A view, or what was changed in place, holds nothing of its own.
            before = {s._cdata for s in _storages((args, kwargs))}
            for storage in _storages(given):
                if storage._cdata not in before and storage._cdata not in self._alive:
                    self._count(storage)
        return given

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()

        def freed(_: object) -> None:
            del self._alive[place]
            self.total -= size

        self._alive[place] = weakref.ref(storage, freed)
        self.total += size
        self.most = max(self.most, self.total)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Peak:
    """`bytes`: the most that torch holds at once inside, of what is allocated inside. A context manager.

    On a GPU its allocator's own count; on a CPU the sum of all tensors that operations make, while they live. What an
    operation or a library needs within itself is not in the latter.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0
        self._before, self._counter = 0, _Counter()

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            # What is freed inside would be taken from what is allocated there.
            gc.collect()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._counter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated() - self._before
        else:
            self._counter.__exit__(kind, error, trace)
            self.bytes = self._counter.most

    @contextmanager
    def paused(self) -> Iterator[None]:
        """On a CPU, what is allocated inside is left out."""
        self._counter.paused = True
        try:
            yield
        finally:
            self._counter.paused = False
