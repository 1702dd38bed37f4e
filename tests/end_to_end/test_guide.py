"""docs/deployment.md, word for word: its `bash` blocks make keys, certificates and a federation on this machine.

One folder stands for each machine. What a reader puts into coordinator.env and node.env is put there, and nothing else
is changed: `localhost`, free ports, no tracking. The model then has to be that of the inline engine over the same
owners and vaults; and where nothing is noisy, owners' own folders have to give the model of `fedveil simulate` over all
of them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest
from daemons import Daemons, free_port, until
from deployed import SMALL, faces
from flwr.app import Context, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fedveil import cli, engine
from fedveil.engine import _flower
from fedveil.engine.inline import InlineGrid
from fedveil.federation.federation import Federation
from fedveil_clients import node
from fedveil_strategies import attendance, observers

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "deployment.md").read_text()
APP = Path("apps/rehearsal/pyproject.toml")
OWNERS = ("c0001", "c0002", "c0003")
WHERE = re.compile(r"# at (?P<who>the coordinator|every owner)(?P<stays>, and it keeps running)?")
FIRST = {"flower-superlink": "Uvicorn running", "fedveil": "SuperNode ID:"}
"""What a daemon says once it can be used."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def filled(text: str, **mine: str) -> str:
    """Return an env file with a reader's values; each of them has to be in it."""
    for key, value in mine.items():
        text, count = re.subn(rf"^{key}=.*$", f"{key}={shlex.quote(value)}", text, flags=re.MULTILINE)
        assert count == 1, key
    return text


class Machines(Daemons):
    """A folder for each machine of the guide, and what is carried between them by hand."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.home = root / "coordinator"
        self.owners = {name: root / name for name in OWNERS}
        self.gated = shutil.which("nginx") is not None
        theirs, own = blocks("ini")
        link = free_port()
        gate = free_port() if self.gated else link
        place = {"FEDERATION_HOST": "localhost", "FEDERATION_PORT": gate}
        self.home.mkdir()
        words = "runs.root=runs tracking=none"
        (self.home / "coordinator.env").write_text(
            filled(theirs, SUPERLINK_PORT=link, FEDVEIL_COORDINATOR=words, **place)
        )
        for number, (name, folder) in enumerate(self.owners.items(), 1):
            faces(folder / "faces", 10 * number)
            (folder / "node.env").write_text(filled(own, CLIENT_ID=name, NODE_PORT=free_port(), **place))

    def at(self, part: str) -> tuple[Path, str]:
        """Return a machine's folder and its env file."""
        return (self.owners[part], "node.env") if part in self.owners else (self.home, "coordinator.env")

    def follow(self, block: str) -> None:
        """Do a block at its machines, one after the other."""
        found = WHERE.match(block)
        assert found, f"a bash block of the guide says where: {block[:60]!r}"
        if "nginx" in block.splitlines()[1] and not self.gated:
            return
        parts = OWNERS if found["who"] == "every owner" else ("coordinator",)
        for part in parts:
            folder, env = self.at(part)
            script = f"set -a; . ./{env}; set +a\n{block}"
            if found["stays"]:
                self.keep(part, folder, script)
            else:
                words = ["bash", "-euo", "pipefail", "-c", script]
                done = subprocess.run(
                    words, cwd=folder, env=self.environment(part), capture_output=True, text=True, timeout=600
                )
                assert done.returncode == 0, f"{part}: {script}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        self.carry()

    def keep(self, part: str, folder: Path, script: str) -> None:
        program = script.splitlines()[2].split()[0]
        name, log = f"{part}/{program}", folder / f"{program}.log"
        self.spawn(name, log, ["bash", "-euo", "pipefail", "-c", script])

        def ready() -> bool:
            assert self.running(name), log.read_text()
            return self.answers() if program == "nginx" else FIRST[program] in log.read_text()

        until(ready, 120, f"starting {name}")

    def answers(self) -> bool:
        port = re.search(r"^FEDERATION_PORT=(\d+)$", (self.home / "coordinator.env").read_text(), re.MULTILINE)
        assert port
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", int(port[1]))) == 0

    def carry(self) -> None:
        """Carry what people carry: the authority's certificate, public keys, a bundle."""
        for name, folder in self.owners.items():
            for source, aim in (
                (self.home / "tls" / "ca.crt", folder / "tls" / "ca.crt"),
                (folder / "node.key.pub", self.home / "keys" / f"{name}.pub"),
                (self.home / APP, folder / APP),
            ):
                if source.exists() and not aim.exists():
                    aim.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, aim)


