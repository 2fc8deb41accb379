"""A search space as it is written: blocks with lists of sizes; no model yet."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from autopeft.anatomy import ModelShape
from autopeft.config import Strict, parse, read_yaml
from autopeft.doors import door, within
from autopeft.errors import AutopeftError, shown, suggest
from autopeft.methods import METHODS, MOST_SIZE, Method
from autopeft.resources import shipped
from autopeft.servable import Servable
from autopeft.training_spec import MOST_CHOICES, Training

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FRACTION = re.compile(r"d(?:\s*/\s*([1-9][0-9]{0,8}))?")
_MOST_BLOCKS = 100


class SpaceSpec(Strict):
    """The YAML of a search space."""

    description: str = ""
    stack: Literal["encoder", "decoder"] | None = Field(None, description="of a model that has both: which is adapted")
    sizes: Literal["per_layer", "shared"] = "per_layer"
    blocks: dict[str, dict[str, Any]] = Field(max_length=_MOST_BLOCKS)
    training: Training = Training()
    servable: Servable | None = Field(None, description="what a server shall take: lora, merged")

    @field_validator("blocks")
    @classmethod
    def _some(cls, blocks: dict[str, Any]) -> dict[str, Any]:
        if not blocks:
            raise ValueError("needs at least one block")
        return blocks

    def ranges_as(self, there: Any) -> Self:
        """The same without widening where this does not ask for it and `there`, another's training, does not have it.

        What was written before ranges could be widened has it nowhere.
        """
        known = there if isinstance(there, Mapping) else {}
        kept = {
            name: values.model_copy(update={"widen": False})
            for name, values in self.training
            if values is not None and values.widen is None and values.widens
            if isinstance(known.get(name), Mapping) and "widen" not in known[name]
        }
        if not kept:
            return self
        return self.model_copy(update={"training": self.training.model_copy(update=kept)})


@dataclass(frozen=True)
class Block:
    """One method at fixed sites with fixed options, and the sizes to choose from (`d/64`: a part of the width d)."""

    name: str
    method: type[Method]
    sizes: tuple[int | str, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def make(self, size: int) -> Method:
        """The method at a size; 0 is the absent method."""
        fields: dict[str, Any] = {self.method.size: size, **self.options}
        return self.method(**fields)

    @property
    def of_model(self) -> bool:
        """Whether it stands before the layers, once a model."""
        return self.make(self.method.step).of_model

    def scaled(self, shape: ModelShape) -> tuple[int, ...]:
        """The sizes for a model, each once, in the order of what is trained (some train less the larger they are)."""
        sizes = {_scaled(size, shape.hidden, self.method.step) for size in self.sizes}
        return tuple(sorted(sizes, key=lambda size: (self._count(size, shape), size)))

    def check(self, method: Method, shape: ModelShape, where: str) -> None:
        """`AutopeftError` where the model lacks all places of the block's method."""
        if method.size_value and not method.places(shape):
            raise AutopeftError(
                f"{where}: block '{self.name}' at {', '.join(method.sites)}: {shape.lacks(method.sites[0])}; leave it "
                "out, or take another model"
            )

    def _count(self, size: int, shape: ModelShape) -> int:
        method = self.make(size)
        return method.num_params(shape) + method.shared_params(shape) if size else -1

    def to_json(self, sizes: Iterable[int | str]) -> dict[str, Any]:
        """The block as it is written, with those sizes."""
        named = {} if self.name == self.method.name else {"method": self.method.name}
        return {**named, self.method.size: list(sizes), **self.options}


def _scaled(size: int | str, hidden: int, step: int) -> int:
    """Parts of the width are rounded to the nearest multiple that the method allows."""
    if isinstance(size, int):
        return size
    match = _FRACTION.fullmatch(size)
    assert match, "checked when the block was read"
    return step * max(1, math.floor(hidden / int(match[1] or 1) / step + 0.5))


def read_spec(source: str | Path | Mapping[str, Any]) -> tuple[SpaceSpec, tuple[Block, ...], str]:
    """A shipped name, a path or a mapping as (the specification, its checked blocks, what messages call it).

    `AutopeftError` for the first thing that is wrong, with the file and the path inside it.
    """
    data, where = find_space(source)
    spec = parse(SpaceSpec, data, where)
    blocks = tuple(_block(name, raw, f"{where}: blocks.{name}") for name, raw in spec.blocks.items())
    _check_collisions(blocks, where)
    if spec.servable:
        spec.servable.check({block.name: block.make(block.method.step) for block in blocks}, f"{where}: servable")
    return spec, blocks, where


