"""Words are read by the type of their setting: any text for a path, one spelling of a number, and nothing silently."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fedveil import checks, config
from fedveil.commands.sweep import grid
from fedveil.configuration import files, plugins, text, typed, words
from fedveil.configuration import settings as known
from fedveil.configuration.schema import ClientBudget, Config

TEXT = st.text(min_size=1, max_size=40)
CHOSEN = {group: "folder" if group == "data" else plugins.names(group)[0] for group in plugins.GROUPS}


def root_of(word: str) -> str:
    return str(config.load(["data=folder", f"data.root={word}"]).data.settings["root"])


@pytest.mark.parametrize(
    "word",
    [
        "faces #2", "1e3", "2024", "on", "null", "none", "1:30", "a: b", "[x] y", "[a,b]", "0x1F", "a,b", "'a b'",
        '"quoted"', " a ", "a=b=c", "~/faces", "010", "{a: 1}", "&x", "*x", "!tag", "%", "@", "`", "- a", "? a", "|",
        ">", "true", "inf", "nan", "٣", "a\tb", "a\nb", "é", "\udcff", "#",
    ],
)  # fmt: skip
def test_a_path_is_what_was_typed(word: str) -> None:
    assert root_of(word) == word


@given(TEXT)
def test_any_text_comes_back_from_words_and_json(word: str) -> None:
    loaded = config.load(["data=folder", f"data.root={word}", "protection=none"])
    assert loaded.data.settings["root"] == word
    assert config.from_json(config.to_json(loaded)) == loaded


@given(TEXT.filter(lambda word: "@" not in word))  # an address with a user has rules of its own
def test_an_optional_word_is_nothing_or_itself(word: str) -> None:
    wanted = None if word.lower() in ("none", "null") else word
    loaded = config.load([f"tracking.uri={word}"])
    assert loaded.tracking.uri == wanted
    assert config.from_json(config.to_json(loaded)) == loaded


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_any_whole_number_comes_back(number: int) -> None:
    loaded = config.load([f"seed={number}"])
    assert loaded.seed == number
    assert config.from_json(config.to_json(loaded)) == loaded


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(1.7976931348623157e308)
def test_any_number_comes_back_or_is_no_plausible_one(number: float) -> None:
    assert text.read(float, repr(number), "it") == number
    if number and not 1e-30 <= abs(number) <= 1e30:
        with pytest.raises(checks.UserError, match=r"Expected train\.lr=.* of a plausible size"):
            config.load([f"train.lr={number!r}"])
        return
    if number <= 0:
        with pytest.raises(checks.UserError, match=r"Expected train\.lr="):
            config.load([f"train.lr={number!r}"])
        return
    loaded = config.load([f"train.lr={number!r}"])
    assert loaded.train.lr == number
    assert config.from_json(config.to_json(loaded)) == loaded


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("seed=010", "Write 10."), ("seed=1_0", "Write 10."), ("seed=0x10", "Write 16."), ("seed=1e3", "Write 1000."),
        ("seed=3.0", "Write 3."), ("seed=٣", "Write 3."), ("seed=1:30", "whole number"), ("seed=true", "whole number"),
        ("seed=99999999999999999999", "63 bits"), (f"seed={'9' * 5000}", "63 bits"), ("seed=none", "whole number"),
        ("train.lr=010", "Write 10."), ("train.lr=1_0.5", "Write 10.5."), ("train.lr=nan", "to be a number"),
        ("train.lr=inf", "to be a number"), ("train.lr=1e400", "beyond the largest"),
        ("train.lr=1e-400", "closer to 0"),
        ("train.lr=0,1", "which is a sweep"), ("privacy.client.epsilon=.inf", "Write inf."),
        ("evaluation.reference=yes", "Did you mean 'true'"), ("evaluation.reference=off", "Did you mean 'false'"),
        ("evaluation.reference=1", "Did you mean 'true'"), ("evaluation.gallery=cleen", "Did you mean 'clean'"),
        ("evaluation.gallery=true", "one of ['protected', 'clean']"), ("evaluation.far=[0.1,,0.2]", "two commas"),
        ("evaluation.far=[0.1,x]", "evaluation.far[1]='x'"),
        ("evaluation.far=0.1,0.2", "A list is evaluation.far=[0.1,0.2]"),
        ("policy.floor=none,dctdp", "A list is policy.floor=[none,dctdp]"), ("train.rounds=", "is empty"),
        ("data.root=", "is empty"), ("vault.root=none", "./none"), ("runs.root=~/runs", "$HOME"),
        ("train=5", "words of their own, e.g. train.rounds="), ("privacy.client=8", "e.g. privacy.client.epsilon="),
        ("seed.x=1", "seed is one value"), ("train.local={steps}", "no field: value"),
        ("train.local={stps: 3}", "Did you mean 'steps'"), ("partition.exponent=-1", "partition.exponent=-1"),
        ("engine.workers=0", "engine.workers=0"), ("privacy.client.quantile=2", "privacy.client.quantile=2"),
    ],
)  # fmt: skip
def test_what_is_refused_and_what_to_write_instead(word: str, remedy: str) -> None:
    with pytest.raises(checks.UserError) as caught:
        config.load(["data=folder", word] if word.startswith("data.") else [word])
    assert remedy in str(caught.value)
    assert word.partition("=")[0].partition(".")[0] in str(caught.value)
    assert len(str(caught.value)) < 400


def test_lists_blocks_and_typed_words() -> None:
    assert config.load(["evaluation.far=[1e-3, 1e-4]"]).evaluation.far == (1e-3, 1e-4)
    assert config.load(["evaluation.far=[]"]).evaluation.far == ()
    assert config.load(["evaluation.far=0.5"]).evaluation.far == (0.5,)
    listed = text.read(tuple[str, ...] | None, '[none, "a,b", \'c]\', it\'s,"x""y"]', "policy.floor")
    assert listed == ["none", "a,b", "c]", "it's", 'x"y']
    assert config.load(["policy.floor=[none, 'dctdp']"]).policy.floor == ("none", "dctdp")
    assert config.load(["policy.floor=None"]).policy.floor is None
    assert config.load(["train.local={epochs: 2}"]).train.local.epochs == 2
    assert config.load(["privacy.client.epsilon=8", "privacy.client=none"]).privacy.client is None
    assert config.load(["privacy.client.epsilon=INF"]).privacy.client.epsilon == math.inf
    assert config.load(["evaluation.reference=False", "train.rounds= 5 "]).train.rounds == 5


@pytest.mark.parametrize(
    ("said", "epsilon"),
    [
        ("privacy.client.epsilon=8 privacy.client=none privacy.client.epsilon=4", 4),
        ("study=clients privacy.client=none privacy.client.epsilon=4", 4),
        ("study=clients privacy.client.epsilon=4 privacy.client=none", None),
        ("study=clients privacy.client.epsilon=4", 4),
        ("privacy.client={epsilon:2} privacy.client.epsilon=4", 4),
        ("privacy.client.epsilon=4 privacy.client={epsilon:2}", 2),
    ],
)
def test_of_two_words_for_one_setting_the_later_counts(said: str, epsilon: float | None) -> None:
    client = config.load(said.split()).privacy.client
    assert (None if client is None else client.epsilon) == epsilon
    cells = grid.expand([*said.split(), "seed=1,2", "train.clients=300"]).cells
    clients = [cell.settings.privacy.client for cell in cells]
    assert [None if each is None else each.epsilon for each in clients] == [epsilon, epsilon]


@given(st.lists(st.text(max_size=12), max_size=5))
@example(["", " ", "a,b", '"', "'", "]", "[", '","', "none", "a\n"])
def test_a_list_of_any_words_is_written_and_read_again(items: list[str]) -> None:
    assert text.read(tuple[str, ...] | None, text.spoken(items), "policy.floor") == items
    assert text.pieces(text.spoken(items), lists=True) == [text.spoken(items)]


def every_value(tree: Any, kind: Any) -> Any:
    for name, hint in typed.hints(kind).items():
        bare = [typed.marks(option)[0] for option in typed.options(hint)]
        blocks = [option for option in bare if dataclasses.is_dataclass(option)]
        if not blocks:
            yield hint, tree[name]
        elif isinstance(tree[name], dict) and "name" not in tree[name]:
            yield from every_value(tree[name], blocks[0])


@pytest.mark.parametrize("group", sorted(plugins.GROUPS))
def test_every_value_of_every_configuration_can_be_said(group: str) -> None:
    for name in plugins.names(group):
        kind = plugins.method(group, name)
        found = list(every_value(files.read(group, name), kind) if files.read(group, name) else [])
        for hint, value in [*found, *every_value(config.to_tree(config.load()), Config)]:
            read = text.read(hint, text.spoken(value), "key") if value != "" else ""
            assert typed.from_tree(hint, read, "key") == typed.from_tree(hint, value, "key")


@given(st.one_of(TEXT, st.sampled_from(known.every()).flatmap(lambda key: TEXT.map(lambda value: f"{key}={value}"))))
@settings(max_examples=300)
def test_no_word_makes_anything_but_a_refusal_that_names_it(word: str) -> None:
    group = word.partition(".")[0]
    with contextlib.suppress(checks.UserError):
        config.load([*([f"{group}={CHOSEN[group]}"] if group in CHOSEN else []), word])


@given(st.sampled_from(known.every()), st.integers(0, 30), st.characters(categories=["Ll"]))
def test_a_mistyped_setting_is_offered_the_nearest(key: str, place: int, sign: str) -> None:
    last = key.rpartition(".")[2]
    wrong = f"{key.rpartition('.')[0]}.{last[: place % len(last)]}{sign}{last[place % len(last) :]}".strip(".")
    group = key.partition(".")[0]
    chosen = next((n for n in files.choices(group) if last in files.read(group, n)), "") if group in CHOSEN else ""
    assume(wrong not in known.every())
    with pytest.raises(checks.UserError, match=r"Did you mean|it is one of|Choose from|=\w+ has \w"):
        known.kind(wrong, {**CHOSEN, group: chosen})


def test_a_setting_is_found_where_it_is() -> None:
    for word, named in [
        ("rounds=5", "'train.rounds'"), ("privacy.epsilon=8", "'privacy.client.epsilon'"),
        ("workers=2", "'engine.workers'"),
        ("protection.client_rounds=3", "one of protection=duetface"),
        ("protection.client_rouns=3", "'client_rounds' of protection=duetface"),
        ("zzzz=1", "Choose from seed, data"), ("protection=dct protection.zzz=1", "has no settings"),
    ]:  # fmt: skip
        with pytest.raises(checks.UserError, match=named):
            config.load(word.split())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True), (int, 3.0), (int, "3"), (float, True), (float, "3"), (float, "nan"), (float, math.nan),
        (float, math.inf), (float, "inf"), (float, 10**400), (str, 3), (str, None), (bool, 1), (bool, "true"),
        (Literal["a"], "b"), (Literal["a"], ["a"]), (tuple[float, ...], 0.1), (tuple[float, ...], ["0.1"]),
        (int | None, "none"), (ClientBudget, 3), (ClientBudget, {"epsilon": "8"}),
        (ClientBudget | None, {"epsilom": 8}), (Config, {}),
    ],
)  # fmt: skip
def test_json_is_taken_as_it_is_typed(kind: Any, value: Any) -> None:
    with pytest.raises(checks.UserError):
        typed.from_tree(kind, value, "key")


@pytest.mark.parametrize("written", ["", "{", "[]", "3", "null", '{"seed": 1}', '{"seed": NaN}', "[" * 100_000])
def test_json_that_is_no_configuration_is_refused_in_words(written: str) -> None:
    with pytest.raises(checks.UserError):
        config.from_json(written)


def test_a_configuration_of_an_earlier_version_loads() -> None:
    """Methods' settings were written as YAML had read the words."""
    tree = config.to_tree(config.load(["protection=duetface"]))
    tree["data"] |= {"identities": 100.0, "difficulty": 1, "max_images_per_identity": 5.0}
    tree["protection"] |= {"roi": None, "client_width": 1}
    loaded = config.parse(tree)
    same = [f"data.{word}" for word in ("identities=100", "difficulty=1", "max_images_per_identity=5")]
    assert loaded == config.load(["protection=duetface", *same, "protection.roi=none", "protection.client_width=1"])
    tree["train"]["rounds"] = 3.0
    with pytest.raises(checks.UserError, match=r"train\.rounds=3\.0"):
        config.parse(tree)


