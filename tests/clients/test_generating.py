"""A client's round where a generator is trained: what leaves, what one picture can move, and that it is repeatable."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import records
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil_clients import generating, local, policy, private_training, sites

sys.path.append(str(Path(__file__).parents[1] / "generators"))

SMALL = [
    "generator=id3", "generator.width=8", "generator.multipliers=[1,2]", "generator.attention=0",
    "generator.context=16", "protection=none", "data.identities=6", "data.images_per_identity=4", "model.width=8",
    "model.embedding=16",
    "train.clients=2", "train.rounds=2", "train.local.steps=2", "train.batch_size=6", "tracking=none", "train.lr=0.5",
    "train.weight_decay=0", "train.warm_start=none",
]  # fmt: skip
IMAGE = ["privacy.image.noise_multiplier=1", "privacy.image.sampling_rate=1", "privacy.image.clip=0.01",
         "privacy.image.views=3", "privacy.image.delta=1e-5", "privacy.test_seed=3"]  # fmt: skip


def opened(tmp_path: Path, *words: str) -> sites.Site:
    federation = Federation.of([*SMALL, *words])
    node = policy.Node("a-set", vault_root=str(tmp_path / "vault"), simulated=True, allow_test_seed=True)
    return sites.open_site(federation, "a-run", "c0001", node, {})


def start(site: sites.Site) -> records.Tensors:
    return get_tensors(site.federation.backbone())


def quiet(site: sites.Site) -> sites.Site:
    """Return the site with private steps whose noise is as good as none."""
    budget = dataclasses.replace(site.federation.private, noise_multiplier=1e-6)
    settings = dataclasses.replace(
        site.federation.settings, privacy=dataclasses.replace(site.federation.settings.privacy, image=budget)
    )
    return dataclasses.replace(site, federation=Federation(settings).over(site.federation.split))


def test_the_update_is_of_the_denoiser_alone_and_nothing_is_kept(tmp_path: Path) -> None:
    site = opened(tmp_path, "generator.shared=true")
    tensors = start(site)
    update = generating.train_round(site, 1, tensors)
    assert {*update.tensors} == {name for name in tensors if name.startswith("denoiser.")}
    assert any(np.abs(value).max() > 0 for value in update.tensors.values())
    assert site.vault.heads("a-run", "c0001").before(2) is None
    again = generating.train_round(site, 1, tensors)
    for name, value in update.tensors.items():
        assert np.array_equal(value, again.tensors[name]), name
    other = generating.train_round(site, 2, tensors)
    assert any(not np.array_equal(value, other.tensors[name]) for name, value in update.tensors.items())


def test_the_choice_of_a_round_is_the_generators(tmp_path: Path) -> None:
    assert local.train_round(opened(tmp_path, "generator.shared=true").federation) is generating.train_round


def test_one_picture_moves_a_noiseless_step_by_at_most_the_clip(tmp_path: Path) -> None:
    """All pictures are in every step, and each is looked at three times: its three gradients are one vector's."""
    site = quiet(opened(tmp_path, *IMAGE, "train.local.steps=1"))
    tensors = start(site)
    divisor, clip = site.federation.settings.train.batch_size, 0.01

    def moved(keep: int) -> np.ndarray:
        part = dataclasses.replace(site, people=site.people[:keep])
        found = generating.train_round(part, 1, tensors).tensors
        return np.concatenate([found[name].ravel() for name in sorted(found)]) / 0.5 * divisor

    one, none = moved(1), moved(0)
    assert np.linalg.norm(none) < 1e-3 * clip
    assert 0.9 * clip < np.linalg.norm(one - none) <= clip * (1 + 1e-4)
    assert np.linalg.norm(moved(5) - none) <= 5 * clip * (1 + 1e-4)


def test_noise_is_of_the_multiplier_times_the_clip_over_the_divisor(tmp_path: Path) -> None:
    site = opened(tmp_path, *IMAGE, "train.local.steps=1")
    tensors = start(site)
    empty = dataclasses.replace(site, people=site.people[:0])
    found = generating.train_round(empty, 1, tensors).tensors
    values = np.concatenate([value.ravel() for value in found.values()])
    assert values.size > 5000
    expected = 0.5 * 1.0 * 0.01 / 6
    assert np.std(values) == pytest.approx(expected, rel=0.05)


def test_views_are_other_draws_of_time_and_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = opened(tmp_path, *IMAGE, "train.local.steps=1")
    seen: list[torch.Tensor] = []
    network = site.backbone
    real = type(network).losses

    def losses(self: object, rows: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(rows.detach())
        return real(self, rows, *rest)

    monkeypatch.setattr(type(network), "losses", losses)
    generating.train_round(dataclasses.replace(site, people=site.people[:1]), 1, start(site))
    rows = torch.cat(seen)
    rows = rows[rows.flatten(1).abs().sum(1) > 0]  # without the trial by which an engine sees what there is
    assert len(rows) == 3
    assert torch.equal(rows[0, :3], rows[1, :3])
    assert not torch.equal(rows[0, 3:6], rows[1, 3:6])


def test_a_picture_more_changes_no_other_pictures_draws(tmp_path: Path) -> None:
    """Whatever the secret number is, so that what one picture moves is bounded without a word about the coins."""
    site = opened(tmp_path, *IMAGE)
    rows = generating._drawn(site)

    def drawn(*images: int) -> torch.Tensor:
        index = np.repeat(np.array(images), 2)
        weight = np.full(len(index), 0.5, np.float32)
        return rows(private_training.Drawn(index, np.repeat(np.arange(len(images)), 2), weight, len(images)), 7)[0]

    fewer, more = drawn(1, 4), drawn(0, 1, 2, 4)
    assert torch.equal(fewer, more[[2, 3, 6, 7]])
    assert not torch.equal(more[0, 3:], more[1, 3:])
    assert not torch.equal(more[0, 3:], more[2, 3:])
