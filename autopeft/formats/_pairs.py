"""Two plain texts."""

from __future__ import annotations

from typing import Literal

from autopeft.formats._conversation import Conversation, Part, Turn

#: How a row asks: with turns of a chat, a text that ends with its line, or one that goes on.
Asks = Literal["turns", "line", "text"]
#: What stands where an answer will.
_ANSWER = "-"

#: A decoder has to see where the first text ends. It is a part of its own, so that encoder-decoders can do without.
BREAK = "\n"


def pair_of(source: str, target: str) -> Conversation:
    """The target is scored."""
    return Conversation(parts=(Part(source), Part(BREAK), Part(target, scored=True)))


def asks_of(conversation: Conversation) -> Asks:
    """How a conversation asks for what is scored."""
    if conversation.turns:
        return "turns"
    return "line" if any(part.text == BREAK for part in conversation.parts) else "text"


def asking(text: str, how: Asks, system: str | None = None) -> Conversation:
    """A conversation that asks with a text, as rows do that ask so; an answer is scored that is not there yet."""
    if how == "turns":
        before = (Turn("system", system),) if system else ()
        return Conversation((*before, Turn("user", text), Turn("assistant", _ANSWER, True)))
    return pair_of(text, _ANSWER) if how == "line" else Conversation((), (Part(text), Part(_ANSWER, True)))