def test_equal_values_are_equal_configurations() -> None:
    first, second = (config.load([f"protection.total_epsilon={word}"]) for word in ("8", "8.0"))
    assert config.digest(first) == config.digest(second)


STUDY = """
base:
  data: folder
  data.root: 2024
  seed: 0x10
  train:
    local.steps: 3
    trainable: a,b
  policy.floor: [none, "dct"]
  evaluation.far: [1e-2, 0.1]
grid:
  data.root: [010, "a,b", yes]
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one's own beside the others."""
    for path in files.folder().rglob("*.yaml"):
        place = tmp_path / path.relative_to(files.folder())
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
    monkeypatch.setattr(files, "folder", lambda: tmp_path)
    return tmp_path / "study" / "own.yaml"


def test_a_study_is_words_in_a_file(study: Path) -> None:
    study.write_text(STUDY.replace("seed: 0x10", "seed: 16"))
    cells = grid.expand(["study=own"]).cells
    assert [cell.settings.data.settings["root"] for cell in cells] == ["010", "a,b", "yes"]
    first = cells[0].settings
    assert (first.seed, first.train.local.steps, first.train.trainable) == (16, 3, "a,b")
    assert (first.policy.floor, first.evaluation.far) == (("none", "dct"), (0.01, 0.1))
    study.write_text("base: {data: folder, data.root: 2024}\n")
    assert config.load(["study=own"]).data.settings["root"] == "2024"
    study.write_text("")
    assert config.load(["study=own"]) == config.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (STUDY, "Write 16"), ("base: [", "is no YAML"), ("bsae: {}", "Did you mean 'base'"), ("- a", "line 1"),
        ("base: {seed: 1, seed: 2}", "seed stands there twice"), ("grid: {seed: 3}", "grid.seed is one value"),
        ("base: {protection.fit_stps: 3}", "Did you mean 'fit_steps'"),
        ("base: {policy.floor: [[a]]}", "a value or a list"),
        ("base: {evaluation.far: [{a: 1}]}", "a value or a list"), ("base: {trian.rounds: 3}", "Did you mean 'train'"),
    ],
)  # fmt: skip
def test_a_study_that_is_wrong_is_refused_by_name(study: Path, content: str, message: str) -> None:
    study.write_text(content)
    with pytest.raises(checks.UserError, match=message):
        (grid.expand if "grid" in content else config.load)(["study=own"])


