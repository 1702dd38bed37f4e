"""A sweep's words become cells: every combination once, nothing that makes no sense, a name that only they decide."""

from __future__ import annotations

import itertools

import pytest

from fedveil import checks, config
from fedveil.commands.sweep import grid


def test_every_combination_is_one_cell_with_its_own_configuration() -> None:
    made = grid.expand(["train.rounds=2,3", "seed=1,2,3", "train.lr=0.1"])
    found = [(cell.settings.train.rounds, cell.settings.seed) for cell in made.cells]
    assert sorted(found) == sorted(itertools.product((2, 3), (1, 2, 3)))
    assert {cell.settings.train.lr for cell in made.cells} == {0.1}
    assert [seed for _, seed in found] == [1, 1, 2, 2, 3, 3]  # a whole frontier of one seed before the next seed
    assert made.notes == ()


def test_a_cell_is_what_a_single_run_of_its_words_would_be() -> None:
    made = grid.expand(["protection=none,dctdp", "protection.total_epsilon=8,50", "model.embedding=32", "seed=5,6"])
    for cell in made.cells:
        words = [f"{key}={value}" for key, value in cell.values.items()]
        assert cell.settings == config.load([*words, "model.embedding=32"])
        assert config.digest(cell.settings).startswith(cell.name)


def test_a_setting_that_the_method_lacks_is_dropped_and_equal_runs_are_one() -> None:
    made = grid.expand(["protection=none,dctdp", "protection.total_epsilon=8,50", "seed=1,2"])
    assert [cell.label for cell in made.cells if cell.settings.seed == 1] == [
        "none seed=1",
        "dctdp total_epsilon=8 seed=1",
        "dctdp total_epsilon=50 seed=1",
    ]
    assert made.notes == ("protection=none has no total_epsilon: 8 combinations are 6 runs.",)
    assert len({cell.name for cell in made.cells}) == 6


def test_a_single_value_for_one_of_the_methods_is_dropped_for_the_other() -> None:
    made = grid.expand(["protection=none,dctdp", "protection.total_epsilon=8"])
    assert [cell.label for cell in made.cells] == ["none", "dctdp"]
    assert made.cells[1].settings.protection.settings["total_epsilon"] == 8


def test_values_that_come_to_the_same_configuration_are_said() -> None:
    made = grid.expand(["train.lr=0.1,1e-1,0.2"])
    assert len(made.cells) == 2
    assert made.notes == ("Some values come to the same configuration: 3 combinations are 2 runs.",)


def test_lists_and_typed_words_are_values() -> None:
    made = grid.expand(["evaluation.far=[0.1,0.01],[0.2]", "privacy.client.epsilon=1,inf"])
    assert {cell.settings.evaluation.far for cell in made.cells} == {(0.1, 0.01), (0.2,)}
    assert {cell.settings.privacy.client.epsilon for cell in made.cells if cell.settings.privacy.client} == {
        1.0, float("inf"),
    }  # fmt: skip


def test_the_name_of_a_grid_does_not_depend_on_how_it_is_written() -> None:
    one = grid.expand(["protection=none,dctdp", "seed=1,2"])
    assert one.name == grid.expand(["seed=2,1", "protection=dctdp,none"]).name
    assert one.name == grid.expand(["seed=2,1", "protection=dctdp,none", "engine=inline", "runs.root=other"]).name
    assert one.name != grid.expand(["protection=none,dctdp", "seed=1,3"]).name


def test_a_study_gives_base_and_grid_and_words_replace_them() -> None:
    made = grid.expand(["study=first_frontier"])
    assert len(made.cells) == 18
    assert {cell.settings.train.rounds for cell in made.cells} == {12}
    fewer = grid.expand(["study=first_frontier", "seed=7", "train.rounds=2", "protection.total_epsilon=8"])
    assert [(cell.settings.seed, cell.settings.train.rounds) for cell in fewer.cells] == [(7, 2), (7, 2)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1"], "Nothing to sweep"),
        (["study=quick"], "Nothing to sweep"),
        (["engine=inline,pool"], "no part of what is computed"),
        (["vault.root=a,b"], "no part of what is computed"),
        (["device=cpu,cuda"], "no part of what is computed"),
        (["seed=1,"], "empty value"),
        (["seed"], "Expected group=name"),
        (["study=quick,first_frontier"], "one study"),
        (["protection=dctdp,nnoe"], "Did you mean 'none'"),
        (["protection.total_epsilom=1,2"], "Did you mean 'total_epsilon'"),
        (["protection=none,dctdp", "protection.total_epsilom=1,2"], "Unknown setting protection.total_epsilom"),
        (["train.rounds=1,many"], "whole number"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(words: list[str], message: str) -> None:
    with pytest.raises(checks.UserError, match=message):
        grid.expand(words)


@pytest.mark.parametrize("word", ["train.lr=0.1,0.2", "protection=none,dctdp", "study=first_frontier"])
def test_a_single_run_points_to_the_sweep(word: str) -> None:
    with pytest.raises(checks.UserError, match="fedveil sweep"):
        config.load([word])


def test_a_study_does_not_force_its_settings_on_another_method() -> None:
    assert config.load(["study=quick", "protection=none"]).protection.settings == {}
