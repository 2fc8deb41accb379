"""How much each unit of trained methods matters to the loss: what they are cut by.

Shapes: K candidates of a pack, U units of a method at a place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from autopeft.cutting import canonical
from autopeft.engine.data import TokenizedTask, training_batches
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.pack import Pack
from autopeft.methods._bank import SHARED, Bank

#: The order of training's batches in an epoch that no training has.
_EPOCH = 0


def make_canonical(pack: Pack) -> None:
    """Put all candidates' weights into the form in which they may be cut; what they compute stays.

    The optimiser's moments are of the weights before: a pack that goes on training wants a new one.
    """
    for k, candidate in enumerate(pack.candidates):
        pack.load(k, canonical(candidate.hybrid, pack.weights(k), pack.backbone.shape))


def unit_importance(
    pack: Pack, task: TokenizedTask, frozen: FrozenLayers, most_batches: int = 60
) -> list[dict[str, torch.Tensor]]:
    """Of each candidate, by bank (`layers.0.q.lora`): how much the loss changes with each unit [U], to first order.

    It is the mean over at most so many training batches of |sum of w dL/dw over a unit's trained weights| (Molchanov et
    al. 2019, "Importance Estimation for Neural Network Pruning", equation 8), with one backward pass a batch for all
    candidates. Banks that cannot be cut are left out. Nothing is trained; weights should be canonical
    (`make_canonical`).
    """
    pack.procedures.call("before_measure")
    banks = list(_cut_banks(pack))
    seen = [[_by_unit(bank).abs() for _, bank in banks] for _ in _backward(pack, task, frozen, most_batches)]
    means = [torch.stack(each).mean(0).cpu() for each in zip(*seen, strict=True)]
    return [dict(_own(banks, means, k)) for k in range(len(pack.candidates))]


def _backward(pack: Pack, task: TokenizedTask, frozen: FrozenLayers, most: int) -> Iterator[None]:
    """The gradients of one batch after another."""
    settings = pack.settings
    batches = training_batches(task.train, settings.batches, task.pad_id, settings.seed, _EPOCH)
    for batch in itertools.islice(batches, most):
        _forget(pack)
        batch = batch.to(pack.backbone.device)
        with torch.enable_grad():
            pack.backward(batch, frozen.states(task.train, batch, pack.starts), task.readout)
        yield
    _forget(pack)


def _forget(pack: Pack) -> None:
    for parameter in pack.parameters():
        parameter.grad = None


def _cut_banks(pack: Pack) -> Iterator[tuple[str, Bank]]:
    for name, bank in pack.attachment.banks.named_banks():
        if bank.site != SHARED and bank.method.units(bank.shape, bank.site):
            yield name, bank


@torch.no_grad()
def _by_unit(bank: Bank) -> torch.Tensor:
    """[K, U]: the sums of w dL/dw."""
    axes = bank.method.unit_axes or {}
    names = [name for name, w in bank.declared.items() if w.kind == "trained" and (name in axes or not axes)]
    found = []
    for name in names:
        weight, gradient = bank.weight(name), bank.weight(name).grad
        product = torch.zeros_like(weight) if gradient is None else weight * gradient
        units = product.transpose(1, 1 + axes[name]) if axes else product[:, None]
        found.append(units.flatten(2).sum(2) if units.dim() > 2 else units)
    return torch.stack(found).sum(0)


def _own(banks: list[tuple[str, Bank]], means: list[torch.Tensor], k: int) -> Iterator[tuple[str, torch.Tensor]]:
    for (name, bank), mean in zip(banks, means, strict=True):
        method = bank.methods[k] if k < len(bank.methods) else None
        units = method.units(bank.shape, bank.site) if method else None
        if units:
            yield name, mean[k, : units.count].clone()
