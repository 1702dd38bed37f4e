"""What ships for supervisors: units, image and compose file keep what docs/deployment.md promises, in its words."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILES = DOCS / "deployment"
GUIDE = (DOCS / "deployment.md").read_text()
UNITS = sorted(FILES.glob("*.service"))
HOME = "/srv/fedveil"
FORGOTTEN = HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL
MAY_WRITE = {
    "fedveil-node": {"vault", "witness", "flwr"}, "fedveil-superlink": {"runs", "state", "flwr"},
    "fedveil-gate": {"state"},
}  # fmt: skip


def words_of(unit: Path) -> dict[str, list[str]]:
    """Return a unit's settings, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().replace("\\\n", " ").splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def flags(command: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", command))


def guides(program: str) -> str:
    """Return the guide's command of a daemon."""
    found = re.search(rf"^({program} (?:.*\\\n)*.*)$", GUIDE, re.MULTILINE)
    assert found
    return found[1].replace("\\\n", " ")


def compose() -> dict[str, dict]:
    return yaml.safe_load((FILES / "compose.yaml").read_text())


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_writes_where_it_must_and_can_gain_nothing(unit: Path) -> None:
    words = words_of(unit)
    assert words["User"] == ["fedveil"]
    assert words["ProtectSystem"] == ["strict"]
    assert {path.removeprefix(f"{HOME}/") for path in words["ReadWritePaths"][0].split()} == MAY_WRITE[unit.stem]
    for word in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID", "RestrictNamespaces"):
        assert words[word] == ["yes"], word
    assert words["CapabilityBoundingSet"] == [""]
    assert words["LimitCORE"] == ["0"]  # a core dump holds faces
    assert words["WorkingDirectory"] == [HOME]


def test_a_node_is_kept_away_until_it_is_forgotten_and_never_given_up() -> None:
    words = words_of(FILES / "fedveil-node.service")
    assert int(words["RestartSec"][0]) > FORGOTTEN == 60  # what the guide says
    for unit in UNITS:
        assert words_of(unit)["Restart"] == ["always"]
        assert words_of(unit)["StartLimitIntervalSec"] == ["0"]
    assert f"longer than {FORGOTTEN} s" in " ".join(GUIDE.split())
    assert f"`RestartSec={words['RestartSec'][0]}`" in GUIDE


@pytest.mark.parametrize(
    ("unit", "service", "program"),
    [
        ("fedveil-node", "node", "fedveil node start node.toml"),
        ("fedveil-superlink", "superlink", "flower-superlink"),
    ],
)
def test_guide_unit_and_container_start_the_same(unit: str, service: str, program: str) -> None:
    (started,) = words_of(FILES / f"{unit}.service")["ExecStart"]
    contained = compose()["services"][service]["command"][-1]
    assert program in started
    assert program in contained
    assert flags(started) == flags(contained) == flags(guides(program))
    named = set(re.findall(r"\$\{?([A-Z_]+)", started)) - {"CREDENTIALS_DIRECTORY"}
    assert named == set(re.findall(r"\$\$([A-Z_]+)", contained)) == set(re.findall(r"\$([A-Z_]+)", guides(program)))
    env = GUIDE.split("```ini\n")[1 if service == "superlink" else 2].split("```")[0]
    assert named <= set(re.findall(r"^([A-Z_]+)=", env, re.MULTILINE))


def test_what_is_called_by_name_is_switched_off_everywhere() -> None:
    quiet = ("FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1",
             "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1")  # fmt: skip
    image = (FILES / "Dockerfile").read_text()
    envs = GUIDE.split("```ini\n")[1:]
    assert len(envs) == 2
    for word in quiet:
        assert word in image
        assert all(word in env.split("```")[0].splitlines() for env in envs)


@pytest.mark.parametrize("name", ["node", "superlink", "gate"])
def test_a_container_is_read_only_and_runs_without_rights(name: str) -> None:
    service = compose()["services"][name]
    assert service["user"].startswith("10001:")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["core"] == 0
    assert service["healthcheck"]["test"]
    assert "privileged" not in service
    written = {
        Path(volume["target"]).name for volume in service["volumes"] if not volume.get("read_only", False)
    }  # fmt: skip
    unit = {"node": "fedveil-node", "superlink": "fedveil-superlink", "gate": "fedveil-gate"}[name]
    assert written - {"apps"} == MAY_WRITE[unit]
    assert service["secrets"]
    assert all(".key" not in volume["source"] for volume in service["volumes"])


def test_only_the_gates_port_is_published() -> None:
    services = compose()["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["superlink"]
    assert services["superlink"]["ports"] == ["${FEDERATION_PORT:-8443}:${FEDERATION_PORT:-8443}"]
    assert services["gate"]["network_mode"] == "service:superlink"
    assert "--host 127.0.0.1" in services["superlink"]["command"][-1]


def test_the_image_runs_as_the_composes_account() -> None:
    lines = (FILES / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    assert f"WORKDIR {HOME}" in lines[-1]


def test_a_contained_node_says_goodbye_and_waits_when_it_ended_by_itself(tmp_path: Path) -> None:
    program = tmp_path / "fedveil"
    program.write_text(
        '#!/bin/sh\ntrap "echo goodbye; exit 0" TERM\necho started\n[ -e ended ] || while :; do sleep 0.1; done\n'
    )
    program.chmod(0o755)
    script = compose()["services"]["node"]["command"][-1].replace("$$", "$")
    where = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FEDERATION_HOST": "h", "FEDERATION_PORT": "1", "NODE_PORT": "2"}

    def begun() -> subprocess.Popen[str]:
        started = subprocess.Popen(
            ["sh", "-c", script], cwd=tmp_path, env=where, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert started.stdout is not None
        assert started.stdout.readline() == "started\n"
        return started

    node = begun()
    node.send_signal(signal.SIGTERM)
    assert node.communicate(timeout=10)[0] == "goodbye\n"
    assert node.returncode == 0
    (tmp_path / "ended").touch()
    node = begun()
    time.sleep(0.3)
    assert node.poll() is None  # it waits, and a supervisor may end it all the same
    assert int(re.search(r"sleep (\d+)", script)[1]) > FORGOTTEN
    node.send_signal(signal.SIGTERM)
    node.communicate(timeout=10)
    assert node.returncode == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_a_unit_and_calls_it_closed(unit: Path, tmp_path: Path) -> None:
    there = re.sub(rf"{HOME}/\.venv/bin/\S+|/usr/sbin/nginx", shlex.quote(shutil.which("true") or ""), unit.read_text())
    (tmp_path / unit.name).write_text(there)
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.name)], capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stderr.strip()) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "Unknown option" in rated.stderr or "unrecognized option" in rated.stderr:
        pytest.skip("this systemd rates no files")
    assert rated.returncode == 0, rated.stdout
