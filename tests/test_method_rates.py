"""Methods that learn at rates of their own in one hybrid, and heads that learn at theirs.

Shapes: K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import conformance
import pytest
import torch
from test_precision import record_of
from tiny_models import everywhere, in_layers
from tiny_packs import Bench, bench

from autopeft.attention import FUSED, MATMUL
from autopeft.candidate import Candidate, Job, Origin
from autopeft.config import parse
from autopeft.engine.data import training_batches
from autopeft.engine.kept import save_weights
from autopeft.engine.pack import Pack
from autopeft.engine.settings import TrainingSettings
from autopeft.engine.worker import Worker, WorkerSpec, drain
from autopeft.errors import AutopeftError
from autopeft.exporting import write_card
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS
from autopeft.methods.ia3 import IA3
from autopeft.methods.lora import LoRA
from autopeft.methods.parallel import Parallel

RATES = {"method_rates": "usual", "head_learning_rate": 5e-3}
PLAIN = TrainingSettings(
    head="drawn", method_rates="shared", epochs=1, batch_size=8, precision="fp32", weight_decay=0.0, warmup=0.0, seed=1
)
SETTINGS = PLAIN.model_copy(update=RATES)
#: Two sizes in one layer, a method that is absent, another first layer, and the head alone.
MEMBERS = [
    Candidate(everywhere(LoRA(4), Parallel(4), IA3(1)), {"learning_rate": 1e-3}),
    Candidate(everywhere(LoRA(2)), {"learning_rate": 3e-3}),
    Candidate(in_layers({1: [Parallel(2), IA3(1)]}), {"learning_rate": 2e-3}),
    Candidate(everywhere(), {"learning_rate": 1e-3}),
]


@pytest.fixture(scope="module", params=["bert", "llama"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    attention = FUSED if request.param == "bert" else MATMUL
    return bench(tmp_path_factory.mktemp("model"), request.param, attention, sizes=(48, 8, 8), settings=SETTINGS)


def first_steps(made: Bench, settings: TrainingSettings) -> list[dict[str, float]]:
    """By weight, how far the entry that moves most goes in the first step, of each member of a pack."""
    data, reach = made.data, range(len(MEMBERS))
    with Pack(made.backbone, MEMBERS, settings, steps=10) as pack:
        before = [pack.weights(k) for k in reach]
        for batch in islice(training_batches(data.train, 8, data.pad_id, 1, 1), 1):
            pack.step(batch, {}, data.readout)
        after = [pack.weights(k) for k in reach]
    return [{n: float((after[k][n] - w).abs().max()) for n, w in before[k].items()} for k in reach]


@pytest.mark.parametrize("changes", [{}, RATES], ids=["one rate", "own rates"])
def test_adams_first_step_is_as_long_as_the_rate(made: Bench, changes: Mapping[str, object]) -> None:
    usual = {"lora": 1.0, "parallel": 0.5, "ia3": 5.0} if changes else {}
    for member, moved in zip(MEMBERS, first_steps(made, PLAIN.model_copy(update=changes)), strict=True):
        rate, seen = member.training["learning_rate"], set()
        for name, step in moved.items():
            method = name.split(".")[-2]
            expected = rate * usual.get(method, 1.0)
            if name.startswith("head."):
                method, expected = "head", 5e-3 if changes else rate
            # What is multiplied by a zero has no gradient yet.
            if step:
                seen.add(method)
                assert step == pytest.approx(expected, rel=1e-2), name
        assert seen == {"head", *(m.name for m in member.hybrid.methods())}


def test_packs_with_own_rates_are_conformant(made: Bench) -> None:
    """Of a method with two phases, each of which has an optimiser of its own."""
    found = conformance.trial(METHODS.get("lt_sft"), made)
    conformance.check_packed(found)
    conformance.check_the_trial_says_something(found)
    conformance.check_trained(found)
    conformance.check_kept_apart(found)


def test_slicing_keeps_rates_with_their_weights(made: Bench) -> None:
    leaving = {1: [0], 3: [1]}
    packed, alone = made.train(MEMBERS, leaving=leaving), [made.train([member])[0] for member in MEMBERS]
    for together, own in zip(packed, alone, strict=True):
        assert together.losses == pytest.approx(own.losses[: len(together.losses)], rel=1e-5)
    for together, own in zip(packed[2:], alone[2:], strict=True):
        assert all(torch.allclose(w, own.weights[n], rtol=1e-4, atol=1e-6) for n, w in together.weights.items())
    shared = replace(made, settings=PLAIN).train(MEMBERS)
    assert all(one.losses != pytest.approx(own.losses, rel=1e-3) for one, own in zip(shared, alone, strict=True))


def test_a_head_alone_learns_at_its_rate_only(made: Bench) -> None:
    heads = [Candidate(Hybrid.uniform(made.backbone.shape.layers), {"learning_rate": rate}) for rate in (1e-6, 1e-2)]
    one, other = made.train(heads)
    assert one.losses == other.losses
    shared = [each.losses for each in replace(made, settings=PLAIN).train(heads)]
    assert shared[0] != shared[1]
    assert one.losses not in shared


def test_healing_learns_at_the_same_rates(made: Bench, tmp_path: Path) -> None:
    worker = Worker(WorkerSpec(made.source, SETTINGS, keep=tmp_path), made.data)
    save_weights(tmp_path, "start", dict(made.train([MEMBERS[0]])[0].weights))
    job = Job(MEMBERS[0], origin=Origin(MEMBERS[0].key, "start"))
    together = drain(worker.run([job, MEMBERS[1]]))
    [alone] = drain(worker.run([job]))
    assert together[0].curve[0]["train_loss"] == pytest.approx(alone.curve[0]["train_loss"], rel=1e-5)
    plain = Worker(WorkerSpec(made.source, PLAIN, keep=tmp_path), made.data)
    [shared] = drain(plain.run([job]))
    assert shared.status == alone.status == "done"
    assert shared.curve[0]["train_loss"] != pytest.approx(alone.curve[0]["train_loss"], rel=1e-4)


def test_a_method_may_have_a_factor_of_its_own(monkeypatch: pytest.MonkeyPatch, made: Bench) -> None:
    assert (LoRA.relative_rate(), IA3.relative_rate()) == (1.0, 5.0)
    monkeypatch.setattr(IA3, "rate_factor", 0.25)
    moved = first_steps(made, SETTINGS)[2]
    steps = [step for name, step in moved.items() if ".ia3." in name and step]
    assert steps == pytest.approx([0.25 * 2e-3] * len(steps), rel=1e-2)
    assert steps


def test_old_studies_have_one_rate() -> None:
    assert not {*RATES, "head"} & PLAIN.identity().keys()
    assert PLAIN.chosen_later() == {}
    assert SETTINGS.identity() == PLAIN.identity() | RATES
    assert SETTINGS.chosen_later() == RATES


def test_a_model_card_says_how_its_rate_was_used(made: Bench, tmp_path: Path) -> None:
    record = record_of(MEMBERS[1], made.source) | {"training": {"learning_rate": 3e-3}}
    for settings, said in ((PLAIN, ""), (SETTINGS, ', "method_rates": "usual", "head_learning_rate": 0.005')):
        write_card(tmp_path, record | {"settings": settings.model_dump(mode="json")}, made.source)
        assert f'hyper-parameters {{"learning_rate": 0.003{said}}}.' in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("field", "value"),
    [("method_rates", "own"), ("head_learning_rate", 0), ("head_learning_rate", "fast"), ("head_learning_rate", -1e-3)],
)
def test_mistakes_are_one_line(field: str, value: object) -> None:
    with pytest.raises(AutopeftError, match=rf"^file.yaml: {field}: ") as error:
        parse(TrainingSettings, {field: value}, "file.yaml")
    assert "\n" not in str(error.value)
