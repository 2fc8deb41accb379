"""The experiment file: what to search, on what, under which budget, and where to run it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from autopeft.config import Strict, check_path, parse, plugin_field, read_yaml, switched, with_texts
from autopeft.doors import within
from autopeft.engine.settings import EARLIER, TrainingSettings
from autopeft.errors import AutopeftError, suggest
from autopeft.generating.settings import GenerationSettings
from autopeft.given import PLACE, amounts, in_seconds, read_given, with_given
from autopeft.quantising import BackboneSettings
from autopeft.resources import shipped
from autopeft.runners import Runner, runner_from
from autopeft.searching.confirming.settings import ConfirmSettings
from autopeft.searching.controls import ControlSettings
from autopeft.searching.descent_settings import DescentSettings
from autopeft.searching.identity import differences
from autopeft.searching.samplers import SamplerPlugin, sampler_from
from autopeft.searching.stopping import StoppingPlugin, stopping_from
from autopeft.secrets import holds_secret, remember
from autopeft.servable import Servable
from autopeft.space_spec import read_spec
from autopeft.tasks import OtherSets, Task, task_from
from autopeft.tracking import Tracking, tracking_from

_NAME = re.compile(r"\w[\w.-]*")

#: Of a text that names something, in characters; and of a file's name, in bytes (what is made of it is longer).
_LONG, _FILE_NAME = 4_096, 150
_MOST_TRIALS, _MOST_SECONDS = 1_000_000, 10 * 366 * 86_400
Text = Annotated[str, Field(min_length=1, max_length=_LONG)]
Limits = Annotated[dict[str, int | float | Text], BeforeValidator(amounts)]
Served = Annotated[Servable | None, BeforeValidator(lambda value: switched(value, None))]

#: What a search does beside its sampler's trainings. Where an experiment does not say, a search that goes on has what
#: it began with.
_BESIDE = ("controls", "descent", "confirm")
_OPEN = {*_BESIDE, "space"}
#: The same of earlier versions, and how they trained.
_EARLIER = {**dict.fromkeys(_BESIDE, "none"), **EARLIER}
#: A search of fewer trials begins with its sampler, where it does not say otherwise: a control is three of them, and a
#: descent five before it has cut anything.
LEAST_TRIALS = 10

#: Fields that may differ when a run folder is resumed: they change how far and where, not what is searched.
RESUMABLE = ("name", "trials", "time_limit", "evaluate_on", "confirm", "generation", "runner", "tracking")


def _names_a_folder(name: str) -> str:
    """The run folder is called so: `..` or `.` would be another folder, and `-x` an option of any command."""
    if not _NAME.fullmatch(name):
        raise ValueError("a name is letters, digits, '_', '-' and '.', and begins with a letter, a digit or '_'")
    if len(name.encode()) > _FILE_NAME:
        raise ValueError(f"a name has at most {_FILE_NAME} bytes, since a folder is called so")
    return name


def _space_in_a_file(value: Any) -> Any:
    """A space's file is read here, so that a run folder does not depend on it."""
    is_file = isinstance(value, (str, Path)) and Path(value).suffix in (".yaml", ".yml")
    return read_yaml(Path(value)) if is_file else value


