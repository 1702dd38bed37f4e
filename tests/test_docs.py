"""The documents: what they name exists, what they list is complete, what they show as code runs."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from fedveil import checks, cli, config
from fedveil.attacks import _chosen
from fedveil.commands.synthesize import chosen as synthesize
from fedveil.configuration import files, plugins
from fedveil.configuration.words import METHOD_GROUPS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FOLDERS = "platform|clients|strategies|configs|experiments|tests|docs"


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text) if found == language]


def commands(text: str) -> list[list[str]]:
    """Return every `fedveil ...` command, in a bash block or as inline code, split into words."""
    lines = [line for body in blocks(text, "bash") for line in body.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(fedveil [^`]+)`", FENCE.sub("", text))
    found = [line[line.index("fedveil ") :] for line in lines if re.match(r"(\S*/)?fedveil ", line)] + inline
    return [shlex.split(line, comments=True)[1:] for line in found]


def slug(heading: str) -> str:
    """Return the anchor that the usual Markdown hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)}


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(aim), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_files_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    promised = re.findall(rf"`((?:{FOLDERS})/[\w./-]+|[A-Z]+\.md|Makefile|constraints\.txt)`", text)
    missing = [name for name in promised if not (ROOT / name).exists() and "pixelate" not in name]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_parse_and_their_words_are_accepted(page: Path) -> None:
    for words in commands(page.read_text()):
        if words[0] == "COMMAND":  # `fedveil COMMAND --help`
            continue
        assert words[0] in command_names()
        if len(words) == 1 or words[-1] == "--help" or "protection=pixelate" in words:  # named, or this page's example
            continue
        chosen = cli.parser().parse_args(words)
        if words[0] == "synthesize":
            assert synthesize.of(chosen.words)
            continue
        mine, others = _chosen.apart(getattr(chosen, "words", []))
        assert _chosen.of(mine) or not mine
        for cell in cells(others, sweep=words[0] == "sweep"):
            try:
                (config.compose if words[0] == "sweep" else config.load)(cell)  # a value of a sweep stands by itself
            except checks.UserError as error:
                pytest.fail(f"fedveil {' '.join(words)}: {error}")


def cells(words: list[str], sweep: bool) -> list[list[str]]:
    """Return the words of one run, without placeholders such as ID; of a sweep, each value by itself."""
    kept = [word for word in words if not re.search(r"=[A-Z]{2}|\.\.\.", word)]
    if not sweep:
        return [kept]
    assert all(word.partition("=")[2] in files.choices("study") for word in kept if word.startswith("study="))
    single = [word.partition("=") for word in kept if not word.startswith("study=")]
    return [[*chosen(key), f"{key}={value}"] for key, _, values in single for value in values.split(",")]


def chosen(key: str) -> list[str]:
    """Return the word that chooses a method with the setting `key`, where the default method has none such."""
    group, _, name = key.partition(".")
    if key in config.flat(config.load()) or group not in METHOD_GROUPS or not name:
        return []
    return [f"{group}={method}" for method in plugins.names(group) if has_setting(group, method, name)][:1]


def command_names() -> set[str]:
    subparsers = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return set(subparsers.choices)


def test_the_readme_shows_every_command() -> None:
    assert command_names() <= {words[0] for words in commands(README)}


def test_the_page_of_nodes_lists_every_word_with_its_meaning() -> None:
    from fedveil_clients import node

    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", (ROOT / "docs/nodes.md").read_text(), re.MULTILINE)
    assert rows == [(word, meaning) for word, (_, meaning) in node.WORDS.items()]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_the_readme_lists_every_method_once() -> None:
    section = README.partition("\n## Methods\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)=(\w+)` \| (.+) \|$", section, re.MULTILINE)
    listed = [(group, name) for group, name, _ in rows]
    assert sorted(listed) == sorted((group, name) for group in plugins.GROUPS for name in plugins.names(group))
    assert all(len(text) > 10 for _, _, text in rows)


def test_the_design_page_maps_every_module() -> None:
    text = (ROOT / "docs/design.md").read_text()
    packages = ["platform/fedveil", "clients/fedveil_clients", "strategies/fedveil_strategies"]
    for package in packages:
        for path in (ROOT / package).iterdir():
            public = not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").is_file())
            assert not public or f"`{path.stem}`" in text, f"docs/design.md does not name {path.stem} of {package}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_path_of_somebodys_machine(page: Path) -> None:
    assert not re.findall(r"(?<![\w.])/(?:work|tmp|root|home|Users|mnt|opt)/", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_overrides_in_the_text_are_settings(page: Path) -> None:
    sections = {key.split(".")[0] for key in config.flat(config.load())}
    for word in re.findall(r"`((?:\w+\.)+\w+=[^`\s]+)`", FENCE.sub("", page.read_text())):
        section, _, key = word.partition("=")[0].partition(".")
        if section not in sections or re.search(r"=[A-Z]{2}|\.\.\.", word):
            continue
        method = next((name for name in files.choices(section) if has_setting(section, name, key)), None)
        config.compose([*([f"{section}={method}"] if method else []), word])


def has_setting(group: str, name: str, key: str) -> bool:
    return key in (yaml.safe_load((files.folder() / group / f"{name}.yaml").read_text()) or {})


def test_the_configuration_reference_is_fresh() -> None:
    made = script(ROOT / "docs/make_configuration.py").page()
    assert made == (ROOT / "docs/configuration.md").read_text(), "run: python docs/make_configuration.py"


def test_the_configuration_reference_has_every_setting_with_its_meaning() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `[^|]*` \| [^|]+ \| ([^|]*) \|$", text, re.MULTILINE)
    meaning = dict(rows)
    local = {"train.local.steps", "train.local.epochs"}
    for key in set(config.flat(config.load())) - local:
        group, _, name = key.partition(".")
        if name == "name":
            assert re.search(rf"^\| `{group}` \| ", text, re.MULTILINE)
        else:
            assert len(meaning[key]) > 2, f"no meaning of {key}"
    for group in METHOD_GROUPS:
        for method in plugins.names(group):
            assert f"### `{group}={method}`" in text


def test_the_picture_is_small_and_made_by_the_script_beside_it() -> None:
    picture = ROOT / "docs/pictures/faces.png"
    assert 20_000 < picture.stat().st_size < 300_000
    assert "docs/pictures/faces.png" in README
    assert "docs/pictures/make.py" in README


def test_the_example_protection_meets_the_contract(tmp_path: Path) -> None:
    """Put the page's two files into a copy of the project and run the contract on them, with nothing else edited."""
    page = (ROOT / "docs/adding-a-protection.md").read_text()
    (code,), (settings,) = blocks(page, "python"), blocks(page, "yaml")
    for folder in ("platform", "clients", "strategies", "configs", "tests/contracts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "platform/fedveil/protections/pixelate.py").write_text(code)
    (tmp_path / "configs/protection/pixelate.yaml").write_text(settings)
    assert set(yaml.safe_load(settings)) == {"total_epsilon", "cell", "memoise"}
    roots = [str(tmp_path / root) for root in ("platform", "clients", "strategies")]
    contract = ["-q", "-p", "no:cacheprovider", "-k", "pixelate", "tests/contracts/test_protections.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *contract],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.findall(r"(\d+) passed", done.stdout)
    assert [int(count) >= 12 for count in passed] == [True], done.stdout
    if shutil.which("ruff"):
        subprocess.run(["ruff", "check", "platform/fedveil/protections/pixelate.py"], cwd=tmp_path, check=True)
