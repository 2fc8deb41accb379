"""Whether a tuner of the installed PEFT can be used: it is tried on a tiny BERT, once a process.

So tuners of later versions of PEFT are there as soon as they pass, and refused with a reason where they do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from autopeft.errors import AutopeftError
from autopeft.peft_tuners.setting import SWITCHED, Setting, known_tuner, tuner_class, tuner_types

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autopeft.peft_tuners.profile import Profile

#: Reasons that are better than the error that a trial ends with.
_REFUSED: Mapping[str, str] = {
    "POLY": "needs a task's number with every example",
    "SHADOW": "adds a model beside the backbone, and is no change of its maps",
    "TRAINABLE_TOKENS": "acts on the embeddings, and not in a layer",
    "XLORA": "mixes adapters that were trained before",
}
_OTHER_KIND = "acts on the model's input or attention as a whole, and not on maps of a layer"
#: Where a default does not fit the tiny model's width.
_TRIAL_OPTIONS: Mapping[str, Mapping[str, Any]] = {"VBLORA": {"vector_length": 16}}
_HIDDEN, _SIZES = 64, (4, 8)
Growth = Literal["rises", "falls", "same", "on"]
Kind = Literal["maps", "norms"]


@dataclass(frozen=True)
class Verdict:
    """What a trial of a tuner has shown; `reason` says why it is refused, and is empty for one that works.

    `places`: where it can stand, maps, norms or both; `growth`: how the number of trained weights goes with the size;
    `on_meta`: whether that number can be told without weights; `replaces`: whether it computes a map's output anew, so
    that no other change of the map may stand below it; `change`: the largest change of the tiny model's output before
    training; `shares`: whether layers share something.
    """

    tuner: str
    reason: str = ""
    size_field: str = ""
    places: tuple[Kind, ...] = ("maps",)
    trained: int = 0
    stored: int = 0
    growth: Growth = "rises"
    on_meta: bool = False
    replaces: bool = False
    change: float = 0.0
    shares: bool = False

    @property
    def works(self) -> bool:
        """Whether it may be used."""
        return not self.reason


class _Unfit(Exception):
    """A promise that a tuner does not keep; the message is the reason."""


@cache
def verdict(tuner: str, size_field: str | None = None) -> Verdict:
    """Try a tuner; `AutopeftError` for one that PEFT does not have."""
    kind = known_tuner(tuner)
    if reason := _refusal(kind):
        return Verdict(kind.lower(), reason)
    reason, found = "", dict[Kind, Verdict]()
    kinds: tuple[Kind, ...] = ("maps", "norms")
    for places in kinds:
        try:
            # What a foreign tuner or its libraries warn of while it is tried is no news: the verdict is.
            with warnings.catch_warnings(action="ignore"):
                found[places] = _Trial(kind, size_field, places).run()
        except AutopeftError as error:
            reason = reason or str(error).removeprefix("peft: ")
        except Exception as error:  # whatever a foreign tuner raises is its reason
            reason = reason or " ".join(str(error).split())[:200] or type(error).__name__
    if not found:
        return Verdict(kind.lower(), reason)
    # Where it stands on norms it is made for them.
    return replace(found.get("norms", found.get("maps", Verdict(kind.lower()))), places=tuple(found))


def refuse_kind(tuner: Any) -> None:
    """`AutopeftError` for a tuner that PEFT lacks, or that is of a kind that no trial is needed for."""
    if reason := _refusal(known_tuner(tuner)):
        raise AutopeftError(_cannot(str(tuner).lower(), reason))


def checked(tuner: str, size_field: str | None = None) -> Verdict:
    """The verdict of a tuner that works; `AutopeftError` with the reason for one that does not."""
    found = verdict(tuner, size_field)
    if not found.works:
        raise AutopeftError(_cannot(found.tuner, found.reason))
    return found


def _cannot(tuner: str, reason: str) -> str:
    import peft

    remedy = "'autopeft list tuners' names those that can"
    return f"peft: tuner '{tuner}' of PEFT {peft.__version__} cannot be used: {reason}; {remedy}"


def all_verdicts() -> list[Verdict]:
    """Of every tuner of the installed PEFT, by name; takes some seconds."""
    return [verdict(kind.lower()) for kind in tuner_types()]


def _refusal(kind: str) -> str:
    from peft.tuners.tuners_utils import BaseTuner

    found = tuner_class(kind)
    if kind in _REFUSED:
        return _REFUSED[kind]
    return "" if isinstance(found, type) and issubclass(found, BaseTuner) else _OTHER_KIND


class _Trial:
    """One tuner on the lowest layer of a tiny BERT with two: on its query and value maps, or on its norms."""

    def __init__(self, kind: str, size_field: str | None, places: Kind) -> None:
        from autopeft.peft_tuners.profile import Map

        self.kind, self.size_field, self.places = kind, size_field, places
        named = {"q": "attention.self.query", "v": "attention.self.value"}
        if places == "norms":
            named = {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
        self.maps = tuple(Map(place, name, _HIDDEN, _HIDDEN, True) for place, name in named.items())
        self.setting = self._setting(_SIZES[0])

    def _setting(self, size: int) -> Setting:
        return Setting.of(self.kind.lower(), size, self.size_field, _TRIAL_OPTIONS.get(self.kind))

    def run(self) -> Verdict:
        """The verdict, or an exception with the reason."""
        import torch

        from autopeft.peft_tuners.profile import profile

        state = torch.random.get_rng_state()
        found = profile(self.setting, self.maps, False)
        self._check_counts(found)
        change, replaces = self._check_run(found)
        if not torch.equal(state, torch.random.get_rng_state()):
            raise _Unfit("moves the global random generator")
        each = found.places.values()
        return Verdict(
            tuner=self.kind.lower(),
            size_field=self.setting.size_field,
            places=(self.places,),
            trained=found.trained,
            stored=found.model.stored + sum(h.stored for h in each),
            growth=self._growth(found),
            on_meta=self._on_meta(found),
            replaces=replaces,
            change=change,
            shares=bool(found.tied),
        )

    def _check_counts(self, found: Profile) -> None:
        import torch

        from autopeft.peft_tuners.profile import profile, stand_in

        for layers in (1, 3):
            container = stand_in(self.setting, self.maps, torch.device("cpu"), layers)
            counted = sum(t.numel() for t in container.trained().values())
            if counted != found.model.trained + layers * sum(h.trained for h in found.places.values()):
                raise _Unfit("what one layer costs depends on the others")
        for m in self.maps:
            if profile(self.setting, (m,), False).places[m.place].trained != found.places[m.place].trained:
                raise _Unfit("what one map costs depends on the others")

    def _check_run(self, found: Profile) -> tuple[float, bool]:
        """(Change before training, whether it replaces the map) of one that trains and can be loaded again."""
        import torch

        from autopeft.peft_tuners.tuned import is_tokenwise

        model, ids = _tiny_bert(), torch.arange(12).view(2, 6)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            plain = model(input_ids=ids).last_hidden_state
        first = _Put(model, self, found, seed=1)
        with first, torch.no_grad():
            change = float((model(input_ids=ids).last_hidden_state - plain).abs().max())
        first.move()
        if not all(is_tokenwise(t, first.modules[n], first.own[n], first.shared) for n, t in first.layers.items()):
            raise _Unfit("what it says of a token depends on the others of the batch")
        with first:
            output = model(input_ids=ids).last_hidden_state
        if not bool(torch.isfinite(output).all()) or torch.equal(output, plain):
            raise _Unfit("its weights change nothing, or give numbers that are not finite")
        output.square().sum().backward()
        if any(w.grad is None or not bool(w.grad.any()) for w in first.weights()):
            raise _Unfit("some of its weights get no gradient")
        second = _Put(model, self, found, seed=2)
        second.load(first)
        with second, torch.no_grad():
            if not torch.equal(model(input_ids=ids).last_hidden_state, output):
                raise _Unfit("computes something else when it is loaded again")
        if any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()):
            raise _Unfit("changes the backbone's own weights")
        return change, any(tuned.replaces for tuned in first.layers.values())

    def _growth(self, small: Profile) -> Growth:
        from autopeft.peft_tuners.profile import profile

        if self.setting.size_field == SWITCHED:
            return "on"
        large = profile(self._setting(_SIZES[1]), self.maps, False)
        if large.trained == small.trained:
            return "same"
        return "rises" if large.trained > small.trained else "falls"

    def _on_meta(self, found: Profile) -> bool:
        from autopeft.peft_tuners.profile import profile

        try:
            return profile(self.setting, self.maps, True) == found
        except Exception:  # it needs real weights
            return False


class _Put:
    """A tuner's layers on the lowest layer of a model, in a `with` block; each map's weights are its own."""

    def __init__(self, model: Any, trial: _Trial, found: Profile, seed: int) -> None:
        import torch

        from autopeft.peft_tuners.container import shell
        from autopeft.peft_tuners.tuned import Flat, tune

        layer = model.encoder.layer[0]
        self.modules: dict[str, nn.Module] = {f"layers.0.{m.module}": layer.get_submodule(m.module) for m in trial.maps}
        pairs = zip(self.modules.items(), trial.maps, strict=True)
        self.layers, values = tune(
            trial.setting, found, {name: (m, shell(module)) for (name, module), m in pairs}, seed
        )
        self.shared = Flat(torch.zeros(found.model.trained), torch.zeros(found.model.kept))
        self.own = {name: Flat(torch.zeros(t.trained), torch.zeros(t.kept)) for name, t in self.layers.items()}
        for name, tuned in self.layers.items():
            values[name].write(self.own[name], self.shared)
            tuned.write_kept(self.own[name], self.shared)

    def weights(self) -> Sequence[torch.Tensor]:
        """What is trained, where there is something."""
        return [flat.trained for flat in (self.shared, *self.own.values()) if flat.trained.numel()]

    def move(self) -> None:
        """Train a little, as it were."""
        import torch

        generator = torch.Generator().manual_seed(0)
        for weight in self.weights():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
            weight.requires_grad_()

    def load(self, other: _Put) -> None:
        """The weights of another."""
        for mine, theirs in zip((self.shared, *self.own.values()), (other.shared, *other.own.values()), strict=True):
            mine.trained.copy_(theirs.trained.detach())
            mine.kept.copy_(theirs.kept)

    def __enter__(self) -> None:
        for name, module in self.modules.items():
            module.__dict__["forward"] = self._forward(name, type(module).forward.__get__(module))

    def __exit__(self, *error: object) -> None:
        for module in self.modules.values():
            del module.__dict__["forward"]

    def _forward(self, name: str, base: Any) -> Any:
        return lambda x: self.layers[name](base(x), x, self.own[name], self.shared)


def _tiny_bert() -> Any:
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=20, hidden_size=_HIDDEN, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model
