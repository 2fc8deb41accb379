"""A backbone some of whose entries are changed, kept as values and indices. Shapes: N entries, K of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import parametrize

from autopeft.baselines._base import Fitted
from autopeft.baselines._kept import Kept, KeptModel, Record, load_head
from autopeft.baselines._training import Trained
from autopeft.engine.backbone import Backbone
from autopeft.weight_names import part

if TYPE_CHECKING:
    from autopeft.engine.settings import TrainingSettings


class Changed(nn.Module):
    """A weight plus a change of some of its entries, which are numbered as in the flattened weight."""

    def __init__(self, indices: torch.Tensor) -> None:
        super().__init__()
        self.indices: torch.Tensor
        self.register_buffer("indices", indices)
        self.values = nn.Parameter(torch.zeros(len(indices), device=indices.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight."""
        flat = weight.flatten().index_add(0, self.indices, self.values.to(weight.dtype))
        return flat.view(weight.shape)


class SparselyChanged(KeptModel):
    """A backbone with K changed entries, and its head."""

    def __init__(self, backbone: Backbone, indices: Mapping[str, torch.Tensor], record: Record) -> None:
        super().__init__()
        self.model, self._backbone, self._record = backbone.model, backbone, record
        self.changes: dict[str, Changed] = {}
        for name, numbers in indices.items():
            self.changes[name] = Changed(numbers.long())
            parametrize.register_parametrization(*holder_of(backbone, name), self.changes[name])

    def trained(self) -> list[nn.Parameter]:
        """The changes and the head's weights."""
        return [*(c.values for c in self.changes.values()), *self._backbone.head_parameters]

    @torch.no_grad()
    def set_values(self, values: Mapping[str, torch.Tensor]) -> None:
        """Set the changes, by the weights' names."""
        for name, change in self.changes.items():
            change.values.copy_(values[name])

    def fold(self) -> None:
        """Write the changes into the weights: what they cost in each pass is then nothing."""
        for name in self.changes:
            parametrize.remove_parametrizations(*holder_of(self._backbone, name))

    def fitted(self, first: int, dense: Trained, second: int, sparse: Trained) -> Fitted:
        """What to give back after so many epochs of a first phase, and of a second that trained this model."""
        self.eval().requires_grad_(False)
        kept, count = self.kept(), sum(len(change.values) for change in self.changes.values())
        self.fold()
        curve = [*dense.curve, *({**e, "epoch": first + int(e["epoch"])} for e in sparse.curve)]
        seconds = (first * dense.seconds_per_epoch + second * sparse.seconds_per_epoch) / (first + second)
        return Fitted(tuple(curve), self, count, count, kept.bytes, seconds, merged=self)

    def kept(self) -> Kept:
        """Values (fp32) and indices (int32, or int64 in weights of more than 2^31 entries) of the changes; the head."""
        tensors = {}
        for name, change in self.changes.items():
            size = int(change.indices.max()) if len(change.indices) else 0
            tensors[f"values.{name}"] = change.values.detach()
            tensors[f"indices.{name}"] = change.indices.to(torch.int32 if size < 2**31 else torch.int64)
        return Kept(self._record, tensors | self._backbone.head_weights)


def halves(settings: TrainingSettings) -> tuple[TrainingSettings, TrainingSettings]:
    """The settings of two phases, each of half of the epochs (one at least)."""
    first = max(1, settings.epochs // 2)
    second = max(1, settings.epochs - first)
    return settings.model_copy(update={"epochs": first}), settings.model_copy(update={"epochs": second})


def holder_of(backbone: Backbone, name: str) -> tuple[nn.Module, str]:
    """The module that holds a weight of the backbone, and the weight's name in it."""
    path, _, weight = name.rpartition(".")
    return backbone.model.base_model.get_submodule(path), weight


def restored(backbone: Backbone, kept: Kept) -> SparselyChanged:
    """The changes and the head that were kept, on a fresh backbone."""
    model = SparselyChanged(backbone, part(kept.tensors, "indices."), kept.record)
    model.set_values(part(kept.tensors, "values."))
    model.fold()
    load_head(backbone, kept.tensors)
    return model


def largest(moved: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """The numbers of the entries with the largest sizes among all tensors, by tensor; one at least."""
    sizes = torch.cat([tensor.abs().flatten() for tensor in moved.values()])
    chosen = torch.topk(sizes, max(1, round(share * len(sizes))), sorted=False).indices.sort().values
    found, start = {}, 0
    for name, tensor in moved.items():
        own = chosen[(chosen >= start) & (chosen < start + tensor.numel())] - start
        start += tensor.numel()
        if len(own):
            found[name] = own
    return found
