"""What a server shall take, as a constraint of what is searched: said at load, before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import autopeft
from tiny_models import classifier, everywhere
from tiny_project import experiment

from autopeft.confirming import controls_for
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.methods.adalora import AdaLoRA
from autopeft.methods.bitfit import BitFit
from autopeft.methods.dora import DoRA
from autopeft.methods.lora import LoRA
from autopeft.methods.prefix import Prefix
from autopeft.methods.vera import VeRA
from autopeft.servable import Servable
from autopeft.session import Session
from autopeft.space import SearchSpace

RANKS = {"lora": {"rank": [0, 2, 4], "sites": ["q", "v"]}, "adalora": {"rank": [0, 3], "sites": ["q"]}}


def asked(folder: Path, **changes: Any) -> Experiment:
    fields = {"space": {"blocks": RANKS}, "budget": {}, "trials": 40, "controls": "default", **changes}
    return Experiment.of(experiment(folder, **fields), "test.yaml")


@pytest.mark.parametrize(
    ("kind", "takes"),
    [
        ("lora", (True, True, True, False, False, False, False)),
        ("merged", (True, True, True, True, True, False, False)),
    ],
)
def test_what_is_served(kind: str, takes: tuple[bool, ...]) -> None:
    methods = (LoRA(2), AdaLoRA(2), VeRA(2), DoRA(2), BitFit(1), Prefix(1), LoRA(2, gated=True))
    assert tuple(Servable(kind=kind).takes(method) for method in methods) == takes


def test_blocks_that_cannot_be_served_are_named_before_a_model_is_looked_at(project: Path) -> None:
    blocks = RANKS | {"prefix": {"length": [0, 1]}, "beside": {"method": "sequential", "bottleneck": [4]}}
    for changes, place in (
        ({"servable": "lora", "space": {"blocks": blocks}}, "servable: search space: "),
        ({"servable": {"kind": "merged"}, "space": {"blocks": blocks}}, "servable: search space: "),
    ):
        with pytest.raises(AutopeftError) as caught:
            asked(project, model="nowhere/at-all", **changes)
        (said,) = str(caught.value).splitlines()
        assert f"{place}blocks 'prefix', 'beside' (sequential)" in said
        assert "leave them out" in said
        assert "adalora" in said
    alone = {"blocks": RANKS | {"prefix": {"length": [1]}}, "servable": "lora"}
    with pytest.raises(AutopeftError, match=r"servable: block 'prefix' is no LoRA when it is trained; leave it out"):
        Session(asked(project, space=alone))
    assert "servable" not in asked(project).resolved()


def test_ranks_of_one_map_add_up(project: Path) -> None:
    with pytest.raises(AutopeftError, match=r"LoRA at one map may have rank 7 .* and servable\.max_rank is 6; take"):
        Session(asked(project, servable={"kind": "lora", "max_rank": 6}))
    session = Session(asked(project, servable={"kind": "lora", "max_rank": 7}))
    assert session.serving.takes(everywhere(LoRA(7)))
    assert not session.serving.takes(everywhere(LoRA(8)))
    with pytest.raises(AutopeftError, match="max_rank is of lora"):
        asked(project, servable={"kind": "merged", "max_rank": 6})


def test_controls_are_what_can_be_served_too(project: Path) -> None:
    free, lora, merged = (
        controls_for(Session(asked(project, controls="all", trials=1000, **more)))
        for more in ({}, {"servable": "lora"}, {"servable": "merged"})
    )
    kinds = [{name.split()[0] for name, _ in source.groups} for source in (free, lora, merged) if source]
    assert kinds[1] <= {"head_only", "lora"}
    assert "lora" in kinds[1]
    assert {"lora", "bitfit"} <= kinds[2] <= kinds[0] - {"pfeiffer", "houlsby", "parallel", "mam", "prefix"}


def test_biases_that_a_saved_model_cannot_have_are_told_before_training(project: Path, tmp_path: Path) -> None:
    """A Llama's configuration has words for them, and a Qwen3's has none for those of its feed-forward maps."""
    space = {"blocks": {"bitfit": {"active": [0, 1]}}}
    for family, refused in (("bert", False), ("llama", False), ("qwen3", True)):
        base = classifier(family).base_model
        base.save_pretrained(tmp_path / family)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / family / name).write_text((project / "model" / name).read_text())
        wanted = asked(project, model=str(tmp_path / family), space=space, servable="merged")
        if refused:
            with pytest.raises(AutopeftError, match=r"^servable: 'bitfit' would give .* a bias"):
                Session(wanted)
        else:
            assert Session(wanted).serving.takes(everywhere(LoRA(1)))


def test_a_space_says_it_too_and_keeps_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"blocks": RANKS, "servable": {"kind": "lora", "max_rank": 8}}
    session = Session(asked(project, space=space))
    again = SearchSpace.load(session.space.to_json(), session.shape)
    assert again.servable == session.space.servable == Servable(kind="lora", max_rank=8)
    assert session.space.to_json()["servable"] == {"kind": "lora", "max_rank": 8}
    path = project / "served.yaml"
    path.write_text(yaml.safe_dump(experiment(project, space={"blocks": RANKS}, servable="mergd")))
    status, _, err = autopeft(capsys, "plan", str(path))
    assert (status, len(err.splitlines())) == (2, 1)
    assert "servable" in err
    assert json.loads(json.dumps(asked(project, servable="lora").resolved()))["servable"] == {"kind": "lora"}
