"""`autopeft plan`: what a search would do, before it does it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.begin import going_on
from autopeft.budget import share_within
from autopeft.candidate import Candidate
from autopeft.cli.shown import safe
from autopeft.cli.tables import console, show_facts
from autopeft.cli.written import lines_of, written_facts
from autopeft.costs import amount
from autopeft.doing import doing
from autopeft.engine.load import memory_here
from autopeft.engine.setup import Setup
from autopeft.engine.speed import measure
from autopeft.experiment import Experiment, needing
from autopeft.hybrid import Hybrid
from autopeft.launch import RUNS
from autopeft.phases import phases_of, seconds_for, seconds_of
from autopeft.quantising.loading import bytes_in_memory
from autopeft.run_folder import RunFolder
from autopeft.searching.study import FILE, Study
from autopeft.session import Session, middle, typical_candidates
from autopeft.watching.telling import telling
from autopeft.wording import counted, duration, in_bytes

_SEED = 0


def run_plan(experiment: Experiment, samples: int, quiet: bool, trust_remote_code: bool, as_json: bool) -> None:
    """Print the plan; what is done meanwhile is said on standard error, unless quiet."""
    experiment = going_on(needing(experiment, trust_remote_code), RunFolder(RUNS / experiment.name))
    experiment.runner.check()
    with telling(quiet or as_json):
        with doing("reading the model and the data"):
            session = Session(experiment, trust_remote_code)
        facts = plan(session, samples)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        show_facts(console(), _lines(session, facts))


def plan(session: Session, samples: int) -> dict[str, Any]:
    """Dimensions, size of the space, range of costs, share of uniform points within the budget, seconds."""
    with doing(f"counting the costs of {counted(samples, 'point')}"):
        share = share_within(session.space, session.budget, samples, np.random.default_rng(_SEED))
        smallest = session.budget.smallest(session.space)
    experiment = session.experiment
    candidates, known = typical_candidates(session), _begun(experiment)
    setup = _setup(session, known, middle(session, candidates))
    correction, epochs = _correction(session, setup, known), experiment.training.epochs
    each = float(np.mean([seconds_for(session, setup, c.hybrid) for c in candidates])) * correction

    def timed(hybrid: Hybrid, of: int) -> float:
        return seconds_for(session, setup, hybrid) * correction * of / epochs

    phases = phases_of(session, timed, each, setup)
    total = seconds_of(phases, session)
    return {
        "name": experiment.name,
        "dimensions": [d.name for d in session.space.dimensions],
        "hybrids": session.space.size,
        "budget": dict(session.budget.limits),
        "share_within_budget": share.within,
        "samples": samples,
        "smallest_non_empty": smallest,
        "costs": {n: {"least": c[0], "median": c[1], "most": c[2]} for n, c in share.costs.items()},
        "backbone_params": session.shape.backbone_params,
        "head_params": session.head_params,
        "backbone_bytes": _bytes(session),
        "training_memory": _memory(session, candidates),
        "examples": {s: len(getattr(session.tokens, s)) for s in ("train", "validation", "test")},
        "splits": session.data.note,
        "remarks": list(session.remarks),
        **written_facts(session),
        "trials": experiment.trials,
        "time_limit": experiment.time_limit,
        "engine": setup.model_dump(),
        "seconds_per_candidate": each,
        "phases": [phase.to_json() for phase in phases],
        "seconds": total,
    }


def _memory(session: Session, candidates: Sequence[Candidate]) -> dict[str, int]:
    """Bytes at the peak of training one of these candidates alone, the least and the most, and what is free here."""
    needed = [session.costs(candidate.hybrid)["training_memory"] for candidate in candidates]
    return {"least": min(needed), "most": max(needed), "free": memory_here()}


def _in_memory(memory: Mapping[str, int]) -> str:
    sizes = f"{in_bytes(memory['least'])} to {in_bytes(memory['most'])} for one candidate at a time"
    if memory["most"] <= memory["free"]:
        return f"{sizes}; {in_bytes(memory['free'])} are free"
    return (
        f"[red]{sizes}, and {in_bytes(memory['free'])} are free[/]: set a limit (budget.training_memory), smaller "
        "batches, shorter texts, or training.checkpoint"
    )


def _bytes(session: Session) -> dict[str, int]:
    """The backbone's bytes in memory: in fp32, and as the experiment keeps it (what stays is counted in fp32)."""
    source, readout = session.source, session.data.readout
    config = source.config(**readout.configuration())
    before, after = (
        bytes_in_memory(config, kind, source.trust_remote_code, readout.auto_class) for kind in (None, source.quantise)
    )
    return {"fp32": before, "kept": after}


