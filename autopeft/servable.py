"""What a server shall be able to take: a constraint of a search space, checked before anything is trained.

A server of adapters takes LoRA, of a rank that it was started with (vLLM's `max_lora_rank`, say); any server takes a
model with the hybrid in its own weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from autopeft.anatomy import ModelShape
from autopeft.config import Strict
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, MOST_SIZE, Method

_HOW = {"lora": "is no LoRA when it is trained", "merged": "does not merge into the backbone"}
_HOW_SEVERAL = {"lora": "are no LoRA when they are trained", "merged": "do not merge into the backbone"}


class Servable(Strict):
    """`lora` (at most `max_rank` at a map) or `merged`."""

    kind: Literal["lora", "merged"] = Field(description="lora: an adapter of LoRA alone; merged: no adapter at all")
    max_rank: int | None = Field(None, ge=1, le=MOST_SIZE, description="of LoRA at a map, that the server is set to")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A word alone is the kind."""
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ranks_of_lora(self) -> Servable:
        if self.max_rank is not None and self.kind != "lora":
            raise ValueError("max_rank is of lora; what is merged has no rank")
        return self

    def to_json(self) -> dict[str, Any]:
        """As short as it can be written."""
        return self.model_dump(mode="json", exclude_none=True)

    def takes(self, method: Method) -> bool:
        """Whether a method can be served, whatever its size."""
        made = method.folded()
        # Of LoRA several are one; DoRA, which servers of LoRA refuse, is not of that kind.
        return made.mergeable and (self.kind == "merged" or (made.peft_type == "LORA" and made.adds and made.joins))

    def serves(self, hybrid: Hybrid, shape: ModelShape) -> bool:
        """Whether a hybrid can be served; of maps that need a bias nothing is said (see `merging.biases_lacked`)."""
        fits = self.max_rank is None or _rank(hybrid.layers, shape) <= self.max_rank
        return fits and all(self.takes(method) for method in hybrid.methods())

    def check(self, blocks: Mapping[str, Method], where: str) -> None:
        """`AutopeftError` that names the blocks, at any of their sizes, whose methods cannot be served."""
        wrong = {name: method for name, method in blocks.items() if not self.takes(method)}
        if not wrong:
            return
        named = ", ".join(f"'{name}'" if name == m.name else f"'{name}' ({m.label})" for name, m in wrong.items())
        several = len(wrong) > 1
        what = f"block{'s' if several else ''} {named} {(_HOW_SEVERAL if several else _HOW)[self.kind]}"
        raise AutopeftError(
            f"{where}: {what}; leave {'them' if several else 'it'} out, take methods that can be served "
            f"({', '.join(self._others())}), or leave 'servable' out"
        )

    def check_sizes(self, largest: Hybrid, shape: ModelShape, where: str) -> None:
        """`AutopeftError` where the largest hybrid of a space has a higher rank at a map than the server takes."""
        if self.max_rank is not None and (rank := _rank(largest.layers, shape)) > self.max_rank:
            raise AutopeftError(
                f"{where}: LoRA at one map may have rank {rank:,} (those of one place, or of a fused map, add up), and "
                f"servable.max_rank is {self.max_rank:,}; take smaller sizes, or a server (and max_rank) of {rank:,}"
            )

    def check_backbone(self, kept: str | None) -> None:
        """`AutopeftError` for a backbone whose maps are kept so that nothing can be served with it."""
        if kept and (self.kind == "merged" or kept == "int4"):
            raise AutopeftError(f"servable: a backbone that is kept as {kept} takes no {self.kind}; leave backbone out")

    def _others(self) -> list[str]:
        usual = {name: cls.as_usual() for name, cls in METHODS.all().items() if name != "peft"}
        return [name for name, method in usual.items() if self.takes(method)]


def _rank(layers: Iterable[Iterable[Method]], shape: ModelShape) -> int:
    """The highest rank that LoRA has at a map, when all that stands there is one."""
    most = 0
    for i, methods in enumerate(layers):
        own, ranks = shape.at(i), dict[str, int]()
        for method in methods:
            made = method.folded()
            for place in made.places(own):
                name = own.row.site(place).module
                ranks[name] = ranks.get(name, 0) + made.size_value
        most = max(most, *ranks.values(), 0)
    return most
