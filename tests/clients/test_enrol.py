"""`fedveil enrol`: galleries from pictures and from stored features, what it books, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedveil import cli, config, runs
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation.federation import Federation
from fedveil.privacy.events import NonPrivate
from fedveil.protections.advface import AdvFace
from fedveil.randomness import SecretStream, test_key
from fedveil_clients.steps import steps_of
from fedveil_clients.vault import Vault
from fedveil_clients.witness import Witness

FACES = draw_faces(1, 7, identities=3, images_per_identity=1, size=32).images(np.arange(3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short runs: advface with its phase, dctdp, and private steps on clean faces."""
    folder = tmp_path_factory.mktemp("store")
    words = [
        "data.identities=8", "data.images_per_identity=3", "data.pairs=20", "data.size=32",
        "train.clients=2", "train.rounds=1", "train.local.steps=1", "tracking=none", "engine=inline",
        "evaluation.reference=false", "evaluation.bootstrap=0", "evaluation.draws=1", f"runs.root={folder}/runs",
        f"vault.root={folder}/vault", "protection.fit_steps=2",
    ]  # fmt: skip
    from fedveil.commands import simulate

    bare = [word for word in words if not word.startswith("protection.")]
    simulate.simulate(Federation.of([*bare, "protection=none", "privacy.image.noise_multiplier=1"]), "private", "quiet")
    for name, more in (("advface", ["protection.split_rounds=1", "protection.steps=2"]), ("dctdp", [])):
        simulate.simulate(Federation.of([*words, f"protection={name}", *more]), name, "quiet")
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


def enrol(store: Path, vault: Path, *words: str) -> int:
    places = [f"runs.root={store}/runs", f"vault.root={vault}"]
    return cli.main(["enrol", *words, "--owner", "hospital", *places])


def test_both_enrolments_stay_in_the_ball_of_the_runs_own_features_and_are_booked_each(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protection, state = learnt(store)
    clean = protection.clean(torch.from_numpy(FACES), state)
    np.save(tmp_path / "features.npy", clean.numpy())
    radius = protection.strength * float(state["sigma"])
    found = []
    for source, out in ((store / "faces", "online.npz"), (tmp_path / "features.npy", "offline.npz")):
        assert enrol(store, tmp_path / "vault", "advface", str(source), "--out", str(tmp_path / out)) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "no formal guarantee" in text
        assert "3 faces through advface" in text
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
    with Vault(tmp_path / "vault").ledger.read() as book:
        rows = book.rows()
        assert len(book.contents()["hospital"]) == 3
    assert [(row.run_id, row.subject, row.status, row.note) for row in rows] == [
        ("advface", "hospital", "spent", "gallery")
    ] * 2
    assert all(isinstance(row.event, NonPrivate) for row in rows)


def test_equal_faces_have_their_own_draws(store: Path, tmp_path: Path) -> None:
    """One key for all rows would move every face by one start."""
    protection, state = learnt(store)
    table = protection.clean(torch.from_numpy(FACES[[0, 0]]), state).numpy()
    np.save(tmp_path / "twins.npy", table)
    out = tmp_path / "twins.npz"
    assert enrol(store, tmp_path / "vault", "advface", str(tmp_path / "twins.npy"), "--out", str(out)) == 0
    with np.load(out, allow_pickle=False) as gallery:
        assert not np.array_equal(gallery["features"][0], gallery["features"][1])


def test_the_row_is_on_disk_before_anything_is_drawn(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watching(self: AdvFace, images: torch.Tensor, state: object, streams: object) -> torch.Tensor:
        with Vault(tmp_path / "vault").ledger.read() as book:
            seen.append(len(book.rows()))
        return torch.zeros(len(images), 16, 16, 16)

    monkeypatch.setattr(AdvFace, "release", watching)
    assert enrol(store, tmp_path / "vault", "advface", str(store / "faces"), "--out", str(tmp_path / "g.npz")) == 0
    assert seen == [1]


@pytest.mark.parametrize("rule", ["policy.floor=[dctdp]", "policy.max_epsilon=8", "policy.max_total_epsilon=8"])
def test_the_owners_policy_refuses_it_and_nothing_is_booked(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str
) -> None:
    out = tmp_path / "g.npz"
    assert enrol(store, tmp_path / "vault", "advface", str(store / "faces"), "--out", str(out), rule) == 2
    assert "Refused: the owner" in capsys.readouterr().err
    assert not out.exists()
    with Vault(tmp_path / "vault").ledger.write() as book:
        assert book.rows() == []
        assert book.contents() == {}


@pytest.mark.parametrize("owner", ["h/w/1", "pictures-ab12cd/12ab34/*", "*", ""])
def test_a_gallery_is_of_one_owner_whose_name_is_no_share_of_a_deal(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], owner: str
) -> None:
    words = ["enrol", "advface", str(store / "faces"), "--owner", owner, "--out", str(tmp_path / "g.npz")]
    assert cli.main([*words, f"runs.root={store}/runs", f"vault.root={tmp_path}/vault"]) == 2
    assert f"Expected --owner={owner!r}" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_converting_a_table_is_releasing_its_images_bit_by_bit(store: Path) -> None:
    protection, state = learnt(store)
    images = torch.from_numpy(FACES)

    def streams() -> list[SecretStream]:
        return [SecretStream(test_key(1, "row", index)) for index in range(len(images))]

    table = protection.clean(images, state)
    kept = table.clone()
    assert torch.equal(protection.converted(table, state, streams()), protection.release(images, state, streams()))
    assert torch.equal(table, kept)


TABLES = {
    "nan.npy": np.full((2, 16, 16, 16), np.nan, np.float32),
    "large.npy": np.full((2, 16, 16, 16), 1e300),
    "none.npy": np.zeros((0, 16, 16, 16), np.float32),
    "flat.npy": np.zeros((2, 256), np.float32),
    "whole.npy": np.zeros((2, 16, 16, 16), np.int64),
}


@pytest.mark.parametrize(
    ("run", "source", "reason"),
    [
        ("dctdp", "faces", "formal guarantee"),
        ("nobody", "faces", "No run 'nobody'"),
        ("advface", "missing", "No such image"),
        ("advface", "missing.npy", "No such file"),
        ("advface", "text.npy", "not a readable .npy"),
        ("advface", "zip.npy", "not a readable .npy"),
        ("advface", "archive.npy", "archive of several"),
        *(("advface", name, "finite floats of shape") for name in TABLES),
    ],
)
def test_what_cannot_be_enrolled_is_refused_with_the_reason_and_leaves_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str, source: str, reason: str
) -> None:
    for name, table in TABLES.items():
        np.save(store / name, table)
    (store / "text.npy").write_text("hello")
    (store / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
    with (store / "archive.npy").open("wb") as stream:
        np.savez(stream, a=np.zeros(3))
    vault = tmp_path / "vault"
    assert enrol(store, vault, run, str(store / source), "--out", str(tmp_path / "g.npz")) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "g.npz").exists()
    assert not vault.exists()


