"""How well a search knew what was left of it: what its clock says at each tenth of its time, over the truth.

    python experiments/benchmarks/estimates.py runs/quickstart runs/trec

Finished run folders are replayed: when each training was begun and ended stands in the study, what it took in its
evaluation, and its epochs are spread over that. Nothing is trained; the experiment's model and data must be there. A
search that went on after a pause is not for this. `--before FOLDER` is a checkout whose clock is replayed beside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from _harness import RESULTS, Out, show, write


@dataclass(frozen=True)
class Event:
    """What a clock hears, `at` so many seconds after the first training was begun: a method's name and what it gets."""

    at: float
    what: str
    told: tuple[Any, ...]


@dataclass(frozen=True)
class Replayed:
    """A search: what its clock hears, when its last training ended, and all of it (None: not yet), its candidates."""

    events: Sequence[Event]
    ended: float
    all_ended: float | None
    count: int

    @property
    def first_pack(self) -> float:
        """When the first pack had ended."""
        return next(event.at for event in self.events if event.what == "finished")


def replayed(run: Path) -> Replayed:
    """Of a run folder."""
    from autopeft.run_folder import RunFolder
    from autopeft.searching.stored import Stored
    from autopeft.searching.study import _proposal
    from autopeft.session import Session
    from autopeft.watching.now import Now

    space, stored = Session(RunFolder(run).experiment()).space, Stored.load(run)
    evaluations = {e.number: e for e in stored.evaluations()}
    packs: dict[int, list[Any]] = defaultdict(list)
    for trial in stored.trials:
        if trial.number in evaluations:
            packs[int(trial.user_attrs.get("pack", trial.number))].append(trial)
    first = min(trial.datetime_start for trials in packs.values() for trial in trials)
    events: list[Event] = []
    for trials in packs.values():
        own, ended = [evaluations[t.number] for t in trials], max(t.datetime_complete for t in trials) - first
        begun = [((t.datetime_start - first).total_seconds(), _proposal(t, space)) for t in trials]
        events += [Event(at, "started", (proposal,)) for at, proposal in begun]
        events += _ending(own, ended.total_seconds())
    now = Now.read(run)
    last = max(event.at for event in events)
    all_ended = now.time - first.timestamp() if now is not None and now.phase == "ended" else None
    # What is sorted keeps its order: a pack's last epoch comes before its end.
    return Replayed(sorted(events, key=lambda event: event.at), last, all_ended, len(evaluations))


def _ending(evaluations: Sequence[Any], ended: float) -> Iterator[Event]:
    """The epochs of a pack, each as long as its members take for one in the mean, and its end."""
    most = max(e.fidelity for e in evaluations)
    lengths = [sum(e.seconds / e.fidelity for e in evaluations if e.fidelity > epoch) for epoch in range(most)]
    at = ended - sum(lengths)
    for epoch, length in enumerate(lengths, 1):
        at += length
        for e in evaluations:
            if e.fidelity >= epoch:
                yield Event(at, "epoch", (e.number, epoch))
    for e in evaluations:
        yield Event(ended, "finished", (e,))


def asked(search: Replayed) -> dict[str, float]:
    """When the clock is asked: at each tenth of the search's time, and when the first pack has ended."""
    tenths = {f"{10 * i}%": search.ended * i / 10 for i in range(10)}
    return {**tenths, "first pack": search.first_pack}


def told_by_clock(run: Path) -> dict[str, Any]:
    """What the clock of this checkout says, over the truth: of the search, and with all that comes after it."""
    from autopeft.phases import outlook_of
    from autopeft.run_folder import RunFolder
    from autopeft.session import Session
    from autopeft.watching.clock import Clock

    folder, search = RunFolder(run), replayed(run)
    session, setup = Session(folder.experiment()), folder.setup()
    experiment, now = session.experiment, [0.0]
    trials = search.count if experiment.trials is None else min(experiment.trials, search.count)
    clock = Clock(trials, experiment.runner.parallel, experiment.training.epochs, now=lambda: now[0])
    clock.expecting(lambda: outlook_of(session, setup))
    left, said = list(search.events), {}
    for name, at in sorted(asked(search).items(), key=lambda item: item[1]):
        while left and left[0].at <= at:
            event = left.pop(0)
            now[0] = event.at
            getattr(clock, event.what)(*event.told)
        now[0] = at
        rest = clock.left() or 0.0
        said[name] = {"search": rest / (search.ended - at)}
        if search.all_ended is not None:
            said[name]["all"] = (rest + clock.later) / (search.all_ended - at)
    return {"seconds": search.ended, "all_seconds": search.all_ended, "candidates": search.count, "said": said}


def before(run: Path, checkout: Path) -> dict[str, Any]:
    """The same by another checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, __file__, str(run), "--plain"]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def main(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of finished searches.")],
    checkout: Annotated[Path | None, typer.Option("--before", help="A checkout to compare with.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print the first run's figures as JSON alone.")] = False,
    out: Out = RESULTS,
) -> None:
    """Estimates over the truth."""
    if plain:
        print(json.dumps(told_by_clock(runs[0])))
        return
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        own = {"now": told_by_clock(run)} | ({} if checkout is None else {"before": before(run, checkout)})
        found[run.name] = own
        now = own["now"]
        whole = "" if now["all_seconds"] is None else f", {now['all_seconds']:.0f} s in all"
        title = f"{run.name}: {now['candidates']} candidates in {now['seconds']:.0f} s{whole}"
        kinds = list(now["said"]["0%"])
        columns = [f"{which}, {what}" for which in own for what in kinds]
        rows = [
            (name, *(f"{each['said'][name][what]:.2f}" for each in own.values() for what in kinds))
            for name in now["said"]
        ]
        show(title, ("asked at", *columns), rows, "estimate over truth")
    write("estimates", {"runs": [run.name for run in runs]}, found, out)


if __name__ == "__main__":
    typer.run(main)
