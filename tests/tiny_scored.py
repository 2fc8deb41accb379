"""A run folder whose candidates were scored by a formula and not trained: for what is shown of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tiny_project import write_experiment

from autopeft.begin import open_study
from autopeft.candidate import Evaluation
from autopeft.experiment import Experiment
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.searching.confirming.records import keep_controls, keep_end, keep_pack
from autopeft.searching.confirming.values import Run
from autopeft.searching.study import Study
from autopeft.session import Session
from autopeft.task_facts import TaskFacts

Ended = Literal["done", "stopped", "failed"]
#: Seven that are done, a stopped and a failed one.
_ENDED: tuple[Ended, ...] = (*("done",) * 7, "stopped", "failed")


def scored_run(folder: Path, words: str, name: str = "run") -> Path:
    """A search in `folder` with a control and two seeds; labels, the error and the description hold `words`."""
    file = write_experiment(folder, description=words, trials=9)
    for split in ("train", "validation", "test"):
        data = folder / f"{split}.jsonl"
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        data.write_text("".join(json.dumps({**row, "label": f"{words} {row['label']}"}) + "\n" for row in rows))
    session, path = Session(Experiment.load(file)), folder / name
    path.mkdir()
    study = open_study(session, RunFolder(path))
    TaskFacts.of(session).keep(path)
    for ended in _ENDED:
        _tell(session, study, ended, words)
    front = SearchResult.open(path).front
    keep_controls(study, {front.points[0].key: "head_only"}, 1000.0)
    scores = {e.number: {"accuracy": e.metrics["accuracy"] - 0.02, "test_accuracy": 0.5} for e in front.points}
    keep_pack(study, [(number, Run(1, "done", metrics, 1.0)) for number, metrics in scores.items()])
    keep_end(study, True)
    return path


def _tell(session: Session, study: Study, ended: Ended, words: str) -> None:
    proposal = study.ask()
    hybrid = proposal.candidate.hybrid
    score = 1 - 1 / (2 + sum(m.size_value for m in hybrid.methods()))
    loss = float("nan") if ended == "failed" else 1 - score
    metrics = {"accuracy": score, "loss": loss, **session.costs(hybrid)}
    curve = tuple({"accuracy": score * part, "loss": 1 - score} for part in (0.8, 1.0))
    error = words if ended == "failed" else None
    study.tell(Evaluation(proposal.candidate, ended, metrics, proposal.number, curve, seconds=2.0, error=error))