class Experiment(Strict):
    """One search, as its YAML says it."""

    name: Annotated[Text, AfterValidator(_names_a_folder)] = Field(description="what its run folder is called")
    description: str = ""
    model: Text = Field(description="a built-in name (autopeft list models), a hub id or a folder")
    #: That the model needs Python code of its own. Whether that runs is up to the caller: see `autopeft.trust`.
    trust_remote_code: bool = False
    backbone: BackboneSettings | None = Field(None, description="how it is kept in memory: {quantise: nf4}")
    task: Annotated[Task, *plugin_field(Task, task_from)] = Field(
        description="one by name (autopeft list tasks), or rows of your own: {name: files, train: FILE, ...}"
    )
    evaluate_on: OtherSets | None = Field(
        None, description="further test sets by name, files or tasks with the same labels, measured for the front"
    )
    space: Annotated[str | dict[str, Any], BeforeValidator(_space_in_a_file)] = "hybrid_wide"
    servable: Served = Field(None, description="what a server shall take: lora, merged, {kind: lora, max_rank: 16}")
    budget: Limits = Field(default_factory=dict, max_length=100, description="{trainable_params: 1%}, or 1% alone")
    objectives: list[Text] | None = Field(
        None, max_length=100, description="metrics and costs; default: the task's metric, parameters"
    )
    sampler: Annotated[SamplerPlugin, *plugin_field(SamplerPlugin, sampler_from)] = Field(
        "known_cost", validate_default=True
    )
    stopping: Annotated[StoppingPlugin, *plugin_field(StoppingPlugin, stopping_from)] = Field(
        "pareto", validate_default=True
    )
    descent: Annotated[DescentSettings | None, BeforeValidator(lambda value: switched(value, None))] = Field(
        DescentSettings(), description="train a large hybrid first, cut and heal it down the costs; none: off"
    )
    warm_start: Text | None = Field(
        None, description="run folder of an earlier search of the same space, to learn from"
    )
    controls: ControlSettings = Field(
        ControlSettings(), description="uniform configurations to begin with: names, default, all or none"
    )
    confirm: ConfirmSettings = Field(
        ConfirmSettings(),
        description="train the front again with other seeds: {seeds: 5, members: auto, time: 0.25}; none: off",
    )
    generation: Annotated[GenerationSettings | None, BeforeValidator(lambda value: switched(value, None))] = Field(
        None, description="measure texts that language models write: {metrics: [bleu, chrf], beams: 4}; none: off"
    )
    training: TrainingSettings = TrainingSettings()
    trials: int | None = Field(None, ge=1, le=_MOST_TRIALS)
    time_limit: Annotated[float | None, BeforeValidator(in_seconds)] = Field(
        None, gt=0, le=_MOST_SECONDS, description="seconds, or '30m', '1h30m'; of one run of the command"
    )
    runner: Annotated[Runner, *plugin_field(Runner, runner_from)] = Field("ray", validate_default=True)
    tracking: Annotated[Tracking, *plugin_field(Tracking, tracking_from)] = Field("mlflow", validate_default=True)

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.trials is None and self.time_limit is None:
            raise ValueError("a search needs an end: give trials, time_limit, or both")
        return self

    @model_validator(mode="after")
    def _alone(self) -> Self:
        """Few trials, and points that are given one by one, are the sampler's where nothing else is said."""
        if self.sampler.exact or (self.trials or LEAST_TRIALS) < LEAST_TRIALS:
            for name, off in (("controls", ControlSettings(names=())), ("descent", None)):
                if name not in self.model_fields_set:
                    object.__setattr__(self, name, off)
        return self

    @model_validator(mode="after")
    def _serves(self) -> Self:
        """What cannot be served is refused before any model is looked at."""
        if self.servable:
            _, blocks, where = read_spec(self.space)
            self.servable.check({b.name: b.make(b.method.step) for b in blocks}, f"servable: {where}")
        return self

    @model_validator(mode="after")
    def _no_secrets(self) -> Self:
        """What is written down and sent to a tracking server holds no user, password or token."""
        data = self.model_dump(mode="json", include={"task", "evaluate_on"})
        fields = {name: getattr(self, name) for name in ("description", "model", "warm_start", "space")}
        for name, value in (*fields.items(), *_inside(data)):
            if isinstance(value, str) and holds_secret(value):
                remember(value)
                raise ValueError(f"{name}: an address with a user, password or token; HF_TOKEN is the way to give one")
        return self

    @classmethod
    def load(
        cls, name: str | Path, overrides: Mapping[str, Any] | None = None, given: Sequence[str] | None = ()
    ) -> Self:
        """The shipped experiment of that name, or the YAML file; `overrides` replace top-level fields.

        `given` are fields of any depth, as texts: `training.epochs=5`. Paths in the file are taken as they are, or
        relative to the file.
        """
        check_path(name, "a shipped experiment's name or a YAML file as experiment (fields are given by their names)")
        known = shipped("experiments")
        path = known.get(str(name)) or Path(name)
        if not os.path.exists(path):
            hint = suggest(str(name), known)
            raise AutopeftError(f"experiment '{name}': no such file, and no experiment of that name; {hint}")
        if os.path.isdir(path):
            inside = path / "experiment.yaml"
            remedy = (
                f"'autopeft search {inside} --out {path}' goes on with its search"
                if inside.is_file()
                else "give a YAML file"
            )
            raise AutopeftError(f"experiment '{name}': is a folder; {remedy}")
        data = _relocate(read_yaml(path), path.parent)
        data |= overrides or {}
        return cls._with(data, given, str(path)) if given else cls.of(data, str(path))

    @classmethod
    def _with(cls, data: Mapping[str, Any], given: Sequence[str], where: str) -> Self:
        """What is wrong is said to be of the command line where the file is in order without that."""
        values = read_given(given)
        try:
            return cls.of(with_given(data, values), PLACE)
        except AutopeftError:
            cls.of(data, where)
            raise

    @classmethod
    def of(cls, data: Mapping[str, Any], where: str) -> Self:
        """The experiment of plain data; `AutopeftError` with `where` and the path inside it."""
        with within(where):
            return parse(cls, with_texts(data), where)

    def resolved(self) -> dict[str, Any]:
        """All fields, defaults written out, paths absolute: what `load` reads back to an equal experiment."""
        data = self.model_dump(mode="json", exclude_none=True)
        data.setdefault("descent", "none")
        data |= {name: _absolute(data[name]) for name in ("task", "evaluate_on", "model") if name in data}
        if "warm_start" in data:
            # Always a path, there or not: the other folder may be gone when this one is resumed.
            data["warm_start"] = str(Path(data["warm_start"]).absolute())
        return data

    @property
    def seconds(self) -> float | None:
        """Seconds of training by all workers that the time limit leaves; None without one."""
        return None if self.time_limit is None else self.time_limit * self.runner.parallel

    def difference(self, other: Self) -> str | None:
        """The first field, of those that decide what is searched, in which the two differ; None when none does."""
        mine, theirs = self.resolved(), other.resolved()
        for name in type(self).model_fields:
            if name not in RESUMABLE and name != "description" and mine.get(name) != theirs.get(name):
                return next(differences(name, theirs.get(name), mine.get(name)))
        return None


