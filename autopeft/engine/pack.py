"""K candidates on one backbone, trained in one forward and backward pass.

Shapes: K candidates, B examples in a batch (the same for all of them), L tokens, C outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import torch
from torch import nn

from autopeft.anatomy import layers_of
from autopeft.attaching import Attachment, Parts
from autopeft.candidate import Candidate
from autopeft.engine.backbone import Backbone
from autopeft.engine.checkpointing import Checkpointed
from autopeft.engine.company import Company, check_outputs
from autopeft.engine.data import Batch
from autopeft.engine.encoded import EncoderEntrance
from autopeft.engine.entrances import Entrances, States
from autopeft.engine.first_token import FirstTokenOnly, first_token_is_all
from autopeft.engine.heads import PackedHead
from autopeft.engine.optimizer import PackedAdamW, Rates
from autopeft.engine.procedures import At, Batches, Gradients, Procedures
from autopeft.engine.saving import Saved
from autopeft.engine.settings import TrainingSettings
from autopeft.hybrid import Hybrid
from autopeft.methods._weights import SAVED, Kind
from autopeft.readouts import Readout
from autopeft.weight_names import HEAD, HYBRID

#: Tokens with padding, over all candidates of a pack, in one forward and backward pass. On a CPU more do not fit in its
#: caches; on a GPU it bounds the memory.
TOKEN_BUDGETS = {"cpu": 4_096, "cuda": 262_144}
_KINDS: tuple[Kind, ...] = (*SAVED, "state")


class Pack:
    """Candidates on a backbone, each with its own head, learning rate and AdamW state. A context manager.

    `starts[k]`: the layer at which candidate k enters (at most its first adapted one; 0 by default), in rising order;
    what is above 0 needs the frozen inputs of that layer at every forward pass. `steps`: of the training, or of each of
    its phases. All candidates are of one company (see `Company`).

    Invariant: in exact arithmetic, no candidate's numbers depend on who else is in the pack.
    """

    def __init__(
        self,
        backbone: Backbone,
        candidates: Sequence[Candidate],
        settings: TrainingSettings,
        starts: Sequence[int] | None = None,
        steps: int | Sequence[int] = 1,
    ) -> None:
        self.backbone, self.settings, self.phase = backbone, settings, 0
        self._steps = (steps,) if isinstance(steps, int) else tuple(steps)
        self.company = Company.of(candidates[0].hybrid)
        check_outputs(candidates[0].hybrid.methods(), backbone.readout)
        self.token_budget = min(TOKEN_BUDGETS[backbone.device.type], backbone.most_tokens)
        self._put(tuple(candidates), tuple(starts or [0] * len(candidates)))

    def _put(self, candidates: tuple[Candidate, ...], starts: tuple[int, ...]) -> None:
        self.candidates, self.starts = candidates, starts
        backbone, seed, hybrids = self.backbone, self.settings.seed, [c.hybrid for c in candidates]
        backbone.reset_head(seed)
        self.attachment = Attachment(backbone.model, hybrids, seed, backbone.precision.attention, starts)
        self.longer = self.attachment.banks.input_tokens
        self._heads = {name: PackedHead(module, len(candidates)) for name, module in backbone.heads.items()}
        for name, head in self._heads.items():
            # Not by assignment: that would make it a submodule, behind the class's own method.
            backbone.heads[name].requires_grad_(False).__dict__["forward"] = head
        self._first_token = _first_token_only(backbone, hybrids)
        entrance = EncoderEntrance if backbone.shape.stacks else Entrances
        self._entrances = entrance(backbone.model, starts) if starts[-1] else None
        again = Checkpointed(layers_of(backbone.model)[starts[0] :]) if self.settings.checkpoint else None
        self._changes = [change for change in (self._entrances, self._first_token, again) if change]
        self.procedures = Procedures(self.attachment.banks, hybrids, [seed] * len(candidates))
        self.optimizer = self._fresh_optimizer()

    def _fresh_optimizer(self) -> PackedAdamW:
        rates = [Rates.of(self.settings, c.training) for c in self.candidates]
        return PackedAdamW(self.parameters(), rates, self._steps[self.phase], _own_rates(self, rates))

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, [k_i, ...] each."""
        return [*self.attachment.banks.parameters(), *(p for head in self._heads.values() for p in head.parameters())]

    def forward(self, batch: Batch, states: States) -> torch.Tensor:
        """Outputs [K, B, C] of a batch (or [K, B, L, C], of tokens), fp32."""
        count = len(self.candidates)
        if self._entrances:
            self._entrances.states = states
        inputs = {name: x.repeat(count, *[1] * (x.dim() - 1)) for name, x in batch.inputs.items()}
        return self.backbone.readout.read(self.backbone.model, inputs, batch.labels).unflatten(0, (count, -1))

    def step(self, batch: Batch, states: States, readout: Readout) -> torch.Tensor:
        """Train on one batch; each candidate's mean loss before the step, [K].

        A batch of more than the device's budget of tokens (over all candidates) goes through in parts, whose gradients
        add up to the same: what a candidate costs in memory is then its weights, and not its activations.
        """
        at = At(self.phase, self.optimizer.done, self._steps[self.phase])
        self.procedures.call("before_step", at)
        losses = self.backward(batch, states, readout, at)
        self.procedures.penalise()
        self.procedures.call("after_backward", at)
        self.optimizer.step()
        self.procedures.call("after_step", at)
        return losses

    def backward(self, batch: Batch, states: States, readout: Readout, at: At | None = None) -> torch.Tensor:
        """Add a batch's gradients to those there are; the losses [K]. `at`: the step, where it is one."""
        total = torch.zeros(len(self.candidates), device=self.backbone.device)
        twice = at is not None and self.company.twice
        for start, end in parts_of(batch, self.token_budget // len(self.candidates) // (1 + twice), self.longer):
            part = batch.part(start, end)
            own = {i: state[start:end] for i, state in states.items()}
            if twice and start:
                self.procedures.call("before_step", at)
            first = self.forward(part, own)
            losses = trained = readout.loss(first, part.labels)
            if twice and at is not None:
                self.procedures.call("before_step", replace(at, forward=1))
                trained = losses + self.procedures.pair_loss(first, self.forward(part, own), part.labels)
            share = part.weight / batch.weight
            if trained.requires_grad:  # not of the backbone alone, without a head
                (trained * share).sum().backward()
            total += losses.detach() * share
        return total

    def prepare(self, batches: Batches, readout: Readout) -> None:
        """Before the first step: what the methods do then, with the gradients that they ask for."""
        add_up = partial(self.backward, readout=readout)
        self.procedures.prepare(lambda: Gradients(add_up, self.parameters(), batches()))

    def end_phase(self) -> None:
        """Go on to the next phase: what the methods do then, and an optimiser and a schedule from their beginning."""
        self.procedures.call("end_phase")
        self.phase += 1
        self.optimizer = self._fresh_optimizer()

    def weights(self, k: int) -> dict[str, torch.Tensor]:
        """Copies of all that makes a trained candidate: `hybrid.<bank weight>` and `head.<name>`."""
        parts = self._parts(k, *SAVED)
        return {n: p.detach()[at].float().cpu().contiguous().clone() for n, (p, at) in parts.items()}

    @torch.no_grad()
    def load(self, k: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Set what `weights` gave; `KeyError` when it is not of this candidate."""
        parts = self._parts(k, *SAVED)
        if parts.keys() != weights.keys():
            raise KeyError(f"weights do not fit the hybrid: {sorted(parts.keys() ^ weights.keys())[:3]}")
        for name, (parameter, at) in parts.items():
            parameter[at] = weights[name].to(parameter.device)

    def keep(self, kept: Sequence[int]) -> None:
        """Slice the other candidates out; those that are kept go on where they are."""
        before, saved = self.optimizer, [Saved.of(self._parts(k, *_KINDS), self.optimizer) for k in kept]
        self.detach()
        self._put(tuple(self.candidates[k] for k in kept), tuple(self.starts[k] for k in kept))
        self.optimizer.take_over(before)
        for k, state in enumerate(saved):
            state.restore(self._parts(k, *_KINDS), self.optimizer)

    def detach(self) -> None:
        """Take everything off the backbone; a second call does nothing."""
        while self._changes:
            self._changes.pop(0).remove()
        self._entrances = None
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
        parts: Parts = {f"{HYBRID}{name}": part for name, part in self.attachment.banks.parts(k, *kinds).items()}
        for name, head in self._heads.items():
            parts |= {f"{HEAD}{name}.{w}": (p, (k,)) for w, p in zip(head.names, head.stacked, strict=True)}
        return parts


def parts_of(batch: Batch, tokens: int, more: int = 0) -> list[tuple[int, int]]:
    """Spans of the batch's examples with at most so many tokens each, about equal; of one example at least.

    Each example has `more` tokens than its text.
    """
    examples, length = len(batch.index), batch.length
    count = -(-examples // max(1, tokens // (length + more)))
    edges = [examples * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def _first_token_only(backbone: Backbone, hybrids: Sequence[Hybrid]) -> FirstTokenOnly | None:
    # Stock attention, of what is reported, computes all tokens.
    one_token = backbone.precision.attention and backbone.readout.reads == "one" and first_token_is_all(hybrids)
    return FirstTokenOnly(backbone.model) if one_token else None


def _own_rates(pack: Pack, rates: Sequence[Rates]) -> dict[nn.Parameter, list[float]]:
    """K learning rates by weight, of those that do not learn at the candidates' own."""
    found: dict[nn.Parameter, list[float]] = {}
    if pack.settings.method_rates == "usual":
        for _, bank in pack.attachment.banks.named_banks():
            own = [rate.learning_rate * bank.method.relative_rate() for rate in rates]
            found |= dict.fromkeys(bank.parameters(), own)
    if (head := pack.settings.head_learning_rate) is not None:
        found |= {weight: [head] * len(rates) for module in pack._heads.values() for weight in module.parameters()}
    return found
