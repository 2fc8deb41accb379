"""Build the table: train every hybrid of the list, with the engine, and write what came out to `<task>.parquet`.

Rows that stand in the file are not trained again, so the builder goes on where it was ended.

    python experiments/benchmarks/table/build.py trec --rows 1536
    python experiments/benchmarks/table/build.py trec --rows 96 --seed 1      # to know the noise
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import _draw  # noqa: E402
import _trec  # noqa: E402

#: Subsets and lengths of training, so that some thousand trainings are feasible on two cores.
TRAINING = {
    "trec": {"train": 112, "validation": 200, "epochs": 6, "batch_size": 4},
    "subj": {"train": 80, "validation": 128, "epochs": 4, "batch_size": 4},
}
PACK, WRITE_EVERY = 16, 4
_worker: dict[str, Any] = {}


def main(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(TRAINING)}.")],
    rows: Annotated[int, typer.Option(help="How many hybrids of the list.")] = 1536,
    seed: Annotated[int, typer.Option(help="Of the initial weights and of the order of the data.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes, one core each.")] = os.cpu_count() or 1,
    out: Annotated[Path, typer.Option(help="Folder of the Parquet files.")] = HERE,
) -> None:
    path = out / f"{task}.parquet"
    table = pd.read_parquet(path) if path.is_file() else pd.DataFrame({"row": [], "seed": []})
    known = set(zip(table["row"], table["seed"], strict=True))
    points = _draw.points(rows)
    left = [i for i in range(rows) if (i, seed) not in known]
    packs = [left[i : i + PACK] for i in range(0, len(left), PACK)]
    console, clock = Console(), time.monotonic()
    console.print(f"{task}, seed {seed}: {len(left)} of {rows} hybrids to train, in {len(packs)} packs")
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(task, seed)) as pool:
        futures = [pool.submit(_train, [(i, points[i]) for i in pack]) for pack in packs]
        fresh: list[dict[str, Any]] = []
        for done, future in enumerate(as_completed(futures), 1):
            fresh += future.result()
            if done % WRITE_EVERY == 0 or done == len(packs):
                table, fresh = _written(pd.concat([table, pd.DataFrame(fresh)]), path, task), []
                rest = (time.monotonic() - clock) / done * (len(packs) - done)
                console.print(f"{done} of {len(packs)} packs, about {rest / 60:.0f} min left")


def _start(task: str, seed: int) -> None:
    """One backbone and one tokenised task a process."""
    from autopeft.engine.data import TokenizedTask
    from autopeft.engine.settings import TrainingSettings
    from autopeft.engine.worker import Worker, WorkerSpec
    from autopeft.models import find_model
    from autopeft.tasks import task_from

    chosen, source = TRAINING[task], find_model(_draw.MODEL)
    limits = {"train_limit": chosen["train"], "validation_limit": chosen["validation"], "metric": "accuracy"}
    data = TokenizedTask.of(task_from(_trec.task(task) | limits).load(), source.tokenizer(), _draw.MAX_LENGTH)
    settings = TrainingSettings(
        epochs=chosen["epochs"],
        batch_size=chosen["batch_size"],
        max_length=_draw.MAX_LENGTH,
        seed=seed,
        # As the rows that are there.
        head="drawn",
        method_rates="shared",
    )
    _worker.update(worker=Worker(WorkerSpec(source, settings, threads=1), data), box=_draw.space(), seed=seed)


def _train(members: list[tuple[int, _draw.Point]]) -> list[dict[str, Any]]:
    """The rows of one pack."""
    from autopeft.engine.worker import drain

    worker, box = _worker["worker"], _worker["box"]
    evaluations = drain(worker.run([box.decode(point) for _, point in members]))
    return [_row(i, point, e) for (i, point), e in zip(members, evaluations, strict=True)]


def _row(number: int, point: _draw.Point, evaluation: Any) -> dict[str, Any]:
    from autopeft.budget import costs_of

    box = _worker["box"]
    curve = {
        f"{name}_{int(epoch['epoch'])}": epoch[name] for name in ("accuracy", "loss") for epoch in evaluation.curve
    }
    costs = costs_of(evaluation.candidate.hybrid, box.shape, _draw.MAX_LENGTH)
    identity = {"row": number, "seed": _worker["seed"], "key": evaluation.key, "status": evaluation.status}
    return {**identity, **point, **costs, **curve, "seconds": evaluation.seconds}


def _written(table: pd.DataFrame, path: Path, task: str) -> pd.DataFrame:
    """The table in small types, in order, in the file: whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    sizes = [d.name for d in _draw.space().structure]
    figures = [c for c in table.columns if c.startswith(("accuracy_", "loss_", "seconds", "learning_rate"))]
    small = dict.fromkeys(sizes, "int8") | dict.fromkeys(figures, "float32")
    table = table.astype({"row": "int16", "seed": "int8"} | small)
    table = table.sort_values(["seed", "row"], ignore_index=True)
    made = {
        "task": task, "model": _draw.MODEL, "space": _draw.SPACE, "budget": _draw.BUDGET, **TRAINING[task],
        "max_length": _draw.MAX_LENGTH, "pack": PACK, "precision": "auto",
    }  # fmt: skip
    content = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata({"autopeft": json.dumps(made)})
    partial = path.with_suffix(".partial")
    parquet.write_table(content, partial, compression="zstd")
    partial.replace(path)
    return table


if __name__ == "__main__":
    typer.run(main)
