"""`fedveil enrol`: galleries from pictures and from stored features, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedveil import cli, config, runs
from fedveil.data.sources.procedural import draw_faces
from fedveil.protections.advface import AdvFace
from fedveil.randomness import SecretStream, test_key

FACES = draw_faces(1, 7, identities=3, images_per_identity=1, size=32).images(np.arange(3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short runs: advface with its phase, and dctdp."""
    folder = tmp_path_factory.mktemp("store")
    words = [
        "data.identities=8", "data.images_per_identity=3", "data.pairs=20", "data.size=32",
        "train.clients=2", "train.rounds=1", "train.local.steps=1", "tracking=none", "engine=inline",
        "evaluation.reference=false", "evaluation.bootstrap=0", "evaluation.draws=1", f"runs.root={folder}/runs",
        f"vault.root={folder}/vault", "protection.fit_steps=2",
    ]  # fmt: skip
    from fedveil import simulate

    for name, more in (("advface", ["protection.split_rounds=1", "protection.steps=2"]), ("dctdp", [])):
        simulate.simulate(config.load([*words, f"protection={name}", *more]), name, "quiet")
    pictures = folder / "faces" / "somebody"
    pictures.mkdir(parents=True)
    for number, face in enumerate(FACES):
        Image.fromarray(face.transpose(1, 2, 0)).save(pictures / f"{number}.png")
    return folder


def learnt(store: Path) -> tuple[AdvFace, dict[str, torch.Tensor]]:
    run = runs.open_run(store / "runs", "advface")
    arrays, _ = runs.unpack(run.checkpoint)
    protection = config.build(config.from_json(run.config.read_text()), "protection")
    return protection, {name[6:]: torch.from_numpy(v) for name, v in arrays.items() if name.startswith("state/")}


def enrol(store: Path, *words: str) -> int:
    return cli.main(["enrol", *words, f"runs.root={store}/runs"])


def test_both_enrolments_stay_in_the_ball_of_the_runs_own_features_and_say_there_is_no_guarantee(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protection, state = learnt(store)
    clean = protection.clean(torch.from_numpy(FACES), state)
    np.save(tmp_path / "features.npy", clean.numpy())
    radius = protection.strength * float(state["sigma"])
    found = []
    for source, out in ((store / "faces", "online.npz"), (tmp_path / "features.npy", "offline.npz")):
        assert enrol(store, "advface", str(source), "--out", str(tmp_path / out)) == 0
        assert "no formal guarantee" in capsys.readouterr().out
        with np.load(tmp_path / out, allow_pickle=False) as gallery:
            moved = torch.from_numpy(gallery["features"]) - clean
            assert str(gallery["run_id"]) == "advface"
            assert len(str(gallery["model_sha256"])) == 64
            found.append((gallery["features"], gallery["names"].tolist()))
        assert float(moved.abs().max()) <= radius * (1 + 1e-4)
        assert float(moved.abs().mean()) > 0.2 * radius
        assert (tmp_path / out).stat().st_mode & 0o077 == 0
    assert found[0][1] == ["somebody/0.png", "somebody/1.png", "somebody/2.png"]
    assert found[1][1] == ["0", "1", "2"]
    assert not np.array_equal(found[0][0], found[1][0]), "the start is drawn anew, from the operating system"


def test_converting_a_table_is_releasing_its_images_bit_by_bit(store: Path) -> None:
    protection, state = learnt(store)
    images = torch.from_numpy(FACES)

    def streams() -> list[SecretStream]:
        return [SecretStream(test_key(1, "row", index)) for index in range(len(images))]

    table = protection.clean(images, state)
    kept = table.clone()
    assert torch.equal(protection.converted(table, state, streams()), protection.release(images, state, streams()))
    assert torch.equal(table, kept)


@pytest.mark.parametrize(
    ("run", "source", "reason"),
    [
        ("dctdp", "faces", "formal guarantee"),
        ("nobody", "faces", "No run 'nobody'"),
        ("advface", "missing", "No such image"),
        ("advface", "bad.npy", "finite floats of shape"),
        ("advface", "text.npy", "not a readable .npy"),
    ],
)
def test_what_cannot_be_enrolled_is_refused_with_the_reason_and_writes_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str, source: str, reason: str
) -> None:
    np.save(store / "bad.npy", np.full((2, 16, 16, 16), np.nan, np.float32))
    (store / "text.npy").write_text("hello")
    assert enrol(store, run, str(store / source), "--out", str(tmp_path / "g.npz")) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "g.npz").exists()


def test_an_unfinished_run_and_features_for_a_method_of_pictures_are_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.open_run(store / "runs", "advface")
    kept = run.result.read_text()
    run.result.unlink()
    try:
        assert enrol(store, "advface", str(store / "faces")) == 2
        assert "--resume advface" in capsys.readouterr().err
    finally:
        run.result.write_text(kept)
    other = store / "runs" / "bare"
    other.mkdir()
    tree = run.config.read_text()
    settings = config.from_json(tree)
    bare = config.load(["protection=none", "data.size=32", f"data.identities={settings.data.settings['identities']}"])
    runs.write_json(other / "config.json", config.to_tree(bare))
    (other / "result.json").write_text(kept)
    (other / "checkpoint.npz").write_bytes(runs.pack({}, {}))
    np.save(tmp_path / "f.npy", np.zeros((1, 3, 32, 32), np.float32))
    assert enrol(store, "bare", str(tmp_path / "f.npy")) == 2
    assert "only advface" in capsys.readouterr().err


def test_words_may_follow_an_option_and_unknown_options_are_still_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(FACES[0].transpose(1, 2, 0)).save(tmp_path / "face.png")
    out = tmp_path / "protected.png"
    words = ["protect", str(tmp_path / "face.png"), "--out", str(out), "protection=none", "data.size=32"]
    assert cli.main(words) == 0
    assert "through none" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*words, "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err
