"""Tracking watches a run: what it stores can be read back, and no failure of it reaches the run."""

from __future__ import annotations

import hashlib
import random
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import checks
from fedveil.configuration.schema import Tracking
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.tracking import RunInfo, Safe, Tracker, WriteModel, _full, light, open_tracker
from fedveil.tracking.stores import chosen, ui_command

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own deprecations
INFO = RunInfo("r1", "demo", "first run", {"train.rounds": 3, "train.lr": 0.1, "vault": None}, {"note": "procedural"})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module (creating the database takes seconds), in a folder whose name needs quoting."""
    return tmp_path_factory.mktemp("all runs")


def client_of(root: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=chosen(Tracking("mlflow"), root).uri)


def runs_of(root: Path, experiment: str) -> list[mlflow.entities.Run]:
    client = client_of(root)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def opened(root: Path, info: RunInfo = INFO) -> Safe:
    tracker = open_tracker(Tracking("mlflow"), root)
    tracker.start(info)
    assert tracker.problem is None
    return tracker


def tiny_backbone() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.PReLU(4),
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 8),
    )  # fmt: skip


def test_what_was_logged_is_read_back(root: Path, tmp_path: Path) -> None:
    picture = tmp_path / "roc.png"
    picture.write_bytes(b"png")
    info = RunInfo("r-back", "read back", "a name", {f"p{i}": i for i in range(120)}, {"statement": "image: none"})
    tracker = opened(root, info)
    for number in (1, 2, 3):
        tracker.log_round(number, {"accuracy": number / 10, "tar@0.01": 0.5})
    tracker.log_artifact(picture, "pictures")
    tracker.finish()
    (run,) = runs_of(root, "read back")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a name"
    assert len(run.data.params) == 120
    assert run.data.params["p119"] == "119"
    assert run.data.tags["fedveil.run_id"] == "r-back"
    assert run.data.tags["statement"] == "image: none"
    history = client_of(root).get_metric_history(run.info.run_id, "accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert run.data.metrics["tar_0.01"] == 0.5
    assert (root / "mlartifacts" / run.info.run_id / "artifacts/pictures/roc.png").read_bytes() == b"png"


def test_a_number_that_is_none_becomes_a_tag_never_a_metric(root: Path) -> None:
    tracker = opened(root, RunInfo("r-inf", "infinite", "inf"))
    tracker.log_round(1, {"epsilon": float("inf"), "eer": float("nan"), "accuracy": 0.5})
    tracker.log_round(2, {"epsilon": float("inf"), "accuracy": 0.6})
    tracker.finish()
    (run,) = runs_of(root, "infinite")
    assert run.data.metrics == {"accuracy": 0.6}
    assert run.data.tags["fedveil.dropped.epsilon"] == "inf at round 1"
    assert run.data.tags["fedveil.dropped.eer"] == "nan at round 1"


def test_a_resumed_run_continues_and_a_member_of_a_sweep_names_its_parent(root: Path) -> None:
    for rounds in ((1, 2), (3,)):
        tracker = opened(root, RunInfo("r-resumed", "resumed", "again", {"rounds": 3}))
        for number in rounds:
            tracker.log_round(number, {"accuracy": 0.5})
        tracker.finish("FAILED" if rounds == (1, 2) else "FINISHED")
    (run,) = runs_of(root, "resumed")
    assert run.info.status == "FINISHED"
    assert len(client_of(root).get_metric_history(run.info.run_id, "accuracy")) == 3
    opened(root, RunInfo("r-child", "resumed", "child", parent="r-resumed")).finish()
    child = next(found for found in runs_of(root, "resumed") if found.info.run_name == "child")
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id


def test_hidden_times_say_nothing_of_how_long_a_round_took(root: Path) -> None:
    tracker = opened(root, RunInfo("r-times", "times", "t", hide_times=True))
    for number in (1, 2):
        tracker.log_round(number, {"accuracy": 0.5})
        time.sleep(0.02)
    tracker.finish()
    (run,) = runs_of(root, "times")
    history = client_of(root).get_metric_history(run.info.run_id, "accuracy")
    assert [point.timestamp - run.info.start_time for point in history] == [1, 2]


def written(backbone: torch.nn.Module, shape: tuple[int, ...], width: int) -> WriteModel:
    """Return what writes a full model."""

    def write(folder: Path) -> tuple[tuple[int, ...], int]:
        _full.save(backbone, shape, folder)
        return shape, width

    return write


def test_a_full_model_loads_without_fedveil_and_embeds_a_face(root: Path) -> None:
    backbone = tiny_backbone().train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    face = np.random.default_rng(1).normal(size=(3, 3, 16, 16)).astype(np.float32)
    tracker = opened(root, RunInfo("r-model", "model", "with a model"))
    tracker.log_model(written(backbone, (3, 16, 16), 8))
    tracker.finish()
    assert tracker.problem is None
    assert backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    (run,) = runs_of(root, "model")
    mlflow.set_tracking_uri(chosen(Tracking("mlflow"), root).uri)
    loaded = mlflow.pyfunc.load_model(run.data.tags["fedveil.model_uri"])
    assert str(loaded.metadata.signature.inputs) == "[Tensor('float32', (-1, 3, 16, 16))]"
    assert loaded.metadata.flavors["python_function"]["loader_module"] == "mlflow.pytorch"
    with torch.no_grad():
        expected = backbone.eval()(torch.from_numpy(face)).numpy()
    np.testing.assert_allclose(loaded.predict(face), expected, atol=1e-6)
    assert not [path for path in (root / "mlartifacts").rglob("*") if "example" in path.name]  # no face in the store


def light_model(folder: Path) -> tuple[Federation, torch.nn.Module]:
    """Write a light model of other tensors than the initial ones; return its federation and the network."""
    federation = Federation.of(["protection=none", "model.width=8"])
    backbone = federation.backbone().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.01
    light.save(federation, get_tensors(backbone), folder)
    return federation, backbone


def test_a_light_model_loads_with_fedveil_and_its_tensors_with_numpy_alone(root: Path, tmp_path: Path) -> None:
    made: list[torch.nn.Module] = []

    def write(folder: Path) -> tuple[tuple[int, ...], int]:
        made.append(light_model(folder)[1])
        return (3, 32, 32), 64

    tracker = opened(root, RunInfo("r-light", "light", "with a light model"))
    tracker.log_model(write)
    tracker.finish()
    assert tracker.problem is None
    (run,) = runs_of(root, "light")
    uri = run.data.tags["fedveil.model_uri"]
    mlflow.set_tracking_uri(chosen(Tracking("mlflow"), root).uri)
    loaded = mlflow.pyfunc.load_model(uri)
    assert str(loaded.metadata.signature.inputs) == "[Tensor('float32', (-1, 3, 32, 32))]"
    assert str(loaded.metadata.signature.outputs) == "[Tensor('float32', (-1, 64))]"
    face = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_array_equal(loaded.predict(face), made[0](torch.from_numpy(face)).numpy())
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "model")))
    with np.load(folder / "data/backbone.npz", allow_pickle=False) as file:
        assert {name: file[name].shape for name in file.files} == {
            name: tuple(parameter.shape) for name, parameter in made[0].named_parameters()
        }


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", None])
def test_a_damaged_light_model_is_named(tmp_path: Path, damage: bytes | None) -> None:
    light_model(tmp_path / "model")
    path = tmp_path / "model/data/backbone.npz"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(checks.UserError, match=re.escape(str(path.parent))):
        light._load_pyfunc(str(path.parent))
    np.savez(path, **{"stem.weight": np.zeros(3, np.float32)})
    with pytest.raises(checks.UserError, match="is no readable model of fedveil: Expected tensor"):
        light._load_pyfunc(str(path.parent))


class Broken(Tracker):
    """Draw from every global generator, then fail where told."""

    def __init__(self, where: str) -> None:
        self.where, self.calls = where, 0

    def _step(self, method: str) -> None:
        self.calls += 1
        random.random()
        np.random.random()
        torch.rand(1)
        if method == self.where:
            raise RuntimeError("no space left\non the device")

    def start(self, info: RunInfo) -> None:
        self._step("start")

    def log_round(self, round: int, metrics: object) -> None:  # noqa: A002
        self._step("log_round")

    def log_model(self, write: WriteModel) -> None:
        self._step("log_model")

    def finish(self, status: str = "FINISHED") -> None:
        self._step("finish")


def trained(tracker: Tracker) -> str:
    """Train a few steps with global randomness (dropout, shuffling), and return the hash of the weights."""
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 2))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker.start(RunInfo("r-bits", "bits", "bits"))
    for number in (1, 2, 3):
        inputs = torch.rand(8, 6) * random.random() + torch.from_numpy(np.random.random((8, 6))).float()
        optimiser.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimiser.step()
        tracker.log_round(number, {"loss": loss.item()})
    tracker.log_model(written(model.eval(), (6,), 2))
    tracker.finish()
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(weights + torch.rand(1).numpy().tobytes() + repr(random.random()).encode()).hexdigest()


def test_no_tracker_changes_a_bit_of_the_result(root: Path) -> None:
    expected = trained(Tracker())
    real = open_tracker(Tracking("mlflow"), root)
    assert trained(real) == expected
    assert real.problem is None
    for where in ("never", "start", "log_round", "log_model", "finish"):
        assert trained(Safe(Broken(where), warn=lambda line: None)) == expected


def test_a_failure_is_one_warning_line_and_the_tracker_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    broken = Broken("log_round")
    tracker = Safe(broken)
    trained(tracker)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "tracking is off for the rest of this run (log_round: RuntimeError: no space left)" in shown
    assert broken.calls == 3  # start, the round that failed, and one quiet attempt to close the run


def test_a_store_that_does_not_answer_is_given_up_in_seconds(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = open_tracker(Tracking("mlflow", uri="http://127.0.0.1:9"), tmp_path)
    tracker = Safe(tracker._tracker, warn=said.append)
    begun = time.monotonic()
    assert trained(tracker) == trained(Tracker())
    assert time.monotonic() - begun < 30
    assert len(said) == 1


def test_tracking_off_creates_nothing(tmp_path: Path) -> None:
    trained(open_tracker(Tracking("none"), tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_tracker_is_refused_with_the_nearest() -> None:
    with pytest.raises(checks.UserError, match="Did you mean 'mlflow'"):
        open_tracker(Tracking("mlfow"), Path("runs"))


def test_the_pages_are_served_to_this_machine_only_unless_told(root: Path, tmp_path: Path) -> None:
    opened(root).finish()
    command, environment = ui_command(chosen(Tracking("mlflow"), root))
    assert command[0] == sys.executable
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{root / 'mlflow.db'}"
    with pytest.raises(checks.UserError, match="No tracked run yet"):
        ui_command(chosen(Tracking("mlflow"), tmp_path))
    with pytest.raises(checks.UserError, match="own pages"):
        ui_command(chosen(Tracking("mlflow", uri="http://tracking.example:5000"), tmp_path))


def test_the_address_of_the_pages_is_in_no_command(root: Path) -> None:
    """Everybody on the machine can read a command, and only its owner a process's environment."""
    address = "postgresql://me:s3cretword@db/x"
    command, environment = ui_command(chosen(Tracking("mlflow", uri=address), root))
    assert "s3cretword" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == address
    assert "s3cretword" not in repr(chosen(Tracking("mlflow", uri=address), root))
    with pytest.raises(checks.UserError, match=r"http://\*\*\*@tracking\.example/ is a server with its own pages"):
        ui_command(chosen(Tracking("mlflow", uri="http://me:s3cretword@tracking.example/"), root))


def test_a_failure_repeats_no_secret(tmp_path: Path) -> None:
    said: list[str] = []
    broken = Broken("start")
    broken._step = lambda method: (_ for _ in ()).throw(RuntimeError("no answer from http://me:s3cretword@host/"))
    Safe(broken, warn=said.append).start(RunInfo("r1", "demo", "first", later="it is sent later"))
    assert said == [
        "Warning: tracking is off for the rest of this run (start: RuntimeError: no answer from http://***@host/); "
        "the run goes on and its own folder stays complete; it is sent later."
    ]


def test_a_point_that_the_store_has_is_not_sent_again_and_a_new_value_is(root: Path) -> None:
    for value in (0.5, 0.5, 0.75):
        tracker = opened(root, RunInfo("r-again", "again", "again"))
        for _ in range(2):
            tracker.log_round(1, {"accuracy": value})
        tracker.finish()
    (run,) = runs_of(root, "again")
    history = client_of(root).get_metric_history(run.info.run_id, "accuracy")
    assert sorted(point.value for point in history) == [0.5, 0.75]
