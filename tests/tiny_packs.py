"""Packs that are trained step by step, and candidates of all kinds to fill them.

Shapes: S steps, N examples of the validation split, C outputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tiny_models import METHOD_NAMES, make
from tiny_task import completions, save_language_model, save_model, task, tokenizer

from autopeft.anatomy import CROSS, INPUT
from autopeft.candidate import Candidate
from autopeft.engine.backbone import Backbone, Precision
from autopeft.engine.company import Company
from autopeft.engine.data import Batch, TokenizedTask, Tokens, training_batches
from autopeft.engine.frozen import FrozenLayers
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.train import predict, train_steps
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method
from autopeft.models import ModelSource, find_model
from autopeft.tasks import TaskData

#: 52 steps on the tiny task. At much higher rates Adam makes a lot of what rounding leaves of a tiny gradient.
SETTINGS = TrainingSettings(
    head="drawn", method_rates="shared", epochs=4, batch_size=8, precision="fp32", learning_rate=1e-3, seed=1
)
#: Methods that meet in one pack.
MOST = 6
_OPTIONS = [{"activation": "gelu"}, {"activation": "relu"}, {"activation": "tanh"}]


@dataclass
class Trained:
    """Of one candidate: the losses [S] of its steps, logits [N, C] and its weights at the end (if it got there)."""

    losses: list[float] = field(default_factory=list)
    logits: torch.Tensor | None = None
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bench:
    """A backbone, a task and settings, on which any pack can be trained."""

    source: ModelSource
    backbone: Backbone
    data: TokenizedTask
    settings: TrainingSettings = SETTINGS

    @classmethod
    def of(
        cls, source: ModelSource, data: TokenizedTask, attention: str, settings: TrainingSettings = SETTINGS
    ) -> Bench:
        """In fp32 on the CPU."""
        precision = Precision(torch.float32, attention)
        backbone = Backbone(source, data.readout, precision, torch.device("cpu"), data.pad_id)
        return cls(source, backbone, data, settings)

    def frozen(self, limit: int = 2**30, folder: Path | None = None) -> FrozenLayers:
        """Room for frozen layers: `limit` bytes in memory, the rest in `folder`."""
        return FrozenLayers(self.backbone, self.data.pad_id, limit, 200, folder)

    def train(
        self,
        members: Sequence[Candidate],
        frozen: FrozenLayers | None = None,
        leaving: Mapping[int, Sequence[int]] | None = None,
        watch: Callable[[Pack, Sequence[int]], None] = lambda pack, order: None,
    ) -> list[Trained]:
        """Train members as one pack, from `frozen` states if given; `leaving`: who is sliced out after which step.

        `watch` is shown the pack, and which member each of its candidates is: before the first step, after each step,
        and after each slicing.
        """
        frozen, found = frozen or self.frozen(0), [Trained() for _ in members]
        starts = [self.backbone.shape.entrance(c.hybrid.first_adapted) for c in members]
        if not frozen.prepare((self.data.train, self.data.validation), starts):
            starts = [0] * len(members)
        order = sorted(range(len(members)), key=lambda i: starts[i])
        steps, own = train_steps(self.settings, self.data), [starts[i] for i in order]
        with Pack(self.backbone, [members[i] for i in order], self.settings, own, steps) as pack:
            watch(pack, order)
            for step, batch in enumerate(self._batches()):
                losses = pack.step(batch, frozen.states(self.data.train, batch, pack.starts), self.data.readout)
                for i, loss in zip(order, losses.tolist(), strict=True):
                    found[i].losses.append(loss)
                watch(pack, order)
                if out := (leaving or {}).get(step):
                    pack.keep([k for k, i in enumerate(order) if i not in out])
                    order = [i for i in order if i not in out]
                    watch(pack, order)
            for k, (i, logits) in enumerate(zip(order, self.logits(pack, frozen), strict=True)):
                found[i] = replace(found[i], logits=logits, weights=pack.weights(k))
        return found

    def logits(self, pack: Pack, frozen: FrozenLayers) -> torch.Tensor:
        """[K, N, C] on the validation split."""
        tokens = self.data.validation

        def forward(batch: Batch) -> torch.Tensor:
            return pack.forward(batch, frozen.states(tokens, batch, pack.starts))

        found = predict(forward, len(pack.candidates), self.backbone.device, self.data, tokens)
        return torch.from_numpy(found)

    def _batches(self) -> Iterator[Batch]:
        for epoch in range(1, self.settings.epochs + 1):
            yield from training_batches(
                self.data.train, self.settings.batches, self.data.pad_id, self.settings.seed, epoch
            )


def bench(
    folder: Path,
    family: str,
    attention: str,
    regression: bool = False,
    sizes: tuple[int, int, int] = (104, 40, 40),
    settings: TrainingSettings = SETTINGS,
    other: TaskData | None = None,
) -> Bench:
    """A tiny model of a family, and the tiny task (or another)."""
    data = TokenizedTask.of(other or task(regression=regression, pairs=True, sizes=sizes), tokenizer(), 32)
    if family != "bert":
        data = replace(data, **{name: _without_types(getattr(data, name)) for name in ("train", "validation", "test")})
    return Bench.of(find_model(str(save_model(folder, family))), data, attention, settings)


def language_bench(
    folder: Path, family: str, settings: TrainingSettings = SETTINGS, sizes: tuple[int, int, int] = (104, 40, 40)
) -> Bench:
    """A tiny language model, and texts of which it shall predict the end."""
    data = TokenizedTask.of(completions(sizes), tokenizer(), 32)
    return Bench.of(find_model(str(save_language_model(folder, family))), data, "autopeft_sdpa", settings)


def mixed(layers: int, seed: int) -> list[Candidate]:
    """Candidates of other methods, sizes, layers and rates: all layers, from the middle, from the top, head only."""
    rng = random.Random(seed)
    anybody = Company.of(Hybrid.uniform(1))
    layered = [name for name in METHOD_NAMES if METHODS.get(name).allowed_sites != (INPUT,)]
    names = [name for name in layered if Company.of(Hybrid.uniform(1, make(name))) == anybody]
    # Each method has a conformance suite of its own; here a handful of them meet.
    names = names if len(names) <= MOST else sorted(rng.sample(names, MOST))
    everything = [tuple(make(name, rng.randrange(1, 5)) for name in names)] * layers
    found = [Hybrid(tuple(everything)), _random(names, layers, 0, rng), _random(names, layers, layers // 2, rng)]
    found += [_random(names, layers, layers - 1, rng), Hybrid.uniform(layers)]
    return [Candidate(hybrid, _rates(rng)) for hybrid in found]


def _random(names: Sequence[str], layers: int, first: int, rng: random.Random) -> Hybrid:
    chosen = {first: [_method(name, rng) for name in rng.sample(names, 2)]}
    for i in range(first + 1, layers):
        chosen[i] = [_method(name, rng) for name in names if rng.random() < 0.5]
    return Hybrid.from_layers(layers, chosen)


def _method(name: str, rng: random.Random) -> Method:
    sites = [site for site in METHODS.get(name).allowed_sites if site not in ("gate", *CROSS)]
    options = {"sites": tuple(rng.sample(sites, rng.randrange(1, len(sites) + 1)))}
    if "activation" in METHODS.get(name).option_names():
        options |= rng.choice(_OPTIONS)
    if "scale" in METHODS.get(name).option_names():
        options["scale"] = rng.choice([0.5, 1.0, 4.0])
    return make(name, rng.randrange(1, 7), **options)


def _rates(rng: random.Random) -> dict[str, float]:
    choices = {"learning_rate": (3e-4, 1e-3, 5e-3), "warmup": (0.0, 0.1, 0.4), "weight_decay": (0.0, 0.1),
               "max_grad_norm": (0.1, 1.0, 100.0)}  # fmt: skip
    return {name: rng.choice(values) for name, values in choices.items()}


def _without_types(tokens: Tokens) -> Tokens:
    return replace(tokens, types=None)
