"""The owner's floor: what a node refuses, with the reason, whatever the coordinator's configuration says."""

from __future__ import annotations

import dataclasses

import pytest

from fedveil.configuration.schema import Policy
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil_clients import policy
from fedveil_clients.policy import Node, PolicyRefusal

NOISED = LocalRelease("laplace", 8.0)
BARE = NonPrivate("image", "everything", "no noise")


def settings(*words):
    return Federation.of(["tracking=none", *words])


def test_without_a_policy_everything_is_accepted():
    policy.check(settings(), Node("d"), NOISED)
    policy.check(settings("protection=none"), Node("d"), BARE)


def test_a_protection_below_the_floor_is_refused_by_name():
    node = Node("d", policy=Policy(("dctdp",), None))
    policy.check(settings(), node, NOISED)
    with pytest.raises(PolicyRefusal, match="'none'"):
        policy.check(settings("protection=none"), node, BARE)


@pytest.mark.parametrize(("event", "shown"), [(NOISED, "8 at delta 0"), (BARE, "infinite")])
def test_more_than_the_largest_epsilon_is_refused_with_the_number(event, shown):
    policy.check(settings(), Node("d", policy=Policy(None, 8.0)), NOISED)
    with pytest.raises(PolicyRefusal, match=shown):
        policy.check(settings(), Node("d", policy=Policy(None, 7.9)), event)


def test_repeated_releases_count():
    with pytest.raises(PolicyRefusal, match="80"):
        policy.check(settings(), Node("d", policy=Policy(None, 8.0)), dataclasses.replace(NOISED, releases=10))


def test_fixed_noise_needs_the_nodes_own_permission():
    chosen = settings("privacy.test_seed=1")
    policy.check(chosen, Node("d", allow_test_seed=True), NOISED)
    with pytest.raises(PolicyRefusal, match="test_seed"):
        policy.check(chosen, Node("d"), NOISED)


@pytest.mark.parametrize("more", [[], ["privacy.identity.epsilon=inf"]])
def test_a_generator_without_a_budget_needs_the_owners_own_word(more):
    """`generator.shared` comes with the coordinator's configuration: it says nothing about the owner."""
    shared = settings("generator=id3", "generator.shared=true", "protection=none", "train.local.steps=1", *more)
    with pytest.raises(PolicyRefusal, match="allow-shared-generator") as refused:
        policy.check(shared, Node("d"), shared.planned_event)
    assert refused.value.told == str(refused.value)
    policy.check(shared, Node("d", allow_shared_generator=True), shared.planned_event)
    policy.check(shared, Node("d", simulated=True), shared.planned_event)
    assert policy.node_of("c1", {"allow-shared-generator": True}, "folder").shares_generators
    bounded = settings("generator=id3", "protection=none", "privacy.client.epsilon=8")
    policy.check(bounded, Node("d"), bounded.planned_event)


def test_the_nodes_policy_beats_the_runs():
    lax = settings("policy.floor=[none,dctdp]", "policy.max_epsilon=1000000", "protection=none")
    with pytest.raises(PolicyRefusal):
        policy.check(lax, Node("d", policy=Policy(("dctdp",), 8.0)), BARE)
    strict = settings("policy.floor=[dctdp]", "protection=none")
    with pytest.raises(PolicyRefusal):  # a node that says nothing takes the run's, as a simulation does
        policy.check(strict, Node("d"), BARE)


def test_node_configuration_is_read_cautiously():
    assert policy.node_of("c0001", {}, "folder") == Node("folder/c0001", False, None)
    found = policy.node_of("c1", {"floor": "dctdp, none", "max-epsilon": 8, "data-set": "clinic-7"}, "folder")
    assert found == Node("clinic-7", False, Policy(("dctdp", "none"), 8.0))
    assert policy.node_of("c1", {"max-epsilon": "8.5"}, "folder").policy == Policy(None, 8.5)
    assert policy.node_of("c1", {"allow-test-seed": True}, "folder").allow_test_seed
    for no in ("false", "no", "", 0, None):
        with pytest.raises(ValueError, match="allow-test-seed"):
            policy.node_of("c1", {"allow-test-seed": no}, "folder")


def test_a_floor_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="low"):
        policy.node_of("c1", {"max-epsilon": "low"}, "folder")
    for nothing in ("", " , ", "dctpd"):
        with pytest.raises(ValueError, match="floor"):
            policy.node_of("c1", {"floor": nothing}, "folder")


