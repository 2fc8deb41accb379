"""Structured pruning scored through LoRA's gradients. Zhang and others 2023 (LoRAPrune), sections 3.2 and 3.3.

A group is a key-value head with its query heads, or a channel of the feed-forward network. Shapes: r rank, m and n
outputs and inputs of a map, G groups of one kind in a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from autopeft.baselines._base import Fitted
from autopeft.baselines._kept import (
    Kept,
    KeptBaseline,
    KeptModel,
    Record,
    check_option,
    check_rank,
    load_head,
    record_of,
)
from autopeft.baselines._prunable import PrunableMap, PrunedLayer, pruned_layers
from autopeft.engine.backbone import Backbone
from autopeft.methods import MOST_SIZE

if TYPE_CHECKING:
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource

#: Share of the steps before which nothing is pruned, and after which nothing more is.
_FROM, _TO = 0.1, 0.7
#: Weight of the past in the moving average of scores.
_MEMORY = 0.9


class Pruned(KeptModel):
    """A backbone with LoRA on all maps, of which heads and channels are cut out."""

    def __init__(self, backbone: Backbone, rank: int, seed: int, record: Record) -> None:
        super().__init__()
        self.model, self._backbone, self._record = backbone.model, backbone, record
        self._layers = pruned_layers(backbone, rank, seed)
        self._scores: dict[str, torch.Tensor] = {}

    def trained(self) -> list[nn.Parameter]:
        """LoRA's A and B of all maps, and the head's weights."""
        low = [p for layer in self._layers for map_ in layer.maps.values() for p in (map_.A, map_.B)]
        return [*low, *self._backbone.head_parameters]

    @torch.no_grad()
    def prune(self, share: float) -> None:
        """Score all groups by the gradients that are there, and mask the share with the lowest scores, kind by kind."""
        for kind in PrunedLayer.kinds:
            seen = torch.stack([layer.importance(kind) for layer in self._layers])
            past = self._scores.get(kind)
            self._scores[kind] = scores = seen if past is None else _MEMORY * past + (1 - _MEMORY) * seen
            masks = torch.stack([layer.masks[kind] for layer in self._layers]) > 0
            count = min(round(share * masks.numel()), masks.numel() - len(masks))
            # What is gone stays so, and the best of each layer stays.
            ranked = scores.masked_fill(~masks, -1.0)
            best = ranked.argmax(1, keepdim=True)
            ranked = ranked.scatter(1, best, float("inf"))
            gone = ranked.flatten().topk(count, largest=False).indices
            keep = torch.ones(masks.numel(), dtype=torch.bool, device=masks.device).index_fill(0, gone, False)
            for layer, own in zip(self._layers, keep.view_as(masks), strict=True):
                layer.mask(kind, own)

    def cut(self) -> None:
        """Take the masked groups out of the maps."""
        for layer in self._layers:
            layer.cut({kind: mask.nonzero()[:, 0] for kind, mask in layer.masks.items()})

    def merged(self) -> nn.Module:
        """A copy with LoRA in the (smaller) maps, which are plain linear maps again."""
        model: nn.Module = copy.deepcopy(self.model)
        for path, module in list(model.named_modules()):
            if isinstance(module, PrunableMap):
                model.set_submodule(path, module.merged())
        return model

    def kept(self) -> Kept:
        """A and B of the cut maps, the numbers of the groups that stay (int32), and the head."""
        tensors = self._backbone.head_weights
        for i, layer in enumerate(self._layers):
            tensors |= {f"layers.{i}.{site}.{n}": p.detach() for site, m in layer.maps.items() for n, p in m.weights()}
            tensors |= {f"layers.{i}.{kind}": numbers.to(torch.int32) for kind, numbers in layer.kept.items()}
        return Kept(self._record, tensors)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Cut, and set, as `kept` says."""
        for i, layer in enumerate(self._layers):
            layer.cut({kind: tensors[f"layers.{i}.{kind}"].long() for kind in PrunedLayer.kinds})
            for site, map_ in layer.maps.items():
                for name, weight in map_.weights():
                    weight.copy_(tensors[f"layers.{i}.{site}.{name}"])


@dataclass(frozen=True)
class LoRAPrune(KeptBaseline):
    """LoRA of rank `rank` on all maps; `sparsity` is the share of heads and of channels that is pruned.

    The gradient of W is taken to be dB A + B dA - dB dA, from those of A and B alone; a weight's importance is the
    square of that times W + B A, a group's the sum over its weights in all maps, averaged over steps. The share rises
    by a cubic schedule (Sanh et al. 2020). What is kept has the pruned shapes, so inference really costs less.
    """

    name: ClassVar[str] = "lora_prune"
    description: ClassVar[str] = (
        "heads and channels pruned by scores of LoRA's gradients; faster inference (Zhang 2023)"
    )
    paper: ClassVar[str] = "Zhang et al. 2023, sections 3.2 and 3.3"
    family: ClassVar[str] = "reparameterised"
    formula: ClassVar[str] = "r (m + n) a map; less is kept"
    usual_rate: ClassVar[float] = 1e-3

    rank: int = 8
    sparsity: float = 0.3

    def __post_init__(self) -> None:
        check_option(self, "rank", 1, MOST_SIZE)
        check_option(self, "sparsity", 0.0, 1.0)

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Train and prune at once, then cut."""
        from autopeft.baselines._training import forward_of, own_backbone, train

        backbone = own_backbone(source, task, settings)
        model = Pruned(backbone, self.rank, settings.seed, record_of(self, source, task))
        parameters = model.trained()
        for parameter in parameters:
            parameter.requires_grad_(True)
        heads = sum(p.numel() for p in backbone.head_parameters)
        count = sum(p.numel() for p in parameters) - heads

        def prune(step: int, steps: int) -> None:
            model.prune(self.sparsity * cubic((step + 1) / steps))

        trained = train(forward_of(model, task.readout), parameters, task, settings, prune, backbone.heads.values())
        model.cut()
        model.eval().requires_grad_(False)
        kept = model.kept()
        left = sum(t.numel() for n, t in kept.tensors.items() if n.endswith((".A", ".B")))
        return Fitted(trained.curve, model, count, left, kept.bytes, trained.seconds_per_epoch, model.merged())

    def restore(self, backbone: Backbone, kept: Kept) -> Pruned:
        """The pruned maps and the head that were kept."""
        check_rank(self.rank, kept.tensors)
        model = Pruned(backbone, self.rank, 0, kept.record)
        model.load(kept.tensors)
        load_head(backbone, kept.tensors)
        return model


def cubic(passed: float) -> float:
    """The share of the final sparsity when so much of the training has passed: 1 - (1 - t)^3 between two points."""
    t = min(1.0, max(0.0, (passed - _FROM) / (_TO - _FROM)))
    return 1 - (1 - t) ** 3
