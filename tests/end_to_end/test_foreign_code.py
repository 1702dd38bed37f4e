"""A dishonest coordinator sends an app of its own: Flower's bare node runs it, `fedveil node start` does not."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from daemons import until
from deployed import Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None or shutil.which("ssh-keygen") is None, reason="makes keys"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds daemons in Linux's /proc"),
]

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "evil"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedveil"
[tool.flwr.app.components]
serverapp = "evil.server:app"
clientapp = "evil.client:app"
[tool.flwr.app.config]
run-id = ""
"""
_SERVER = """\
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    content = RecordDict({"instruction": ConfigRecord({"a": 1})})
    messages = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
    for reply in grid.send_and_receive(messages, timeout=120):
        print("REPLY", reply.metadata.src_node_id, reply.error.reason if reply.has_error() else dict(reply.content))
"""
_CLIENT = """\
import os
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

Path(os.environ["PWD_OF_TEST"], "ran").touch()
app = ClientApp()


@app.query()
def answer(message, context):
    return Message(RecordDict(), reply_to=message)
"""


def test_only_flowers_bare_node_runs_what_a_coordinator_sends(tmp_path):
    here = Deployment(tmp_path / "here", owners=2)
    here.prepare()
    evil = here.home / "evil-app"
    (evil / "evil").mkdir(parents=True)
    (evil / "pyproject.toml").write_text(_PROJECT)
    for name, text in (("__init__", ""), ("server", _SERVER), ("client", _CLIENT)):
        (evil / "evil" / f"{name}.py").write_text(text)
    ours, bare = here.owners.values()
    (ours.folder / "vault").mkdir(mode=0o700)
    try:
        here.start_superlink()
        for name in here.owners:
            here.register(name)
        here.start(ours.name)
        words = ["flower-supernode", "--superlink", f"127.0.0.1:{here.port}", "--root-certificates",
                 str(here.root / "tls" / "ca.crt"), "--auth-supernode-private-key", str(bare.folder / "node"),
                 "--port", bare.port]  # fmt: skip
        here.spawn(bare.name, bare.folder / "supernode.log", words, FEDVEIL_NODE=str(bare.folder / "node.toml"),
                   PWD_OF_TEST=str(bare.folder))  # fmt: skip
        until(lambda: "SuperNode ID:" in bare.log, 90, "connecting")
        run = here.submit("", evil)
        assert here.wait(run)["status"] == "finished:completed", (here.home / "superlink.log").read_text()[-4000:]
        told = here.call("flwr", "log", run, "--show")
        here.end(ours.name, signal.SIGTERM)
    finally:
        here.close()
    assert (bare.folder / "ran").exists()
    assert not list(ours.folder.rglob("ran"))
    assert not list(ours.folder.rglob("client.py"))
    refusals = (ours.folder / "vault" / "refusals.log").read_text()
    assert "evil/__init__.py" in refusals
    assert "none of it was unpacked" in told
