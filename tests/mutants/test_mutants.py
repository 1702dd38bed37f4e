"""Deliberate faults in the privacy code, each of which must make a test fail: `make mutants` puts them in, one by one.

Every fault is one replacement in one file, and names the tests that are to notice. `make test` only checks that each
still applies: a fault that no longer fits the code is no check at all. docs/audits.md lists them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("platform", "clients", "strategies", "configs", "tests", "pyproject.toml")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong then.
        group: what it is about.
        file: where.
        old: text that is there exactly once.
        new: what replaces it.
        tests: files (or `file::test`) of which at least one test must fail.
    """

    name: str
    group: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


LISTED = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text())["mutant"]
MUTANTS = [Mutant(**{**one, "tests": tuple(f"tests/{test}" for test in one["tests"])}) for one in LISTED]


def test_every_mutant_still_applies_and_names_tests_that_exist() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 46
    page = " ".join((ROOT / "docs/audits.md").read_text().split())
    for mutant in MUTANTS:
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant.name
        assert mutant.name in page, f"docs/audits.md does not list: {mutant.name}"
        for test in mutant.tests:
            assert (ROOT / test.partition("::")[0]).is_file(), test


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutants")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    shutil.rmtree(folder / "tests" / "mutants")
    return folder


def run(folder: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    roots = os.pathsep.join(str(folder / root) for root in ("platform", "clients", "strategies"))
    here = {**os.environ, "PYTHONPATH": roots, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    return subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: re.sub(r"\W+", "-", mutant.name))
def test_a_mutant_is_caught(mutant: Mutant, copy: Path) -> None:
    path = copy / mutant.file
    whole = path.read_text()
    path.write_text(whole.replace(mutant.old, mutant.new))
    try:
        done = run(copy, mutant.tests)
    finally:
        path.write_text(whole)
    assert done.returncode == 1, f"survived: {mutant.name}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.slow
def test_the_named_tests_pass_without_a_mutant(copy: Path) -> None:
    done = run(copy, tuple(sorted({test for mutant in MUTANTS for test in mutant.tests})))
    assert done.returncode == 0, done.stdout[-3000:]
