"""What MLflow's pages show: addresses of them, and which columns come first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from autopeft.costs import COSTS
from autopeft.tracking import _mlflow_values as values

#: Tells the pages that runs are trainings: since version 3 they show an application's traces otherwise.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_TRAININGS = {"workflowType": "machine_learning"}
#: The key of a shared view of an experiment's runs, and where MLflow keeps it.
_KEY = "autopeft"
_VIEW = f"mlflow.sharedViewState.{_KEY}"
#: The state of a view as the pages begin with, but for its columns. They expect all of it.
_STATE = {
    **{"columnOrder": [], "columnWidths": {}, "runsExpanded": {}, "runsPinned": [], "runsHidden": []},
    **{"runsVisibilityMap": {}, "runsHiddenMode": "FIRST_10_RUNS", "viewMaximized": False, "runListHidden": False},
    **{"isAccordionReordered": False, "useGroupedValuesInCharts": True, "hideEmptyCharts": True, "groupBy": None},
    **{"groupsExpanded": {}, "autoRefreshEnabled": True},
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}


def page_of(server: str, experiment_id: str, run_id: str) -> str:
    """The page of a run."""
    return f"{server}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}?{urlencode(_TRAININGS)}"


def list_of(server: str, experiment_id: str) -> str:
    """The page of all runs of an experiment, with the columns that matter."""
    shown = {**_TRAININGS, "viewStateShareKey": _KEY}
    return f"{server}/#/experiments/{quote(experiment_id)}/runs?{urlencode(shown)}"


def parent_run(client: Any, experiment_id: str, search_id: str) -> Any | None:
    """The run of a search; None where there is none."""
    known = search_id.replace("'", "_")
    where = f"tags.`{values.SEARCH_ID}` = '{known}' AND tags.`{values.KIND}` = 'search'"
    found = client.search_runs([experiment_id], where, max_results=1, order_by=["attributes.start_time ASC"])
    return found[0] if found else None


def columns_first(client: Any, experiment_id: str, objectives: Sequence[tuple[str, str]]) -> None:
    """Put what a search is about into the columns of the shared view, beside those of searches before it."""
    if not objectives:
        return
    known = client.get_experiment(experiment_id).tags.get(_VIEW)
    try:
        before = json.loads(known)["selectedColumns"] if known else []
    except (ValueError, KeyError, TypeError):
        before = []
    wanted = list(dict.fromkeys([*before, *_columns([name for name, _ in objectives])]))
    if wanted != before:
        text = json.dumps({**_STATE, "selectedColumns": wanted})
        client.set_experiment_tag(experiment_id, _VIEW, text)


def _columns(names: Sequence[str]) -> list[str]:
    scores = [name for name in names if name not in COSTS.names()]
    own = [*scores, *(f"test_{name}" for name in scores), *(name for name in names if name in COSTS.names())]
    metrics = [*(f"best_{name}" for name in own), "hypervolume", *own, *(f"mean_{name}" for name in scores)]
    shown = [f"metrics.`{values.safe_name(name)}`" for name in metrics]
    return [*shown, *(f"tags.`{name}`" for name in ("best_key", values.ON_FRONT, values.HYBRID))]
