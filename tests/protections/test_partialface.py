"""PartialFace: its table, its draws, what each release holds, and how little its secret hides."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.fft import dctn

from fedveil import frequency, randomness
from fedveil.checks import UserError
from fedveil.data.sources.procedural import draw_faces
from fedveil.frequency import operators
from fedveil.privacy.events import NonPrivate
from fedveil.protections import partialface
from fedveil.protections.base import Visit
from fedveil.protections.partialface import PartialFace, allowed_subsets

KEPT = [8 * u + v for u in range(8) for v in range(8) if u + v > 3]
PUBLISHED_SORTED = [  # specification of the reference code, subsets sorted
    [5, 21, 34, 38, 42, 50, 55, 57, 62], [11, 19, 41, 45, 47, 49, 52, 54, 63], [4, 13, 29, 31, 32, 33, 59, 60, 61],
    [14, 15, 18, 22, 27, 35, 40, 43, 48], [6, 12, 20, 23, 26, 36, 39, 53, 58], [7, 25, 28, 30, 37, 44, 46, 51, 56],
]  # fmt: skip
PUBLISHED_PLACES = [  # the reference code's own lists: places among the 54 kept channels
    [1, 24, 28, 12, 32, 45, 47, 40, 52], [35, 39, 44, 42, 10, 4, 37, 31, 53], [0, 50, 19, 6, 22, 51, 49, 23, 21],
    [38, 8, 25, 13, 17, 30, 7, 33, 9], [26, 29, 16, 2, 43, 14, 5, 11, 48], [36, 41, 46, 34, 15, 27, 18, 20, 3],
]  # fmt: skip
FACES = torch.from_numpy(draw_faces(2, 0, identities=6, images_per_identity=1, size=16).images(np.arange(6)))
NO_FACES = np.zeros((0, 3, 16, 16), np.uint8)
SMALL = FACES[:1, :, 4:12, 4:12].contiguous()


def table(seed: int = 1, **settings: object) -> tuple[PartialFace, dict[str, torch.Tensor]]:
    protection = PartialFace(**settings)  # type: ignore[arg-type]
    return protection, protection.fit(NO_FACES, np.zeros(0, np.int64), seed)


def streams(count: int, purpose: str = "test") -> list[randomness.SecretStream]:
    return [randomness.SecretStream(randomness.test_key(5, purpose, index)) for index in range(count)]


def slow_transform(image: torch.Tensor) -> np.ndarray:
    """Return (3, 64, H, W) of one uint8 (3, H, W): upsampled by torch, colours by hand, 8x8 blocks by scipy's DCT."""
    large = torch.nn.functional.interpolate(image[None].double(), scale_factor=8, mode="bilinear", align_corners=True)
    red, green, blue = large[0].numpy()
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402]
    height, width = image.shape[1:]
    out = np.empty((3, 64, height, width))
    for colour, i, j in itertools.product(range(3), range(height), range(width)):
        block = planes[colour][8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
        out[colour, :, i, j] = dctn(block, norm="ortho").ravel()
    return out


def sequences(released: torch.Tensor, full: np.ndarray) -> list[list[int]]:
    """Return per colour which frequency each of the nine channels is: the nearest of all 64 of that colour."""
    found = []
    for colour, channels in enumerate(released.numpy().reshape(3, 9, -1)):
        every = full[colour].reshape(64, -1)
        unit = every / np.maximum(np.linalg.norm(every, axis=1, keepdims=True), 1e-12)
        errors = [np.linalg.norm(unit - channel / np.linalg.norm(channel), axis=1) for channel in channels]
        assert max(error.min() for error in errors) < 1e-2, "a channel is none of the 64"
        found.append([int(error.argmin()) for error in errors])
    return found


def ranks_of(features: torch.Tensor, protection: PartialFace, state: dict[str, torch.Tensor]) -> list[int]:
    """Return the rank of each feature map of `SMALL`, among all 36 made from the full transform."""
    full = frequency.upsampled_dct(SMALL).view(3, 64, 8, 8)
    made = []
    for rank in range(36):
        subset, order = state["subsets"][rank // 6].long(), state["permutations"][rank % 6].long()
        made.append(full[:, [int(subset[place]) for place in order]].reshape(27, 8, 8))
    candidates = protection.features(torch.stack(made), state).flatten(1)
    distances = torch.cdist(features.flatten(1), candidates)
    nearest = distances.sort(1)
    assert float(nearest.values[:, 0].max()) < 0.1 < float(nearest.values[:, 1].min())
    return nearest.indices[:, 0].tolist()


def uniform(counts: Counter[int], values: int) -> float:
    """Return the p-value of a chi-square test that all values 0..values-1 are equally likely."""
    assert set(counts) <= set(range(values))
    return float(stats.chisquare([counts[value] for value in range(values)]).pvalue)


@pytest.mark.parametrize("kind", ["drawn", "published"])
def test_the_subsets_partition_the_54_kept_channels_and_the_orders_are_six(kind: str) -> None:
    _, state = table(table=kind)
    assert sorted(state["subsets"].flatten().tolist()) == KEPT
    orders = [tuple(order) for order in state["permutations"].tolist()]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len(set(orders)) == 6


def test_the_published_table_is_the_reference_code_s_and_a_drawn_one_depends_on_the_seed() -> None:
    _, state = table(table="published")
    assert [sorted(row) for row in state["subsets"].int().tolist()] == PUBLISHED_SORTED
    assert state["subsets"].int().tolist() == [[KEPT[place] for place in row] for row in PUBLISHED_PLACES]
    one, two, same = table(1)[1], table(2)[1], table(1)[1]
    for name in ("subsets", "permutations"):
        assert torch.equal(one[name], same[name])
        assert not torch.equal(one[name], two[name])


@pytest.mark.parametrize("kind", ["drawn", "published"])
def test_one_subset_in_one_order_for_all_three_colours(kind: str) -> None:
    protection, state = table(table=kind)
    rows, orders = state["subsets"].int().tolist(), state["permutations"].int().tolist()
    allowed = [[row[place] for place in order] for row in rows for order in orders]
    released = protection.release(FACES, state, streams(len(FACES)))
    for image, one in zip(FACES, released, strict=True):
        full = slow_transform(image)
        luma, blue, red = sequences(one, full)
        assert luma == blue == red
        assert luma in allowed
        assert np.allclose(one.numpy().reshape(3, 9, 16, 16), full[:, luma], atol=2e-3)
        crossed = torch.cat([one[:9], one[9:18].roll(1, 0), one[18:]])  # a colour with an order of its own is seen
        assert sequences(crossed, full)[1] != luma


def test_ranks_are_uniform_over_all_36_at_release() -> None:
    protection, state = table()
    count = 1440
    released = protection.release(SMALL.expand(count, -1, -1, -1), state, streams(count))
    counts = Counter(ranks_of(protection.features(released, state), protection, state))
    assert uniform(counts, 36) > 1e-3
    counts[0], counts[1] = counts[0] + counts[1], 0
    assert uniform(counts, 36) < 1e-3  # two ranks made one would be seen


def test_a_person_trains_on_three_subsets_in_any_order_uniformly() -> None:
    protection, state = table()
    count = 450
    images = SMALL.expand(count, -1, -1, -1)
    triples = []
    for key in (b"client 1, person 0", b"client 2, person 0", b"client 2, person 1"):
        features = protection.training_features(images, state, Visit(streams(count, key.decode()), [key] * count))
        counts = Counter(ranks_of(features, protection, state))
        subsets = sorted({rank // 6 for rank in counts})
        assert len(counts) == 18
        assert tuple(subsets) == allowed_subsets(key)
        assert uniform(Counter({subsets.index(r // 6) * 6 + r % 6: n for r, n in counts.items()}), 18) > 1e-3
        triples.append(tuple(subsets))
    assert len(set(triples)) > 1


def test_without_triples_a_person_trains_on_any_rank() -> None:
    protection, state = table(identity_triples=False)
    count = 720
    images = SMALL.expand(count, -1, -1, -1)
    features = protection.training_features(images, state, Visit(streams(count), [b"one person"] * count))
    assert uniform(Counter(ranks_of(features, protection, state)), 36) > 1e-3


def test_triples_of_different_keys_collide_no_more_than_chance() -> None:
    keys = [f"client {client}, person {person}".encode() for client in range(100) for person in range(20)]
    triples = list(itertools.combinations(range(6), 3))
    drawn = [triples.index(allowed_subsets(key)) for key in keys]  # type: ignore[arg-type]
    assert uniform(Counter(drawn), 20) > 1e-3
    assert uniform(Counter(drawn[::20]), 20) > 1e-3, "person 0 of every client"
    labels = Counter(int(key.split()[-1]) % 20 for key in keys[::20])
    assert uniform(labels, 20) < 1e-3  # label mod 20 puts all of them on one triple
    assert allowed_subsets(keys[3]) == allowed_subsets(bytes(keys[3]))


def test_only_the_nine_channels_of_an_image_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    protection, state = table()
    expected = protection.release(FACES, state, streams(len(FACES)))
    full = frequency.upsampled_dct(FACES).view(-1, 3, 64, 16, 16)
    asked: list[tuple[int, int]] = []
    transform = frequency.upsampled_dct

    def counting(images: torch.Tensor, channels: list[int], **options: torch.Tensor) -> torch.Tensor:
        asked.append((len(images), len(channels)))
        index = len(asked) - 1
        assert torch.equal(expected[index], full[index][:, channels].reshape(27, 16, 16))
        return transform(images, channels, **options)

    monkeypatch.setattr(partialface.frequency, "upsampled_dct", counting)
    assert torch.equal(protection.release(FACES, state, streams(len(FACES))), expected)
    assert asked == [(1, 9)] * len(FACES)


def test_a_pass_shows_r_views_and_payload_is_27_channels() -> None:
    protection, state = table(views=5)
    assert protection.views == 5
    assert PartialFace().views == 3
    assert protection.payload((112, 112)) == 4 * 27 * 112 * 112
    draws = [protection.training_features(FACES[:1], state, Visit(streams(1, f"{n}"), [b"p"])) for n in range(5)]
    assert len({draw.numpy().tobytes() for draw in draws}) > 1


def test_features_show_every_channel_and_survive_flat_and_grey_faces() -> None:
    protection, state = table()
    features = protection.features(protection.release(FACES, state, streams(len(FACES))), state)
    released = protection.release(FACES, state, streams(len(FACES)))
    sizes = released.square().mean((2, 3)).sqrt()
    share = sizes / sizes.mean(1, keepdim=True)  # half-way to equal size, one together
    assert torch.allclose(features.square().mean((2, 3)), share, atol=0.02)
    grey = FACES[:, :1].expand(-1, 3, -1, -1).contiguous()
    features = protection.features(protection.release(grey, state, streams(len(grey))), state)
    assert float(features[:, 9:].abs().max()) < 0.1, "the rounding of an absent chroma is not blown up"
    flat = protection.features(protection.release(torch.full_like(FACES, 90), state, streams(len(FACES))), state)
    assert torch.isfinite(flat).all()


def test_the_picture_shows_edges_whatever_the_rank() -> None:
    protection, state = table()
    image = torch.full((1, 3, 16, 16), 60, dtype=torch.uint8)
    image[..., 8:, 8:] = 200
    for purpose in "abcd":
        picture = protection.render(protection.release(image, state, streams(1, purpose)), state, (16, 16))[0, 0]
        assert int(picture[:6, :6].max()) < 10 < int(picture[6:10, 6:10].max())


def test_the_rank_announces_itself() -> None:
    """Least squares on the luminance under each of the 36 ranks: one of them fits, so the receiver knows the rank."""
    protection, state = table()
    side = operators.dense(16, True).numpy()
    rows = {k: np.kron(side[k // 8], side[k % 8]) for k in KEPT}
    sent = protection.release(FACES[:1], state, streams(1))[0, :9].double().numpy()
    (true,) = (n for n, found in enumerate(_sequences(state)) if found == sequences_of(sent, FACES[0]))
    residuals = []
    for channels in _sequences(state):
        normal = sum(rows[k].T @ rows[k] for k in channels) + 1e-9 * np.eye(256)
        moment = sum(rows[k].T @ one.ravel() for k, one in zip(channels, sent, strict=True))
        solved = np.linalg.solve(normal, moment)
        rest = sum(float(((rows[k] @ solved - one.ravel()) ** 2).sum()) for k, one in zip(channels, sent, strict=True))
        residuals.append(math.sqrt(rest) / float(np.linalg.norm(sent)))
    assert residuals[true] < 1e-4
    assert min(residual for rank, residual in enumerate(residuals) if rank != true) > 0.1


def _sequences(state: dict[str, torch.Tensor]) -> list[list[int]]:
    rows, orders = state["subsets"].int().tolist(), state["permutations"].int().tolist()
    return [[row[place] for place in order] for row in rows for order in orders]


def sequences_of(luma: np.ndarray, image: torch.Tensor) -> list[int]:
    return sequences(torch.from_numpy(np.tile(luma, (3, 1, 1))), np.tile(slow_transform(image)[:1], (3, 1, 1, 1)))[0]


def test_mistakes_are_named() -> None:
    protection, state = table()
    with pytest.raises(UserError, match="table='printed'"):
        PartialFace(table="printed")
    for views in (0, 2.5, True):
        with pytest.raises(UserError, match="views"):
            PartialFace(views=views)  # type: ignore[arg-type]
    doubled = {**state, "subsets": state["subsets"].clone()}
    doubled["subsets"][0, 0] = doubled["subsets"][0, 1]
    crooked = {**state, "permutations": state["permutations"] * 0}
    for wrong in (doubled, crooked, {}):
        with pytest.raises(UserError, match="state"):
            protection.release(FACES, wrong, streams(len(FACES)))
    with pytest.raises(UserError, match="identity per image"):
        protection.training_features(FACES, state, Visit(streams(len(FACES)), [b"one"]))
    with pytest.raises(UserError, match="stream"):
        protection.training_features(FACES, state, Visit(streams(1) * len(FACES), [b"one"] * len(FACES)))
    with pytest.raises(UserError, match="released"):
        protection.features(torch.zeros(1, 3, 16, 16), state)


def test_no_guarantee_is_claimed() -> None:
    protection, state = table()
    event = protection.event((16, 16), state)
    assert isinstance(event, NonPrivate)
    assert "36 ranks" in event.reason
    assert "announces itself" in event.reason
