"""An epoch of a network beside the backbone against one of LoRA in all layers, MiniLM on TREC.

    python experiments/benchmarks/side.py

A side network is trained on the frozen layers' outputs, which are computed once: what filling them takes is told apart.
LoRA (rank 8, all maps) needs every layer in both directions each time; it is measured in fp32, as side networks are
trained, and in the precision that a search on this machine would choose.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import _engine
import typer
from _harness import RESULTS, Out, Quick, Rounds, interleave, show, summarise, write

SIDES = ("lst", "attention_fusion")


class Trainer:
    """Seconds of an epoch of training, without measuring on validation."""

    def __init__(self, examples: int) -> None:
        self.task = _engine.trec(examples)
        self.filling: dict[str, list[float]] = {name: [] for name in SIDES}

    def side(self, name: str) -> float:
        from autopeft.baselines import BASELINES
        from autopeft.engine.settings import TrainingSettings
        from autopeft.models import find_model

        start, epochs = time.perf_counter(), 3
        settings = TrainingSettings(epochs=epochs, precision="fp32")
        fitted = BASELINES.get(name)().fit(find_model(_engine.MODEL), self.task, settings)
        # Loading and measuring are in it.
        self.filling[name].append(time.perf_counter() - start - epochs * fitted.seconds_per_epoch)
        return fitted.seconds_per_epoch

    def lora(self, precision: str) -> float:
        from autopeft.anatomy import SITES
        from autopeft.candidate import Candidate
        from autopeft.engine.frozen import FrozenLayers
        from autopeft.engine.pack import Pack
        from autopeft.engine.settings import TrainingSettings
        from autopeft.engine.train import train_epoch, train_steps
        from autopeft.hybrid import Hybrid
        from autopeft.methods import LoRA

        backbone, settings = _engine.backbone(self.task, precision), TrainingSettings(epochs=1)
        hybrid = Hybrid.uniform(backbone.shape.layers, LoRA(8, SITES))
        with Pack(backbone, [Candidate(hybrid)], settings, [0], train_steps(settings, self.task)) as pack:
            start = time.perf_counter()
            train_epoch(pack, self.task, FrozenLayers(backbone, self.task.pad_id, 0, 1), 1)
            return time.perf_counter() - start


def main(
    rounds: Rounds = 3,
    examples: Annotated[int, typer.Option(help="Training examples.")] = 900,
    threads: Annotated[int, typer.Option(help="CPU threads, as a worker of a search has them.")] = 1,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    import torch

    torch.set_num_threads(threads)
    trainer = Trainer(64 if quick else examples)
    contenders: dict[str, Any] = {name: lambda name=name: trainer.side(name) for name in SIDES}
    contenders |= {f"LoRA, {precision}": lambda p=precision: trainer.lora(p) for precision in ("fp32", "auto")}
    measured = interleave(contenders, 1 if quick else rounds)
    results = measured.to_json()
    rows = []
    for name in contenders:
        against = {to: summarise(measured.ratios(f"LoRA, {to}", name)) for to in ("fp32", "auto")}
        results[name] |= {"cheaper_than": {to: ratio.__dict__ for to, ratio in against.items()}}
        rows.append((name, str(measured.summary(name)), *map(str, against.values())))
    for name, seconds in trainer.filling.items():
        results[name] |= {"filling": summarise(seconds).__dict__}
    columns = ("trained", "s an epoch", "LoRA in fp32 takes, times", "LoRA in auto takes, times")
    show(f"networks beside the backbone, {64 if quick else examples} examples", columns, rows)
    write("side", {"rounds": rounds, "examples": examples, "threads": threads, "quick": quick}, results, out)


if __name__ == "__main__":
    typer.run(main)
