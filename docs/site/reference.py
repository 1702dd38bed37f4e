"""Write docs/reference/: a page for each package, from the folders; docstrings are read when the site is built.

What begins with an underscore is private and left out, and so is a package without public modules.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docstrings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/reference"
PACKAGES = ("platform/fedveil", "clients/fedveil_clients", "strategies/fedveil_strategies")

HEAD = """\
Python API
==========

What the docstrings say, a page for each package. Names that begin with an underscore are private and left out.
`fedveil` stands below both sides and imports neither: a layer imports only lower ones (:doc:`/docs/design`).

"""


def packages() -> Iterator[Path]:
    """Yield the folders of all public packages, outer ones first."""
    for top in PACKAGES:
        found = sorted(path.parent for path in (ROOT / top).rglob("__init__.py"))
        yield from (path for path in found if not _private(path) and modules(path))


def modules(package: Path) -> list[Path]:
    """Return the files of a package's public modules."""
    return [path for path in sorted(package.glob("*.py")) if not path.name.startswith("_")]


def _private(path: Path) -> bool:
    return any(part.startswith("_") for part in path.relative_to(ROOT).parts)


def dotted(path: Path) -> str:
    """Return the import name of a module's file or of a package's folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[1:])


def summary(path: Path) -> str:
    """Return the first line of a module's docstring; of a package, its `__init__`'s."""
    text = (path / "__init__.py" if path.is_dir() else path).read_text(encoding="utf-8")
    return docstrings.escaped((ast.get_docstring(ast.parse(text)) or "").partition("\n")[0])


def page(package: Path) -> str:
    """Return a package's page."""
    name = dotted(package)
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "", ".. list-table::"]
    lines += ["   :widths: 25 75", "   :class: modules", ""]
    for path in modules(package):
        lines += [f"   * - :py:mod:`{path.stem} <{dotted(path)}>`", f"     - {summary(path)}"]
    for path in modules(package):
        lines += ["", path.stem, "-" * len(path.stem), "", f".. automodule:: {dotted(path)}"]
    return "\n".join(lines) + "\n"


def index() -> str:
    """Return the page that lists the packages."""
    lines, shown = [HEAD, ".. list-table::", "   :widths: 30 70", "   :class: modules", ""], [*packages()]
    for path in shown:
        lines += [f"   * - :doc:`{dotted(path)}`", f"     - {summary(path)}"]
    names = "\n".join(f"   {dotted(path)}" for path in shown)
    return "\n".join([*lines, "", ".. toctree::", "   :hidden:", "", names]) + "\n"


def write() -> None:
    """Write all pages; what is as it was keeps its time, so that Sphinx reads it no second time."""
    wanted = {"index.rst": index(), **{f"{dotted(path)}.rst": page(path) for path in packages()}}
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        if old.name not in wanted:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name, text in wanted.items():
        target = FOLDER / name
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Write the pages before Sphinx looks which there are."""
    app.connect("builder-inited", lambda _: write())
    return {"parallel_read_safe": True}
