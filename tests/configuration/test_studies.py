"""A study is words in a file: a base, a grid, blocks with grids of their own, and attacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedveil import checks, config
from fedveil.configuration import files, studies

STUDY = """
base: {train.rounds: 2, protection: none}
grid: {seed: [1, 2]}
blocks:
  people:
    base: {privacy.identity: {sampling_rate: 0.5}}
    grid: {privacy.identity.epsilon: [8, inf]}
  copies:
    base: {protection: dctdp}
    grid: {protection.total_epsilon: [8, 200]}
attacks:
  replay: {victims: 40, far: 0.05}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one's own beside the others."""
    for path in files.folder().rglob("*.yaml"):
        place = tmp_path / path.relative_to(files.folder())
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
    monkeypatch.setattr(files, "folder", lambda: tmp_path)
    return tmp_path / "study" / "own.yaml"


def test_every_part_is_read_as_text(own: Path) -> None:
    own.write_text(STUDY)
    study = studies.read("own")
    assert (study.base, study.grid) == ({"train.rounds": "2", "protection": "none"}, {"seed": ["1", "2"]})
    assert study.blocks == {
        "people": studies.Block({"privacy.identity.sampling_rate": "0.5"}, {"privacy.identity.epsilon": ["8", "inf"]}),
        "copies": studies.Block({"protection": "dctdp"}, {"protection.total_epsilon": ["8", "200"]}),
    }
    assert study.attacks == {"replay": {"victims": "40", "far": "0.05"}}
    assert study.swept == ["seed", "people", "copies"]


@pytest.mark.parametrize("text", ["attacks: [replay]", "attacks: {replay: }", "attacks: {replay: {}}"])
def test_an_attack_needs_no_settings(own: Path, text: str) -> None:
    own.write_text(text)
    assert studies.read("own").attacks == {"replay": {}}


def test_a_study_with_blocks_is_no_single_run(own: Path) -> None:
    own.write_text("blocks: {a: {base: {seed: 1}}}")
    with pytest.raises(checks.UserError, match="fedveil sweep study=own"):
        config.load(["study=own"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("block: {}", "Did you mean 'blocks'"), ("blocks: {a: {bsae: {}}}", "Did you mean 'base'"),
        ("blocks: {a: {grid: {seed: 3}}}", "blocks.a.grid.seed is one value"), ("blocks: [a]", "line 1"),
        ("grid: {seed: []}", "grid.seed has no value"), ("blocks: {a b: {}}", "a block's name"),
        ("blocks: {a: {}, a: {}}", "a stands there twice"),
        ("blocks: {a: {base: {protection.fit_stps: 3}}}", "Did you mean 'fit_steps'"),
        ("attacks: [repaly]", "Did you mean 'replay'"), ("attacks: {replay: {victms: 3}}", "Did you mean 'victims'"),
        ("attacks: replay", "line 1"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_refused_by_name(own: Path, content: str, message: str) -> None:
    own.write_text(content)
    with pytest.raises(checks.UserError, match=message):
        studies.read("own")
