"""K candidates on one backbone, trained in one forward and backward pass.

Shapes: K candidates, B examples in a batch (the same for all of them), L tokens, C outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import nn

from autopeft.attaching import Attachment, Parts
from autopeft.candidate import Candidate
from autopeft.engine.backbone import Backbone
from autopeft.engine.data import Batch
from autopeft.engine.entrances import Entrances, States
from autopeft.engine.first_token import FirstTokenOnly
from autopeft.engine.heads import PackedHead
from autopeft.engine.losses import loss_of
from autopeft.engine.optimizer import PackedAdamW, Rates
from autopeft.engine.settings import TrainingSettings
from autopeft.methods._bank import Corner
from autopeft.methods._weights import Kind

#: Tokens with padding, over all candidates of a pack, in one forward and backward pass. On a CPU more do not fit in its
#: caches; on a GPU it bounds the memory.
TOKEN_BUDGETS = {"cpu": 4_096, "cuda": 262_144}


@dataclass(frozen=True)
class Saved:
    """One candidate in the middle of its training: each weight with its first and second moment."""

    parts: Mapping[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


class Pack:
    """Candidates on a backbone, each with its own head, learning rate and AdamW state. A context manager.

    `starts[k]`: the layer at which candidate k enters (at most its first adapted one; 0 by default), in rising order;
    what is above 0 needs the frozen inputs of that layer at every forward pass.

    Invariant: in exact arithmetic, no candidate's numbers depend on who else is in the pack.
    """

    def __init__(
        self,
        backbone: Backbone,
        candidates: Sequence[Candidate],
        settings: TrainingSettings,
        starts: Sequence[int] | None = None,
        steps: int = 1,
    ) -> None:
        self.backbone, self.settings, self._steps = backbone, settings, steps
        self.token_budget = TOKEN_BUDGETS[backbone.device.type]
        self._put(tuple(candidates), tuple(starts or [0] * len(candidates)))

    def _put(self, candidates: tuple[Candidate, ...], starts: tuple[int, ...]) -> None:
        self.candidates, self.starts = candidates, starts
        backbone, seed = self.backbone, self.settings.seed
        hybrids = [c.hybrid for c in candidates]
        backbone.reset_head(seed)
        self.attachment = Attachment(backbone.model, hybrids, seed, backbone.precision.attention, starts)
        self._heads = {name: PackedHead(module, len(candidates)) for name, module in backbone.heads.items()}
        for name, head in self._heads.items():
            # Not by assignment: that would make it a submodule, behind the class's own method.
            backbone.heads[name].requires_grad_(False).__dict__["forward"] = head
        # Stock attention, of what is reported, computes all tokens.
        self._first_token = FirstTokenOnly(backbone.model) if backbone.precision.attention else None
        self._entrances = Entrances(backbone.model, starts) if starts[-1] else None
        rates = [Rates.of(self.settings, c.training) for c in candidates]
        self.optimizer = PackedAdamW(self.parameters(), rates, self._steps)

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, [k_i, ...] each."""
        return [*self.attachment.banks.parameters(), *(p for head in self._heads.values() for p in head.parameters())]

    def forward(self, batch: Batch, states: States) -> torch.Tensor:
        """Outputs [K, B, C] of a batch, fp32."""
        count = len(self.candidates)
        if self._entrances:
            self._entrances.states = states
        inputs = {name: x.repeat(count, 1) for name, x in batch.inputs.items()}
        logits: torch.Tensor = self.backbone.model(**inputs).logits
        return logits.float().unflatten(0, (count, -1))

    def step(self, batch: Batch, states: States, regression: bool) -> torch.Tensor:
        """Train on one batch; each candidate's mean loss before the step, [K].

        A batch of more than the device's budget of tokens (over all candidates) goes through in parts, whose gradients
        add up to the same: what a candidate costs in memory is then its weights, and not its activations.
        """
        total = torch.zeros(len(self.candidates), device=self.backbone.device)
        for start, end in parts_of(batch, self.token_budget // len(self.candidates)):
            part = batch.part(start, end)
            own = {i: state[start:end] for i, state in states.items()}
            losses = loss_of(self.forward(part, own), part.labels, regression)
            losses = losses * (len(part.labels) / len(batch.labels))
            losses.sum().backward()
            total += losses.detach()
        self.optimizer.step()
        return total

    def weights(self, k: int) -> dict[str, torch.Tensor]:
        """Copies of all that makes a trained candidate: `hybrid.<bank weight>` and `head.<name>`."""
        parts = self._parts(k, "trained", "frozen")
        return {n: p.detach()[at].float().cpu().contiguous().clone() for n, (p, at) in parts.items()}

    @torch.no_grad()
    def load(self, k: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Set what `weights` gave; `KeyError` when it is not of this candidate."""
        parts = self._parts(k, "trained", "frozen")
        if parts.keys() != weights.keys():
            raise KeyError(f"weights do not fit the hybrid: {sorted(parts.keys() ^ weights.keys())[:3]}")
        for name, (parameter, at) in parts.items():
            parameter[at] = weights[name].to(parameter.device)

    def keep(self, kept: Sequence[int]) -> None:
        """Slice the other candidates out; those that are kept go on where they are."""
        saved = [self._save(k) for k in kept]
        optimizer = self.optimizer
        self.detach()
        self._put(tuple(self.candidates[k] for k in kept), tuple(self.starts[k] for k in kept))
        self.optimizer.take_over(optimizer)
        for k, state in enumerate(saved):
            self._restore(k, state)

    def detach(self) -> None:
        """Take everything off the backbone; a second call does nothing."""
        if self._entrances:
            self._entrances.remove()
            self._entrances = None
        if self._first_token:
            self._first_token.remove()
            self._first_token = None
        for name in self._heads:
            self.backbone.heads[name].__dict__.pop("forward", None)
        self.attachment.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _parts(self, k: int, *kinds: Kind) -> Parts:
        parts: Parts = {f"hybrid.{name}": part for name, part in self.attachment.banks.parts(k, *kinds).items()}
        for name, head in self._heads.items():
            parts |= {f"head.{name}.{w}": (p, (k,)) for w, p in zip(head.names, head.stacked, strict=True)}
        return parts

    def _save(self, k: int) -> Saved:
        def copies(parameter: torch.Tensor, at: Corner) -> tuple[torch.Tensor, ...]:
            return tuple(t.detach()[at].clone() for t in (parameter, *self.optimizer.moments(parameter)))

        return Saved({name: copies(*part) for name, part in self._parts(k).items()})  # type: ignore[misc]

    @torch.no_grad()
    def _restore(self, k: int, saved: Saved) -> None:
        for name, (parameter, at) in self._parts(k).items():
            for target, source in zip((parameter, *self.optimizer.moments(parameter)), saved.parts[name], strict=True):
                target[at] = source


def parts_of(batch: Batch, tokens: int) -> list[tuple[int, int]]:
    """Spans of the batch's examples with at most so many tokens each, about equal; of one example at least."""
    examples, length = batch.inputs["input_ids"].shape
    count = -(-examples // max(1, tokens // length))
    edges = [examples * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))
