"""Banks: K candidates' weights of one method at one place, trained as one module.

Shapes: K candidates, B examples a candidate, L tokens, d width. Activations come as [K*B, L, d], candidate-major; a
bank views them as [K, B*L, d] and one `bmm` serves all. A single model is K = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from autopeft.anatomy import INPUT, ModelShape
from autopeft.methods._base import Method
from autopeft.methods._products import Products
from autopeft.methods._weights import SAVED, Weight

if TYPE_CHECKING:
    from autopeft.methods._place import Place

#: The site of a bank that a model has once, for all places of its method.
SHARED = "shared"
#: Where a candidate's own part of a weight lies.
Corner = tuple[int | slice, ...]


class Bank(nn.Module, Products):
    """The weights of K methods of one kind at one place, zero-padded to the largest.

    Trained weights are parameters [K, ...], frozen ones and states are buffers. `scale` [K] is 0 for a candidate that
    lacks the method, so its output and its gradients are exactly 0. Where padding is multiplied by padding (A and B,
    down and up) it gets zero gradients and stays zero; other methods mask with `own`. `own_columns` [K, l] says which
    attention columns, or vectors of a prompt, are each candidate's own; None when all have as many.
    """

    scale: torch.Tensor
    own_columns: torch.Tensor | None

    def __init__(
        self,
        methods: Sequence[Method | None],
        shape: ModelShape,
        site: str,
        seeds: Sequence[int],
        layer: int | None = None,
        vocabulary: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.site, self.layer, self.methods, self.shape = site, layer, tuple(methods), shape
        self.seeds = tuple(seeds)
        self.method = next(m for m in methods if m is not None)
        declared = [_declared(m, shape, site) if m else {} for m in methods]
        self.sizes = [{name: w.shape for name, w in own.items()} for own in declared]
        self.declared: Mapping[str, Weight] = next(own for own in declared if own)
        self.kept = [{name: w.entries for name, w in own.items()} for own in declared]
        self.columns = [_columns(m, site) if m else 0 for m in methods]
        scales = [m.output_scale() if m else 0.0 for m in methods]
        self.register_buffer("scale", torch.tensor(scales), persistent=False)
        self._scaled = any(scale != 1 for scale in scales)
        self.register_buffer("own_columns", _own_columns(self.columns), persistent=False)
        for name, weight in self.declared.items():
            where = (layer, site, self.method.name, name)
            drawn = [
                own[name].draw(seed, *where, vocabulary=vocabulary) if own else None
                for own, seed in zip(declared, seeds, strict=True)
            ]
            self._register(name, weight, _stack(drawn))
        # Not submodules: the backbone's and the model-level bank's weights are not this bank's.
        self.__dict__["place"] = None
        self.__dict__["shared"] = None

    if TYPE_CHECKING:
        place: Place
        shared: Bank | None

    def _register(self, name: str, weight: Weight, value: torch.Tensor) -> None:
        if hasattr(self, name) and name not in ("key", "value"):
            raise TypeError(f"method '{self.method.name}': a weight cannot be called '{name}', as banks have a {name}")
        if weight.kind == "trained":
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value, persistent=weight.kind in SAVED)

    def forward(self, output: torch.Tensor, site_input: torch.Tensor, block_input: torch.Tensor | None) -> torch.Tensor:
        """The place's output [K*B, L, out] with the method applied to it."""
        return self.method.apply(self, output, site_input, block_input)

    def weight(self, name: str) -> torch.Tensor:
        """[K, ...]; for names that hide a method of modules too."""
        found: torch.Tensor | None = self._parameters.get(name)
        return self._buffers[name] if found is None else found  # type: ignore[return-value]

    def shared_weight(self, name: str) -> torch.Tensor:
        """The model-level weight [K, ...] of the candidates that are here."""
        assert self.shared is not None, f"method '{self.method.name}' shares nothing"
        return self.shared.weight(name)[: len(self.methods)]

    def own(self, name: str) -> torch.Tensor:
        """[K, ...]: 1 where entries of a weight are a candidate's own, 0 in padding and where it lacks the method."""
        key = f"own_{name}"
        if key not in self._buffers:
            mask = torch.zeros_like(self.weight(name).detach())
            for k in range(len(self.methods)):
                if name in self.sizes[k]:
                    mask[self.corners(k)[name]] = 1
            self.register_buffer(key, mask, persistent=False)
        return self._buffers[key]  # type: ignore[return-value]

    def own_weight(self, name: str) -> torch.Tensor:
        """[K, ...]: a weight with padding, and what a candidate lacks, held at zero without a gradient."""
        weight = self.weight(name)
        full = tuple(weight.shape[1:])
        return weight if all(own.get(name) == full for own in self.sizes) else weight * self.own(name)

    def per_candidate(self, value: Callable[[Method], float]) -> torch.Tensor:
        """[K]: a number of each candidate's method; 0 where there is none."""
        return torch.tensor([float(value(m)) if m else 0.0 for m in self.methods], device=self.scale.device)

    def corners(self, candidate: int) -> dict[str, Corner]:
        """By weight, where one candidate's own part of it lies; empty when it lacks the method."""
        own = self.sizes[candidate] if candidate < len(self.sizes) else {}
        return {name: (candidate, *(slice(0, n) for n in size)) for name, size in own.items()}

    def trained_count(self, candidate: int) -> int:
        """How many entries of one candidate are trained."""
        own = self.kept[candidate] if candidate < len(self.kept) else {}
        return sum(count for name, count in own.items() if self.declared[name].kind == "trained")


def _declared(method: Method, shape: ModelShape, site: str) -> Mapping[str, Weight]:
    return method.shared(shape) if site == SHARED else method.weights(shape, site)


def _columns(method: Method, site: str) -> int:
    return method.input_tokens() if site == INPUT else method.attention_columns()


def _own_columns(columns: Sequence[int]) -> torch.Tensor | None:
    if min(columns) == max(columns):
        return None
    return torch.arange(max(columns))[None] < torch.tensor(columns)[:, None]


def _stack(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Tensors of one rank but several sizes as one [K, ...], zero-padded; zeros for what is missing."""
    widest = [max(sizes) for sizes in zip(*(t.shape for t in tensors if t is not None), strict=True)]
    stacked = torch.zeros(len(tensors), *widest)
    for k, tensor in enumerate(tensors):
        if tensor is not None:
            stacked[k][tuple(slice(0, n) for n in tensor.shape)] = tensor
    return stacked
