"""Peak memory of one more candidate: in a pack, and as a process of its own.

    python experiments/benchmarks/memory.py

Every figure is the peak of fresh processes that train for a few steps on TREC's longest batches: a pack of 1 and one of
K for the slope, and one process and two at once for what another process takes (shared pages counted once).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Annotated

import _engine
import typer
from _harness import HERE, RESULTS, Out, PeakMemory, Quick, Rounds, interleave, show, summarise, write

MIB = 2**20


def child(pack: int, threads: int) -> None:
    """Train `pack` candidates on the longest batches; ends when told to."""
    import torch

    from autopeft.engine.settings import TrainingSettings

    torch.set_num_threads(threads)
    task = _engine.trec()
    on = _engine.backbone(task, "auto")
    longest = _engine.batches(task, 32, 10_000, on.device)[-1:]
    _engine.train_packs(on, _engine.mixed(pack), pack, longest * 3, TrainingSettings())
    print(json.dumps({"trained": pack}), flush=True)
    sys.stdin.read()


def peak(pack: int, processes: int, threads: int) -> float:
    """MiB of that many processes together, from their start until all have trained."""
    command = [sys.executable, str(HERE / "memory.py"), "--child", str(pack), "--threads", str(threads)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    running = [subprocess.Popen(command, text=True, **pipes) for _ in range(processes)]
    with PeakMemory(interval=0.05) as memory:
        for process in running:
            assert process.stdout is not None
            if "trained" not in process.stdout.readline():
                raise SystemExit("a process ended before it had trained; what it said is above")
    for process in running:
        process.communicate("")
    time.sleep(0.2)
    return memory.bytes / MIB


def main(
    rounds: Rounds = 3,
    pack: Annotated[int, typer.Option(help="Candidates of the large pack.")] = 16,
    threads: Annotated[int, typer.Option(help="CPU threads of a process.")] = 1,
    quick: Quick = False,
    out: Out = RESULTS,
    child_of: Annotated[int, typer.Option("--child", hidden=True)] = 0,
) -> None:
    if child_of:
        child(child_of, threads)
        return
    pack = 4 if quick else pack
    contenders = {
        "a pack of 1": lambda: peak(1, 1, threads),
        f"a pack of {pack}": lambda: peak(pack, 1, threads),
        "two processes": lambda: peak(1, 2, threads),
    }
    measured = interleave(contenders, 1 if quick else rounds)
    one, many, two = (measured.values[name] for name in contenders)
    in_pack = [(b - a) / (pack - 1) for a, b in zip(one, many, strict=True)]
    process = [b - a for a, b in zip(one, two, strict=True)]
    ratio = summarise([p / k for p, k in zip(process, in_pack, strict=True)])
    rows = [(name, str(measured.summary(name)), "") for name in contenders]
    rows += [("one more candidate, in the pack", str(summarise(in_pack)), "1"),
             ("one more candidate, as a process", str(summarise(process)), str(ratio))]  # fmt: skip
    show("peak memory", ("", "MiB", "times in the pack"), rows)
    results = {"peaks": measured.to_json(), "in_pack": summarise(in_pack).__dict__,
               "process": summarise(process).__dict__, "ratio": ratio.__dict__}  # fmt: skip
    write("memory", {"rounds": rounds, "pack": pack, "threads": threads, "quick": quick}, results, out)


if __name__ == "__main__":
    typer.run(main)