def _begun(experiment: Experiment) -> RunFolder | None:
    """The folder of this very search, if it has begun where searches go that are given no folder."""
    folder = RunFolder(RUNS / experiment.name)
    if not folder.experiment_file.is_file() or not (folder.path / FILE).is_file():
        return None
    return folder if experiment.difference(folder.experiment()) is None else None


def _setup(session: Session, known: RunFolder | None, typical: Candidate) -> Setup:
    """What the search's own folder says of the engine, if it has begun; measured here if not."""
    if known is not None and (measured := known.setup()) is not None:
        return measured
    with doing("measuring the engine"):
        return measure(session.worker_spec(Path()), session.tokens, typical, session.experiment.runner.parallel)


def _correction(session: Session, setup: Setup, known: RunFolder | None) -> float:
    """What candidates took in the search's own folder over what was estimated for them; 1 before the first."""
    if known is None:
        return 1.0
    done = [e for e in Study.read(known.path) if e.status == "done"]
    epochs = session.experiment.training.epochs
    estimated = sum(seconds_for(session, setup, e.candidate.hybrid) * e.fidelity / epochs for e in done)
    return sum(e.seconds for e in done) / estimated if done else 1.0


def _lines(session: Session, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The plan in words, in rich's markup."""
    names = facts["dimensions"]
    listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    yield "dimensions", f"{len(names)} ({safe(listed)})"
    yield "hybrids in the space", f"{Decimal(facts['hybrids']):.3g}"
    yield "backbone, head", f"{facts['backbone_params']:,} and {facts['head_params']:,} parameters"
    if (kind := session.source.quantise) is not None:
        sizes = facts["backbone_bytes"]
        yield "backbone in memory", f"{in_bytes(sizes['fp32'])} in fp32, {in_bytes(sizes['kept'])} as {kind}"
    yield "memory of training", _in_memory(facts["training_memory"])
    examples = ", ".join(f"{count:,} of {split}" for split, count in facts["examples"].items())
    yield "examples", f"{examples} ({safe(facts['splits'])})"
    for name, text in lines_of(facts):
        yield name, "\n".join(safe(line) for line in text.split("\n"))
    for name, costs in facts["costs"].items():
        yield name, f"uniform points: {', '.join(f'{k} {amount(name, v)}' for k, v in costs.items())}"
    for name, limit in facts["budget"].items():
        least = amount(name, facts["smallest_non_empty"][name])
        yield f"budget, {name}", f"<= {amount(name, limit)}; the smallest non-empty hybrid: {least}"
    within = f"{facts['share_within_budget']:.1%} of {facts['samples']:,}; others are repaired"
    yield "uniform points within it", within
    yield from _times(session, facts)
    for remark in facts["remarks"]:
        yield "[yellow]note[/]", safe(remark)


def _times(session: Session, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    engine = facts["engine"]
    how = f"{engine['precision']}, {engine['attention']} attention, packs of {engine['pack']} on {engine['device']}"
    yield "engine", how
    yield "time for a candidate", f"about {duration(facts['seconds_per_candidate'])} on one worker"
    for phase in facts["phases"]:
        yield safe(phase["name"]), safe(_in_words(phase))
    if facts["seconds"] is not None:
        parallel = session.experiment.runner.parallel
        shorter = "; less, where candidates are stopped early" if session.experiment.stopping.stops else ""
        yield "time in all", f"about {duration(facts['seconds'])} with {counted(parallel, 'worker')}{shorter}"


def _in_words(phase: dict[str, Any]) -> str:
    """`21 trainings of 3 epochs, about 2.5 min on one worker: 7 at 3 learning rates each`."""
    count, epochs, seconds = phase["trainings"], phase["epochs"], phase["seconds"]
    how_many = "trainings" if count is None else counted(count, "training")
    how_long = "" if epochs is None else f" of {counted(epochs, 'epoch')}"
    about = "" if seconds is None else f", about {duration(seconds)} on one worker"
    return f"{how_many}{how_long}{about}: {phase['words']}"
