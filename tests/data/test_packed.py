from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data.inspect import inspect
from fedveil.data.sources.packed import Packed
from fedveil.data.sources.procedural import draw_faces

ORL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "orl.npz"


def some_fields(kind: str) -> dict[str, Any]:
    faces = draw_faces(3, 0, 6, 3, 40)
    pixels = faces.images().transpose(0, 2, 3, 1)
    fields: dict[str, Any] = {"labels": faces.labels, "names": np.array(faces.names)}
    if kind == "jpeg":
        parts = []
        for image in pixels:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
            parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
        fields |= {"jpeg": np.concatenate(parts), "offsets": np.cumsum([0, *map(len, parts)])}
    else:
        fields["images"] = pixels if kind == "colour" else pixels[..., 1]
    return fields


def write(path: Path, fields: dict[str, Any]) -> Packed:
    np.savez(path, **fields)
    return Packed(path=str(path), size=32, evaluation="procedural", pairs=20)


@pytest.mark.parametrize("kind", ["colour", "grey", "jpeg"])
def test_every_kind_shows_the_same_faces(kind: str, tmp_path: Path) -> None:
    train = write(tmp_path / "faces.npz", some_fields(kind)).load(1).train
    images = train.images().astype(float)
    assert images.shape == (18, 3, 32, 32)
    assert train.present_names == tuple(f"p{i:04d}" for i in range(6))
    original = draw_faces(3, 0, 6, 3, 40).images().astype(float)
    if kind == "grey":
        assert (images[:, 0] == images[:, 2]).all()
        np.testing.assert_allclose(images[:, 1].mean((1, 2)), original[:, 1].mean((1, 2)), atol=2)
    else:
        np.testing.assert_allclose(images.mean((2, 3)), original.mean((2, 3)), atol=2)
    assert len(set(train.keys)) == 18
    assert train.keys[0].startswith("sha256:")


def test_held_out_needs_the_declaration(tmp_path: Path) -> None:
    write(tmp_path / "faces.npz", some_fields("colour"))
    path = str(tmp_path / "faces.npz")
    with pytest.raises(checks.UserError, match="declared_public_evaluation=False"):
        Packed(path=path).load(1)
    split = Packed(path=path, declared_public_evaluation=True, evaluation_fraction=0.5, pairs=6).load(1)
    assert len(split.evaluation.faces.present_names) == len(split.train.present_names) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(18, 6)}, r"labels must lie in 0\.\.5 \(6 names\), got 6\.\.6"),
        ({"labels": np.full(18, -1)}, r"got -1\.\.-1"),
        ({"labels": np.zeros(17, int)}, "17 labels but 18 images"),
        ({"labels": np.zeros(18)}, "whole numbers"),
        ({"names": None}, r"lacks the fields \['names'\]"),
        ({"images": None}, r"lacks the fields \['jpeg', 'offsets'\]"),
        ({"images": np.zeros((18, 40, 40, 2), np.uint8)}, r"images must be uint8 \(N, H, W\)"),
        ({"images": np.zeros((18, 40, 40))}, "float64"),
        ({"names": np.array([object()] * 6)}, "without pickles"),
    ],
)
def test_wrong_fields_name_the_file(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    fields = {name: value for name, value in {**some_fields("colour"), **change}.items() if value is not None}
    source = write(tmp_path / "wrong.npz", fields)
    with pytest.raises(checks.UserError, match=message) as caught:
        source.load(1)
    assert "wrong.npz" in str(caught.value)


def test_files_that_are_no_archive_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "cut.npz", some_fields("colour"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:1000])
    with pytest.raises(checks.UserError, match=r"cut\.npz cannot be read"):
        source.load(1)
    (tmp_path / "cut.npz").write_bytes(b"")
    with pytest.raises(checks.UserError, match=r"cut\.npz cannot be read"):
        source.load(1)
    (tmp_path / "cut.npz").unlink()
    with pytest.raises(checks.UserError, match=r"cut\.npz' is not a file"):
        source.load(1)
    with pytest.raises(checks.UserError, match=r"path='' is not a file"):
        Packed(declared_public_evaluation=True).load(1)


def test_broken_pictures_are_listed_and_bad_offsets_refused(tmp_path: Path) -> None:
    fields = some_fields("jpeg")
    fields["jpeg"] = fields["jpeg"].copy()
    fields["jpeg"][fields["offsets"][4]] = 0
    train = write(tmp_path / "faces.npz", fields).load(1).train
    assert [str(problem) for problem in train.skipped] == [f"{tmp_path}/faces.npz:4: not a JPEG"]
    assert len(train) == 17
    fields["offsets"] = fields["offsets"] + 10
    with pytest.raises(checks.UserError, match="offsets must ascend"):
        write(tmp_path / "faces.npz", fields).load(1)


def test_damage_inside_a_picture_is_named_when_it_is_read(tmp_path: Path) -> None:
    fields = some_fields("jpeg")
    fields["jpeg"] = fields["jpeg"].copy()
    fields["jpeg"][fields["offsets"][4] + 2 : fields["offsets"][5] - 2] = 0
    train = write(tmp_path / "faces.npz", fields).load(1).train
    with pytest.raises(checks.UserError, match=r"faces\.npz: picture 4 cannot be decoded"):
        train.images([4])


@pytest.mark.skipif(not ORL.is_file(), reason="needs shared/data/orl.npz, which is not part of the repository")
def test_orl_is_read_and_reported() -> None:
    report = inspect("packed", Packed(path=str(ORL), size=48, evaluation="procedural"), 1)
    train = report.parts[0]
    assert (train.images, train.identities, train.grey, train.duplicates) == (400, 40, 400, ())
    assert "400 of 400 images resized to 48x48 from 92x112 (400)" in train.notes