def is_preset(source: str | Path | Mapping[str, Any]) -> bool:
    """Whether a space has one hybrid: each block has one size, and stands in every layer."""
    spec, blocks, _ = read_spec(source)
    return spec.sizes == "per_layer" and all(len(set(block.sizes)) == 1 for block in blocks)


def find_space(source: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """A space as it is written, not checked, and what messages call it: of a shipped name, a file or a mapping."""
    if isinstance(source, Mapping):
        return source, "search space"
    if not isinstance(source, (str, Path)):
        raise AutopeftError(f"search space: expected a name, a file or a mapping (given: {shown(source)})")
    named = shipped("search_spaces")
    if str(source) in named:
        return read_yaml(named[str(source)]), f"search_spaces/{source}.yaml"
    path = Path(source)
    if os.path.exists(path) or path.suffix in (".yaml", ".yml") or path.name != str(source):
        return read_yaml(path), str(source)
    raise AutopeftError(f"unknown search space '{source}' (and no such file); {suggest(str(source), named)}")


def _block(name: str, raw: Mapping[str, Any], where: str) -> Block:
    if not _NAME.fullmatch(name):
        raise AutopeftError(f"{where}: a block's name is made of letters, digits, '_' and '-'")
    method = _method(name, raw, where)
    # A method's sizes may be called that, too.
    options = {method.size if key == "size" else key: value for key, value in raw.items() if key != "method"}
    known = method.option_names()
    for key in options:
        if key not in known:
            raise AutopeftError(f"{where}.{key}: unknown key; {suggest(key, [*known, 'method'])}")
    if method.size not in options:
        raise AutopeftError(f"{where}: missing '{method.size}', the list of sizes of '{method.name}'")
    block = Block(name, method, _sizes(options.pop(method.size), f"{where}.{method.size}"), options)
    with within(where), door(f"method '{method.name}'", "its fields are wrong"):
        for size in {method.step, *(size for size in block.sizes if isinstance(size, int))}:
            block.make(size)
    return block


def _method(name: str, raw: Mapping[str, Any], where: str) -> type[Method]:
    given = raw.get("method", name)
    if isinstance(given, str) and given in METHODS.names():
        return METHODS.get(given)
    hint = METHODS.hint(given)
    if "method" in raw:
        raise AutopeftError(f"{where}.method: unknown method {shown(given)}; {hint}")
    raise AutopeftError(f"{where}: unknown method '{name}'; {hint}. Give 'method: ...' to name a block freely")


def _sizes(raw: Any, where: str) -> tuple[int | str, ...]:
    if not isinstance(raw, (list, tuple)):
        raise AutopeftError(f"{where}: expected a list of sizes, like [0, 4, 8] (given: {shown(raw)})")
    if len(raw) > MOST_CHOICES:
        raise AutopeftError(f"{where}: {len(raw):,} sizes; at most {MOST_CHOICES:,} can be searched")
    for size in raw:
        whole = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MOST_SIZE
        if not whole and not (isinstance(size, str) and _FRACTION.fullmatch(size)):
            raise AutopeftError(
                f"{where}: a size is a whole number from 0 to {MOST_SIZE:,}, 'd' or 'd/8' (given: {shown(size)})"
            )
    if not any(raw):
        raise AutopeftError(f"{where}: needs a size above 0; leave the block out instead (given: {shown(list(raw))})")
    return tuple(raw)


def _check_collisions(blocks: Iterable[Block], where: str) -> None:
    """Two blocks of one method at one site would both claim the same place of a layer."""
    taken: dict[tuple[str, str], str] = {}
    for block in blocks:
        method = block.make(block.method.step)
        for site in method.sites:
            other = taken.setdefault((method.claim, site), block.name)
            if other != block.name:
                what = f"method '{method.claim}' at site '{site}' is already in blocks.{other}"
                raise AutopeftError(f"{where}: blocks.{block.name}: {what}; give the two different sites")
