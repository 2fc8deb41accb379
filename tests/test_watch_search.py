"""A whole tiny search that is watched, and asked for things while it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_project import experiment, not_measured, search

from autopeft.candidate import Candidate
from autopeft.cli import main
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.progress import Silent
from autopeft.searching.study import Proposal
from autopeft.watching import desk
from autopeft.watching.now import Now
from autopeft.watching.requests import End, Enqueue, Stop, put


class Asks(Silent):
    """Asks as a user with a page would: stop the first candidate, train my own, then end."""

    def __init__(self, run: Path) -> None:
        self.run, self.own = run, list[Candidate]()

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        super().epoch(proposal, metrics)
        assert Now.read(self.run) is not None
        if self.own:
            return
        layers = len(proposal.candidate.hybrid.layers)
        self.own = [Candidate(Hybrid.from_layers(layers, {layers - 1: [LoRA(3)]}), {"learning_rate": 2e-3})]
        huge = Candidate(Hybrid.uniform(layers, LoRA(16)), {"learning_rate": 2e-3})
        put(self.run, Stop(number=proposal.number))
        for one in (*self.own, huge, *self.own):
            put(self.run, Enqueue(candidate=one.to_json()))

    def started(self, proposal: Proposal) -> None:
        super().started(proposal)
        if proposal.job.role == "enqueued":
            put(self.run, End())


@pytest.mark.parametrize(
    "runner",
    [
        {"name": "in_process", "cpus": 1, "pack": 2},
        pytest.param({"name": "ray", "workers": 1}, marks=pytest.mark.slow),
        pytest.param({"name": "ray", "workers": 2}, marks=pytest.mark.slow),
    ],
    ids=["in_process", "ray-1", "ray-2"],
)
def test_a_search_does_what_it_is_asked_for(
    runner: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_PAUSE", 0.0)
    run, training = tmp_path / "run", {"epochs": 2, "batch_size": 16, "max_length": 16, "precision": "fp32"}
    fields = experiment(tmp_path, trials=10, training=training, runner=runner)
    asks = Asks(run)
    with not_measured():
        result = search(tmp_path, run, fields, asks)
    by_status = sorted(result.evaluations, key=lambda e: e.status)
    assert [e.status for e in by_status][-2:] == ["done", "stopped"]
    assert by_status[-1].fidelity == 1
    (own,) = (e for e in result.evaluations if e.role == "enqueued")
    assert (own.key, own.status) == (asks.own[0].key, "done")
    # What was in training when the end was asked for is trained.
    begun = len(result.evaluations)
    assert 2 <= begun < 10
    assert {e.status for e in by_status[:-1]} == {"done"}
    assert result.finished
    assert list((run / "requests").iterdir()) == []
    now = Now.read(run)
    assert now is not None
    assert now.phase == "ended"
    said = " | ".join(answer.said for answer in now.answers)
    assert "#0 is stopped" in said
    assert "candidate: trainable_params is " in said
    assert f"candidate {asks.own[0].key} is trained already" in said
    assert "no more trainings are begun" in said
    sys.argv = ["autopeft", "watch", str(run), "--once"]
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = capsys.readouterr().out
    assert said.startswith(f"ended; {begun} of 10 candidates: {begun - 1} done, 0 running, 1 stopped, 0 failed; best ")
    with not_measured():
        goes_on = search(tmp_path, run, fields, trials=begun + 2)
    known = [(e.number, e.key, e.status, e.curve) for e in result.evaluations]
    assert [(e.number, e.key, e.status, e.curve) for e in goes_on.evaluations[:begun]] == known
    assert len(goes_on.evaluations) == begun + 2
    assert json.loads((run / "progress.json").read_text())["phase"] == "ended"
