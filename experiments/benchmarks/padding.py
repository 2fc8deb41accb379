"""What padding costs: batches of about equal lengths (autopeft's own), random batches, padding to a fixed length.

    python experiments/benchmarks/padding.py

Real tokens over computed tokens of an epoch's training batches, and the time of a training step (forward and backward)
on such batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import _trec
import typer
from _candidates import MAX_LENGTH, MODEL
from _harness import RESULTS, Measured, Out, Quick, Rounds, interleave, show, summarise, write

if TYPE_CHECKING:
    import torch

    from autopeft.engine.data import TokenizedTask

OURS, RANDOM, FIXED = "about equal lengths", "random, to the longest", f"to {MAX_LENGTH}"
SIZES = (8, 16, 32)
#: A step's inputs and labels.
Step = tuple[dict[str, "torch.Tensor"], "torch.Tensor"]


def batches(task: TokenizedTask, kind: str, size: int) -> Iterator[Step]:
    """An epoch of training batches of one kind."""
    import numpy as np

    from autopeft.engine.data import collate, training_batches

    if kind == OURS:
        for batch in training_batches(task.train, size, task.pad_id, 0, 1):
            yield batch.inputs, batch.labels
        return
    order = np.random.default_rng(0).permutation(len(task.train))
    for start in range(0, len(order), size):
        batch = collate(task.train, order[start : start + size], task.pad_id)
        inputs = batch.inputs if kind == RANDOM else widened(batch.inputs, task.pad_id)
        yield inputs, batch.labels


def widened(inputs: dict[str, torch.Tensor], pad_id: int) -> dict[str, torch.Tensor]:
    """The same batch, padded to `MAX_LENGTH`."""
    from torch.nn.functional import pad

    fill = {"input_ids": pad_id}
    return {name: pad(x, (0, MAX_LENGTH - x.shape[1]), value=fill.get(name, 0)) for name, x in inputs.items()}


def real_share(task: TokenizedTask, kind: str, size: int) -> float:
    """Real tokens over computed tokens."""
    masks = [inputs["attention_mask"] for inputs, _ in batches(task, kind, size)]
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


class Stepper:
    """MiniLM with LoRA 8 on q and v, as autopeft's engine puts it on."""

    def __init__(self, task: TokenizedTask) -> None:
        import torch

        from autopeft.attaching import Attachment
        from autopeft.engine.backbone import Backbone, choose_precision
        from autopeft.hybrid import Hybrid
        from autopeft.methods import LoRA
        from autopeft.models import find_model

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = choose_precision("auto", self.device)
        source = find_model(MODEL)
        self.backbone = Backbone(source, task.readout, precision, self.device, task.pad_id)
        hybrid = Hybrid.uniform(self.backbone.shape.layers, LoRA(8))
        self.backbone.reset_head(0)
        self.attachment = Attachment(self.backbone.model, hybrid, 0, precision.attention)

    def milliseconds(self, steps: Sequence[Step]) -> float:
        """Of a step, on average over these."""
        import torch

        start = time.perf_counter()
        for inputs, labels in steps:
            logits = self.backbone.model(**{k: x.to(self.device) for k, x in inputs.items()}).logits
            torch.nn.functional.cross_entropy(logits.float(), labels.to(self.device)).backward()
            self.backbone.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start) / len(steps)


def tokenized(name: str, limit: int | None) -> TokenizedTask:
    from autopeft.engine.data import TokenizedTask
    from autopeft.models import find_model
    from autopeft.tasks import task_from

    data = task_from(_trec.task(name, train_limit=limit, metric="accuracy")).load()
    return TokenizedTask.of(data, find_model(MODEL).tokenizer(), MAX_LENGTH)


def timed(task: TokenizedTask, size: int, steps: int, rounds: int) -> Measured:
    """Milliseconds a step of each kind of batch, in turns."""
    stepper = Stepper(task)

    def contender(kind: str) -> Callable[[], float]:
        epoch = [batch for batch in batches(task, kind, size) if len(batch[1]) == size]
        # At equal distances of the sorted lengths: every kind meets short and long batches in their proportion.
        epoch.sort(key=lambda batch: batch[0]["input_ids"].shape[1])
        chosen = [epoch[(2 * i + 1) * len(epoch) // (2 * steps)] for i in range(steps)]
        return lambda: stepper.milliseconds(chosen)

    measured = interleave({kind: contender(kind) for kind in (OURS, RANDOM, FIXED)}, rounds, warm_up=1)
    stepper.attachment.detach()
    return measured


def main(
    steps: Annotated[int, typer.Option(min=1, help="Training steps a round and kind of batch.")] = 12,
    threads: Annotated[int, typer.Option(min=0, help="0: as many as torch takes.")] = 0,
    rounds: Rounds = 5,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    """Real tokens over computed ones, and the time of a step."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    sizes, limit = (SIZES, None) if not quick else (SIZES[:1], 200)
    steps, rounds = (2, 1) if quick else (steps, rounds)
    names = ["trec", *(["mrpc"] if _trec.is_here("mrpc") else [])]
    results: dict[str, Any] = {}
    rows = []
    for name in names:
        task = tokenized(name, limit)
        for size in sizes:
            shares = {kind: real_share(task, kind, size) for kind in (OURS, RANDOM, FIXED)}
            times = timed(task, size, steps, rounds)
            for kind, share in shares.items():
                ratio = summarise(times.ratios(kind, OURS))
                rows.append((f"{name}, {size}", kind, f"{share:.1%}", str(times.summary(kind)), str(ratio)))
            results[f"{name}, {size}"] = {"real_share": shares, "milliseconds": times.to_json()}
    columns = ("task, batch size", "batches", "real tokens", "ms a step: median (range)", f"times {OURS}")
    show("Padding", columns, rows)
    write("padding", {"steps": steps, "rounds": rounds, "threads": threads, "quick": quick}, results, out)


if __name__ == "__main__":
    typer.run(main)
