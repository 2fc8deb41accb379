"""Users, passwords and tokens in addresses: found, and taken out of every text that leaves the package.

What is known by name (the environment's variables, the addresses of this process) is replaced wherever it stands; what
merely looks like a secret in an address is replaced too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

#: What stands in a text for what was taken out.
HIDDEN = "***"
#: Variables whose value is a secret.
_SECRETS = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("DATABRICKS_TOKEN", "DATABRICKS_CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "AZURE_STORAGE_ACCESS_KEY",
)
#: Variables whose value is an address that may hold one.
_ADDRESSES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACT_URI", "HF_ENDPOINT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    "AZURE_STORAGE_CONNECTION_STRING",
)
# A shorter one would take words out of every message. In an address it is found by its place.
_SHORTEST = 4
# Repetitions are bounded, as every long text comes through here.
_SECRET_KEY = (
    r"[\w.-]{0,60}(?:token|password|passwd|passphrase|pwd|secret|credential|api_?key|access_?key|accountkey|auth)"
    r"\w{0,60}"
)
_PAIR = re.compile(rf"(?:^|[?&;\s])(?:{_SECRET_KEY}|sig|key)=\{{?([^&;\s'\"}}]+)", re.IGNORECASE)
_SHOWN_PAIR = re.compile(
    rf"((?:[?&;]|%3F|%26|%3B)(?:{_SECRET_KEY}|sig|key|odbc_connect)(?:=|%3D))[^&\s'\"]+", re.IGNORECASE
)
# A path may hold an @; what comes before the path does not, but for a user.
_SHOWN_USER = re.compile(
    r"\b((?!sqlite[+\w]{0,30}:///|file:///)[a-z][a-z0-9+.-]{0,30}://)(?:[^\s/?#]{0,2000}|[^\s/@]{0,500}:\S{0,2000})@",
    re.IGNORECASE,
)

_PATH = re.compile(r"(sqlite[+\w]*:///|file:///)", re.IGNORECASE)

_given: set[str] = set()


def remember(address: str) -> None:
    """From now on what is secret in this address is taken out of texts, in whichever form it comes."""
    _given.update(_in_address(address))


def hidden(text: str) -> str:
    """The text with `***` for every known secret, and for what looks like one in an address."""
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _SHOWN_PAIR.sub(rf"\g<1>{HIDDEN}", _SHOWN_USER.sub(rf"\g<1>{HIDDEN}@", text))


def holds_secret(address: str) -> bool:
    """Whether a user, a password or a token seems to stand in an address; a path without a scheme is none."""
    return "://" in address and bool(_SHOWN_USER.search(address) or _SHOWN_PAIR.search(address))


def spoken_of(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says a secret: such a cause must not be shown."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = f"{error} {error!r}"
        if hidden(text) != text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _known() -> set[str]:
    values = [os.environ.get(name, "") for name in _SECRETS]
    found = {form for value in values for form in _forms(value)} | _given
    for name in _ADDRESSES:
        found.update(_in_address(os.environ.get(name, "")))
    return found


def _in_address(address: str) -> Iterator[str]:
    """The secrets of an address. One that is not well-formed is read in every way that comes to mind."""
    # A path has no user.
    rest = "" if _PATH.match(address) else address.partition("://")[2] or address
    # A password may hold an @ that should have been %40, so each of them may be the last of it.
    ends = [i for i, character in enumerate(rest) if character == "@"][:8]
    for end in ends:
        user, colon, password = rest[:end].partition(":")
        yield from _forms(password if colon else user)
    for text in {address, unquote(address), unquote_plus(address), unquote_plus(unquote_plus(address))}:
        for match in _PAIR.finditer(text):
            yield from _forms(match[1])


def _forms(secret: str) -> Iterator[str]:
    """How a secret may be written: as it is, percent-encoded or not, and as a literal."""
    for plain in {secret, unquote(secret), unquote_plus(secret)}:
        encoded = (quote(plain, safe=""), quote(plain), quote_plus(plain))
        for form in (plain, *encoded, repr(plain)[1:-1], json.dumps(plain)[1:-1]):
            if len(form) >= _SHORTEST:
                yield form
