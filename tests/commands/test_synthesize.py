"""`fedveil synthesize` as a person types it: a set, its account, sheets, resuming, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedveil import cli, runs
from fedveil.attacks import _judges
from fedveil.commands.synthesize import chosen
from fedveil.data import synthetic_set
from fedveil.data.sources import procedural
from fedveil.storage import disk
from fedveil.synthesis import making, sampling

SIZES = [
    "generator.width=8", "generator.multipliers=[1,2]", "generator.attention=0", "generator.context=16",
    "model.width=8", "model.embedding=16", "data.identities=12", "data.images_per_identity=4",
]  # fmt: skip
SMALL = [
    *SIZES, "synthesis=quick", "synthesis.recogniser_steps=6", "synthesis.steps=6", "synthesis.every=2",
    "synthesis.batch_size=8", "synthesis.identities=4", "synthesis.images=3", "synthesis.ddim_steps=2",
    "synthesis.keep=-1", "synthesis.attempts=4", "synthesis.duplicates=0", "synthesis.apart=1", "tracking=none",
    "synthesis.far=0.01", "synthesis.guidance=0.5",
]  # fmt: skip


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(procedural, "_STRANGERS", 24)
    monkeypatch.setattr(procedural, "_STRANGERS_IMAGES", 3)
    monkeypatch.setattr(_judges, "_PHASES", ((4, 0.05),))
    monkeypatch.setattr(making, "_threshold", lambda *_: 0.999)


def made(*words: str) -> tuple[Path, dict[str, Any]]:
    assert cli.main(["synthesize", *SMALL, *words, "--json", "found.json"]) == 0
    (folder,) = [path for path in Path("runs/synthetic").iterdir() if path.is_dir()]
    return folder, json.loads(Path("found.json").read_text())


def test_a_set_has_faces_an_account_sheets_and_a_judgement(capsys: pytest.CaptureFixture[str]) -> None:
    folder, result = made()
    names = {path.name for path in folder.iterdir()}
    assert {"generator.safetensors", "faces.npz", "sheet.png", "nearest.png", "result.json", "config.json"} <= names
    faces, account = synthetic_set.read(str(folder / "faces.npz"), 32)
    assert (len(faces), faces.identities.size) == (result["images"], result["people"])
    assert (account.mode, account.generator) == ("public", result["generator_sha256"])
    assert account.settings["guidance"] == 0.5
    assert result["judged"]["leakage"]["people"]["members"] == 12
    assert result["judged"]["judge"]["kind"] == "own network"
    text = capsys.readouterr().out
    for said in ("No private face was touched", "epsilon is\ninfinite", "circular", f"{folder}/faces.npz"):
        assert said in text
    assert all(len(line) <= 80 or "/" in line for line in text.splitlines())
    assert cli.main(["data", "inspect", "data=synthetic", f"data.path={folder / 'faces.npz'}"]) == 0


def test_an_interrupted_set_goes_on_and_is_the_same(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    folder, whole = made()
    expected = (folder / "faces.npz").read_bytes()
    for name in ("train", "generate"):
        real = getattr(making.training if name == "train" else sampling, name)

        def interrupted(*given: Any, _real: Any = real) -> Any:
            *rest, progress = given

            def stop(what: str, done: int, total: int) -> None:
                progress(what, done, total)
                if done >= total // 2:
                    raise KeyboardInterrupt

            return _real(*rest, stop)

        with monkeypatch.context() as patch:
            patch.setattr(making.training if name == "train" else sampling, name, interrupted)
            assert cli.main(["synthesize", *SMALL, "runs.root=again"]) == 130
        half = capsys.readouterr().err.rpartition("--resume ")[2].partition("`")[0]
        assert not (Path("again/synthetic") / half / "faces.npz").exists()
        assert cli.main(["synthesize", "--resume", half, "runs.root=again", "tracking=none"]) == 0
        assert (Path("again/synthetic") / half / "faces.npz").read_bytes() == expected
        assert cli.main(["synthesize", "--resume", half, "runs.root=again", "tracking=none"]) == 0  # again: the same
        assert cli.main(["synthesize", "--resume", half, "runs.root=again", "synthesis.images=4"]) == 2
    assert whole["counts"]["asked"] == 12


def test_a_generator_that_is_given_is_used_and_its_origin_kept(capsys: Any) -> None:
    folder, result = made()
    kept = Path("kept.safetensors")
    (folder / "generator.safetensors").rename(kept)
    assert cli.main(["synthesize", *SMALL, f"synthesis.generator={kept}", "--json", "second.json"]) == 0
    second = json.loads(Path("second.json").read_text())
    assert second["generator_sha256"] == result["generator_sha256"]
    assert second["mode"] == "public"
    said = capsys.readouterr().out
    assert "training the" not in said
    assert "need not be whom the generator learnt" in " ".join(said.split())
    assert cli.main(["synthesize", *SMALL, f"synthesis.generator={kept}", "data.size=40"]) == 2
    assert "data.size=32" in capsys.readouterr().err


def private_folder(path: Path) -> list[str]:
    from PIL import Image

    for who in range(3):
        for picture in range(3):
            place = path / f"person{who}" / f"{picture}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(3 * who + picture).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(place)
    sizes = [word for word in SMALL if not word.startswith("data.")]
    return [*sizes, "data=folder", f"data.root={path}", "data.evaluation=procedural"]


def test_private_faces_are_refused_unless_sharing_them_is_meant(tmp_path: Path, capsys: Any) -> None:
    words = private_folder(tmp_path / "faces")
    assert cli.main(["synthesize", *words]) == 2
    said = capsys.readouterr().err
    for part in ("epsilon is infinite", "synthesis.public=true", "synthesis.shared=true", "privacy.identity"):
        assert part in " ".join(said.split())
    assert not any(Path("runs").rglob("*.npz")) if Path("runs").exists() else True
    assert cli.main(["synthesize", *words, "synthesis.shared=true", "--json", "found.json"]) == 0
    assert json.loads(Path("found.json").read_text())["mode"] == "shared"
    assert "NO GUARANTEE" in capsys.readouterr().out
    assert cli.main(["synthesize", *words, "synthesis.shared=true", "synthesis.public=true"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["synthesis.identities=0"], "identities=0"),
        (["synthesis.attributes=[yow=1]"], "yaw"),
        (["synthesis.attributes=[yaw]"], "name=number"),
        (["synthesis.attributes=[yaw=1,yaw=2]"], "yaw twice"),
        (["synthesis.ddim_steps=5000"], "ddim_steps=5000"),
        (["synthesis.ddim_stps=3"], "Did you mean 'ddim_steps'"),
        (["synthesis=cpus"], "choose from ['cpu', 'gpu', 'quick']"),
        (["synthesis.generator=nowhere"], "nowhere"),
        (["synthesis.recogniser=nowhere"], "nowhere"),
        (["synthesis.judge=nowhere.onnx"], "nowhere.onnx"),
        (["data.size=36"], "size=36"),
        (["protection=dct"], "protection"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str, capsys: Any) -> None:
    assert cli.main(["synthesize", *SMALL, *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not [*Path().rglob("faces.npz"), *Path().rglob("recogniser.npz")]  # nothing was trained before


def test_a_picture_that_cannot_be_read_costs_itself_alone(tmp_path: Path, capsys: Any) -> None:
    words = private_folder(tmp_path / "faces")
    broken = tmp_path / "faces" / "person0" / "1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    assert cli.main(["synthesize", *words, "synthesis.shared=true"]) == 0
    said = capsys.readouterr()
    assert "cannot be read: 1 pictures" in said.out + said.err


def test_a_full_disk_leaves_no_half_of_a_set(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    real = disk.write_atomic

    def full(path: Path, *rest: Any, **named: Any) -> None:
        if path.name == "faces.npz":
            raise OSError(28, "No space left on device", str(path))
        real(path, *rest, **named)

    monkeypatch.setattr(disk, "write_atomic", full)
    assert cli.main(["synthesize", *SMALL]) == 2
    assert "faces.npz" in capsys.readouterr().err
    assert not list(Path().rglob("faces.npz"))


def test_tiers_are_complete_and_their_words_fit() -> None:
    for tier in ("cpu", "gpu", "quick"):
        settings, wanted = chosen.of([f"synthesis={tier}"])
        assert chosen.wanted(chosen.plain(wanted)) == wanted
        assert settings.generator.name == "id3"
    assert chosen.of(["synthesis=gpu"])[0].data.settings["size"] == 112
    assert chosen.of(["synthesis.attributes=[yaw=1.5,light=-1]"])[1].sampling.attributes == {"yaw": 1.5, "light": -1.0}


def test_a_set_is_tracked_as_a_run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    from fedveil.tracking import _mlflow, _remote

    monkeypatch.setattr(_remote, "Remote", _mlflow.MlflowTracker)
    assert cli.main(["synthesize", *[word for word in SMALL if word != "tracking=none"], "tracking=mlflow"]) == 0
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{Path('runs/mlflow.db').resolve()}")
    (one,) = client.search_runs([client.get_experiment_by_name("fedveil").experiment_id])
    assert one.info.run_name == "id3 faces of procedural, guidance 0.5 seed 1"
    assert {"one_person", "two_people", "set_eer", "members_auc", "dropped", "seconds_sampling"} <= {*one.data.metrics}
    assert len(one.data.metrics) < 15
    assert {item.path for item in client.list_artifacts(one.info.run_id)} == {"sheet.png", "nearest.png", "result.json"}
    assert runs.Run(Path("runs/synthetic"), one.data.tags["fedveil.run_id"]).result.exists()
