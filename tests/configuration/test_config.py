"""Groups, dotted overrides in any order, typed refusals with the nearest name; the YAML and the schema agree."""

import dataclasses
import json

import pytest

from fedveil import checks, config
from fedveil.attacks import _chosen
from fedveil.commands.sweep import grid
from fedveil.configuration import files, plugins, studies


def test_groups_are_taken_before_overrides_whatever_the_order():
    first = config.load(["aggregation.momentum=0.5", "aggregation=fedavgm", "train.rounds=3"])
    second = config.load(["train.rounds=3", "aggregation=fedavgm", "aggregation.momentum=0.5"])
    assert first == second
    assert first.aggregation.settings["momentum"] == 0.5


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.ronds=3", "Unknown setting train.ronds. Did you mean 'rounds'"),
        ("trian.rounds=3", "Unknown setting trian. Did you mean 'train'"),
        ("train.rounds=many", "Expected train.rounds='many' to be a whole number"),
        ("train.rounds=2.5", "Expected train.rounds=2.5 to be a whole number"),
        ("train.rounds=0", "Expected train.rounds=0 > 0"),
        ("train.cohort.kind=poison", "Did you mean 'poisson'"),
        ("protection=dctpd", "Did you mean 'dctdp'"),
        ("aggregation.momentm=0.5", "Unknown setting aggregation.momentm. Did you mean 'momentum'"),
        ("aggregation.momentum=1.0", "Expected aggregation.momentum=1.0 < 1"),
        ("train.lr=0.1,0.2", "which is a sweep"),
        ("train.lr", "Expected group=name or section.key=value"),
        ("protection.name=none", "write protection=none"),
        ("train.cohort.size=99", "exceeds train.clients=10"),
    ],
)
def test_refusals_name_what_was_given_and_the_nearest(word, message):
    with pytest.raises(checks.UserError) as caught:
        config.load([word])
    assert message in str(caught.value)


def test_typed_words_and_numbers():
    loaded = config.load(["privacy.client.epsilon=inf", "privacy.client.delta=1e-5", "privacy.test_seed=none"])
    assert loaded.privacy.client is not None
    assert loaded.privacy.client.epsilon == float("inf")
    assert loaded.privacy.client.delta == 1e-5
    assert config.load(["evaluation.far=[0.1,0.01]"]).evaluation.far == (0.1, 0.01)


def test_local_work_is_steps_or_epochs():
    assert config.load(["train.local.epochs=2"]).train.local.steps is None
    with pytest.raises(checks.UserError, match="exactly one"):
        config.load(["train.local={steps: 2, epochs: 1}"])


def test_json_round_trip_and_digest():
    loaded = config.load(["train.rounds=7", "engine=inline", "policy.floor=[dctdp]"])
    assert config.from_json(config.to_json(loaded)) == loaded
    assert json.loads(config.to_json(loaded))["train"]["rounds"] == 7
    other = dataclasses.replace(loaded, engine=config.load(["engine=pool"]).engine)
    assert config.digest(other) == config.digest(loaded)
    assert config.digest(config.load(["train.rounds=8"])) != config.digest(loaded)


def test_flat_has_one_entry_per_leaf():
    flat = config.flat(config.load())
    assert flat["train.cohort.kind"] == "poisson"
    assert flat["protection.name"] == "dctdp"
    assert all(value is None or isinstance(value, (str, int, float)) for value in flat.values())


@pytest.mark.parametrize("group", sorted(plugins.GROUPS))
def test_every_method_has_one_yaml_with_its_fields_and_defaults(group):
    assert files.choices(group) == plugins.names(group)
    for name in plugins.names(group):
        text = (files.folder() / group / f"{name}.yaml").read_text()
        words = [f"{group}={name}", *_required(group, name)]
        built = _chosen.of(words)[0].attack if group == "attack" else config.build(config.load(words), group)
        default = {field.name: field.default for field in dataclasses.fields(built)}
        loaded = {field.name: getattr(built, field.name) for field in dataclasses.fields(built)}
        given = {word.split("=")[0].split(".", 1)[1] for word in _required(group, name)}
        for key, value in default.items():
            assert f"{key}:" in text, f"configs/{group}/{name}.yaml lacks {key}"
            if value is not dataclasses.MISSING and key not in given:
                assert loaded[key] == value, f"configs/{group}/{name}.yaml: {key} differs from the dataclass"
        settings = [line for line in text.splitlines() if line and not line.startswith(("#", " ", "{}"))]
        assert all("#" in line for line in settings), f"a setting of configs/{group}/{name}.yaml has no comment"


def _required(group, name):
    """Settings without a usable default: paths."""
    if group != "data" or name == "procedural":
        return []
    return [f"data.{'path' if name in ('packed', 'rec', 'lst', 'synthetic') else 'root'}=somewhere"]


@pytest.mark.parametrize("name", files.choices("study"))
def test_every_study_loads(name):
    swept = studies.read(name).swept
    cells = grid.expand([f"study={name}"]).cells if swept else []
    assert [cell.settings.train.rounds > 0 for cell in cells] == [True] * len(cells)
    assert swept or config.load([f"study={name}"]).train.rounds > 0


def test_none_is_a_word_where_only_a_word_will_do_and_nothing_where_nothing_may_stand():
    chosen = config.load(["protection=duetface", "protection.roi=none", "train.warm_start=none"])
    assert config.build(chosen, "protection").roi == "none"
    assert chosen.train.warm_start is None
    assert config.from_json(config.to_json(chosen)) == chosen
    for word in ("train.rounds=none", "vault.root=none", "vault.root=", "runs.root=~", "protection.gate=none"):
        with pytest.raises(checks.UserError, match=word.split("=")[0]):
            config.load(["protection=duetface", word])


def test_every_setting_of_base_has_a_comment():
    lines = (files.folder() / "base.yaml").read_text().splitlines()
    bare = [line for line in lines if line.strip() and "#" not in line and not line.rstrip().endswith(":")]
    assert bare == []
