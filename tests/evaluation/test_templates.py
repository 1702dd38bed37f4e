"""Templates on the published layout, built here, against loops that follow the published order of steps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fedveil import checks, config
from fedveil.data import alignment, decode, ijb
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.stores import Unreadable
from fedveil.evaluation import templates

FACES = draw_faces(3, 0, 8, 6, 48)


def benchmark(root: Path) -> Path:
    """Write 48 drawn pictures of eight people, 24 templates of two, some media shared; landmarks in larger pictures."""
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    points = alignment.TEMPLATE * 1.3 + 7
    faces, marks = [], []
    for i, pixels in enumerate(FACES.images().transpose(0, 2, 3, 1)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((160, 160)).save(buffer, "JPEG")
        (root / "loose_crop" / f"{i + 1}.jpg").write_bytes(buffer.getvalue())
        template, medium = 100 + 3 * (i // 2), 7 if i % 4 < 2 else i
        faces.append(f"{i + 1}.jpg {template} {medium}\n")
        marks.append(f"{i + 1}.jpg {' '.join(f'{v:.3f}' for v in points.ravel())} 0.99\n")
    pairs = [(a, b, int(a // 3 == b // 3)) for a in range(24) for b in range(a)]
    (root / "meta/ijbc_face_tid_mid.txt").write_text("".join(faces))
    (root / "meta/ijbc_name_5pts_score.txt").write_text("".join(marks))
    (root / "meta/ijbc_template_pair_label.txt").write_text(
        "".join(f"{100 + 3 * a} {100 + 3 * b} {s}\n" for a, b, s in pairs)
    )
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmark(tmp_path_factory.mktemp("ijb") / "IJBC")


def test_lists_and_pictures_are_read(whole: Path) -> None:
    assert ijb.is_one(whole)
    assert not ijb.is_one(whole / "loose_crop")
    found = ijb.read(whole, 48)
    assert found.templates.tolist() == np.repeat(np.arange(24), 2).tolist()
    assert (found.left.size, int(found.same.sum())) == (276, 24)
    assert all((a // 3 == b // 3) == s for a, b, s in zip(found.left, found.right, found.same, strict=True))
    points = alignment.TEMPLATE * 1.3 + 7
    wanted = alignment.aligned(decode.upright(whole / "loose_crop/5.jpg"), points.round(3), 48)
    assert np.array_equal(found.faces.images([4])[0], wanted)
    assert found.faces.records[4] == "5.jpg"


def published(features: np.ndarray, templates_of: np.ndarray, media: np.ndarray) -> np.ndarray:
    made = []
    for template in np.unique(templates_of):
        own = [features[(templates_of == template) & (media == medium)] for medium in np.unique(media)]
        means = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0) for rows in own if len(rows)]
        made.append(np.sum(means, 0) / np.linalg.norm(np.sum(means, 0)))
    return np.array(made)


def test_features_are_means_inside_media_and_sums_over_them() -> None:
    rng = np.random.default_rng(1)
    templates_of, media = rng.permutation(np.repeat(np.arange(6), 5)), rng.integers(0, 4, 30)
    features = rng.normal(size=(30, 9))
    made = templates.Aggregate(templates_of, media)
    for part in np.array_split(rng.permutation(30), 4):
        made.add(part, features[part])
    np.testing.assert_allclose(made.features(), published(features, templates_of, media), atol=1e-12)


class Mean(nn.Module):
    """An embedding that tells drawn people apart a little: pictures scaled down."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 6).flatten(1)


