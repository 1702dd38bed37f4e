"""A real deployment on this machine, for tests: one SuperLink and its SuperNodes, TLS, registered keys, own faces.

What docs/deployment.md has people do on several machines happens here in one folder. Every process carries the
folder's name in its environment, so each is found again, and none outlives the deployment.

    with deployed.Deployment(tmp_path, ["train.rounds=2", "protection=none"]) as here:
        run = here.submit("first")
        assert here.wait(run)["status"] == "finished:completed"
        here.model_sha("first")

Flower's facts: a SuperNode that ends by SIGTERM says goodbye and may come back at once; one that is killed is taken for
connected until FORGOTTEN seconds after its last heartbeat, and one with the same key is refused till then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daemons import Daemons, command, free_port, until
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE
from PIL import Image

from fedveil.data.sources.procedural import draw_faces

FORGOTTEN = HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL
"""Seconds after its last heartbeat until a SuperLink takes a SuperNode for gone; a heartbeat comes every 17 to 23."""
SMALL = (
    "data=folder", "data.size=32", "data.evaluation=procedural", "data.pairs=20", "partition.max_identities=12",
    "protection.fit_steps=0", "protection.init=zeros", "protection.total_epsilon=8", "model.width=8",
    "model.embedding=16", "train.clients=3", "train.rounds=2", "train.local.steps=2", "train.batch_size=6",
    "evaluation.draws=1", "evaluation.bootstrap=0", "evaluation.reference=false",
)  # fmt: skip


def faces(folder: Path, first: int, people: int = 4, pictures: int = 3, size: int = 32) -> Path:
    """Write drawn faces as pictures, a folder a person; people are numbered from `first`, equal numbers are equal."""
    for person in range(first, first + people):
        (folder / f"person{person}").mkdir(parents=True, exist_ok=True)
        for count, pixels in enumerate(draw_faces(1, person, 1, pictures, size).images()):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"person{person}" / f"{count}.png")
    return folder


@dataclasses.dataclass
class Owner:
    """One owner's machine: a folder of its own, its SuperNode's port, and what its node.toml says."""

    name: str
    folder: Path
    words: dict[str, Any]
    port: str = dataclasses.field(default_factory=free_port)

    def write(self) -> None:
        """Write node.toml; a node reads it with every message."""
        lines = [f"{word} = {json.dumps(value)}" for word, value in self.words.items()]
        (self.folder / "node.toml").write_text("\n".join(lines) + "\n")

    @property
    def log(self) -> str:
        """What its SuperNode has printed."""
        return (self.folder / "supernode.log").read_text()


class Deployment(Daemons):
    """One SuperLink with TLS, a database and registered keys, and a SuperNode for each owner.

    Args:
        root: a new or empty folder.
        words: of the bundle, after `SMALL`.
        owners: how many.
        floor: what the owners accept; an owner's words are in `owners[name].words`, before or after the start.
    """

    def __init__(self, root: Path, words: Sequence[str] = (), owners: int = 3, floor: str = "dctdp, none") -> None:
        super().__init__(root)
        self.words = (*SMALL, f"train.clients={owners}", *words)
        self.home, self.port = self.root / "coordinator", free_port()
        self.runs = self.home / "runs"
        self.owners: dict[str, Owner] = {}
        for number in range(1, owners + 1):
            name = f"c{number:04d}"
            own = {"client-id": name, "data-root": "faces", "vault-root": "vault", "floor": floor}
            self.owners[name] = Owner(name, self.root / "owners" / name, own)

    # --- what is made once ---------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make certificates, keys, faces and the bundle `app`."""
        for folder in (self.home, self.root / "tls", self.home / "flwr"):
            folder.mkdir(parents=True)
        self._certificates()
        for number, owner in enumerate(self.owners.values(), 1):
            faces(owner.folder / "faces", 10 * number)
            self.call("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(owner.folder / "node"))
            owner.write()
        lines = [f'{owner.name} = "{owner.folder / "node.pub"}"\n' for owner in self.owners.values()]
        (self.home / "nodes.toml").write_text("".join(lines))
        (self.home / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "federation"\n[superlink.federation]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.root / "tls" / "ca.crt"}"\n'
        )
        self.bundle("app", *self.words)

    def _certificates(self) -> None:
        tls = self.root / "tls"
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"]
        ca = [*new, "-days", "30", "-subj", "/CN=federation CA", "-keyout", tls / "ca.key", "-out", tls / "ca.crt"]
        self.call(*map(str, ca))
        server = [*new, "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                  "-addext", "basicConstraints=critical,CA:FALSE", "-CA", tls / "ca.crt", "-CAkey", tls / "ca.key",
                  "-keyout", tls / "server.key", "-out", tls / "server.crt"]  # fmt: skip
        self.call(*map(str, server))

    def bundle(self, name: str, *words: str) -> Path:
        """Write a bundle whose names are bound to the owners' keys."""
        nodes = ["--nodes", str(self.home / "nodes.toml")]
        self.call("fedveil", "bundle", str(self.home / name), *words, *nodes)
        return self.home / name

    # --- processes -----------------------------------------------------------------------------------------------

    def environment(self, part: str, **more: str) -> dict[str, str]:
        """Return what a process of a part (superlink, an owner's name, or a command) finds in its environment."""
        folder = self.owners[part].folder if part in self.owners else self.home
        return super().environment(part, FLWR_HOME=str(folder / "flwr"), **more)

    def call(self, *words: str, ok: bool = True) -> str:
        """Return what a command of the operator's prints."""
        done = subprocess.run(words, env=self.environment("command"), cwd=self.home, capture_output=True, text=True)
        assert not ok or done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout if ok else done.stdout + done.stderr

    def flwr(self, *words: str) -> dict[str, Any]:
        """Return what Flower's command says, as JSON."""
        text = self.call("flwr", *words, "--format", "json")
        found: dict[str, Any] = json.loads(text[text.index("{") :])
        return found

    # --- the SuperLink -------------------------------------------------------------------------------------------

    def start_superlink(self) -> None:
        """Start it and wait until it answers; a second start goes on with its database."""
        tls = self.root / "tls"
        words = ["flower-superlink", "--host", "127.0.0.1", "--port", self.port, "--ssl-ca-certfile", tls / "ca.crt",
                 "--ssl-certfile", tls / "server.crt", "--ssl-keyfile", tls / "server.key", "--enable-supernode-auth",
                 "--database", self.home / "superlink.db", "--disable-runtime-dependency-installation"]  # fmt: skip
        own = {"FEDVEIL_COORDINATOR": shlex.join([f"runs.root={self.runs}", "tracking=none"])}
        self.spawn("superlink", self.home / "superlink.log", map(str, words), **own)
        until(self._answers, 60, "starting the SuperLink")

    def _answers(self) -> bool:
        assert self.running("superlink"), (self.home / "superlink.log").read_text()
        context = ssl.create_default_context(cafile=self.root / "tls" / "ca.crt")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"https://127.0.0.1:{self.port}/health", timeout=5, context=context) as reply,
        ):
            return bool(reply.status == 200)
        return False

    def stop_superlink(self) -> None:
        """End it by SIGTERM, with the coordinator that it runs."""
        self.end("superlink", signal.SIGTERM)

    def kill_superlink(self) -> None:
        """End it and the coordinator that it runs by SIGKILL."""
        self.end("superlink", signal.SIGKILL)

    def restart_superlink(self) -> None:
        """Kill and start it."""
        self.kill_superlink()
        self.start_superlink()

    def coordinator(self) -> list[int]:
        """Return the processes of the coordinator's app, of the run that is going on."""
        return [pid for pid in self.processes("superlink") if "serverapp" in command(pid)]

    def register(self, name: str) -> str:
        """Register an owner's public key and return the node's id."""
        return str(self.flwr("supernode", "register", str(self.owners[name].folder / "node.pub"))["node-id"])

    # --- the SuperNodes ------------------------------------------------------------------------------------------

    def start(self, name: str, wait: bool = True) -> int:
        """Start an owner's SuperNode and return its process; by default wait until the SuperLink has accepted it."""
        owner = self.owners[name]
        seen = owner.log.count("SuperNode ID:") if (owner.folder / "supernode.log").exists() else 0
        words = ["fedveil", "node", "start", str(owner.folder / "node.toml"), "--superlink", f"127.0.0.1:{self.port}",
                 "--root-certificates", str(self.root / "tls" / "ca.crt"),
                 "--auth-supernode-private-key", str(owner.folder / "node"), "--port", owner.port]  # fmt: skip
        pid = self.spawn(name, owner.folder / "supernode.log", words)
        if wait:

            def accepted() -> bool:
                assert self.running(name), owner.log
                return owner.log.count("SuperNode ID:") > seen

            until(accepted, 60, f"connecting {name}")
        return pid

    def stop(self, name: str) -> None:
        """End a SuperNode by SIGTERM: it says goodbye, and may be started again at once."""
        self.end(name, signal.SIGTERM)

    def kill(self, name: str) -> None:
        """End a SuperNode and all that it runs by SIGKILL: the SuperLink takes it for connected for FORGOTTEN s."""
        self.end(name, signal.SIGKILL)

    def restart(self, name: str, wait: float | None = None) -> None:
        """Kill and start a SuperNode, with the wait between that the guide's unit has."""
        self.kill(name)
        time.sleep(FORGOTTEN + 2 if wait is None else wait)
        self.start(name)

    # --- runs ----------------------------------------------------------------------------------------------------

    def submit(self, name: str, app: str | Path = "app", run_config: str = "") -> str:
        """Start a run by `flwr run`, under a name of ours, and return Flower's id of it."""
        config = f'run-id="{name}" {run_config}'.strip()
        return str(self.flwr("run", str(self.home / app), "-c", config)["run-id"])

    def status(self, run: str) -> dict[str, Any]:
        """Return what Flower says of a run: `status`, `status-details` and more."""
        (found,) = self.flwr("ls", "--run-id", run)["runs"]
        return dict(found)

    def wait(self, run: str, seconds: float = 300) -> dict[str, Any]:
        """Return what Flower says of a run once it has ended."""

        def ended() -> dict[str, Any] | None:
            found = self.status(run)
            return found if found["status"].startswith("finished") else None

        return dict(until(ended, seconds, f"run {run}", pause=1))

    def result(self, name: str) -> dict[str, Any]:
        """Return a run's result.json."""
        found: dict[str, Any] = json.loads((self.runs / name / "result.json").read_text())
        return found

    def model_sha(self, name: str) -> str:
        """Return the hash of a finished run's model."""
        return str(self.result(name)["model_sha256"])

    def log(self, name: str) -> str:
        """Return a run's operator.log; it exists once something has happened."""
        file = self.runs / name / "operator.log"
        return file.read_text() if file.exists() else ""

    # --- all of it -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Deployment:
        """Prepare, start and register everything."""
        self.prepare()
        try:
            self.start_superlink()
            for name in self.owners:
                self.register(name)
            for name in self.owners:
                self.start(name, wait=False)
            until(lambda: all("SuperNode ID:" in owner.log for owner in self.owners.values()), 90, "connecting")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process."""
        self.close()
