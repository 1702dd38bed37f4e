"""Every backbone, head, aggregation rule and data source in its folder keeps its group's contract."""

import numpy as np
import pytest
import torch

from fedveil import config, randomness
from fedveil.configuration import plugins


def built(group, name, *words):
    return config.build(config.load([f"{group}={name}", *words]), group)


@pytest.mark.parametrize("name", plugins.names("model"))
def test_a_backbone_embeds_any_input_and_starts_from_its_generator(name):
    def module(seed):
        return built("model", name).build(5, (48, 48), randomness.public_torch(seed, "backbone"))

    first, again, other = (dict(module(seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    made = module(1)
    assert not list(made.buffers()), "a buffer would need rules of its own when updates are clipped"
    embedded = made(torch.randn(3, 5, 48, 48))
    assert embedded.shape[0] == 3
    assert embedded.ndim == 2
    # No sample may depend on another one: a batch is a bag of strangers.
    alone = made(torch.ones(1, 5, 48, 48))
    together = made(torch.cat([torch.ones(1, 5, 48, 48), torch.randn(2, 5, 48, 48)]))
    torch.testing.assert_close(alone[0], together[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", plugins.names("head"))
def test_a_head_handicaps_the_right_class_alone(name):
    head = built("head", name)
    cosine = torch.tensor([[0.3, -0.2, 0.9], [0.1, 0.5, -0.7]])
    before = cosine.clone()
    logits = head.logits(cosine, torch.tensor([2, 0]))
    assert logits.shape == cosine.shape
    assert torch.equal(cosine, before)
    plain = head.scale * cosine
    right = torch.tensor([[False, False, True], [True, False, False]])
    torch.testing.assert_close(logits[~right], plain[~right])
    assert bool((logits[right] < plain[right]).all())


@pytest.mark.parametrize("name", plugins.names("aggregation"))
def test_an_aggregation_rule_is_pure_and_moves_along_the_mean(name):
    rule = built("aggregation", name)
    tensors = {"w": np.array([1.0, -1.0], np.float32), "frozen": np.array([5.0], np.float32)}
    mean = {"w": np.array([0.5, -0.25])}
    kept = {key: value.copy() for key, value in tensors.items()}
    moved, state = rule.step(dict(tensors), mean, {})
    again, same = rule.step(dict(tensors), mean, {})
    assert all(np.array_equal(tensors[key], kept[key]) for key in tensors)
    assert np.array_equal(moved["w"], again["w"])
    assert set(state) == set(same)
    assert np.array_equal(np.sign(moved["w"] - tensors["w"]), np.sign(mean["w"]))
    assert np.array_equal(moved["frozen"], tensors["frozen"])
    assert all(value.dtype == np.float32 for value in (*moved.values(), *state.values()))
    still, _ = rule.step(dict(tensors), {"w": np.zeros(2)}, {})
    assert np.array_equal(still["w"], tensors["w"])


@pytest.mark.parametrize("name", plugins.names("data"))
def test_a_data_source_says_what_it_is_and_refuses_a_missing_place(name):
    assert plugins.summary("data", name)
    words = {
        "folder": ["data.root=/nonexistent/faces", "data.evaluation=procedural"],
        "packed": ["data.path=/nonexistent/faces.npz", "data.evaluation=procedural"],
        "lst": ["data.path=/nonexistent/train.lst", "data.evaluation=procedural"],
        "rec": ["data.path=/nonexistent/train.rec", "data.evaluation=procedural"],
        "lfw": ["data.root=/nonexistent/lfw"],
        "synthetic": ["data.path=/nonexistent/set.npz"],
    }.get(name)
    if words is None:
        split = built("data", name, "data.identities=3", "data.pairs=10").load(1)
        assert len(split.train.identities) == 3
        return
    with pytest.raises(ValueError, match="/nonexistent"):
        built("data", name, *words).load(1)