class OwnersGrid(InlineGrid):
    """The inline engine over owners with words of their own."""

    uniform = False

    def __init__(self, words: dict[int, dict[str, object]]) -> None:
        super().__init__(engine.load(engine.CLIENT_APP), _flower.Settings(len(words), {}, {}))
        self.words = words

    def get_node_ids(self):
        return list(self.words)

    def get_nodes(self):
        return [NodeInfo(node_id=number) for number in self.words]

    def _context(self, number):
        return Context(1, number, dict(self.words[number]), RecordDict(), {})


@pytest.fixture
def small_and_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    monkeypatch.setattr(attendance, "_LONGEST", 0.2)
    monkeypatch.delenv("FEDVEIL_NODE", raising=False)
    return tmp_path


def inline(bundle: Path, words: dict[int, dict[str, object]], monkeypatch) -> str:
    """Return the hash of a bundle's model, made by the inline engine over these owners."""
    monkeypatch.setenv("FEDVEIL_COORDINATOR", "runs.root=inline tracking=none")
    config = tomllib.loads((bundle / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    context = Context(1, 1, {}, RecordDict(), {**config, "nodes": "", "run-id": "inline", "progress": "quiet"})
    engine.load(engine.SERVER_APP)(OwnersGrid(words), context)
    return model(Path("inline/inline"))


def model(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["model_sha256"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None or shutil.which("ssh-keygen") is None, reason="the guide's tools")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds daemons in Linux's /proc")
def test_the_guides_commands_run_a_federation_to_the_inline_engines_model(small_and_here, monkeypatch):
    machines = Machines(small_and_here)
    try:
        for block in blocks("bash"):
            machines.follow(block)
        asked = "set -a; . ./coordinator.env; flwr ls --format json; flwr supernode list --format json"
        own = machines.environment("coordinator")
        told = subprocess.run(["bash", "-c", asked], cwd=machines.home, env=own, capture_output=True, text=True)
        assert '"status": "finished:completed"' in told.stdout, told.stdout + told.stderr
        assert told.stdout.count('"status": "online"') == 3, told.stdout
        if machines.gated:
            refused_at_the_gate(machines)
        log = machines.home / "runs" / "rehearsal" / "operator.log"
        assert not log.exists() or "excluded" not in log.read_text()
        for name in OWNERS:  # SIGTERM: it says goodbye
            machines.end(f"{name}/fedveil", signal.SIGTERM)
        assert (machines.home / "flower-superlink.log").read_text().count("Deactivated node_id") == 3
    finally:
        machines.close()
    for name in OWNERS:
        assert (machines.owners[name] / "vault").stat().st_mode & 0o777 == 0o700
    # The copies are in the vaults: the inline engine reads the same ones, under another run id.
    words = {number: node.read(machines.owners[name] / "node.toml") for number, name in enumerate(OWNERS, 11)}
    again = inline((machines.home / APP).parent, words, monkeypatch)
    assert model(machines.home / "runs" / "rehearsal") == again


def refused_at_the_gate(machines: Machines) -> None:
    """An operator's command through the gate has to be refused, from whatever machine."""
    folder = machines.owners["c0001"]
    (folder / "flwr").mkdir(exist_ok=True)
    port = re.search(r"^FEDERATION_PORT=(\d+)$", (folder / "node.env").read_text(), re.MULTILINE)
    assert port
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "f"\n[superlink.f]\naddress = "localhost:{port[1]}"\n'
        f'root-certificates = "{folder / "tls" / "ca.crt"}"\n'
    )
    done = subprocess.run(
        ["flwr", "ls"], cwd=folder, env=machines.environment("c0001", FLWR_HOME="flwr"), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "403" in done.stdout + done.stderr


def test_owners_folders_give_the_simulations_model_where_nothing_is_noisy(small_and_here, monkeypatch):
    together = faces(Path("together").absolute(), 1, people=12)
    clean = [*(word for word in SMALL if not word.startswith("protection.")), "protection=none", "tracking=none"]
    run = Federation.of([*clean, f"data.root={together}"])
    names = sorted(path.name for path in together.iterdir())
    words = {}
    for number, client in enumerate(run.registry, 11):
        dealt = sorted({int(label) for label in run.split.train.labels[run.shares[client]]})
        for person in dealt:
            shutil.copytree(together / names[person], Path(client, "faces", names[person]))
        home = Path(client).absolute()
        words[number] = {"client-id": client, "data-root": str(home / "faces"), "vault-root": str(home / "vault")}
    assert cli.main(["bundle", "app", *clean]) == 0
    apart = inline(Path("app"), words, monkeypatch)
    assert cli.main(["simulate", *clean, f"data.root={together}", "engine=inline"]) == 0
    (simulated,) = Path("runs").iterdir()
    assert model(simulated) == apart