def test_a_node_brings_its_own_faces_and_vault(tmp_path):
    from PIL import Image

    from fedveil.data.sources.procedural import draw_faces
    from fedveil_clients.sites import own_faces

    for who, owner in enumerate(("north", "south")):
        faces = draw_faces(1, 10 * who, 3, 4, 32)
        for number, pixels in enumerate(faces.images()):
            path = tmp_path / owner / f"{owner}{faces.labels[number]}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    words = ["data=folder", f"data.root={tmp_path / 'north'}", "data.size=32", "data.evaluation=procedural"]
    run = Federation.of([*words, "train.clients=2", "protection=none"])
    node = policy.node_of("c0002", {"data-root": str(tmp_path / "south"), "vault-root": str(tmp_path / "v")}, "folder")
    assert set(own_faces(node.at_home(run), "c0002", node).present_names) == {"south0", "south1", "south2"}
    assert node.vault() == tmp_path / "v"
    shared = policy.node_of("c0002", {"simulated": True, "data-root": str(tmp_path / "north")}, "folder")
    faces = own_faces(shared.at_home(run), "c0002", shared)
    assert all(name.startswith("north") for name in faces.present_names)
    assert set(faces.present_names) < {"north0", "north1", "north2"}


# Two pairs (epsilon, delta) are compared at one delta


def gaussian(epsilon, delta, **more):
    from fedveil.privacy import gaussian as closed

    return LocalRelease("gaussian", closed.mu_of(epsilon, delta), delta=delta, **more)


def test_an_offer_is_converted_to_the_owners_delta_before_it_is_compared():
    run = settings("protection.noise=gaussian", "data.identities=20")
    careless = gaussian(8.0, 1e-5)
    policy.check(run, Node("d", policy=Policy(None, 8.0)), careless)
    strict = Node("d", policy=Policy(None, 8.0, image_delta=1e-9))
    with pytest.raises(PolicyRefusal, match=r"this run's is 10\.9\d+ at delta 1e-09"):
        policy.check(run, strict, careless)
    policy.check(run, strict, gaussian(8.0, 1e-9))
    policy.check(run, strict, NOISED)  # pure: 8 at any delta
    with pytest.raises(PolicyRefusal, match=r"8\.1 at delta 0"):
        policy.check(run, strict, LocalRelease("laplace", 8.1))


def test_epsilons_alone_would_have_passed_a_delta_close_to_one():
    """At delta 0.999 epsilon is next to nothing; at the owner's delta it is what it is."""
    run = settings("protection.noise=gaussian", "data.identities=20", "policy.max_delta=0.999")
    loose = LocalRelease("gaussian", 10.0, delta=0.999)
    assert statements.price(loose)[0].epsilon < 50
    with pytest.raises(PolicyRefusal, match="at delta 1e-05"):
        policy.check(run, Node("d", policy=Policy(None, 50.0, max_delta=0.999)), loose)


def test_a_coordinators_raised_delta_is_not_the_owners():
    run = settings("protection.noise=gaussian", "protection.delta=0.01", "policy.max_delta=0.01")
    policy.check(run, Node("d"), gaussian(1.0, 0.01))  # a simulation: the same person
    with pytest.raises(PolicyRefusal, match=r"protection\.delta=0\.01"):
        policy.check(run, Node("d", policy=Policy(("dctdp",), None)), gaussian(1.0, 0.01))
    policy.check(run, Node("d", policy=Policy(None, None, max_delta=0.01)), gaussian(1.0, 0.01))


def test_an_owners_largest_delta_is_a_limit_below_the_ceiling_and_above_it():
    run = settings("protection.noise=gaussian", "data.identities=20")
    for limit, delta, fits in ((1e-9, 1e-5, False), (1e-9, 1e-9, True), (1e-3, 1e-5, True)):
        node = Node("d", policy=Policy(None, None, max_delta=limit))
        chosen = settings("protection.noise=gaussian", "data.identities=20", f"protection.delta={delta}")
        if fits:
            policy.check(chosen, node, gaussian(1.0, delta))
            policy.check_count(chosen, node, gaussian(1.0, delta), 10**9, 1)  # the owner's word stands
            continue
        with pytest.raises(PolicyRefusal, match=r"\(0, 1e-09\], the largest that the owner accepts") as refusal:
            policy.check(chosen, node, gaussian(1.0, delta))
        assert refusal.value.told == str(refusal.value)
        with pytest.raises(PolicyRefusal):
            policy.check_count(run, node, gaussian(1.0, delta), 1, 1)
    clients = settings("protection=none", "privacy.client.epsilon=8", "privacy.client.delta=1e-5")
    with pytest.raises(PolicyRefusal, match=r"privacy\.client\.delta=1e-05 in \(0, 1e-09\]"):
        policy.check(clients, Node("d", policy=Policy(None, None, max_delta=1e-9)), BARE)


def test_a_delta_too_large_for_the_owners_own_number_of_images_is_refused():
    run = settings("protection.noise=gaussian", "data.identities=20")
    policy.check_count(run, Node("d"), gaussian(1.0, 1e-5), 10_000, 1)
    with pytest.raises(PolicyRefusal, match="10,001 images") as refusal:
        policy.check_count(run, Node("d"), gaussian(1.0, 1e-5), 10_001, 1)
    assert not any(letter.isdigit() for letter in refusal.value.told)
    policy.check_count(run, Node("d"), NOISED, 10**9, 1)
