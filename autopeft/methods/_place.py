"""What a bank may ask of the place that it is wired to: the frozen weights there, and the batch that passes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopeft.anatomy import Rows
from autopeft.quantising.weights import dequantised


class BatchInput:
    """Keeps what the model was called with while it runs, for each thread. Copies and pickles of it are empty.

    Of passes with gradients the last one's is kept until the next: layers may be computed again in the backward pass,
    when the forward pass has ended, and by a thread of autograd's own.
    """

    def __init__(self) -> None:
        self._kept = threading.local()
        self._last: dict[str, Any] = {}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the base model."""
        named = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | kwargs
        self._kept.value = named
        self._last = named if torch.is_grad_enabled() else {}

    def forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook of the base model, called after errors too."""
        self._kept.value = None

    def rows(self, name: str, sequences: int) -> torch.Tensor | None:
        """`input_ids` or `attention_mask` [sequences, L] of the sequences that are here; None when not given."""
        named = getattr(self._kept, "value", None) or self._last
        value = named.get(name)
        return value[:sequences] if isinstance(value, torch.Tensor) else None

    def __reduce__(self) -> tuple[type[BatchInput], tuple[()]]:
        return BatchInput, ()


class ModuleInput:
    """Keeps what a module is given while it runs, for each thread. Copies and pickles of it are empty."""

    def __init__(self) -> None:
        self._kept = threading.local()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """A forward pre-hook."""
        self._kept.value = args[0] if args else (kwargs or {})["hidden_states"]

    def look(self) -> torch.Tensor | None:
        """The kept tensor."""
        value: torch.Tensor | None = getattr(self._kept, "value", None)
        return value

    def take(self) -> torch.Tensor | None:
        """The same, forgotten here."""
        value = self.look()
        self._kept.value = None
        return value

    def forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook, called after errors too."""
        self._kept.value = None

    def __reduce__(self) -> tuple[type[ModuleInput], tuple[()]]:
        return ModuleInput, ()


@dataclass
class Place:
    """A module of the backbone that banks act at; some `rows` of its output, where several maps are fused in it.

    `name` is the module's dotted name in its layer.
    """

    module: nn.Module
    batch: BatchInput
    name: str = ""
    rows_of: Rows | None = None
    #: Of attention with a method that reads the batch.
    input: ModuleInput | None = None

    def weight(self) -> torch.Tensor:
        """The frozen weight in fp32: [out, in] of a map (dequantised, where it is quantised), [d] of a norm."""
        return self._part(dequantised(self.module))

    def bias(self) -> torch.Tensor | None:
        """The frozen bias [out] in fp32, None where there is none."""
        bias = getattr(self.module, "bias", None)
        return None if bias is None else self._part(bias.detach()).float()

    def rows(self, name: str, sequences: int) -> torch.Tensor | None:
        """See `BatchInput.rows`."""
        return self.batch.rows(name, sequences)

    def given(self) -> torch.Tensor:
        """What attention is given [N, L, d]; kept for methods that read the batch."""
        found = self.input.look() if self.input else None
        assert found is not None, "the attachment keeps it for methods that read the batch"
        return found

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole if self.rows_of is None else self.rows_of.of(whole)
