"""The folders: three source roots with one package each, and nothing that hides Python's own `platform`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"platform", "clients", "strategies", "configs", "experiments", "tests", "docs"}
PACKAGES = {"platform": "fedveil", "clients": "fedveil_clients", "strategies": "fedveil_strategies"}


def project_files() -> list[Path]:
    """Return what belongs to the project: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so generated folders cannot be told from the project's")
    return [Path(line) for line in listed.stdout.splitlines()]


def test_top_level_folders_are_the_given_ones() -> None:
    found = {path.parts[0] for path in project_files() if len(path.parts) > 1}
    assert {folder for folder in found if not folder.startswith(".")} == FOLDERS


@pytest.mark.parametrize(("source_root", "package"), PACKAGES.items())
def test_a_source_root_holds_one_typed_package_and_is_none_itself(source_root: str, package: str) -> None:
    entries = {entry.name for entry in (ROOT / source_root).iterdir()}
    assert entries - {"__pycache__", ".mypy_cache", ".ruff_cache"} == {package}
    assert (ROOT / source_root / package / "__init__.py").is_file()
    assert (ROOT / source_root / package / "py.typed").is_file()


def test_no_database_is_committed() -> None:
    assert not [path for path in project_files() if path.suffix in {".db", ".sqlite"}]


def test_every_folder_of_code_is_a_package() -> None:
    """One without `__init__.py` is missing from the wheel, and under pytest our `platform` then hides Python's."""
    folders = {path.parent for path in project_files() if path.suffix == ".py" and path.parts[0] in PACKAGES}
    assert not [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()]


@pytest.mark.parametrize("folder", [".", "platform", "experiments"])
def test_the_standard_library_module_platform_is_not_hidden(folder: str) -> None:
    code = "import platform; assert platform.system(); import fedveil; print(fedveil.__file__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT / folder, capture_output=True, text=True, check=True)
    assert Path(shown.stdout.strip()).resolve() == ROOT / "platform/fedveil/__init__.py"


@pytest.mark.slow
def test_the_wheel_holds_the_configurations_and_runs_in_an_empty_folder(tmp_path: Path) -> None:
    """Build, install beside the checkout, simulate where no checkout is in sight; building asks the package index."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("fedveil-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    (tmp_path / "empty").mkdir()
    code = "import sys, fedveil; print(fedveil.__file__); from fedveil.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "simulate", "study=quick", "tracking=none"],
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert list((tmp_path / "empty/runs").glob("*/result.json"))
