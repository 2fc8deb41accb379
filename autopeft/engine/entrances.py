"""Candidates enter the backbone at the layer where each begins to differ; what lies below is computed once for all.

Shapes: K candidates in the order of their starts, k_i of them with a start of at most i, B examples, L tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.anatomy import embeddings_of, family_of, hidden_of, layers_of, with_hidden
from autopeft.attaching._prompts import opened

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Frozen inputs [B, L, d] of layers by number; number `layers` is the output of the last one.
States = Mapping[int, torch.Tensor]
#: Inputs of layers that are the same for all sequences, and that have a row for each head of each sequence.
_OF_ALL, _BY_HEAD = {"rel_embeddings", "relative_pos"}, "alibi"
_Called = tuple[tuple[Any, ...], dict[str, Any]]


class Entrances:
    """Hooks that cut a batch of K*B sequences to the candidates that have started, layer by layer.

    `states` holds the frozen input of every layer above 0 at which a candidate starts, and is set before each forward
    pass. Layers below all starts are passed over.
    """

    def __init__(self, model: PreTrainedModel, starts: Sequence[int]) -> None:
        self.states: States = {}
        self._starts, self._total = list(starts), 0
        self._causal = family_of(model.config).causal
        layers = layers_of(model)
        first, last = starts[0], min(starts[-1], len(layers) - 1)
        family = family_of(model.config)
        self._passed = PassedOver(layers[:first], embeddings_of(model) if first else None, family.pair, family.images)
        self._handles: list[Any] = [
            # Before hybrids' own: what acts on a layer's input acts on that of candidates which start there, too.
            layers[i].register_forward_pre_hook(self._entrance(i), with_kwargs=True, prepend=True)
            for i in range(first, last + 1)
        ]
        if starts[-1] == len(layers):
            self._handles.append(layers[-1].register_forward_hook(self._above))

    def remove(self) -> None:
        """Undo everything."""
        for handle in self._handles:
            handle.remove()
        self._passed.undo()

    def _entrance(self, i: int) -> Callable[..., _Called]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Called:
            hidden = args[0]
            if i == self._starts[0]:
                # The embeddings of all candidates: only those that start at layer 0 go on from them.
                self._total = hidden.shape[0]
                hidden = hidden[: self._starts.count(0) * (self._total // len(self._starts))]
            if i > 0:
                hidden = self._joined(hidden, i)
            rows = hidden.shape[0]
            return (hidden, *self._cut(args[1:], rows)), self._cut(kwargs, rows)

        return enter

    def _above(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        top, hidden = len(self._passed.layers) == self._starts[-1], hidden_of(output)
        return with_hidden(output, self._joined(hidden[:0] if top else hidden, self._starts[-1]))

    def _joined(self, hidden: torch.Tensor, i: int) -> torch.Tensor:
        """The candidates that are there, and those that start at layer i."""
        count = self._starts.count(i)
        if not count:
            return hidden
        state = self.states[i]
        if (slots := hidden.shape[1] - state.shape[1]) > 0:
            # Others have prompts: these slots are masked.
            state = opened(state, state.new_zeros(len(state), slots, state.shape[2]), self._causal)
        # The last layer may have been computed for the first token only.
        state = state[:, : hidden.shape[1]]
        return torch.cat([hidden, state.repeat(count, 1, 1)]) if hidden.shape[0] else state.repeat(count, 1, 1)

    def _cut(self, value: Any, rows: int) -> Any:
        """Masks and positions that have a row a sequence, cut to the sequences that are there."""
        if isinstance(value, torch.Tensor):
            return value[:rows] if value.dim() > 1 and value.shape[0] == self._total else value
        if isinstance(value, tuple):
            return tuple(self._cut(v, rows) for v in value)
        if isinstance(value, dict):
            return {name: self._cut_named(name, v, rows) for name, v in value.items()}
        return value

    def _cut_named(self, name: str, value: Any, rows: int) -> Any:
        """The same of an input of a layer that has a name."""
        if name in _OF_ALL:
            return value
        if name == _BY_HEAD and value is not None:
            return value[: len(value) // self._total * rows]
        return self._cut(value, rows)


class Capture:
    """Inputs of layers `wanted` of a bare backbone, from its own input or from the frozen input of layer `start`.

    ```python
    with Capture(model, {2, 4}, start=1) as capture:
        states = capture(inputs, state)
    ```
    """

    def __init__(self, model: PreTrainedModel, wanted: set[int], start: int = 0) -> None:
        self._model, self._wanted, self._start = model, wanted, start
        self._states: dict[int, torch.Tensor] = {}
        self._state: torch.Tensor | None = None

    def __enter__(self) -> Capture:
        """Put the hooks in place."""
        layers, deepest = layers_of(self._model), max(self._wanted)
        over = [*layers[: self._start], *layers[deepest:]]
        self._passed = PassedOver(over, pair=family_of(self._model.config).pair)
        self._handles = [
            layers[i].register_forward_pre_hook(self._hook(i))
            for i in sorted({self._start, *self._wanted} - {len(layers)})
        ]
        if deepest == len(layers):
            self._handles.append(layers[-1].register_forward_hook(self._top(deepest)))
        return self

    def __exit__(self, *error: object) -> None:
        """Take them away."""
        for handle in self._handles:
            handle.remove()
        self._passed.undo()

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, torch.Tensor], state: torch.Tensor | None = None) -> States:
        """The states [B, L, d] of one batch."""
        self._states, self._state = {}, state
        # Not the head: a language model's outputs are far larger than all states.
        self._model.base_model(**inputs)
        return self._states

    def _hook(self, i: int) -> Callable[..., tuple[Any, ...]]:
        def capture(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            if i == self._start and self._state is not None:
                args = (self._state, *args[1:])
            if i in self._wanted:
                self._states[i] = args[0].detach()
            return args

        return capture

    def _top(self, number: int) -> Callable[..., None]:
        def capture(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._states[number] = hidden_of(output).detach()

        return capture


class PassedOver:
    """Layers that give back what they are given, and embeddings that give zeros, until `undo`.

    `pair`: whether layers give their attention's weights beside. `images`: embeddings give all what they give the
    first of a batch, as the number of tokens is theirs to know.
    """

    def __init__(
        self, layers: Sequence[nn.Module], embeddings: nn.Module | None = None, pair: bool = False, images: bool = False
    ) -> None:
        self.layers, self._embeddings = layers, embeddings
        for layer in layers:
            layer.forward = _pass_on_pair if pair else _pass_on
        if embeddings is not None and images:
            own = embeddings.forward
            embeddings.forward = lambda pixels, *args, **kwargs: own(pixels[:1], *args, **kwargs).expand(
                len(pixels), -1, -1
            )
        elif embeddings is not None:
            table = next(p for p in embeddings.parameters() if p.dim() == 2)
            nothing = table.new_zeros(1, 1, table.shape[1])
            embeddings.forward = lambda *args, **kwargs: nothing.expand(*_ids(args, kwargs).shape, -1)

    def undo(self) -> None:
        """They are themselves again."""
        for module in (*self.layers, *([self._embeddings] if self._embeddings else [])):
            del module.forward


def _ids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    ids: torch.Tensor = args[0] if args else kwargs["input_ids"]
    return ids


def _pass_on_pair(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    return hidden, None


def _pass_on(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden
