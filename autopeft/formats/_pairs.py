"""Two plain texts."""

from __future__ import annotations

from autopeft.formats._conversation import Conversation, Part

#: A decoder has to see where the first text ends. It is a part of its own, so that encoder-decoders can do without.
BREAK = "\n"


def pair_of(source: str, target: str) -> Conversation:
    """The target is scored."""
    return Conversation(parts=(Part(source), Part(BREAK), Part(target, scored=True)))
