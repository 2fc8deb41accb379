"""What is said of a method that begins where training ends."""

from __future__ import annotations

from typing import ClassVar


class AfterTraining:
    """A record of one method; `function` is the dotted name of the function that does it."""

    name: ClassVar[str]
    #: One line for `autopeft list methods`.
    description: ClassVar[str]
    #: Authors and year, and the equation or section.
    paper: ClassVar[str]
    family: ClassVar[str]
    #: Parameters that it adds.
    formula: ClassVar[str]
    function: ClassVar[str]
