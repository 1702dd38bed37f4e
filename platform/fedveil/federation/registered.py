"""Which registered node is which client: a public mapping that the coordinator enforces.

A SuperLink that authenticates its nodes knows each by the public key that its operator registered, and lets nobody
speak for another. It does not know client ids. A file says which key, or which node id, belongs to which client.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fedveil import checks
from fedveil.federation.instruction import plain_name

_KEY = "sha256:"


def read(path: Path) -> dict[str, str]:
    """Return client id -> node id or key fingerprint, of a TOML file.

    A line is `c0001 = 1234567890123456789` (the node id that `flwr supernode list` shows), `c0001 = "clinic.pub"` (the
    registered public key's file, beside this one) or `c0001 = "ecdsa-sha2-nistp384 AAAA..."` (the key itself).

    Raises:
        fedveil.checks.UserError: a file or key that cannot be read, or one node for two clients.
    """
    try:
        lines = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise checks.UserError(f"--nodes {path} cannot be read as TOML: {error}") from error
    found: dict[str, str] = {}
    for client, value in lines.items():
        plain_name(client, "client id")
        if isinstance(value, int) and not isinstance(value, bool):
            found[client] = str(value)
        elif isinstance(value, str):
            found[client] = value if value.isdigit() or value.startswith(_KEY) else _fingerprint_of(value, path, client)
        else:
            raise checks.UserError(f"Expected {client}={value!r} in {path} to be a node id or a public key.")
    _once(found)
    return found


def _fingerprint_of(value: str, path: Path, client: str) -> str:
    text = value.encode()
    if " " not in value.strip():
        try:
            text = (path.parent / value).read_bytes()
        except OSError as error:
            raise checks.UserError(f"{client} in {path}: the key file cannot be read: {error}") from error
    load = serialization.load_ssh_public_key
    if text.lstrip().startswith(b"-----"):
        load = serialization.load_pem_public_key  # type: ignore[assignment]  # all keys have `public_bytes`
    try:
        key = load(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise checks.UserError(f"{client} in {path}: this is no public key: {error}") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _KEY + hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def fingerprint(public_key: bytes) -> str:
    """Return the name of a key in PEM form, as a SuperLink hands it out; an empty text for what is no key."""
    try:
        key = serialization.load_pem_public_key(public_key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return ""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _KEY + hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def to_text(nodes: Mapping[str, str]) -> str:
    """Return a mapping as one line, for a bundle; an empty text for none."""
    return json.dumps(dict(nodes), sort_keys=True) if nodes else ""


def from_text(text: str) -> dict[str, str]:
    """Return what `to_text` wrote.

    Raises:
        fedveil.checks.UserError: it is no mapping of client ids to node ids or fingerprints, each once.
    """
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise checks.UserError(f"The run configuration's `nodes` is no JSON: {error}") from error
    entries = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(value, str) and (value.isdigit() or value.startswith(_KEY)) for value in entries):
        raise checks.UserError("The run configuration's `nodes` must map client ids to node ids or sha256:... of keys.")
    _once(found)
    return {str(client): value for client, value in found.items()}


def _once(found: Mapping[str, str]) -> None:
    owners: dict[str, str] = {}
    for client, value in found.items():
        if value in owners:
            raise checks.UserError(f"One node for two clients, {owners[value]} and {client}: {value}.")
        owners[value] = client


def matches(entry: str, node_id: int, public_key: bytes) -> bool:
    """Return whether a node is the one that an entry names."""
    return entry == str(node_id) if entry.isdigit() else bool(public_key) and entry == fingerprint(public_key)
