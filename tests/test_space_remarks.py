"""Objectives and limits that say nothing of a space, and classes that are rare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopeft.anatomy import ModelShape
from autopeft.budget import Budget
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace
from autopeft.space_remarks import on_limits, on_objectives
from autopeft.tasks import task_from

SITES = dict.fromkeys("qkvo", (768, 768)) | {"up": (768, 3072), "down": (3072, 768)}
BERT = ModelShape("bert", 12, 768, 3072, 12, 12, 64, SITES, 109_482_240)
LORA = SearchSpace.load({"blocks": {"lora": {"rank": [0, 4]}}}, BERT)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (147_456, "budget.trainable_params <= 147,456 limits nothing: the largest hybrid of the space has 147,456"),
        (147_000, "limits next to nothing: 0 of 200 uniform points of the space have more (the largest 147,456)"),
        (70_000, None),
        (13_000, None),
    ],
)
def test_a_limit_that_keeps_next_to_nothing_out_is_told(limit: int, said: str | None) -> None:
    found = list(on_limits(LORA, Budget({"trainable_params": limit})))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_an_objective_that_is_constant_is_told_beside_controls_too() -> None:
    objectives = [Objective.of(name) for name in ("accuracy", "inference_flops", "trainable_params")]
    for others in (False, True):
        (said,) = on_objectives(LORA, objectives, 128, others)
        assert said.startswith("objective inference_flops is ")
        assert ("whatever controls cost" in said) == others
        assert "take one that varies (kept_params, stored_bytes, " in said


def test_rare_classes_and_classes_that_a_split_lacks_are_told(tmp_path: Path) -> None:
    counts = {"train": {"a": 60, "b": 57, "c": 3}, "validation": {"a": 5, "b": 5}, "test": {"a": 5, "b": 5, "c": 1}}
    files = {}
    for split, of in counts.items():
        labels = [label for label, count in of.items() for _ in range(count)]
        rows = [json.dumps({"text": f"{split} {i}", "label": label}) for i, label in enumerate(labels)]
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text("\n".join(rows))
    data = task_from({"name": "files", "text": "text", **files}).load()
    assert data.remarks == (
        "1 class is rare in train (rows: 'c' 3; an even share would be 40): accuracy hardly shows how well they are "
        "learned; f1_macro does",
        "validation has no row of 'c': no score there says anything of them",
    )
