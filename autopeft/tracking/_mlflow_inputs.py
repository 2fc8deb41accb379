"""The data and the model of a search as MLflow's inputs: their names, digests and sizes, without a copy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from autopeft.secrets import hidden
from autopeft.tracking._base import Input

# MLflow's own limits.
_NAME, _DIGEST, _SOURCE = 500, 36, 60_000


def inputs(given: Iterable[Input]) -> list[Any]:
    """MLflow's entities of these inputs.

    The source is of MLflow's type `code`, which its client and its pages know, and which holds plain data.
    """
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = []
    for one in given:
        source = hidden(CodeDatasetSource(tags=dict(one.source)).to_json())
        dataset = Dataset(
            name=one.name[:_NAME] or one.context,
            digest=one.digest[:_DIGEST],
            source_type=CodeDatasetSource._get_source_type(),
            source=source if len(source) <= _SOURCE else CodeDatasetSource(tags={}).to_json(),
            profile=json.dumps(dict(one.profile)),
        )
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", one.context)]))
    return found
