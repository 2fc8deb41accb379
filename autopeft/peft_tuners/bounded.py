"""What a tuner allocates while it is built, bounded before it is allocated: options multiply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class TooLarge(Exception):
    """The tensors of a tuner have more numbers than are allowed."""


class Bounded(TorchDispatchMode):
    """In a `with` block, operations that would make more than `most` numbers in all raise `TooLarge` instead.

    Each is first computed on PyTorch's meta device, where tensors have shapes and no memory.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left, self._most = most, most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operation, if there is room for what it gives."""
        kwargs = dict(kwargs or {})
        if not all(value.alias_info for value in func._schema.returns):
            self._left -= _numbers(func, args, kwargs)
            if self._left < 0:
                raise TooLarge(f"its tensors have more than {self._most:,} numbers")
        return func(*args, **kwargs)


def _numbers(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Of what an operation gives; 0 where that depends on values, which bound it then."""
    on_meta = kwargs | ({"device": "meta"} if any(a.name == "device" for a in func._schema.arguments) else {})
    on_meta.pop("generator", None)
    try:
        given = tree_map_only(torch.Tensor, lambda t: t.to("meta"), (tuple(args), on_meta))
        made = func(*given[0], **given[1])
    except Exception:  # no such operation on meta tensors
        return 0
    return sum(t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor))
