"""Translations, as the hub's data sets have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autopeft.cells import plain, shown
from autopeft.errors import AutopeftError
from autopeft.formats._base import Format
from autopeft.formats._conversation import Conversation
from autopeft.formats._fields import text
from autopeft.formats._pairs import pair_of

_REMEDY = "for other languages write columns: {translation.xx: source, translation.yy: target}"


class Translation(Format):
    """`translation: {en: ..., de: ...}`: from the first language to the second, in the order of the file.

    The other way round, or of more languages: `columns: {translation.de: source, translation.en: target}`.
    """

    name: ClassVar[str] = "translation"
    description: ClassVar[str] = "translation: {en: ..., de: ...}, from the first language to the second"
    columns: ClassVar[Mapping[str, Sequence[str]]] = {"translation": ("translation",)}

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str) -> Conversation:
        """Two parts."""
        value = plain(row.get("translation"))
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise AutopeftError(f"{where}: column 'translation' holds broken JSON; mend the row") from error
        if not isinstance(value, Mapping) or len(value) != 2:
            raise AutopeftError(
                f"{where}: column 'translation' holds {shown(value)}, and no object of two languages; {_REMEDY}"
            )
        own = {f"translation.{language}": said for language, said in value.items()}
        source, target = (text(own, column, where) for column in own)
        return pair_of(source, target)
