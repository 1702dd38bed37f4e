"""What the settings build, and what they refuse."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_generator import SMALL, built

from fedveil import checks, config
from fedveil.federation import generating
from fedveil.federation.federation import Federation
from fedveil.generators.id3 import ID3
from fedveil.models.backbones.tiny_ir import TinyIR

BARE = ["generator=id3", "protection=none"]
WORDS = [
    *BARE, "privacy.identity.epsilon=8", "privacy.identity.sampling_rate=0.5",
    "train.warm_start=there.safetensors",
]  # fmt: skip


def test_equal_seeds_build_equal_networks_whatever_the_global_state() -> None:
    first = built(3)
    torch.manual_seed(99)
    second, other = built(3), built(4)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.denoiser.first.weight, other.denoiser.first.weight)


def test_an_untrained_network_sees_no_noise_and_is_not_constant_after_a_step() -> None:
    coins = torch.Generator().manual_seed(1)
    network = ID3(**SMALL).build(TinyIR(width=8, embedding=16).build(3, (32, 32), coins), (32, 32), coins, 16)
    noisy = torch.randn(2, 3, 32, 32, generator=coins)
    found = network.noise(noisy, torch.tensor([3, 9]), torch.ones(2, 16) / 4, torch.zeros(2, 7))
    assert float(found.detach().abs().max()) == 0
    found.square().mean().backward()
    found.sum()


@pytest.mark.parametrize("size", [(28, 28), (4, 4)])
def test_a_size_that_cannot_be_halved_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(checks.UserError, match=r"Expected data\.size="):
        ID3(multipliers=(1, 1, 1, 1)).build(torch.nn.Identity(), size, torch.Generator(), 16)


@pytest.mark.parametrize(
    "settings",
    [{"width": 12}, {"patch": 3}, {"multipliers": ()}, {"multipliers": (0,)}, {"dropout": 1.0}, {"share": 0.0},
     {"kappa": -1.0}, {"times": 1}, {"blocks": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(checks.UserError, match=next(iter(settings))):
        ID3(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*WORDS, "protection=dctdp"], "which protection=dctdp hides"),
        ([*WORDS, "privacy.identity.epsilon=inf"], r"generator\.shared=true"),
        ([*BARE], r"generator\.shared=true"),
        ([*BARE, "train.bank_identities=3", "privacy.client.epsilon=8"], "train.bank_identities=3"),
        ([*WORDS, "generator.kapa=1"], "Did you mean 'kappa'"),
    ],
)
def test_what_a_generator_cannot_do_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(checks.UserError, match=said):
        Federation.of([*words])


def test_no_budget_may_be_meant() -> None:
    federation = Federation.of(["generator=id3", "protection=none", "generator.shared=true"])
    assert federation.planned_event.view == "every update, the generator, and every face that it makes"


def test_a_generator_needs_a_start_with_a_recogniser() -> None:
    from fedveil.federation import warm_start

    federation = Federation.of([word for word in WORDS if not word.startswith("train.warm_start")])
    with pytest.raises(checks.UserError, match="fedveil synthesize"):
        warm_start.check(federation)


def test_only_denoiser_tensors_are_aggregated_and_patterns_choose_among_them() -> None:
    federation = Federation.of([*WORDS, "generator.width=8", "train.trainable=denoiser.first.*"])
    names = [name for name, _ in federation.backbone().named_parameters()]
    assert federation.trainable(names) == ("denoiser.first.weight", "denoiser.first.bias")
    with pytest.raises(checks.UserError, match="names no tensor"):
        Federation.of([*WORDS, "train.trainable=recogniser.*"]).trainable(names)


def test_without_the_library_its_name_and_remedy_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else found(name))
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    with pytest.raises(checks.UserError, match=r"pip install 'fedveil\[synthesis\]'"):
        built()


def test_a_run_without_a_generator_is_the_default() -> None:
    assert config.load([]).generator.name == "none"
    assert config.load(["protection=dct"]).method == "dct"
    assert config.load(WORDS).method == "id3"


def test_a_client_level_budget_leaves_the_updates_alone_without_a_bound() -> None:
    """What is released is bounded; what the coordinator sees before its noise is not, and both are said."""
    bounded = Federation.of([*BARE, "privacy.client.epsilon=8"])
    assert bounded.planned_event == bounded.release_event({}) == generating.UPDATES
    clipped = Federation.of([*BARE, "generator.shared=true", "privacy.client.epsilon=inf"])
    assert clipped.planned_event == generating.UNBOUNDED
    assert Federation.of([*BARE, "generator.shared=true"]).planned_event == generating.UNBOUNDED
