"""Candidates in one pass against the same candidates one after another, and against stock PEFT.

    python experiments/benchmarks/packing.py

Sixteen hybrids (64 on a GPU) of several methods and sizes, all of which adapt the lowest layer, so that nothing is
reused; then as many with LoRA only, where stock PEFT (fp32, its own defaults) trains the same adapters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import _engine
import typer
from _candidates import MODEL
from _harness import RESULTS, Out, Quick, Rounds, interleave, ratio_table, summarise, write

if TYPE_CHECKING:
    from autopeft.engine.data import Batch, TokenizedTask

RANK = 8


def timed(run: Callable[[], None], steps: int) -> float:
    """Milliseconds a candidate's step."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start) / steps


class StockPeft:
    """LoRA by `peft` on the model as transformers loads it, one candidate after another."""

    def __init__(self, task: TokenizedTask, steps: Sequence[Batch], candidates: int) -> None:
        from autopeft.models import find_model

        self.source, self.task, self.steps, self.candidates = find_model(MODEL), task, steps, candidates

    def __call__(self) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForSequenceClassification

        device = self.steps[0].labels.device
        base = AutoModelForSequenceClassification.from_pretrained(
            self.source.location, num_labels=self.task.readout.outputs, dtype="float32"
        )
        for _ in range(self.candidates):
            config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["query", "value"], task_type="SEQ_CLS")
            model = get_peft_model(base, config).to(device).train()
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
            for batch in self.steps:
                logits = model(**batch.inputs).logits
                torch.nn.functional.cross_entropy(logits, batch.labels).backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            base = model.unload()
        if device.type == "cuda":
            torch.cuda.synchronize()


def contest(batch_size: int, rounds: int, quick: bool) -> dict[str, Any]:
    import torch

    from autopeft.candidate import Candidate
    from autopeft.engine.settings import TrainingSettings
    from autopeft.hybrid import Hybrid
    from autopeft.methods import LoRA

    task = _engine.trec()
    on = _engine.backbone(task, "auto")
    most = 64 if torch.cuda.is_available() else 16
    sizes = [n for n in (1, 4, 16, 64) if n <= (4 if quick else most)]
    count, settings = sizes[-1], TrainingSettings(batch_size=batch_size)
    steps = _engine.batches(task, batch_size, 1 if quick else 3, on.device)
    lora = [
        Candidate(Hybrid.uniform(on.shape.layers, LoRA(RANK)), {"learning_rate": 1e-4 * k}) for k in range(1, count + 1)
    ]
    found: dict[str, Any] = {"precision": str(on.dtype), "tokens": [list(b.inputs["input_ids"].shape) for b in steps]}
    for kind, candidates in (("mixed", _engine.mixed(count)), ("lora", lora)):

        def of(size: int, which: Sequence[Any] = candidates) -> Callable[[], float]:
            return lambda: timed(lambda: _engine.train_packs(on, which, size, steps, settings), len(which) * len(steps))

        contenders = {f"packs of {n}" if n > 1 else "one by one": of(n) for n in sizes}
        if kind == "lora":
            few = max(1, count // 4)
            stock = StockPeft(task, steps, few)
            contenders["stock peft, fp32"] = partial(timed, stock, few * len(steps))
        measured = interleave(contenders, rounds, warm_up=0 if quick else 1)
        best = f"packs of {sizes[-1]}"
        ratio_table(f"{kind} hybrids, {batch_size} examples a batch", measured, "ms a candidate's step", best)
        ratios = {name: summarise(measured.ratios(name, best)).__dict__ for name in measured.values}
        found[kind] = {"milliseconds": measured.to_json(), f"times {best}": ratios}
    return found


def main(
    rounds: Rounds = 5,
    threads: Annotated[int, typer.Option(help="CPU threads, as a worker of a search has them.")] = 1,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    import torch

    torch.set_num_threads(threads)
    sizes = (32,) if quick else (8, 32)
    results = {f"batch {size}": contest(size, 1 if quick else rounds, quick) for size in sizes}
    write("packing", {"rounds": rounds, "threads": threads, "quick": quick}, results, out)


if __name__ == "__main__":
    typer.run(main)
