"""A node runs the client app of its own wheel, whatever a bundle holds: no unpacking, no installing, no loading."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime import run_clientapp

from fedveil import checks, cli
from fedveil_clients import supernode

EVIL = """
from pathlib import Path
from flwr.app import Message
from flwr.clientapp import ClientApp
Path("stolen").write_text("faces")
class Evil(ClientApp):
    def __call__(self, message, context):
        return Message(message.content, reply_to=message)
app = Evil()
"""


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle that a dishonest coordinator has changed, as Flower sends it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in supernode._FOREIGN:  # so that it is put back
        monkeypatch.setattr(run_clientapp, name, getattr(run_clientapp, name))
    assert cli.main(["bundle", "app", "study=quick"]) == 0
    project = Path("app/pyproject.toml")
    project.write_text(project.read_text().replace("fedveil_clients.app:app", "evil:app"))
    Path("app/evil.py").write_text(EVIL)
    Path("LICENSE").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pathspec
        return build_fab_from_disk(Path("app"))


def answer_of(fab, monkeypatch):
    """Return the reply of Flower's client process to a message that comes with a bundle."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = "1"
    run = SimpleNamespace(fab_id="fedveil/fedveil-run", fab_version="0.1.0", run_id=1)
    sent = SimpleNamespace(content=fab, hash_str=hashlib.sha256(fab).hexdigest())
    given = message, Context(1, 1, {}, RecordDict(), {}), run, sent
    replies = []
    client = SimpleNamespace(from_server_address=lambda **_: None)
    monkeypatch.setattr(run_clientapp, "RuntimeHttpClient", client)
    monkeypatch.setattr(run_clientapp, "pull_task_input", lambda _: given)
    monkeypatch.setattr(run_clientapp, "push_message", lambda _, reply, __: replies.append(reply))
    monkeypatch.setattr(run_clientapp, "HeartbeatSender", lambda _: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(run_clientapp, "make_task_heartbeat_fn_http", lambda _: None)
    monkeypatch.setattr(run_clientapp, "register_signal_handlers", lambda **_: None)
    monkeypatch.setattr(run_clientapp, "flwr_exit", lambda **_: None)
    monkeypatch.setattr(run_clientapp, "event", lambda *_: None)
    run_clientapp.run_clientapp("127.0.0.1:1", "token", insecure=True)
    (reply,) = replies
    return reply


def test_flower_alone_runs_what_a_bundle_holds(bundle, monkeypatch):
    answer_of(bundle, monkeypatch)
    assert Path("stolen").exists()  # so the next test can fail


def test_a_node_runs_its_own_app_and_unpacks_nothing(bundle, monkeypatch):
    supernode.own_app_alone()
    reply = answer_of(bundle, monkeypatch)
    assert not Path("stolen").exists()
    assert not Path("flwr").exists()
    assert dict(reply.content["refusal"])["kind"] == "refused"


def test_what_a_bundle_names_is_not_installed(bundle):
    supernode.own_app_alone()
    with pytest.raises(checks.UserError, match="installs nothing"):
        run_clientapp.install_app_dependencies(Path("app"))


def test_the_process_of_a_message_shows_that_it_lives_before_it_imports_what_is_heavy():
    script = "import sys, fedveil_clients.supernode; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_another_flower_is_refused(monkeypatch):
    monkeypatch.delattr(run_clientapp, "install_from_fab")
    with pytest.raises(checks.UserError, match="no install_from_fab"):
        supernode.own_app_alone()


def test_every_task_of_flowers_has_a_program_and_one_alone_runs(tmp_path):
    folder = supernode.guard(tmp_path / "guard")
    assert {path.name for path in folder.iterdir()} == set(TASK_TYPE_TO_COMMAND.values())
    for name in TASK_TYPE_TO_COMMAND.values():
        assert os.access(folder / name, os.X_OK)
        if name == "flwr-clientapp":
            assert f"{sys.executable} -P -m fedveil_clients.supernode" in (folder / name).read_text()
            continue
        done = subprocess.run([str(folder / name), "--token", "x"], capture_output=True, text=True)
        assert (done.returncode, done.stderr[:7]) == (1, "refused")


def test_a_supernode_finds_the_guard_first(tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    started = []
    monkeypatch.setattr(supernode, "flower_supernode", lambda: started.append(os.environ["PATH"].split(os.pathsep)[0]))
    supernode.main([])
    assert started == [str(tmp_path / "flwr" / "guard")]
