"""Client ids bound to registered nodes: by node id or by public key, each node once."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedveil import checks
from fedveil.federation import registered


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP384R1()).public_key()


def ssh(key):
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def test_a_file_names_node_ids_key_files_and_keys(tmp_path, key):
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    (tmp_path / "clinic.pub").write_text(ssh(key) + " operator@clinic\n")
    path = tmp_path / "nodes.toml"
    path.write_text(f'c0001 = 17012345678901234567\nc0002 = "clinic.pub"\nc0003 = "{ssh(other)}"\nc0004 = "55"\n')
    found = registered.from_text(registered.to_text(registered.read(path)))
    assert found["c0001"] == "17012345678901234567"
    assert str(tmp_path) not in registered.to_text(found)
    shown = {"clinic": public_key_to_bytes(key), "other": public_key_to_bytes(other)}  # what a grid hands out
    assert registered.matches(found["c0002"], 1, shown["clinic"])
    assert not registered.matches(found["c0002"], 1, shown["other"])
    assert registered.matches(found["c0003"], 1, shown["other"])
    assert registered.matches(found["c0001"], 17012345678901234567, b"")
    assert not registered.matches(found["c0001"], 5, shown["clinic"])
    assert not registered.matches(found["c0002"], 1, b"random bytes")
    assert not registered.matches(found["c0002"], 1, b"")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("c0001 = 5\nc0002 = 5\n", "One node for two clients"),
        ("c0001 = true\n", "to be a node id"),
        ('c0001 = "missing.pub"\n', "cannot be read"),
        ('c0001 = "no key at all"\n', "no public key"),
        ('"../x" = 5\n', "client id"),
        ("c0001 = \n", "as TOML"),
    ],
)
def test_a_mapping_that_binds_nobody_is_refused(tmp_path, text, named):
    path = tmp_path / "nodes.toml"
    path.write_text(text)
    with pytest.raises(checks.UserError, match=named):
        registered.read(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"c0001": 5}', '{"c0001": "x"}', '{"a": "5", "b": "5"}'])
def test_a_run_configuration_without_a_mapping_is_refused(text):
    assert registered.from_text("") == {}
    with pytest.raises(checks.UserError):
        registered.from_text(text)