def test_evaluation_is_that_of_the_published_steps(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.metrics import roc_auc_score

    monkeypatch.setattr(templates, "_AT_ONCE", 7)
    monkeypatch.setattr(templates, "_PAIRS_AT_ONCE", 10)
    protection = config.build(config.load(["protection=none"]), "protection")
    found = ijb.read(whole, 48)
    result = templates.evaluate(Mean(), protection, {}, found, 1, fars=(0.1, 0.01, 1e-6))
    features = Mean()(protection.features(torch.from_numpy(found.faces.images()), {})).numpy()
    rows = published(features, found.templates, found.media)
    scores = (rows[found.left] * rows[found.right]).sum(1)
    assert result.auc == pytest.approx(roc_auc_score(found.same, scores), abs=1e-6)
    best = np.sort(scores[~found.same])[::-1]
    for far in (0.1, 0.01):  # the threshold that lets floor(FAR x impostors) in, and no more
        allowed = int(far * best.size)
        assert result.tar[far] == pytest.approx(float((scores[found.same] > best[allowed]).mean()))
    assert result.tar[1e-6] == {"omitted": "FAR 1e-06 needs at least 1000000 impostor pairs, there are 252"}
    assert (result.pairs, result.templates, result.images) == (276, 24, 48)


DAMAGE: list[tuple[str, Any, str]] = [
    ("face_tid_mid", lambda t: t.replace("3.jpg 103 2", "3.jpg 103"), "line 3: expected NAME TEMPLATE"),
    ("face_tid_mid", lambda t: t.replace("3.jpg 103 2", "3.jpg 103 x"), "line 3: .*two whole numbers"),
    ("face_tid_mid", lambda t: t.replace("\n3.jpg", "\n2.jpg"), "line 3: .* not that of line 2 again"),
    ("face_tid_mid", lambda t: t.replace("\n3.jpg", "\n../3.jpg"), "line 3: expected NAME TEMPLATE MEDIA"),
    ("face_tid_mid", lambda t: "", r"lists no picture"),
    ("template_pair_label", lambda t: t.replace("103 100 1", "104 100 1"), "line 1: a template without .*'104 100 1'"),
    ("template_pair_label", lambda t: t.replace("103 100 1", "103 100 2"), "line 1: a label that is not 0 or 1"),
    ("template_pair_label", lambda t: t.replace("103 100 1", "103 103 1"), "line 1: one template twice"),
    ("template_pair_label", lambda t: t.replace("103 100 1", "103 100"), "line 1: expected TEMPLATE TEMPLATE LABEL"),
    ("template_pair_label", lambda t: "103 100 1\n", "holds no pairs of both kinds"),
    ("name_5pts_score", lambda t: t.replace("\n3.jpg", "\n4.jpg"), "line 3: expected '3.jpg', as in the list"),
    ("name_5pts_score", lambda t: "".join(t.splitlines(True)[:9]), "ends after 9 of 48 pictures: it is cut off"),
    ("name_5pts_score", lambda t: t + t, "line 49: expected the end of the list"),
    ("name_5pts_score", lambda t: t.replace("0.99", "", 1), "line 1: expected NAME, five points"),
    ("name_5pts_score", lambda t: t.replace("0.99", "high", 1), "line 1: expected numbers"),
    ("name_5pts_score", lambda t: t.replace("1.jpg", "1.jpg nan", 1).replace(" 0.99", "", 1), "line 1: .*are apart"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_damage_names_the_file_and_the_line(number: int, tmp_path: Path) -> None:
    name, change, message = DAMAGE[number]
    path = benchmark(tmp_path / "IJBC") / f"meta/ijbc_{name}.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(checks.UserError, match=message) as caught:
        ijb.read(tmp_path / "IJBC", 48)
    assert path.name in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = benchmark(tmp_path / "IJBC")
    (root / "loose_crop/9.jpg").unlink()
    with pytest.raises(Unreadable, match=r"loose_crop: 9\.jpg: cannot be decoded \(missing\)"):
        ijb.read(root, 48).faces.images()
    (root / "meta/ijbb_name_5pts_score.txt").write_text("")
    with pytest.raises(checks.UserError, match=r"meta holds 2 file \.\.\._name_5pts_score\.txt instead of one"):
        ijb.read(root, 48)
    (root / "loose_crop").rename(root / "other")
    (root / "meta/ijbb_name_5pts_score.txt").unlink()
    with pytest.raises(checks.UserError, match="loose_crop is missing"):
        ijb.read(root, 48)
