"""Networks beside a frozen backbone, which read what its layers give and take the place of its last layer's output.

No gradient goes through the backbone, and its layers are computed once an example: an epoch costs the side network
and the head. Shapes: L layers, B examples, T tokens, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autopeft.anatomy import embeddings_of, family_of, hidden_of, layers_of, with_hidden
from autopeft.baselines._base import Fitted
from autopeft.baselines._kept import (
    Kept,
    KeptBaseline,
    KeptModel,
    Record,
    load_head,
    record_of,
)
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import Batch, TokenizedTask, Tokens
from autopeft.engine.entrances import PassedOver, States
from autopeft.errors import AutopeftError
from autopeft.weight_names import part

if TYPE_CHECKING:
    from autopeft.engine.frozen import FrozenLayers
    from autopeft.engine.settings import TrainingSettings
    from autopeft.models import ModelSource


class SideNetwork(nn.Module, ABC):
    """What stands beside the backbone."""

    @abstractmethod
    def forward(self, states: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """What follows in the place of the last layer's output, [B, T, d].

        `states` are the embeddings' output and those of all layers, L + 1 of [B, T, d] in fp32; `mask` [B, T] is True
        at real tokens. What stands at the others may not matter.
        """


class BesideBackbone(KeptModel):
    """A frozen backbone with a side network; what follows the layers (final norm, pooler, head) reads the latter's."""

    def __init__(self, backbone: Backbone, side: SideNetwork, record: Record) -> None:
        super().__init__()
        self.model, self.side = backbone.model, side
        self._backbone, self._record = backbone, record

    def forward(self, states: States | None = None, **inputs: torch.Tensor) -> Any:
        """The model's output, in one pass; `states`, of all numbers from 0 to L, stand in for that of the layers."""
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        with self._beside(states, inputs["attention_mask"].bool()):
            return self.model(**inputs)

    def trained(self) -> list[nn.Parameter]:
        """The side network's weights and the head's."""
        return [*self.side.parameters(), *self._backbone.head_parameters]

    def kept(self) -> Kept:
        """The side network's weights and the head's."""
        side = {f"side.{name}": w.detach() for name, w in self.side.state_dict().items()}
        return Kept(self._record, side | self._backbone.head_weights)

    @contextmanager
    def _beside(self, states: States | None, mask: torch.Tensor) -> Iterator[None]:
        layers = layers_of(self.model)
        seen = [states[i] for i in sorted(states)] if states is not None else []

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(args[0])

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            hidden = hidden_of(output)
            if states is None:
                seen.append(hidden)
            out: torch.Tensor = self.side([x.detach().float() for x in seen], mask)
            return with_hidden(output, out.to(hidden.dtype))

        handles = [layers[-1].register_forward_hook(leave)]
        if states is None:
            handles += [layer.register_forward_pre_hook(enter) for layer in layers]
        pair = family_of(self.model.config).pair
        passed = PassedOver(layers, embeddings_of(self.model), pair) if states is not None else None
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            if passed:
                passed.undo()


class SideBaseline(KeptBaseline):
    """A baseline that is a side network."""

    @abstractmethod
    def network(self, backbone: Backbone) -> SideNetwork:
        """A fresh network for a backbone, drawn from torch's global generator."""

    def fit(self, source: ModelSource, task: TokenizedTask, settings: TrainingSettings) -> Fitted:
        """Compute the frozen layers once, then train the side network and the head on what they gave."""
        from autopeft.baselines._training import own_backbone, train

        if task.readout.given == "image":
            raise AutopeftError(f"{self.name}: stands beside models of texts; leave it out where images are given")
        backbone = own_backbone(source, task, settings)
        model = self._beside(backbone, record_of(self, source, task), settings.seed)
        frozen = self._frozen_layers(backbone, source, task)

        def forward(tokens: Tokens, batch: Batch) -> torch.Tensor:
            states = frozen.all_states(tokens, _with_rows(tokens, batch)) if frozen else None
            return task.readout.read(partial(model, states), batch.inputs, batch.labels)

        for parameter in model.trained():
            parameter.requires_grad_(True)
        trained = train(forward, model.trained(), task, settings, heads=backbone.heads.values())
        model.eval().requires_grad_(False)
        count, kept = sum(p.numel() for p in model.side.parameters()), model.kept()
        return Fitted(trained.curve, model, count, count, kept.bytes, trained.seconds_per_epoch)

    def restore(self, backbone: Backbone, kept: Kept) -> BesideBackbone:
        """The side network and the head that were kept."""
        model = self._beside(backbone, kept.record, 0)
        model.side.load_state_dict(part(kept.tensors, "side."))
        load_head(backbone, kept.tensors)
        return model

    def _frozen_layers(self, backbone: Backbone, source: ModelSource, task: TokenizedTask) -> FrozenLayers | None:
        """The states of all layers, kept for further fits on the same task; None where they cannot be kept."""
        from autopeft.engine.frozen import FrozenLayers
        from autopeft.engine.train import evaluation_tokens
        from autopeft.engine.worker import CACHE

        known = vars(self).get("_known")
        if known is None or known[0] != source or known[1] is not task:
            frozen = FrozenLayers(backbone, task.pad_id, CACHE, evaluation_tokens(backbone.device))
            kept = frozen.prepare_all((task.train, task.validation))
            # Not a field: it is no part of what the baseline is.
            vars(self)["_known"] = known = (source, task, frozen if kept else None)
        found: FrozenLayers | None = known[2]
        return found

    def _beside(self, backbone: Backbone, record: Record, seed: int) -> BesideBackbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            side = self.network(backbone).to(backbone.device)
        return BesideBackbone(backbone, side, record)


def _with_rows(tokens: Tokens, batch: Batch) -> Batch:
    """A part of a batch with the places and rows of its tokens, which parts leave out."""
    if len(batch.places):
        return batch
    rows = np.concatenate([np.arange(tokens.offsets[i], tokens.offsets[i + 1]) for i in batch.index])
    places = batch.inputs["attention_mask"].flatten().nonzero()[:, 0]
    return replace(batch, places=places, rows=torch.from_numpy(rows))
