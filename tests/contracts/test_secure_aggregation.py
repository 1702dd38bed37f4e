"""What docs/secure-aggregation.md says of this code: it is refused with the reason, and nothing claims it.

The refusal rests on two facts that are shown here of this project's own owners: their updates repeat, and a perfect sum
of them hides nobody from a coordinator that chooses what each of them is sent.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

import fedveil
from fedveil import checks, config
from fedveil.configuration import files, plugins, settings
from fedveil.configuration.schema import Policy
from fedveil.configuration.words import METHOD_GROUPS
from fedveil.engine import _flower
from fedveil.federation import claims, instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.privacy import calibration, gaussian
from fedveil_clients import app as client_app
from fedveil_clients import node, policy
from fedveil_clients.policy import Node, PolicyRefusal

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "secure-aggregation.md").read_text()
SMALL = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4", "protection=none",
    "model.width=8", "model.embedding=16", "train.clients=3", "train.local.steps=2", "train.batch_size=6",
)  # fmt: skip
CLIENT = ("privacy.client.epsilon=8", "train.cohort.rate=1")  # priced in closed form
IMAGE = ("privacy.image.epsilon=8", "privacy.image.sampling_rate=1")


@pytest.mark.parametrize(
    "word",
    [
        "aggregation=secagg", "aggregation=secaggplus", "aggregation=SecAgg+", "aggregation=secure",
        "aggregation=secure_aggregation", "aggregation.secure=true", "privacy.secure_aggregation=true",
        "privacy.client.secure_sum=true", "secure_aggregation=true", "train.secagg=true", "train.cohort.kind=secagg",
    ],
)  # fmt: skip
def test_a_word_that_asks_for_it_is_refused_with_the_reason(word):
    with pytest.raises(checks.UserError, match=r"left out: the coordinator sees each update.*secure-aggregation\.md"):
        config.load([word])


@pytest.mark.parametrize("word", ["peers", "secagg", "secure-min", "secure-aggregation"])
def test_a_word_of_a_node_that_asks_for_it_is_refused_with_the_reason(word):
    with pytest.raises(node.NodeError, match="left out"):
        node.node_of("c0001", {word: "1"}, "folder")


def test_no_other_name_of_a_setting_or_method_is_taken_for_it():
    names = [name for group in METHOD_GROUPS for name in plugins.names(group)]
    names += [*node.WORDS, *files.choices("study"), *(part for key in settings.every() for part in key.split("."))]
    assert [name for name in names if checks.left_out(name)] == []


def test_no_configuration_and_no_row_of_the_readme_says_that_it_is_one():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    told = [*rows, *(path.read_text() for path in files.folder().rglob("*.yaml"))]
    assert len(told) > 60
    assert [text for text in told if re.search("secure|secagg|masked sum", text, re.IGNORECASE)] == []


def test_a_client_level_claim_names_the_coordinator_as_whom_it_does_not_cover():
    chosen = Federation.of([*SMALL, *CLIENT])
    found = [one for one in claims.planned(chosen, chosen.planned_event).statements if one.unit == "client"]
    assert found
    for one in found:
        assert one.view == "every released global model"
        assert any(text.startswith("the server itself, which sees every update") for text in one.not_covered)


def test_private_steps_are_claimed_against_whoever_sees_the_updates():
    chosen = Federation.of([*SMALL, *IMAGE])
    found = claims.planned(chosen, chosen.planned_event).statements
    views = [one.view for one in found if one.epsilon is not None]
    assert views == ["every update that a client sends, and every model"]


def test_an_image_limit_refuses_what_only_the_client_level_bounds_and_a_client_limit_does_not():
    """The table of what an owner can ask for today: the second row protects from nobody who sees updates."""
    chosen = Federation.of([*SMALL, *CLIENT])
    with pytest.raises(PolicyRefusal, match="none \\(infinite\\)"):
        policy.check(chosen, Node("d", policy=Policy(None, 8.0)), chosen.planned_event)
    policy.check(chosen, Node("d", policy=Policy(None, None, max_client_epsilon=8.0)), chosen.planned_event)
    private = Federation.of([*SMALL, *IMAGE])
    policy.check(private, Node("d", policy=Policy(None, 8.0)), private.planned_event)


def answered(run, client, tensors, number=1):
    """Return an owner's update, computed by its app from a coordinator's message."""
    _flower.identify()
    told = {"config": instruction.to_wire(run.settings), "run_id": "run", "version": fedveil.__version__}
    content = {
        "instruction": ConfigRecord({**told, "round": number}),
        "tensors": ArrayRecord({name: Array(value) for name, value in tensors.items()}),
        "state": ArrayRecord({}),
    }
    message = Message(RecordDict(content), dst_node_id=client, message_type="train")
    _flower.number(message, "m1")
    own = {"client-id": f"c000{client}", "vault-root": f"vault{client}"}
    reply = client_app.app(message, _flower.client_context(_flower.Settings(3, {}, own), client))
    return {name: array.numpy() for name, array in reply.content.array_records["update"].items()}


def test_a_perfect_sum_is_one_owners_update_if_the_others_are_sent_another_model(tmp_path, monkeypatch):
    """Pasquini, Francati and Ateniese, CCS 2022: so what was sent has to be in what owners sign and compare."""
    monkeypatch.chdir(tmp_path)
    run = Federation.of(SMALL)
    honest = get_tensors(run.backbone())
    nothing = {name: np.zeros_like(value) for name, value in honest.items()}
    victim = answered(run, 1, honest)
    others = [answered(run, client, nothing) for client in (2, 3)]
    kept = [name for name in victim if not any(np.any(other[name]) for other in others)]
    assert set(victim) - set(kept) == {"embed.bias"}
    assert all(np.any(victim[name]) for name in kept)  # the sum of the three *is* the victim's update in all of them


def test_a_round_asked_again_without_one_owner_would_tell_that_owners_update(tmp_path, monkeypatch):
    """Updates repeat to the bit, so two sums over sets that differ by one owner differ by its update."""
    monkeypatch.chdir(tmp_path)
    run = Federation.of(SMALL)
    honest = get_tensors(run.backbone())
    first, again = answered(run, 1, honest), answered(run, 1, honest)
    assert all(np.array_equal(first[name], again[name]) for name in first)


def table(first):
    """Return the rows of the page's table whose head begins with a cell, as lists of cells."""
    lines = PAGE.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not row.startswith("| ---")]


def test_the_thresholds_of_the_page_follow_from_its_rule():
    _, *rows = table("owners n")
    assert rows
    for owners, bad, threshold, gone, honest, longer in rows:
        n, c, t = int(owners), int(bad), int(threshold)
        assert 2 * t > n + c >= 2 * (t - 1)
        assert (int(gone), int(honest)) == (n - t, t - c)
        assert float(longer) == round((n / (t - c)) ** 0.5, 2)


def test_the_noise_of_the_page_is_what_calibrate_says():
    multiplier = 30**0.5 / gaussian.mu_of(8.0, 1e-5)
    assert f"z = {multiplier:.4g}" in PAGE
    (_, *cohorts), *rows = table("owners, all of them joining")
    for name, *cells in rows:
        numbers = int(re.match(r"[\d,]+", name)[0].replace(",", ""))
        for owners, cell in zip(cohorts, cells, strict=True):
            ratio = calibration.noise_to_signal(multiplier, numbers, int(owners.replace(",", ""))).ratio
            assert float(cell.replace(",", "")) == pytest.approx(ratio, rel=6e-3)