def test_nothing_is_overwritten_and_a_missing_folder_is_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = store / "faces" / "somebody" / "0.png"
    before = face.read_bytes()
    assert enrol(store, tmp_path / "vault", "advface", str(face), "--out", str(face)) == 2
    assert "is there already" in capsys.readouterr().err
    assert face.read_bytes() == before
    assert enrol(store, tmp_path / "vault", "advface", str(face), "--out", str(tmp_path / "no" / "g.npz")) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_pictures_that_cannot_be_read_are_named_and_words_of_the_run_are_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some"
    some.mkdir()
    whole = (store / "faces" / "somebody" / "0.png").read_bytes()
    (some / "good.png").write_bytes(whole)
    (some / "bad.png").write_bytes(whole[:100])
    out = str(tmp_path / "g.npz")
    assert enrol(store, tmp_path / "vault", "advface", str(some), "--out", out, "protection.strength=0.0001") == 2
    assert "protection.strength=0.0001" in capsys.readouterr().err
    assert enrol(store, tmp_path / "vault", "advface", str(some), "--out", out) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 faces through" in text
    assert "left out: bad.png" in text


def test_an_unfinished_run_and_features_for_a_method_of_pictures_are_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.open_run(store / "runs", "advface")
    kept = run.result.read_text()
    run.result.unlink()
    try:
        assert enrol(store, tmp_path, "advface", str(store / "faces"), "--out", str(tmp_path / "g.npz")) == 2
        assert "--resume advface" in capsys.readouterr().err
    finally:
        run.result.write_text(kept)
    other = store / "runs" / "bare"
    other.mkdir()
    bare = config.load(["protection=none", "data.size=32"])
    runs.write_json(other / "config.json", config.to_tree(bare))
    (other / "result.json").write_text(kept)
    (other / "checkpoint.npz").write_bytes(runs.pack({}, {"round": 0, "history": []}))
    np.save(tmp_path / "f.npy", np.zeros((1, 3, 32, 32), np.float32))
    assert enrol(store, tmp_path, "bare", str(tmp_path / "f.npy"), "--out", str(tmp_path / "g.npz")) == 2
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


def test_what_private_steps_promise_is_no_promise_for_a_gallery(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pictures that are enrolled leave without any noise, whatever epsilon the model was trained at."""
    vault, out = tmp_path / "vault", tmp_path / "gallery.npz"
    words = ["private", str(store / "faces" / "somebody"), "--out", str(out), "policy.max_epsilon=1000"]
    assert enrol(store, vault, *words) == 2
    assert "none (infinite)" in capsys.readouterr().err
    assert not out.exists()


def test_a_gallery_is_an_answer_that_the_vaults_witness_sees(store: Path, tmp_path: Path, capsys) -> None:
    """Whoever restores the vault of a real node from before a gallery has forgotten the gallery."""
    vault, seen = Vault(tmp_path / "vault"), Witness(tmp_path / "seen")
    seen.begin(vault)
    seen.advance(vault)
    shutil.copytree(tmp_path / "vault", tmp_path / "older")
    faces = str(store / "faces")
    assert enrol(store, tmp_path / "vault", "advface", faces, "--out", str(tmp_path / "one.npz")) == 0
    assert steps_of(vault).number == 2
    shutil.rmtree(tmp_path / "vault")
    (tmp_path / "older").rename(tmp_path / "vault")
    capsys.readouterr()
    assert enrol(store, tmp_path / "vault", "advface", faces, "--out", str(tmp_path / "two.npz")) == 2
    assert "older state of itself" in capsys.readouterr().err
    assert not (tmp_path / "two.npz").exists()