def test_a_sweep_separates_at_commas_and_quotes_hold_them() -> None:
    def swept(word: str) -> list[Any]:
        key = word.partition("=")[0].partition(".")
        cells = grid.expand(["data=folder", word]).cells
        return [dict(cell.settings.data.settings)[key[2]] for cell in cells]

    assert swept("data.root=a,b") == ["a", "b"]
    assert swept("data.root='a,b',c") == ["a,b", "c"]
    assert swept("data.root=[x] y,[a,b]") == ["[x] y", "[a", "b]"]
    assert swept('data.root="say ""a,b""",2024, on') == ['say "a,b"', "2024", "on"]
    far = grid.expand(["evaluation.far=[1e-3,0.1],[0.2],0.3"]).cells
    assert [cell.settings.evaluation.far for cell in far] == [(1e-3, 0.1), (0.2,), (0.3,)]
    floors = grid.expand(['policy.max_epsilon=1,2', 'policy.floor=["dct",none]']).cells
    assert {cell.settings.policy.floor for cell in floors} == {("dct", "none")}


@given(st.lists(TEXT, min_size=2, max_size=4, unique=True))
@settings(max_examples=50)
def test_any_paths_can_be_swept(paths: list[str]) -> None:
    quoted = ",".join('"' + path.replace('"', '""') + '"' for path in paths)
    cells = grid.expand(["data=folder", f"data.root={quoted}"]).cells
    assert [dict(cell.settings.data.settings)["root"] for cell in cells] == paths


def test_splitting_takes_time_in_proportion_to_the_text() -> None:
    for part in ('"",', "'", "[", '"a""', ' "a" ', "[\"\","):
        assert text.pieces(part * 2_000, lists=True)
    assert words.split([f"a={'x,' * 2_000}"])
