"""Which searcher finds the front in the fewest trials, and with how little training; on surfaces, without training.

    python experiments/benchmarks/searchers.py --seeds 20 --trials 200 --limit gp=5:100 --limit qlognehvi=10:120

Finished searches stand in a file of JSON lines, so a benchmark that was killed goes on where it was; `--report` only
works out what is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import _surfaces
import numpy as np
import typer
from _harness import RESULTS, Out, Quick, write
from _searchers_report import Run, markdown, measure, plot
from _searchers_run import CONTENDERS, SOURCES, Setting, simulate
from _searchers_volume import best_known, noise_free

HERE = Path(__file__).resolve().parent
Names = str | None


def main(
    surfaces: Annotated[Names, typer.Option(help="Comma-separated; all when not given.")] = None,
    contenders: Annotated[Names, typer.Option(help="Comma-separated; all when not given.")] = None,
    stopping: Annotated[str, typer.Option(help="Comma-separated names of stopping rules.")] = "none,pareto",
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each kind.")] = 20,
    trials: Annotated[int, typer.Option(min=1, help="Proposals a search.")] = 200,
    pack: Annotated[int, typer.Option(min=1, help="Proposals that are asked for at once.")] = 4,
    limit: Annotated[list[str] | None, typer.Option(help="Fewer for a slow contender: NAME=SEEDS:TRIALS.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    store: Annotated[Path, typer.Option(help="File of finished searches.")] = HERE / "runs/searchers.jsonl",
    report: Annotated[bool, typer.Option("--report", help="Run nothing.")] = False,
    quick: Quick = False,
    out: Out = RESULTS,
) -> None:
    if quick:
        surfaces, contenders = surfaces or "additive", contenders or "random,tpe"
        seeds, trials, workers, store = 2, 12, 1, out / "searchers.jsonl"
    limits = _limits(limit or [])
    settings = [
        Setting(contender, on, seed, rule, min(trials, most), pack)
        for seed in range(seeds)
        for contender in _available(_chosen(contenders, list(CONTENDERS), "contender"))
        for few, most in [limits.get(contender, (seeds, trials))]
        if seed < few
        for on in _chosen(surfaces, _surfaces.names(), "surface")
        if not CONTENDERS[contender].warm or SOURCES.get(on) in _surfaces.names()
        for rule in stopping.split(",")
    ]
    left_out = set(_chosen(contenders, list(CONTENDERS), "contender")) - set(_available(list(CONTENDERS)))
    print(f"left out, as library or sampler are missing: {', '.join(sorted(left_out)) or 'nobody'}")
    kept = Store(store)
    _run(settings, kept, 0 if report else workers)
    _tell([run for s in settings if (run := kept.find(s)) is not None], kept, out, quick)


def _run(settings: Sequence[Setting], kept: Store, workers: int) -> None:
    """Run what is not finished; failures are told, and left to the next time."""
    missing = [s for s in settings if kept.find(s) is None] if workers else []
    print(f"{len(settings)} searches, {len(missing)} of them to run")
    for number, (setting, done) in enumerate(_simulated(missing, workers), 1):
        failed = isinstance(done, Exception)
        print(f"{number} of {len(missing)}: {setting}" + (f" failed: {done!r}" if failed else ""), flush=True)
        if not failed:
            kept.add(done)


def _available(names: Sequence[str]) -> list[str]:
    """Those whose library and sampler are there."""
    return [name for name in names if CONTENDERS[name].is_here]


class Store:
    """Finished searches, a line each; those on an older version of a table are not found."""

    def __init__(self, path: Path) -> None:
        self.path, self._known = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.read_bytes() if path.is_file() else b""
        # A line that a kill has cut off.
        whole = written[: written.rfind(b"\n") + 1]
        if whole != written:
            path.write_bytes(whole)
        for line in whole.splitlines():
            run = json.loads(line)
            self._known[_identity(run)] = run

    def find(self, setting: Setting) -> Run | None:
        return self._known.get(_identity({**asdict(setting), "version": _surfaces.surface(setting.surface).version}))

    def add(self, run: Run) -> None:
        self._known[_identity(run)] = run
        with self.path.open("ab") as file:
            file.write(json.dumps(run).encode() + b"\n")

    def on(self, name: str, version: str) -> list[Run]:
        """All searches on a surface, whatever their settings."""
        return [run for run in self._known.values() if (run["surface"], run["version"]) == (name, version)]


def _identity(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(run[field.name] for field in fields(Setting)), run["version"])


def _simulated(settings: Sequence[Setting], workers: int) -> Iterator[tuple[Setting, Run | Exception]]:
    """As they finish; the others go on when one fails."""
    if workers <= 1:
        yield from ((setting, _outcome(partial(simulate, setting))) for setting in settings)
        return
    # A process a core: their threads would get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, get_context("spawn"), _start) as pool:
        futures = {pool.submit(simulate, setting): setting for setting in settings}
        yield from ((futures[future], _outcome(future.result)) for future in as_completed(futures))


def _outcome(run: Callable[[], Run]) -> Run | Exception:
    try:
        return run()
    except Exception as error:
        return error


def _start() -> None:
    """One core a process."""
    import torch

    torch.set_num_threads(1)


def _tell(runs: Sequence[Run], kept: Store, out: Path, quick: bool) -> None:
    """Table, JSON and plot."""
    rows, best = [], {}
    for name in dict.fromkeys(run["surface"] for run in runs):
        on = _surfaces.surface(name)
        found = noise_free(on, rounds=5, population=100) if quick else noise_free(on)
        best[name] = best_known(on, kept.on(name, on.version), found)
        rows += measure([run for run in runs if run["surface"] == name], on, best[name])
    if not rows:
        raise SystemExit("nothing to report: no search is finished")
    out.mkdir(parents=True, exist_ok=True)
    told = markdown(rows)
    print(told)
    (out / "searchers.md").write_text(told, encoding="utf-8")
    plot(rows, out / "searchers.png")
    settings = {
        "quick": quick,
        "versions": {name: _surfaces.surface(name).version for name in best},
        "runs": _ranges([{field.name: run[field.name] for field in fields(Setting)} for run in runs]),
    }
    fronts = {name: np.round(front, 5).tolist() for name, front in best.items()}
    write("searchers", settings, {"rows": _finite(rows), "best_known": fronts}, out)


def _finite(value: Any) -> Any:
    """The same without infinite numbers (what was not reached), which JSON does not have."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _ranges(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings that differ in the seed only, as one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        same = tuple(v for k, v in run.items() if k != "seed")
        found.setdefault(same, {**run, "seed": []})["seed"].append(run["seed"])
    return list(found.values())


def _chosen(given: Names, known: list[str], what: str) -> list[str]:
    names = given.split(",") if given else list(known)
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"unknown {what} '{name}'; known: {', '.join(known)}")
    return names


def _limits(given: Sequence[str]) -> dict[str, tuple[int, int]]:
    """`gp=5:100` as {"gp": (5 seeds, 100 trials)}."""
    found = {}
    for text in given:
        try:
            name, _, numbers = text.partition("=")
            seeds, trials = map(int, numbers.split(":"))
        except ValueError:
            raise typer.BadParameter(f"expected NAME=SEEDS:TRIALS, not '{text}'") from None
        found[_chosen(name, list(CONTENDERS), "contender")[0]] = (seeds, trials)
    return found


if __name__ == "__main__":
    typer.run(main)
