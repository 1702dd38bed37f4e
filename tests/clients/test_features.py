"""What keys a draw: everything that the mechanism depends on, secrets from the operating system, each use its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fedveil import frequency, randomness
from fedveil.federation.federation import Federation
from fedveil.federation.mechanism import mechanism_id
from fedveil.privacy import noise
from fedveil_clients import features, sites
from fedveil_clients.policy import Node

DCTDP = ["protection=dctdp", "protection.fit_steps=0", "protection.init=zeros", "data.identities=6", "train.clients=2",
         "data.images_per_identity=3", "data.public_identities=4", "data.public_images=2"]  # fmt: skip


def federation(*words: str) -> Federation:
    return Federation.of([*DCTDP, *words])


def state_of(run: Federation) -> dict[str, torch.Tensor]:
    public = run.split.public
    found: dict[str, torch.Tensor] = run.protection.fit(public.images(), public.labels, run.settings.seed)
    return found


def test_every_part_of_a_mechanism_is_in_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    run = federation()
    state = state_of(run)
    nudged = {**state, "weights": state["weights"] + 1e-7}
    renamed = {("w" if name == "weights" else name): value for name, value in state.items()}
    flat = {**state, "mean": state["mean"].reshape(-1)}
    ids = [mechanism_id(run, one) for one in (state, nudged, renamed, flat)]
    ids += [
        mechanism_id(federation(word), state)
        for word in ("protection.total_epsilon=8", "protection.noise=gaussian", "data.size=48", "protection.cap=50")
    ]
    ids.append(mechanism_id(Federation.of([*DCTDP[4:], "protection=none"]), state))
    for module in (frequency, noise):
        with monkeypatch.context() as patch:
            patch.setattr(module, "VERSION", 99)
            ids.append(mechanism_id(run, state))
    assert len(set(ids)) == len(ids)
    assert mechanism_id(federation(), state_of(federation())) == ids[0]
    assert mechanism_id(federation("train.rounds=3", "seed=1"), state) == ids[0]  # what no draw depends on


def opened(run: Federation, vault: str, client: str = "c0001", data_set: str = "here") -> sites.Site:
    site = sites.open_site(run, "run", client, Node(data_set, vault_root=vault, allow_test_seed=True), state_of(run))
    site.booked.on_disk()
    return site


def test_kept_noise_is_the_owners_and_no_two_owners_share_it(tmp_path) -> None:
    run, index = federation("protection.total_epsilon=8"), np.arange(3)
    one, other = (opened(run, str(tmp_path / name)).features(index, 0) for name in "ab")
    assert not torch.isclose(one, other).any(dim=1).all()
    assert not torch.equal(one, other)
    again = opened(run, str(tmp_path / "a")).features(index, 0)
    assert torch.equal(one, again)


def test_fresh_noise_comes_from_the_operating_system_at_every_opening(tmp_path, monkeypatch) -> None:
    run, index = federation("protection.memoise=false", "protection.total_epsilon=8"), np.arange(3)
    first, again = (opened(run, str(tmp_path / "v")).features(index, 0) for _ in range(2))
    assert not torch.equal(first, again)
    fixed = federation("protection.memoise=false", "protection.total_epsilon=8", "privacy.test_seed=3")
    one, same = (opened(fixed, str(tmp_path / "w")).features(index, 0) for _ in range(2))
    assert torch.equal(one, same)


def test_every_use_of_an_image_has_its_own_stream(tmp_path, monkeypatch) -> None:
    run = federation("protection.memoise=false", "protection.total_epsilon=8")
    keys: list[bytes] = []
    stream = randomness.SecretStream

    def watched(key: bytes) -> randomness.SecretStream:
        keys.append(key)
        return stream(key)

    site = opened(run, str(tmp_path))
    monkeypatch.setattr(features.randomness, "SecretStream", watched)
    for step in range(3):
        site.features(np.array([0, 0, 1]), step)
    assert len(set(keys)) == len(keys) == 9


def test_a_damaged_picture_costs_itself_and_not_the_client(tmp_path) -> None:
    """Damage that only decoding shows is found when the client opens."""
    run = Federation.of(["data=packed", f"data.path={tmp_path / 'set.npz'}", "data.size=32", "protection=none",
                         "data.evaluation=procedural", "train.clients=2"])  # fmt: skip
    import io

    from PIL import Image

    files = []
    rng = np.random.default_rng(0)
    for _ in range(16):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
        files.append(bytearray(buffer.getvalue()))
    files[5][20:200] = bytes(180)  # markers at both ends, nonsense between
    offsets = np.cumsum([0, *map(len, files)])
    labels, names = np.repeat(np.arange(4), 4), np.array([f"p{i}" for i in range(4)])
    np.savez(tmp_path / "set.npz", labels=labels, names=names, offsets=offsets,
             jpeg=np.frombuffer(b"".join(map(bytes, files)), np.uint8))  # fmt: skip
    node = Node("", data_root=str(tmp_path / "set.npz"), simulated=True)
    counts = [
        len(sites.open_site(run, "run", name, dataclasses.replace(node, vault_root=str(tmp_path / name)), {}).labels)
        for name in ("c0001", "c0002")
    ]
    assert sorted(counts) == [7, 8]
