"""What a run folder says of its search beside the study: its space on its model, what was explained and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from autopeft.candidate import Evaluation
from autopeft.doors import read_json, within
from autopeft.errors import AutopeftError
from autopeft.run_folder import RunFolder
from autopeft.searching.confirming.records import Remembered
from autopeft.searching.explanation import Explanation
from autopeft.searching.identity import refuse_another
from autopeft.space import SearchSpace
from autopeft.task_facts import TaskFacts


class _Result(Protocol):
    """What is needed of a `SearchResult`."""

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        ...

    @property
    def evaluations(self) -> Sequence[Evaluation]:
        """All finished candidates."""
        ...

    def explain(self, *, trust_remote_code: bool = False) -> Explanation:
        """What the search has learned."""
        ...


def explained(result: _Result, trust_remote_code: bool, anew: bool = True) -> tuple[Explanation | None, str]:
    """What was learned, from the run folder where it is of now, else worked out `anew`; or why it can't be said."""
    try:
        known = explanation_in(RunFolder(result.run_dir), len(result.evaluations))
        if known is None and not anew:
            return None, "'autopeft explain' and 'autopeft report' work it out"
        return known or result.explain(trust_remote_code=trust_remote_code), ""
    except AutopeftError as error:
        return None, str(error)


def explanation_in(folder: RunFolder, evaluations: int) -> Explanation | None:
    """What `explain.json` says, where it is of so many candidates; one that does not tell is believed.

    `AutopeftError` where it can't be read.
    """
    file = folder.explanation_files[-1]
    if not file.is_file():
        return None
    with within(str(file), "'autopeft explain' writes it anew"):
        known = Explanation.from_json(read_json(file))
    return known if known.evaluations in (0, evaluations) else None


def setup_in(folder: RunFolder, remembered: Remembered) -> Mapping[str, Any]:
    """How the engine was measured, as plain data; nothing where nobody knows."""
    known = remembered("setup")
    return known or (read_json(folder.setup_file) if folder.setup_file.is_file() else {})


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
