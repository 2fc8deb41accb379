"""What columns of no format may be meant for: words for a message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

#: What often stands in columns of these names.
_WORDS, _TAGS = ("tokens", "words"), ("ner_tags", "pos_tags", "chunk_tags", "tags", "labels", "ner", "pos")
_SOURCES = ("document", "article", "dialogue", "passage", "input", "text", "content")
_TARGETS = ("summary", "highlights", "abstract", "headline", "output", "target")
_PAIRS = (
    *(("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("text1", "text2"), ("text_a", "text_b")),
    *(("premise", "hypothesis"), ("question1", "question2"), ("query", "document")),
)
_TEXTS = ("text", "sentence", "review", "comment", "content", "body", "message", "tweet", "question", "title")
_LABELS = (
    *("label", "labels", "class", "category", "sentiment", "emotion", "intent", "topic"),
    *("stars", "rating", "score"),
)
_TURNS = ("dialog", "dialogue", "chat", "turns")
#: Columns of rows that nothing here learns from, and what these are.
_OTHERS = (
    (("positive", "negative"), "triplets of texts that are near each other and far"),
    (("anchor", "positive"), "pairs of texts that are near each other"),
    (("context", "question", "answers"), "answers that are places in a text"),
    (("question", "choices"), "questions with choices"),
    (("question", "options"), "questions with choices"),
    (("prompt", "completions", "labels"), "answers whose steps are judged"),
)
_KNOWN = "'autopeft list readouts' and 'autopeft list formats' say what is"
_PLAIN = re.compile(r"\w[\w .-]*")


def not_learned(names: Iterable[str]) -> str:
    """What rows with these columns are, and that they are not trained on; nothing where they are not known."""
    there = {name.strip().lower() for name in names}
    what = next((what for columns, what in _OTHERS if there.issuperset(columns)), None)
    return f"hold {what}, which are not trained on here; {_KNOWN}" if what else ""


def guessed(names: Sequence[str]) -> str:
    """What to write in the task for columns of these names, whatever their case; nothing where they say nothing."""
    by_name = {name.strip().lower(): _written(name) for name in names}

    def first(known: Iterable[str]) -> str:
        return next((by_name[name] for name in known if name in by_name), "")

    pair = next((f"[{by_name[a]}, {by_name[b]}]" for a, b in _PAIRS if a in by_name and b in by_name), "")
    words, tags, label, text = first(_WORDS), first(_TAGS), first(_LABELS), pair or first(_TEXTS)
    if words and tags:
        return f"readout: tokens, text: {words}, label: {tags} (a label a word)"
    if label and text:
        return f"text: {text}, label: {label} (labels of texts)"
    source, target, turns = first(_SOURCES), first(_TARGETS), first(_TURNS)
    if source and target:
        return f"columns: {{{source}: source, {target}: target}} (texts that are made of others)"
    return f"columns: {{{turns}: messages}} (conversations)" if turns else ""


def _written(name: str) -> str:
    """A column's name, as it is written in YAML."""
    return name if _PLAIN.fullmatch(name) and name == name.strip() else json.dumps(name, ensure_ascii=False)