def needing(experiment: Experiment, trust_remote_code: bool) -> Experiment:
    """The experiment, which says that it needs its model's own code where the caller has that run."""
    return experiment.model_copy(update={"trust_remote_code": True}) if trust_remote_code else experiment


def changed(experiment: Experiment, changes: Mapping[str, Any], where: str) -> Experiment:
    """The experiment with other fields; what it has left open is open still."""
    left = _OPEN - experiment.model_fields_set
    said = {name: value for name, value in experiment.resolved().items() if name not in left}
    for name in EARLIER.keys() - experiment.training.model_fields_set:
        del said["training"][name]
    return Experiment.of({**said, **changes}, where)


def as_begun(experiment: Experiment, there: Mapping[str, Any] = _EARLIER) -> Experiment:
    """The experiment of a search that has begun: what it leaves open is `there`'s.

    That is space, controls, descent, confirmation, and those options of its training whose default has changed.
    Experiments of earlier versions leave open what they do not have.
    """
    left = _OPEN - experiment.model_fields_set
    known = {name: there[name] for name in left & there.keys()}
    open_ = (there.keys() & EARLIER.keys()) - experiment.training.model_fields_set
    if open_:
        known["training"] = {**experiment.resolved()["training"], **{name: there[name] for name in open_}}
    return changed(experiment, known, f"experiment '{experiment.name}'") if known else experiment


def _relocate(value: Any, folder: Path) -> Any:
    """Strings that name nothing from here, but a file or folder beside the YAML, made to name that."""
    if isinstance(value, dict):
        return {k: _relocate(v, folder) for k, v in value.items()}
    if not _like_a_path(value):
        return value
    beside = folder / value
    # Not `Path.exists`, which raises for names that no file can have.
    return str(beside) if not os.path.exists(value) and os.path.exists(beside) else value


def _inside(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(Place, value) of all that a mapping of mappings holds."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from _inside(inner, f"{place}{key}.") if isinstance(inner, dict) else [(f"{place}{key}", inner)]


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(inner) for key, inner in value.items()}
    return str(Path(value).resolve()) if _like_a_path(value) and os.path.exists(value) else value


def _like_a_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or bool(Path(value).suffix))
