"""What the command line gives in the place of an experiment's fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment, changed


def with_overrides(
    experiment: Experiment,
    trials: int | None,
    time_limit: str | None,
    workers: int | None,
    warm_start: Path | None = None,
) -> Experiment:
    """The experiment with what the command line gave in its place."""
    given: dict[str, Any] = {"trials": trials, "time_limit": time_limit}
    given["warm_start"] = None if warm_start is None else str(warm_start.absolute())
    if workers is not None:
        if "workers" not in type(experiment.runner).model_fields:
            raise AutopeftError(
                f"--workers: runner '{experiment.runner.name}' has none; --set runner=ray trains with several"
            )
        given["runner"] = {"name": experiment.runner.name, **experiment.runner.model_dump(), "workers": workers}
    given = {k: v for k, v in given.items() if v is not None}
    return changed(experiment, given, "command line") if given else experiment
