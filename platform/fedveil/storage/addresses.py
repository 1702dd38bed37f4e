"""Addresses with secrets in them: the secret stays in this process and its children, everything else sees `***`.

`http://user:password@host/` and `...?token=...` are ways to tell a store who one is. A configuration is kept, mirrored,
bundled and sent to owners, so no secret may be in one: where a configuration is made, `without_secrets` puts `***` in
their place and remembers the whole address in the environment variable `FEDVEIL_ADDRESSES`, which processes started
from here inherit. Whoever contacts the address asks for it by `whole`; a later process must be told again.

A configuration loses what stands in an address and nothing else: its folders and names are what was typed, whatever
words they share with a password. What is only shown (`redacted`) loses the secret wherever it stands by itself, too.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from fedveil import checks

VARIABLE = "FEDVEIL_ADDRESSES"
MARK = "***"
_GIVEN = "MLFLOW_TRACKING_URI"
_STORE = "tracking.uri"
_LITERAL = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST = 8  # characters; a shorter secret is hidden in its address alone: it may be any word of a message

_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{2,})([^\s'\"<>`]*)")
_WHOLE = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*:/{2,})(.*)", re.DOTALL)
_SLIP = re.compile(r"\s*((?:[A-Za-z][A-Za-z0-9+.-]*:)?/{0,2})(.*)@(.*)", re.DOTALL)
_FIELD = re.compile(r"([?&;#])([^=&;#?]*)=([^&;#]*)")
_SECRET = re.compile(
    r"pass|pwd|secret|token|credential|signature|private|odbc_connect|auth(?!or)|apikey|(^|[-_.])(sig|key)$",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text with `***` in the place of every secret: in the addresses it holds, and where one stands by itself.

    A secret that is part of a path or of a longer word stays: it may be any folder's or client's name.

    >>> redacted("no answer from http://me:s3cret@host:5000/api?sig=9f&page=2, giving up")
    'no answer from http://***@host:5000/api?sig=***&page=2, giving up'
    >>> redacted("sqlite:////home/me@work/mlflow.db"), redacted("https://host/me@work?author=me")
    ('sqlite:////home/me@work/mlflow.db', 'https://host/me@work?author=me')
    """
    for known, address in sorted(_known().items(), key=lambda pair: -len(pair[1])):
        text = text.replace(address, known)
    shown = _addresses_masked(text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        shown = re.sub(rf"(?<![\w./\\-]){re.escape(secret)}(?![\w/\\-]|\.\w)", MARK, shown)
    return shown


def _addresses_masked(text: str) -> str:
    return _IN_TEXT.sub(lambda found: found[1] + _masked(found[2]), text)


def without_secrets(value: Any) -> Any:
    """Return plain JSON or YAML types with every address redacted; the whole addresses are remembered."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    return _remembered(value) if isinstance(value, str) else value


def store(address: str) -> str:
    """Return what should be a store's address as it may be shown, with a slip in its scheme, too; the whole is kept.

    >>> store("http:/me:s3cret@host"), store("me:s3cret@host"), store("./runs@home"), store("databricks://me")
    ('http:/***@host', 'me:***@host', './runs@home', 'databricks://me')
    """
    slip = _slip(address)
    return _kept(f"{slip[1]}{MARK}@{slip[3]}", address) if slip else _remembered(address)


def has_slip(address: str) -> bool:
    """Return whether a text seems to name a user or a password, and is no address that begins with `scheme://`."""
    return _slip(address) is not None


def _slip(address: str) -> re.Match[str] | None:
    found = None if _WHOLE.fullmatch(address) else _SLIP.fullmatch(address)
    return found if found and (":" in found[1] + found[2] or found[1] == "//" or found[2] == MARK) else None


def _remembered(address: str) -> str:
    found = _WHOLE.fullmatch(address)
    if found:
        return _kept(found[1] + _masked(found[2]), address)
    return _addresses_masked(address)


def _kept(shown: str, address: str) -> str:
    if shown != address and MARK not in address:
        os.environ[VARIABLE] = json.dumps({**_known(), shown: address})
    return shown


def whole(address: str, name: str) -> str:
    """Return the address that `without_secrets` redacted.

    Args:
        address: as the configuration holds it.
        name: the setting, for the message.

    Raises:
        fedveil.checks.UserError: this process was never told the secret.
    """
    if MARK not in address:
        return address
    given = os.environ.get(_GIVEN, "")
    found = {store(given): given, **_known()}.get(address)
    if found is None:
        raise checks.UserError(
            f"{name}={address} is kept without its secret: give {name}=... again, or set {_GIVEN} to the whole address."
        )
    return found


def words_without_secrets(words: Iterable[str]) -> list[str]:
    """Return command-line words with every address redacted; the whole addresses are remembered.

    >>> words_without_secrets(["tracking.uri=https://token@host/", "seed=1"])
    ['tracking.uri=https://***@host/', 'seed=1']
    """
    parts = (word.partition("=") for word in words)
    return [key + equals + (store if key == _STORE else _remembered)(value) for key, equals, value in parts]


def quiet_logs(name: str) -> None:
    """Redact what the loggers of a library, and those that nobody has configured, print."""
    for handler in (*logging.getLogger(name).handlers, logging.lastResort):
        if handler is not None and not any(isinstance(known, _Redacting) for known in handler.filters):
            handler.addFilter(_Redacting())


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
        return True


def _known() -> dict[str, str]:
    """Return {redacted address: whole address} as this process and its ancestors remember it."""
    try:
        found = json.loads(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _user(rest: str) -> str:
    """Return the user and password of what follows `scheme://`, empty without any."""
    end = re.search(r"[/?#]", rest)
    authority = rest[: end.start()] if end else rest
    user, at, _ = authority.rpartition("@")
    if not at and "@" in rest and not re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", authority):
        user = rest.rpartition("@")[0]  # no port: the password holds a slash that should have been written %2F
    return user


def _masked(rest: str) -> str:
    """Return what follows `scheme://` without user, password and the values of secret fields."""
    user = _user(rest)
    further = _IN_TEXT.sub(lambda found: found[1] + _masked(found[2]), rest[len(user) :])  # addresses within it
    return _FIELD.sub(_field, f"{MARK}{further}" if user else further)


def _field(found: re.Match[str]) -> str:
    """Return a field of a query, its value hidden where its name or an address in it says that it is secret."""
    inner = _IN_TEXT.findall(unquote(found[3]))
    secret = _SECRET.search(unquote(found[2])) or any(_masked(rest) != rest for _, rest in inner)
    return f"{found[1]}{found[2]}={MARK if secret and found[3] else found[3]}"


def _secrets() -> set[str]:
    """Return every secret that this process knows, as it is written and as it is meant."""
    found = {os.environ.get(name, "") for name in _LITERAL}
    for address in (*_known().values(), os.environ.get(_GIVEN, "")):
        slip, parts = _slip(address), _WHOLE.fullmatch(address)
        rest = parts[2] if parts else ""
        user = slip[2] if slip else _user(rest)
        found |= {user.partition(":")[2] or user}
        found |= {field[3] for field in _FIELD.finditer(rest) if _field(field) != field[0]}
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if len(secret) >= _SHORTEST and secret != MARK}
