"""Addresses with secrets in them: the secret stays in this process and its children, everything else sees `***`.

`http://user:password@host/` and `...?token=...` are ways to tell a store who one is. A configuration is kept, mirrored,
bundled and sent to owners, so no secret may be in one: where a configuration is made, `without_secrets` puts `***` in
their place and remembers the whole address in the environment variable `FEDVEIL_ADDRESSES`, which processes started
from here inherit. Whoever contacts the address asks for it by `whole`; a later process must be told again.
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
_LITERAL = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST = 4  # characters; a shorter secret is hidden in its address, but not wherever its letters appear

_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{2,})([^\s'\"<>`]*)")
_WHOLE = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*:/{2,})(.*)", re.DOTALL)
_FIELD = re.compile(r"([?&;#])([^=&;#?]*)=([^&;#]*)")
_SECRET = re.compile(
    r"pass|pwd|secret|token|credential|signature|private|odbc_connect|auth(?!or)|apikey|(^|[-_.])(sig|key)$",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text with `***` in the place of every secret: in the addresses it holds, and wherever one is repeated.

    >>> redacted("no answer from http://me:s3cret@host:5000/api?sig=9f&page=2, giving up")
    'no answer from http://***@host:5000/api?sig=***&page=2, giving up'
    >>> redacted("sqlite:////home/me@work/mlflow.db"), redacted("https://host/me@work?author=me")
    ('sqlite:////home/me@work/mlflow.db', 'https://host/me@work?author=me')
    """
    shown = _IN_TEXT.sub(lambda found: found[1] + _masked(found[2]), text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        shown = shown.replace(secret, MARK)
    return shown


def without_secrets(value: Any) -> Any:
    """Return plain JSON or YAML types with every address redacted; the whole addresses are remembered."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    return _remembered(value) if isinstance(value, str) else value


def _remembered(address: str) -> str:
    found = _WHOLE.fullmatch(address)
    shown = found[1] + _masked(found[2]) if found else redacted(address)
    if found and shown != address:
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
    found = {without_secrets(given): given, **_known()}.get(address)
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
    return [key + equals + _remembered(value) for key, equals, value in parts]


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
        parts = _WHOLE.fullmatch(address)
        rest = parts[2] if parts else ""
        user = _user(rest)
        found |= {user.partition(":")[2] or user}
        found |= {field[3] for field in _FIELD.finditer(rest) if _field(field) != field[0]}
    found |= {unquote(secret) for secret in found}
    return {secret for secret in found if len(secret) >= _SHORTEST and secret != MARK}
