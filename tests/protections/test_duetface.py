"""DuetFace: who gets which channel, the masks against slow loops, what the release shows, the two phases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedveil import frequency
from fedveil.checks import UserError
from fedveil.data.sources.procedural import draw_faces
from fedveil.models import guided
from fedveil.models.backbones.tiny_ir import TinyIR
from fedveil.models.heads import base as heads
from fedveil.models.heads.cosface import CosFace
from fedveil.protections import _duet
from fedveil.protections.base import Visit
from fedveil.protections.duetface import DuetFace

SIZE = (32, 32)
PUBLIC = draw_faces(1, 0, identities=5, images_per_identity=4, size=32)
FACES = torch.from_numpy(draw_faces(1, 50, identities=3, images_per_identity=2, size=32).images(np.arange(6)))
Array = NDArray[np.float64]


def fitted(**settings: Any) -> tuple[DuetFace, dict[str, torch.Tensor]]:
    protection = DuetFace(**{"fit_steps": 2, "client_width": 0.125, **settings})
    return protection, protection.fit(PUBLIC.images(np.arange(20)), np.asarray(PUBLIC.labels), 1)


@pytest.fixture(scope="module")
def plain() -> tuple[DuetFace, dict[str, torch.Tensor]]:
    return fitted()


# The masks once more, one number at a time.


def stretch(values: Array) -> Array:
    low, high = min(values.flat), max(values.flat)
    return np.zeros_like(values) if low == high else (values - low) / (high - low)


def resize(values: Array, height: int, width: int) -> Array:
    """Bilinear with half-pixel centres and repeated edges."""
    out = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * values.shape[0] / height - 0.5, 0.0), values.shape[0] - 1.0)
            x = min(max((j + 0.5) * values.shape[1] / width - 0.5, 0.0), values.shape[1] - 1.0)
            a, b = int(y), int(x)
            c, d = min(a + 1, values.shape[0] - 1), min(b + 1, values.shape[1] - 1)
            top = values[a, b] * (1 - (x - b)) + values[a, d] * (x - b)
            bottom = values[c, b] * (1 - (x - b)) + values[c, d] * (x - b)
            out[i, j] = top * (1 - (y - a)) + bottom * (y - a)
    return out


def slow_mask(tap: Array, roi: Array, target: tuple[int, int]) -> Array:
    heat = np.zeros(tap.shape[1:])
    for channel in tap:
        heat += channel / len(tap)
    return resize(stretch(stretch(heat) * resize(roi, *heat.shape)), *target)


def test_client_and_server_share_the_64_frequencies_as_published() -> None:
    assert _duet.CLIENT == (0, 1, 2, 3, 4, 5, 8, 9, 16, 24)
    assert sorted((*_duet.CLIENT, *_duet.SERVER)) == list(range(64))


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (112, 112)])
@pytest.mark.parametrize("roi", ["ellipse", "none"])
def test_masks_are_those_of_a_slow_loop(size: tuple[int, int], roi: str) -> None:
    generator = torch.Generator().manual_seed(7)
    shapes = [(8, 4), (16, 8), (16, 16), (24, 16)]
    taps = [torch.randn(2, c, size[0] // k, size[1] // k, generator=generator) for c, k in shapes]
    taps[2][1] = 0.25  # a map that is constant
    face = _duet.region(size, roi)
    masks = _duet.attention(taps, face)
    for tap, mask, target in zip(taps, masks, guided.mask_sizes(size), strict=True):
        assert torch.isfinite(mask).all()
        for image in range(2):
            expected = slow_mask(tap[image].double().numpy(), face.double().numpy(), target)
            np.testing.assert_allclose(mask[image].numpy(), expected, atol=2e-5)
    assert not masks[2][1].any()


def test_a_release_holds_the_servers_channels_and_the_client_nets_masks(plain: Any) -> None:
    protection, state = plain
    released = protection.release(FACES, state, [])
    every = frequency.upsampled_dct(FACES)
    for colour in range(3):
        for place, k in enumerate(_duet.SERVER):
            torch.testing.assert_close(released[:, 54 * colour + place], every[:, 64 * colour + k])
    net = protection.phases[0].network(None, SIZE, state, torch.Generator())
    kept = torch.cat([every[:, 64 * colour + k : 64 * colour + k + 1] for colour in range(3) for k in _duet.CLIENT], 1)
    with torch.no_grad():
        taps = net.taps(kept / state["client_rms"][:, None, None])
    unpacked = guided.unpacked(released[:, 162:])
    for tap, mask, target in zip(taps, unpacked, guided.mask_sizes(SIZE), strict=True):
        for image in range(len(FACES)):
            roi = _duet.region(SIZE, "ellipse").double().numpy()
            expected = slow_mask(tap[image].double().numpy(), roi, target)
            np.testing.assert_allclose(mask[image, 0].numpy(), expected, atol=1e-3)


def test_scales_come_from_the_root_mean_squares_of_public_faces(plain: Any) -> None:
    _, state = plain
    every = frequency.upsampled_dct(torch.from_numpy(PUBLIC.images(np.arange(20)))).double()
    expected = every.square().mean((0, 2, 3)).sqrt().clamp(min=1e-3).view(3, 64)
    server = expected[:, list(_duet.SERVER)]
    torch.testing.assert_close(
        state["server_scale"].double().view(3, 54), (server * server.mean()).sqrt(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        state["client_rms"].double().view(3, 10), expected[:, list(_duet.CLIENT)], rtol=1e-4, atol=1e-5
    )


def test_features_are_about_one_and_leave_masks_alone(plain: Any) -> None:
    protection, state = plain
    released = protection.release(FACES, state, [])
    features = protection.features(released, state)
    assert torch.equal(features[:, 162:], released[:, 162:])
    assert 0.5 < float(features[:, :162].square().mean().sqrt()) < 2.0
    before, after = (part[:, :162].square().mean((0, 2, 3)).sqrt() for part in (released, features))
    assert float(after.max() / after.min()) < 2 * float(before.max() / before.min()) ** 0.5  # half-way to equal size


def test_training_reads_what_is_released(plain: Any) -> None:
    protection, state = plain
    released = protection.features(protection.release(FACES, state, []), state)
    assert torch.equal(protection.training_features(FACES, state, Visit()), released)


def test_the_ellipse_is_where_an_aligned_face_is() -> None:
    region = _duet.region((112, 112), "ellipse")
    assert torch.equal(_duet.region((112, 112), "none"), torch.ones(112, 112))
    # The five landmarks of the alignment template are inside, the corners outside, and the edge is soft.
    for x, y in ((38, 52), (74, 52), (56, 72), (42, 92), (71, 92)):
        assert region[y, x] == 1.0
    for y, x in ((0, 0), (0, 111), (111, 0), (111, 111), (66, 15), (66, 97), (12, 56)):
        assert region[y, x] == 0.0
    assert region[66, 20] == 0.5
    assert region[66, 92] == 0.5
    assert abs(float(region.sum()) - math.pi * 36 * 48) < 60
    for side in (16, 32, 64):
        share = float(_duet.region((side, side), "ellipse").mean())
        assert abs(share - math.pi * 36 * 48 / 112**2) < 0.04


@pytest.mark.parametrize("side", [16, 32, 112])
def test_payload_counts_the_masks_and_not_their_plane(side: int) -> None:
    masks = sum((side // 2**k) ** 2 for k in (1, 2, 3, 4))
    assert DuetFace().payload((side, side)) == 4 * (162 * side * side + masks)
    assert side != 112 or DuetFace().payload((112, 112)) == 8_128_512 + 16_660


@pytest.mark.parametrize("size", [(8, 8), (24, 32), (32, 40), (0, 16)])
def test_sizes_without_four_masks_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="size="):
        DuetFace().representation(size)


def test_render_shows_the_face_and_so_the_method_conceals_nothing(plain: Any) -> None:
    protection, state = plain
    seen = protection.render(protection.release(FACES, state, []), state, SIZE).double()
    truth = FACES.double()
    for image in range(len(FACES)):
        pair = torch.stack([seen[image].flatten(), truth[image].flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.8
    flat = frequency.published_inverse(protection.release(FACES, state, [])[:, :162], _duet.SERVER)
    assert float(flat.std()) < 0.1 * float(truth.std()), "the papers' own inverse looks empty"
    assert protection.event(SIZE, state).unit == "image"


def test_the_main_network_trains_and_the_client_net_does_not(plain: Any) -> None:
    protection, state = plain
    before = {name: tensor.clone() for name, tensor in state.items()}
    features = protection.training_features(FACES, state, Visit())
    assert not features.requires_grad
    network = protection.network(TinyIR(width=8, embedding=16), SIZE, torch.Generator().manual_seed(1))
    centres = torch.randn(3, 16, generator=torch.Generator().manual_seed(2), requires_grad=True)
    heads.loss(CosFace(), network(features), centres, torch.arange(6) // 2).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(tensor.grad is None and torch.equal(tensor, before[name]) for name, tensor in state.items())
    assert not any(name.startswith("client") for name, _ in network.named_parameters())


def test_masks_change_the_embedding_once_their_weights_are_not_zero(plain: Any) -> None:
    protection, state = plain
    network = protection.network(TinyIR(width=8, embedding=16), SIZE, torch.Generator().manual_seed(1))
    features = protection.features(protection.release(FACES, state, []), state)
    blind = features.clone()
    blind[:, 162:] = 0.0
    with torch.no_grad():
        assert torch.equal(network(features), network(blind))
        network.mask_weights.fill_(1.0)
        assert not torch.allclose(network(features), network(blind), atol=1e-3)


def test_roi_and_gate_are_settings(plain: Any) -> None:
    protection, state = plain
    free = fitted(roi="none")[0]
    one, other = (chosen.release(FACES, state, []) for chosen in (protection, free))
    assert torch.equal(one[:, :162], other[:, :162])
    assert not torch.equal(one[:, 162:], other[:, 162:])
    with pytest.raises(UserError, match="roi"):
        DuetFace(roi="circle")
    with pytest.raises(UserError, match="gate"):
        DuetFace(gate="residual")


def test_the_client_nets_phase_goes_on_from_public_faces_and_comes_back_into_the_state(plain: Any) -> None:
    protection, state = plain
    (phase,) = protection.phases
    assert phase.rounds == 10
    assert DuetFace(client_rounds=0).phases == ()
    net = phase.network(TinyIR(), SIZE, state, torch.Generator().manual_seed(9))
    named = dict(net.named_parameters())
    assert all(torch.equal(state[_duet.PREFIX + name], tensor) for name, tensor in named.items())
    features = phase.features(FACES, state, Visit())
    assert features.shape == (6, 30, *SIZE)
    net(features).square().sum().backward()
    assert all(tensor.grad is not None for tensor in named.values())
    tensors = {name: tensor.detach().numpy() + np.float32(0.01) for name, tensor in named.items()}
    public = PUBLIC.images(np.arange(4))
    after, start = phase.finish(tensors, state, public, np.asarray(PUBLIC.labels[:4]), 1)
    assert start == {}
    assert set(after) == set(state)
    for name, tensor in after.items():
        moved = 0.01 if name.startswith(_duet.PREFIX) else 0.0
        torch.testing.assert_close(tensor, state[name] + moved)
    assert not torch.equal(protection.release(FACES, after, [])[:, 162:], protection.release(FACES, state, [])[:, 162:])


def test_fit_learns_to_tell_public_people_apart() -> None:
    images = torch.from_numpy(PUBLIC.images(np.arange(20)))
    labels = torch.from_numpy(np.asarray(PUBLIC.labels))

    def separation(steps: int) -> float:
        protection, state = fitted(fit_steps=steps)
        net = protection.phases[0].network(None, SIZE, state, torch.Generator())
        with torch.no_grad():
            rows = heads.normalised(net(_duet.client_features(images, state["client_rms"])))
        cosine, same = rows @ rows.T, labels[:, None] == labels
        return float(cosine[same].mean() - cosine[~same].mean())

    assert separation(30) > separation(0) + 0.2


def test_one_person_is_not_enough_to_train_on() -> None:
    with pytest.raises(UserError, match="2 people"):
        DuetFace().fit(PUBLIC.images(np.arange(2)), np.zeros(2, np.int64), 1)
    state = DuetFace(fit_steps=0).fit(PUBLIC.images(np.arange(2)), np.zeros(2, np.int64), 1)
    with pytest.raises(UserError, match="state"):
        DuetFace(client_width=0.5).release(FACES, state, [])
