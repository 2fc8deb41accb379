"""The space of a run folder's search on its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.run_folder import RunFolder
from autopeft.searching.identity import refuse_another
from autopeft.space import SearchSpace
from autopeft.task_facts import TaskFacts


def space_of(folder: RunFolder, header: Mapping[str, Any], trust_remote_code: bool) -> SearchSpace:
    """The space that a search began with; its model is opened for its shape only, and its files are not compared.

    `AutopeftError` where the folder's experiment is another one now. The model's own code runs only where it is needed
    and the caller trusts it.
    """
    from autopeft.engine.load import load_of
    from autopeft.session import settings_of, source_of

    experiment = folder.experiment()
    source = source_of(experiment, trust_remote_code)
    refuse_another(folder.path, header, settings_of(experiment, {}), "explain it then")
    facts = TaskFacts.kept(folder.path, header["fingerprint"])
    shape = source.shape(facts.readout if facts else None)
    return SearchSpace.load(header["space"], shape.loaded(load_of(experiment.training, source.quantise)))
