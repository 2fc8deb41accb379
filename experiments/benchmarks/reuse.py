"""The frozen layers kept against computed again: what a first adapted layer of 0 .. L-1 saves.

    python experiments/benchmarks/reuse.py

LoRA in the layers from f up, K candidates in a pack, E epochs. With forward and backward of a layer costing the same,
nothing computed twice is (f + 2(L - f)) / (2(L - f) + f / (E K)) times faster. The engine's last layer costs less than
the others, so the exact ratio of FLOPs stands beside it; the share is of that.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

import _engine
import typer
from _harness import RESULTS, Out, Quick, Rounds, interleave, show, summarise, write


class Trainer:
    """Seconds of a pack's training with frozen layers kept or not; each run fills its cache anew."""

    def __init__(self, examples: int, epochs: int, candidates: int) -> None:
        from autopeft.engine.settings import TrainingSettings

        self.task = _engine.trec(examples)
        self.backbone = _engine.backbone(self.task, "auto")
        self.settings = TrainingSettings(epochs=epochs)
        self.candidates = candidates

    def members(self, first: int) -> list[Any]:
        from autopeft.candidate import Candidate
        from autopeft.hybrid import Hybrid
        from autopeft.methods import LoRA

        layers = self.backbone.shape.layers
        hybrid = Hybrid.from_layers(layers, {i: [LoRA(4)] for i in range(first, layers)})
        return [Candidate(hybrid, {"learning_rate": 1e-4 * k}) for k in range(1, self.candidates + 1)]

    def seconds(self, first: int, keep: bool) -> float:
        from autopeft.engine.frozen import FrozenLayers
        from autopeft.engine.pack import Pack
        from autopeft.engine.train import evaluation_tokens, train_epoch, train_steps

        start = time.perf_counter()
        tokens = evaluation_tokens(self.backbone.device)
        frozen = FrozenLayers(self.backbone, self.task.pad_id, 2**32 if keep else 0, tokens)
        starts = [first if keep else 0] * self.candidates
        frozen.prepare([self.task.train], starts)
        steps = train_steps(self.settings, self.task)
        with Pack(self.backbone, self.members(first), self.settings, starts, steps) as pack:
            for epoch in range(1, self.settings.epochs + 1):
                train_epoch(pack, self.task, frozen, epoch)
        return time.perf_counter() - start

    def flops_ratio(self, first: int) -> float:
        """FLOPs of training without the cache over the least that are needed, padding the same in both."""
        from autopeft.engine.schedule import CostModel, Lengths, Workload

        work = Workload.of(self.task, self.settings)
        none = Lengths(0, 0, 0)
        train = Workload(work.trained, none, work.real_trained, none)
        cached, plain = (CostModel(self.backbone.shape, train, self.settings.epochs, on) for on in (True, False))
        hybrid = self.members(first)[0].hybrid
        least = self.candidates * cached.candidate(hybrid) + cached.filling(first)
        return self.candidates * plain.candidate(hybrid) / least


def simple_ratio(first: int, layers: int, runs: int) -> float:
    """As in the module's text."""
    return (first + 2 * (layers - first)) / (2 * (layers - first) + first / runs)


def compared(trainer: Trainer, first: int, rounds: int) -> dict[str, Any]:
    """Both ways in turns, and the ratio beside what FLOPs allow."""
    contenders = {"kept": partial(trainer.seconds, first, True), "again": partial(trainer.seconds, first, False)}
    measured = interleave(contenders, rounds, warm_up=1 if rounds > 1 else 0)
    exact = trainer.flops_ratio(first)
    simple = simple_ratio(first, trainer.backbone.shape.layers, trainer.settings.epochs * trainer.candidates)
    ratio = summarise(measured.ratios("again", "kept"))
    share = summarise([r / exact for r in measured.ratios("again", "kept")])
    row = (*(str(measured.summary(name)) for name in contenders), str(ratio), exact, simple, str(share))
    found = {"ratio": ratio.__dict__, "flops_ratio": exact, "simple_ratio": simple, "share": share.__dict__}
    return {**measured.to_json(), **found, "row": row}


def main(
    rounds: Rounds = 3,
    examples: Annotated[int, typer.Option(help="Training examples.")] = 640,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 3,
    candidates: Annotated[int, typer.Option(help="Candidates in the pack.")] = 2,
    threads: Annotated[int, typer.Option(help="CPU threads, as a worker of a search has them.")] = 1,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    import torch

    torch.set_num_threads(threads)
    trainer = Trainer(64 if quick else examples, 1 if quick else epochs, candidates)
    results = {f: compared(trainer, f, 1 if quick else rounds) for f in range(trainer.backbone.shape.layers)}
    columns = ("first adapted layer", "kept, s", "again, s", "ratio", "ratio of FLOPs", "simple ratio", "share")
    title = f"frozen layers, {candidates} candidates, {trainer.settings.epochs} epochs"
    show(title, columns, [(f, *found["row"]) for f, found in results.items()])
    settings = {"rounds": rounds, "examples": examples, "epochs": epochs, "candidates": candidates, "threads": threads}
    write("reuse", settings | {"quick": quick}, results, out)


if __name__ == "__main__":
    typer.run(main)
