"""What arrives as an app is never unpacked, imported or installed at an owner's node."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from fedveil import checks, cli
from fedveil.commands.node import start
from fedveil_clients import app as installed
from fedveil_clients import task


def zipped(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)
    return stream.getvalue()


@pytest.fixture
def owner(tmp_path, monkeypatch):
    (tmp_path / "vault").mkdir()
    file = tmp_path / "node.toml"
    file.write_text('client-id = "c0001"\nvault-root = "vault"\n')
    monkeypatch.setenv("FEDVEIL_NODE", str(file))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    return file


def log(owner: Path) -> str:
    file = owner.parent / "vault" / "refusals.log"
    return file.read_text() if file.exists() else ""


def test_the_bundle_that_fedveil_writes_passes_and_leaves_no_file(owner, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    task.looked_through(zipped(pyproject_toml="[project]", _info__CONTENT="x"), skip_prompt=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert log(owner) == ""


@pytest.mark.parametrize("name", ["fedveil.clients/app.py", "sitecustomize.py", "README.md", "a.toml", ".info/x.so"])
def test_a_bundle_with_anything_else_is_refused_and_written_down(owner, tmp_path, name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("pyproject.toml", "[project]")
        archive.writestr(name, "open('ran', 'w')")
    with pytest.raises(task.Refused, match="does not write"):
        task.looked_through(stream.getvalue())
    assert name in log(owner)
    assert log(owner).count("\n") == 1
    assert not list(tmp_path.rglob("app.py"))


LATER = zipped(pyproject_toml="x").replace(b"PK\x01\x02\x14\x03\x14\0", b"PK\x01\x02\x14\x03\x63\0")


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 100, LATER])
def test_what_is_no_bundle_is_refused(owner, content):
    with pytest.raises(task.Refused, match="cannot be read"):
        task.looked_through(content)
    assert "cannot be read" in log(owner)


def test_an_app_that_cannot_be_loaded_is_a_line_for_the_owner_and_no_word_of_the_machine(owner, monkeypatch):
    monkeypatch.setitem(sys.modules, "fedveil_clients.app", None)
    with pytest.raises(task.Refused) as refused:
        task._of_this_machine()("any", "1", "hash")
    assert "fedveil_clients" not in str(refused.value)
    assert "fedveil_clients.app" in log(owner)


def test_flowers_process_is_made_of_the_parts_that_are_replaced():
    """The contract with Flower's version: its process of one message loads and installs by these names alone."""
    from flwr.supernode.runtime import run_clientapp

    copy = types.SimpleNamespace(**vars(run_clientapp))
    task.pinned(copy)
    assert copy.install_from_fab is task.looked_through
    loaded = copy.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)("any", "1", "hash")
    assert loaded is installed.app
    source = Path(run_clientapp.__file__).read_text()
    body = source[source.index("def run_clientapp") : source.index("def pull_task_input")]
    assert body.count("fab.content") == body.count("install_from_fab(fab.content") == 1
    assert "import_module" not in body
    with pytest.raises(task.Refused):
        copy.install_app_dependencies("somewhere", launch_id="x")


def test_a_message_is_known_to_be_worked_on_before_pytorch_is_imported():
    """Flower starts another process after half a minute without a sign of life; importing may take longer."""
    script = "import sys, fedveil_clients.task, flwr.supernode.cli.flwr_clientapp; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0


def test_another_flower_is_refused():
    with pytest.raises(RuntimeError, match="install_from_fab"):
        task.pinned(types.SimpleNamespace(get_load_client_app_fn=print, install_app_dependencies=print))


def test_no_other_kind_of_process_is_started(owner):
    assert task.main(["flwr-agentapp", "--token", "x"]) == 1
    assert "flwr-agentapp" in log(owner)


def test_a_node_starts_with_our_commands_before_flowers(owner, tmp_path, monkeypatch):
    program, words, environment = start.prepared(owner, ["--superlink", "h:1"], {**os.environ, "FEDVEIL_NODE": "other"})
    assert Path(program).name == "flower-supernode"
    assert words[1:] == ["--superlink", "h:1"]
    assert environment["FEDVEIL_NODE"] == str(owner)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    first = Path(environment["PATH"].split(os.pathsep)[0])
    assert first == tmp_path / "flwr" / "fedveil"
    for command in TASK_TYPE_TO_COMMAND.values():
        assert os.access(first / command, os.X_OK)
        assert (first / command).stat().st_mode & 0o777 == 0o700
    done = subprocess.run(["flwr-model"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "flwr-model" in log(owner)


@pytest.mark.parametrize(
    "option", ["--isolation=process", "--isolation", "--allow-runtime-dependency-installation", "--iso", "--is", "--al"]
)
def test_options_that_let_foreign_code_in_are_refused(owner, option):
    with pytest.raises(checks.UserError, match="Leave it out"):
        start.prepared(owner, ["--superlink", "h:1", option], os.environ)


def test_a_file_of_words_that_is_wrong_is_refused_before_anything_starts(owner, capsys):
    owner.write_text("vault-rot = 'x'\n")
    assert cli.main(["node", "start", str(owner), "--superlink", "h:1"]) != 0
    assert "vault-root" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["taken away", "not to be started"])
def test_where_ours_cannot_be_started_flowers_is_not_found_either(owner, tmp_path, lost):
    """A system that cannot start one command goes on to the next folder, where Flower's own would be."""
    flowers = tmp_path / "another environment"
    flowers.mkdir()
    (flowers / "flwr-clientapp").write_text("#!/bin/sh\ntouch ran\n")
    (flowers / "flwr-clientapp").chmod(0o700)
    path = os.pathsep.join([str(flowers), "", os.environ["PATH"]])
    program, _, environment = start.prepared(owner, [], {**os.environ, "PATH": path})
    assert Path(program).is_absolute()
    assert "" not in environment["PATH"].split(os.pathsep)
    ours = tmp_path / "flwr" / "fedveil"
    starter = shutil.which("flower-superexec", path=environment["PATH"])
    assert Path(starter).parent == ours
    assert os.access(shlex.split(Path(starter).read_text().splitlines()[1])[1], os.X_OK)
    if lost == "taken away":
        shutil.rmtree(ours)
    else:
        for file in ours.iterdir():
            file.chmod(0o600)
    for command in ("flwr-clientapp", "flwr-agentapp", "flwr-serverapp"):
        with pytest.raises(OSError, match=command):
            subprocess.run([command], env=environment, cwd=tmp_path, check=False)
    assert not (tmp_path / "ran").exists()


def test_a_place_from_which_nothing_starts_is_refused_before_the_node_runs(owner, tmp_path, monkeypatch):
    may, home = os.access, str(tmp_path / "flwr")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(home) and may(path, mode))
    with pytest.raises(checks.UserError, match=r"noexec.*FLWR_HOME"):
        start.prepared(owner, [], os.environ)


def test_the_folder_of_commands_is_closed_to_others(owner, tmp_path):
    (tmp_path / "flwr" / "fedveil").mkdir(parents=True)
    (tmp_path / "flwr" / "fedveil").chmod(0o777)
    start.prepared(owner, [], os.environ)
    assert (tmp_path / "flwr" / "fedveil").stat().st_mode & 0o777 == 0o700
