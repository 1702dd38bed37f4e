"""An update without noise gives back its picture, noise gives nothing, and simulated steps are the client's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedveil import checks
from fedveil.attacks import _inversion, _inversion_closed, _inversion_scores, _inversion_steps
from fedveil.attacks._inversion import Prior, Search
from fedveil.attacks._inversion_steps import Known, Work
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding
from fedveil.attacks.gradient_inversion import GradientInversion
from fedveil.data.split import Split
from fedveil.evaluation.identification import unit
from fedveil.federation.tensors import get_tensors
from fedveil_clients import inspected
from fedveil_clients.vault import Vault
from fedveil_strategies import inspected as coordinator

SMALL = ["train.clients=3", "model.width=8", "model.embedding=16", "train.weight_decay=0.01", "train.lr=0.01"]
ONE = GradientInversion(updates=2, at=("start",), batches=(1,), steps=(1,), iterations=80, far=0.05)
WIDER = ["model.width=16", "model.embedding=64"]
LOUD = ["privacy.image.noise_multiplier=1e5", "privacy.image.clip=1"]


class Averages:
    """A judge in a moment: the picture in blocks of four pixels, without what all pictures have in common."""

    said = {"kind": "test"}  # noqa: RUF012

    def embed(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        small = torch.nn.functional.avg_pool2d(torch.as_tensor(images).float(), 4).flatten(1).double().numpy()
        return unit(small - small.mean(axis=1, keepdims=True))


@pytest.fixture
def small(
    target_of: Callable[..., Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Target]:
    monkeypatch.setattr(Target, "judge", lambda *_: Averages())
    return lambda *words: target_of(*SMALL, f"vault.root={tmp_path / 'vault'}", *words)


def seen(target: Target, images: list[int], steps: int, **more: object) -> tuple[inspected.Inspected, Work]:
    tensors = get_tensors(target.backbone)
    arguments = {"round_number": 1, "seed": 1, **more}
    found = inspected.update_of(
        target.federation, "run", "c0001", target.state, tensors, images=images, steps=steps, **arguments
    )
    own = {name: torch.from_numpy(value) for name, value in tensors.items()}
    decay = target.federation.settings.train.weight_decay
    return found, Work(target.backbone, own, tuple(found.update), found.rate, decay, steps)


def by_name(finding: Finding) -> dict[str, _inversion_scores.Measure]:
    return {measure.name: measure for measure in finding.measures}


def test_an_update_of_one_picture_is_inverted(small: Callable[..., Target]) -> None:
    steps: list[tuple[int, int]] = []
    finding = ONE.run(small(*WIDER), lambda what, done, total: steps.append((done, total)))
    found = by_name(finding)
    assert found["psnr"].low > found["psnr"].mean_face + 2
    assert found["feature_cosine"].value > 0.6
    assert found["retrieved"].value >= 0.5 > found["retrieved"].floor
    assert found["closed_form_cosine"].value == pytest.approx(1, abs=1e-5)
    assert found["closed_form_linked"].value == found["closed_form_linked"].ceiling
    assert found["linked"].value is not None
    assert finding.level == "server"
    assert steps[-1] == (160, 160)
    assert finding.panel is not None
    assert len(finding.panel["recovered"]) == finding.people["attacked"]["images"] == 2


def test_an_update_of_noise_gives_no_more_than_the_mean_face(small: Callable[..., Target]) -> None:
    finding = dataclasses.replace(ONE, updates=3, iterations=40).run(small(*LOUD))
    found = by_name(finding)
    assert found["psnr"].value < found["psnr"].mean_face
    assert abs(found["feature_cosine"].value) < 0.3
    assert found["linked"].low <= found["linked"].floor
    assert found["closed_form_cosine"].value < 0.8
    assert any("in the update itself" in note for note in finding.notes)


def test_the_search_begins_with_public_faces_and_nothing_else(small: Callable[..., Target]) -> None:
    found = by_name(dataclasses.replace(ONE, iterations=1).run(small(*LOUD)))
    assert found["psnr"].value == pytest.approx(found["psnr"].mean_face, abs=1)
    assert abs(found["feature_cosine"].value) < 0.3


@pytest.mark.parametrize("count", [1, 3])
def test_simulated_steps_are_those_of_a_client(small: Callable[..., Target], count: int) -> None:
    target = small("train.head_lr=0.2")
    found, work = seen(target, list(range(0, 4 * count, 4)), steps=3)
    known = Known(target.federation.head, found.centres, 0.2, found.labels)
    nothing = torch.zeros(count, 16)
    simulated = _inversion_steps.simulated(work, found.fed, nothing, known)
    for own, true in zip(simulated, work.observed(found.update), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-3, atol=1e-3 * float(true.abs().max()) + 1e-6)


def test_a_slope_at_the_embedding_is_all_that_a_head_is(small: Callable[..., Target]) -> None:
    target = small()
    found, work = seen(target, [5], steps=1)
    observed = work.observed(found.update)
    place = _inversion_steps.embedding_bias(work)
    assert place is not None
    simulated = _inversion_steps.simulated(work, found.fed, observed[place][None])
    assert float(_inversion_steps.cosine(simulated, observed).detach()) == pytest.approx(1, abs=1e-5)
    other = _inversion_steps.simulated(work, found.others[:1], observed[place][None])
    assert float(_inversion_steps.cosine(other, observed).detach()) < 0.99


def test_a_white_box_is_no_weaker(small: Callable[..., Target]) -> None:
    target = small()
    found, work = seen(target, [2], steps=1)
    known = Known(target.federation.head, found.centres, target.federation.settings.train.head_lr, found.labels)
    prior, search = Prior.of(torch.cat([found.others, found.fed.flip(3)])), Search(60, 1, 0.1, 0.05)
    left = []
    for has in (None, known):
        generator = torch.Generator().manual_seed(1)
        inputs = _inversion.inverted(work, found.update, 1, prior, search, generator, has)
        slopes = work.observed(found.update)[_inversion_steps.embedding_bias(work)][None]
        simulated = _inversion_steps.simulated(work, inputs, slopes)
        left.append(1 - float(_inversion_steps.cosine(simulated, work.observed(found.update)).detach()))
    assert left[0] < 0.05
    assert left[1] < 0.05


def test_the_first_layer_gives_its_input_where_it_is_linear() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))
    tensors = {name: tensor.detach() for name, tensor in network.named_parameters()}
    image = torch.randn(1, 3, 2, 2)
    gradients = torch.autograd.grad(network(image).square().sum(), [*network.parameters()])
    update = {name: (-0.1 * one).numpy() for name, one in zip(tensors, gradients, strict=True)}
    work = Work(network, tensors, tuple(update), 0.1, 0.0, 1)
    found, why = _inversion_closed.first_layer(work, update, (3, 2, 2))
    assert found is not None
    torch.testing.assert_close(found, image[0], rtol=1e-4, atol=1e-4)
    assert why == ""
    part = dataclasses.replace(work, allowed=("3.weight",))
    assert "does not carry" in _inversion_closed.first_layer(part, update, (3, 2, 2))[1]


def test_a_convolution_has_no_closed_form_and_says_so(small: Callable[..., Target]) -> None:
    found, work = seen(small(), [0], steps=1)
    assert _inversion_closed.first_layer(work, found.update, (3, 32, 32)) == (
        None, "the first layer (stem, Conv2d) is not linear in the whole input: places share its weights",
    )  # fmt: skip


def test_what_is_found_is_compared_in_the_best_order() -> None:
    fed = torch.arange(5.0)[:, None]
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(_inversion_scores.matched(fed[order] + 0.1, fed), fed + 0.1)


def test_the_released_view_clips_and_noises_like_the_run(small: Callable[..., Target]) -> None:
    budget = ["privacy.client.delta=1e-5", "privacy.client.clip=0.01"]
    clipped, noisy = small("privacy.client.epsilon=inf", *budget), small("privacy.client.noise_multiplier=2", *budget)
    found, _ = seen(clipped, [0, 5], steps=1)
    tensors = get_tensors(clipped.backbone)
    one, two = (
        np.concatenate([value.ravel() for value in coordinator.released(f, found.update, tensors, 1, "x").values()])
        for f in (clipped.federation, noisy.federation)
    )
    raw = np.concatenate([value.ravel() for value in found.update.values()])
    assert np.linalg.norm(raw) > 0.01
    assert np.linalg.norm(one) == pytest.approx(0.01, rel=1e-4)
    assert one @ raw / np.linalg.norm(raw) == pytest.approx(0.01, rel=1e-4)
    assert (two - one).std() == pytest.approx(2 * 0.01, rel=0.05)
    assert coordinator.released(small().federation, found.update, tensors, 1) is found.update


def test_a_run_keeps_its_centres_and_its_vault_stays_as_it_is(small: Callable[..., Target]) -> None:
    target = small()
    root = Path(target.federation.settings.vault.root)
    first, _ = seen(target, [0], 1)
    assert not first.kept
    assert not root.exists()
    centres = first.centres.numpy() + 1
    last = target.federation.total_rounds
    Vault(root).heads("run", "c0001").save(last, centres)
    before = sorted(root.rglob("*"))
    ended, _ = seen(target, [0], 1, round_number=last, ended=True)
    assert ended.kept
    assert np.array_equal(ended.centres, centres)
    assert sorted(root.rglob("*")) == before
    assert not seen(target, [0], 1)[0].kept  # before the first round there were none


def test_private_steps_are_clipped_and_noised_in_what_is_attacked(small: Callable[..., Target]) -> None:
    loud, quiet = small(*LOUD), small("privacy.image.epsilon=inf", "privacy.image.clip=0.5")
    noise, _ = seen(loud, [0], 1)
    settings = quiet.federation.settings
    clean, work = seen(dataclasses.replace(quiet, backbone=loud.backbone), [0], 1)
    longest = settings.train.lr * (0.5 / settings.train.batch_size)
    gradient = np.sqrt(sum(float(one.square().sum()) for one in work.observed(clean.update))) * settings.train.lr
    assert gradient <= longest * 1.001
    parts = np.concatenate([value.ravel() for value in noise.update.values()])
    assert parts.std() == pytest.approx(0.01 * 1e5 / settings.train.batch_size, rel=0.1)


def test_what_cannot_be_attacked_is_refused_with_a_remedy(small: Callable[..., Target]) -> None:
    target = small()
    with pytest.raises(checks.UserError, match=r"lower attack\.batches"):
        dataclasses.replace(ONE, batches=(400,)).run(target)
    with pytest.raises(checks.UserError, match=r"train\.batch_size=16"):
        seen(target, [0] * 17, 1)
    with pytest.raises(checks.UserError, match="leave it out"):
        dataclasses.replace(ONE, knows_head=True).run(small("privacy.image.epsilon=inf"))
    with pytest.raises(checks.UserError, match=r"train\.correction=none"):
        ONE.run(small("train.correction=scaffold"))
    with pytest.raises(checks.UserError, match="none twice"):
        dataclasses.replace(ONE, steps=(1, 1))
    split = target.federation.split
    private = Split(dataclasses.replace(split.train, synthetic=False, public=False), split.evaluation, split.public)
    target.federation.__dict__["split"] = private
    with pytest.raises(checks.UserError, match="not public"):
        ONE.run(target)
