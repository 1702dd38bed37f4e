"""No text that says where something is on a machine leaves it: every setting of every method is tried."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedveil import checks, config
from fedveil.commands import bundle
from fedveil.configuration import marks, places, plugins, settings, typed
from fedveil.configuration.schema import Config
from fedveil.configuration.words import METHOD_GROUPS, SETTING_GROUPS
from fedveil.federation import instruction, registered

PATH = "/home/somebody/secret-of-this-machine"


def texts(kind: Any, found: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the marks of every free text in a type: of an option, of a list's elements."""
    for option in typed.options(kind):
        bare, own = typed.marks(option)
        if typing.get_origin(bare) is tuple:
            yield from texts(typing.get_args(bare)[0], (*found, *own))
        elif bare is str:
            yield (*found, *own)


def every_text() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Yield (key, choices, marks) of all settings that take any text, in every method that has them."""
    for key in settings.every():
        group = key.partition(".")[0]
        for method in plugins.names(group) if group in METHOD_GROUPS else [""]:
            if method and key.partition(".")[2] not in typed.hints(plugins.method(group, method)):
                continue
            for found in texts(settings.kind(key, {group: method})):
                yield key, f"{group}={method}" if method else "", found


ALL = list(every_text())


def test_there_are_settings_of_each_kind() -> None:
    keys = {key for key, _, _ in ALL}
    assert {"data.root", "data.path", "evaluation.pairs", "train.synthetic", "tracking.uri", "runs.root"} <= keys
    sources = {f"data={name}" for name in plugins.names("data")}
    assert {choice for _, choice, _ in ALL} >= sources - {"data=procedural"}


@pytest.mark.parametrize(("key", "choice", "found"), ALL, ids=[f"{key} {choice}" for key, choice, _ in ALL])
def test_every_text_says_whether_it_names_a_place_and_then_stays(key: str, choice: str, found: tuple[Any, ...]) -> None:
    """A new setting that takes any text has to be marked, or be in a section that stays."""
    stays = key.partition(".")[0] in places.sections()
    marked = [mark for mark in found if isinstance(mark, marks.Place) or mark == marks.NO_PLACE]
    assert stays or len(marked) == 1, f"mark {key} as a Place or NO_PLACE (configuration.marks)"
    group = key.partition(".")[0]
    chosen = [choice] if choice else [f"{group}=mlflow"] if group == "tracking" else []
    try:
        said = config.compose([*chosen, f"{key}={PATH}"])
    except checks.UserError:  # a name of a method, or a device
        assert stays or marked == [marks.NO_PLACE]
        return
    assert PATH in config.to_json(said)
    wire = instruction.to_wire(said)
    assert (PATH in wire) == (marked == [marks.NO_PLACE] and not stays)
    # It is written back by whoever sends it: the other side reads it no more than this one sends it.
    arrived = instruction._settings(json.loads(config.to_json(said)))
    assert (PATH in config.to_json(arrived)) == (marked == [marks.NO_PLACE] and not stays)
    assert instruction.to_wire(arrived) == wire


def test_marks_name_what_there_is() -> None:
    for data in plugins.names("data"):
        for setting in places.settings({"data": data}):
            block = typed.hints(plugins.method("data", data)) if setting.block == "data" else None
            fields = block or settings._fields(settings.kind(setting.block, {}))
            assert {setting.name, *setting.mark.beside} <= set(fields)
    assert set(places.sections()) <= {field.name for field in dataclasses.fields(Config)}
    assert set(SETTING_GROUPS) <= set(places.sections())


@pytest.mark.parametrize("data", plugins.names("data"))
def test_a_bundle_holds_nothing_of_the_machine_that_writes_it(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    form = serialization.PublicFormat.OpenSSH
    (tmp_path / "clinic.pub").write_bytes(key.public_bytes(serialization.Encoding.OpenSSH, form) + b" me@my-host")
    (tmp_path / "nodes.toml").write_text(f'c0001 = "clinic.pub"\nc0002 = "{tmp_path / "clinic2.pub"}"\n')
    (tmp_path / "clinic2.pub").write_bytes(
        ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(serialization.Encoding.OpenSSH, form)
    )
    said = {setting.key for setting in places.settings({"data": data})}
    words = [f"data={data}", "tracking.uri=http://me:word@my-host", "tracking.experiment=my-study"]
    words += [f"{key}={tmp_path / 'my-own'}" for key in (*sorted(said), "runs.root", "vault.root")]
    words += ["data.evaluation=procedural"] if "evaluation" in typed.hints(plugins.method("data", data)) else []
    words += ["data.origin=abc"] if data == "synthetic" else []
    chosen = config.compose(words)
    written = bundle.bundle(chosen, tmp_path / "app", registered.read(tmp_path / "nodes.toml"))
    text = written.read_text()
    assert [path.name for path in written.parent.iterdir()] == ["pyproject.toml"]
    assert "sha256:" in text
    for own in (str(tmp_path), "my-", "clinic", "word", str(Path.home()) + "/"):
        assert own not in text
