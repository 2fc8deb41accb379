"""The field `confirm` of an experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from autopeft.config import Strict, switched


class ConfirmSettings(Strict):
    """Whether and how far the front of a search is trained again with other seeds; 0 seeds: not at all."""

    seeds: int = Field(5, ge=0, le=100, description="of each member, the search's own among them; 0: off")
    members: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        "auto", description="how many; auto: all that may be on the true front"
    )
    time: float = Field(0.25, gt=0, le=100, description="of the search's seconds of training, at most")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`none` is no seed."""
        return switched(value, {"seeds": 0})

    @property
    def on(self) -> bool:
        """Whether there is another seed than the search's own."""
        return self.seeds > 1
