"""Delta has a ceiling, from public numbers alone, wherever a configuration arrives."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from fedveil import checks, cli, config, readback
from fedveil.federation import claims, planning
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.events import LocalRelease

CLIENT = ["protection=none", "privacy.client.epsilon=8"]
GAUSSIAN = ["protection=dctdp", "protection.noise=gaussian", "protection.total_epsilon=0.01"]


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ([*CLIENT, "privacy.client.delta=0.49"], "privacy.client.delta=0.49"),
        (["protection=none", "privacy.client.noise_multiplier=1", "privacy.client.delta=0.99"], "client.delta=0.99"),
        (["protection=none", "privacy.client.epsilon=inf", "privacy.client.noise_multiplier=1"], "remove one of them"),
        ([*GAUSSIAN, "data=folder", "data.root=x", "data.evaluation=procedural"], "public number of images"),
        ([*CLIENT, "privacy.client.delta=2e-5"], "privacy.client.delta=2e-05"),
        ([*CLIENT, "train.clients=100000", "data.identities=100000"], r"privacy.client.delta=1e-05 in \(0, 1e-06\]"),
        ([*GAUSSIAN, "protection.delta=0.999999999999"], "protection.delta=0.999999999999"),
        ([*GAUSSIAN, "data.identities=2000"], r"protection.delta=1e-05 in \(0, 2.5e-06\]"),
        ([*GAUSSIAN, "data=packed", "data.path=x.npz", "partition.max_identities=500"], r"in \(0, 1e-06\]"),
    ],
)
def test_a_delta_above_the_ceiling_is_refused_by_name(words, setting):
    with pytest.raises(checks.UserError, match=setting):
        Federation.of(words)


def test_an_owner_who_accepts_more_says_so_and_the_claim_is_not_meaningful(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*GAUSSIAN, "protection.delta=0.1", "policy.max_delta=0.2", "protection.fit_steps=0", "train.rounds=1",
             "tracking=none", "engine=inline", "evaluation.bootstrap=0", "evaluation.draws=1", "train.clients=2",
             "evaluation.reference=false"]  # fmt: skip
    assert cli.main(["simulate", *words, "--json", "o.json", "--plain"]) == 0
    result = json.loads(Path("o.json").read_text())
    image = result["statements"][0]
    assert (image["epsilon"], image["delta"], image["meaningful"]) == (pytest.approx(0.01, rel=1e-6), 0.1, False)
    assert "is above" in image["not_covered"][-1]
    assert "policy.max_delta=0.2" in image["not_covered"][-1]
    assert "delta 0.1 is larger than the number of images allows" in statements.headline(
        [readback.statement_of(one) for one in result["statements"]]
    )
    assert not result["private"]


def test_the_receiving_side_refuses_what_was_never_planned():
    """A configuration that arrives carries its noise, so nothing else looks at its budget."""
    planned = Federation.of([*CLIENT, "privacy.client.delta=1e-5"]).settings
    for epsilon in (planned.privacy.client.epsilon, math.inf, None):  # noise makes a claim whatever the target says
        client = dataclasses.replace(planned.privacy.client, epsilon=epsilon, delta=0.49)
        sent = config.to_json(dataclasses.replace(planned, privacy=dataclasses.replace(planned.privacy, client=client)))
        with pytest.raises(checks.UserError, match=r"privacy.client.delta=0.49"):
            Federation(config.from_json(sent))


def test_an_unknown_number_of_images_leaves_no_meaningful_claim_at_a_delta():
    """Folders and archives hold as many as they hold; dealt over owners, no owner's own count shows the total."""
    words = [*GAUSSIAN, "data=packed", "data.path=x.npz", "protection.delta=1e-6"]
    with pytest.raises(checks.UserError, match=r"partition\.max_identities"):
        Federation.of(words)
    event = LocalRelease("gaussian", 0.1, delta=1e-6)
    for more, meaningful in (["policy.max_delta=1e-5"], False), (["partition.max_identities=100"], True):
        claimed = claims.planned(Federation.of([*words, *more]), event)
        assert (claimed.private, claimed.statements[0].meaningful) == (meaningful, meaningful)
        assert ("nothing public bounds" in claimed.statements[0].not_covered[-1]) != meaningful
    pure = Federation.of(["protection=dctdp", "protection.total_epsilon=8", "data=packed", "data.path=x.npz"])
    assert claims.planned(pure, LocalRelease("laplace", 8.0)).private  # no delta, no ceiling


def test_no_private_number_enters_the_ceiling(monkeypatch):
    monkeypatch.setattr(Federation, "split", property(lambda self: pytest.fail("the data were asked")))
    assert Federation.of(["data=packed", "data.path=x.npz"]).units("image") is None
    assert Federation.of(["data=packed", "data.path=x.npz", "partition.max_identities=3"]).units("image") == 600
    assert Federation.of([]).units("client") == 10
    assert planning.largest_delta(None) == 0
