"""A step of a language model's candidates: LoRA in the top layers, frozen ones kept, against LoRA in all of them.

    python experiments/benchmarks/top_layers.py

SmolLM2 (or `--model`) on instructions, K candidates a pack. The frozen layers' outputs are computed before the clock
runs, as in a search, where all candidates and epochs share them; what that takes stands beside the steps.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import _engine
import _trec
import typer
from _harness import RESULTS, Out, Quick, Rounds, interleave, show, summarise, write

if TYPE_CHECKING:
    from autopeft.candidate import Candidate


class Steps:
    """Seconds of one epoch of a pack whose lowest adapted layer is given."""

    def __init__(self, model: str, examples: int, batch: int, length: int, candidates: int) -> None:
        from autopeft.engine.encoding import encoded_task
        from autopeft.engine.settings import TrainingSettings
        from autopeft.models import find_model
        from autopeft.tasks import task_from

        files = {split: str(_trec.folder("instruct") / file) for split, file in _trec.SPLITS.items()}
        data = task_from({"name": "files", **files, "train_limit": examples}).load()
        self.task = encoded_task(data, find_model(model), length)
        self.backbone = _engine.backbone(self.task, "auto", model)
        self.settings = TrainingSettings(epochs=1, batch_size=batch)
        self.candidates = candidates
        self.filled = dict[int, float]()

    def members(self, first: int) -> list[Candidate]:
        from autopeft.candidate import Candidate
        from autopeft.hybrid import Hybrid
        from autopeft.methods import LoRA

        layers = self.backbone.shape.layers
        hybrid = Hybrid.from_layers(layers, {i: [LoRA(4)] for i in range(first, layers)})
        return [Candidate(hybrid, {"learning_rate": 1e-4 * k}) for k in range(1, self.candidates + 1)]

    def seconds(self, first: int) -> float:
        """Of the epoch's steps; what filling took is in `filled`."""
        from autopeft.engine.frozen import FrozenLayers
        from autopeft.engine.pack import Pack
        from autopeft.engine.train import evaluation_tokens, train_epoch, train_steps

        frozen = FrozenLayers(self.backbone, self.task.pad_id, 2**32, evaluation_tokens(self.backbone.device))
        starts, begin = [first] * self.candidates, time.perf_counter()
        frozen.prepare([self.task.train], starts)
        self.filled[first] = time.perf_counter() - begin
        with Pack(
            self.backbone, self.members(first), self.settings, starts, train_steps(self.settings, self.task)
        ) as pack:
            begin = time.perf_counter()
            train_epoch(pack, self.task, frozen, 1)
            return time.perf_counter() - begin


def main(
    model: Annotated[str, typer.Option(help="Built-in name or folder of a decoder.")] = "smollm2",
    top: Annotated[int, typer.Option(min=1, help="Layers at the top that have LoRA.")] = 6,
    rounds: Rounds = 3,
    examples: Annotated[int, typer.Option(min=8, help="Rows to train on.")] = 64,
    batch: Annotated[int, typer.Option(min=1)] = 8,
    length: Annotated[int, typer.Option(min=8, help="Tokens of a row at most.")] = 128,
    candidates: Annotated[str, typer.Option(help="Of a pack; comma between them.")] = "1,4",
    threads: Annotated[int, typer.Option(help="CPU threads, as a worker of a search has them.")] = 1,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Steps in the top layers against steps in all."""
    import torch

    torch.set_num_threads(threads)
    rows, found = [], dict[str, Any]()
    for count in (int(k) for k in candidates.split(",")):
        steps = Steps(model, 8 if quick else examples, batch, length, count)
        first, epoch = steps.backbone.shape.layers - top, len(steps.task.train) / batch
        contenders = {"top": partial(steps.seconds, first), "all": partial(steps.seconds, 0)}
        measured = interleave(contenders, 1 if quick else rounds, warm_up=0 if quick else 1)
        ratio = summarise(measured.ratios("all", "top"))
        a_step = [summarise(s / epoch for s in measured.values[name]) for name in contenders]
        rows.append((count, *map(str, a_step), str(ratio), f"{steps.filled[first]:.1f}"))
        found[str(count)] = {**measured.to_json(), "ratio": ratio.__dict__, "filling": steps.filled[first]}
    columns = ("candidates", f"top {top}, s a step", "all, s a step", "ratio", "filling, s")
    show(f"{model}: LoRA 4 in the top {top} layers against all", columns, rows)
    asked = {"model": model, "top": top, "rounds": rounds, "examples": examples, "batch": batch, "length": length}
    write("top_layers", asked | {"threads": threads, "quick": quick}, found, out)


if __name__ == "__main__":
    typer.run(main)
