"""The site's sources: every page has its place, the notebook is saved clean, the checker of links sees what is wrong.

Building it is `make docs`, which continuous integration runs; nothing here needs Sphinx but what says so.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "docs/site"
NOTEBOOK = ROOT / "docs/first_steps.ipynb"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a module of the site's."""
    monkeypatch.syspath_prepend(str(SITE))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for name in set(sys.modules) - before:
        if str(SITE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_every_document_has_its_place_and_every_place_its_document(site: Any) -> None:
    navigation = site("navigation")
    listed = [page for pages in navigation.GROUPS.values() for page in pages]
    found = {path.relative_to(ROOT).as_posix() for pattern in navigation.PATTERNS for path in ROOT.glob(pattern)}
    pages = {name.rpartition(".")[0] for name in found} | {"docs/reference/index"}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages, "give the document a place and a short title in docs/site/navigation.py"
    titles = [title for pages in navigation.GROUPS.values() for title in pages.values()]
    assert max(map(len, titles)) <= 24


def test_the_table_of_contents_names_every_group(site: Any) -> None:
    navigation = site("navigation")
    made = navigation.trees()
    assert made.count("```{toctree}") == len(navigation.GROUPS)
    assert re.findall(r":caption: (.+)", made) == [*navigation.GROUPS]
    assert "Overview <self>" in made
    source = ["text\n"]
    navigation._below(None, "docs/data", source)
    assert source == ["text\n"]
    navigation._below(None, "README", source)
    assert source[0].startswith("text\n\n```{toctree}")


def test_the_reference_has_every_public_module_and_no_private_one(site: Any) -> None:
    reference = site("reference")
    text = "\n".join(reference.page(package) for package in reference.packages())
    listed = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert not [name for name in listed if any(part.startswith("_") for part in name.split("."))]
    for root in reference.PACKAGES:
        for path in (ROOT / root).rglob("*.py"):
            parts = path.relative_to((ROOT / root).parent).with_suffix("").parts
            if path.name != "__init__.py" and not any(part.startswith("_") for part in parts):
                assert ".".join(parts) in listed
    assert "fedveil.simulation" in listed
    assert all(summary for summary in re.findall(r"^     - (.*)$", text, re.MULTILINE)), "a module without a docstring"


def test_the_reference_is_written_once_and_what_is_gone_goes(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = site("reference")
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "reference")
    reference.write()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "reference").iterdir()}
    assert tmp_path / "reference/fedveil.privacy.rst" in written
    (tmp_path / "reference/fedveil.gone.rst").write_text("gone")
    reference.write()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "reference").iterdir()} == written


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("|x| <= a * b, see `a|b` and ``c*d``", r"\|x\| <= a \* b, see `a|b` and ``c*d``"),
        ("* a point with 2 * 3", r"* a point with 2 \* 3"),
        ("**strong**, gamma_ and a_b", r"**strong**, gamma\_ and a_b"),
        (">>> 2 * 3 | 4", ">>> 2 * 3 | 4"),
    ],
)
def test_a_docstrings_signs_mean_themselves(site: Any, line: str, plain: str) -> None:
    assert site("docstrings").plain([line]) == [plain]


def test_a_docstrings_table_becomes_sphinxs(site: Any) -> None:
    table = ["Before:", "    | kind | factor |", "    |---|---|", "    | `a` | min(1, C) | ", "After."]
    assert site("docstrings").plain(table) == [
        "Before:", "", "    .. list-table::", "       :header-rows: 1", "", "       * - kind", "         - factor",
        "       * - `a`", "         - min(1, C)", "", "After.",
    ]  # fmt: skip


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_saved_as_it_was_written() -> None:
    """Without outputs, counts, or what an editor left; in one form, so that a difference shows what changed."""
    text = NOTEBOOK.read_text()
    book = json.loads(text)
    assert text == json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    assert all(cell["metadata"] == {} for cell in book["cells"])
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    assert not re.findall(r"(?<![\w.])/(?:tmp|root|home|Users|mnt|opt)/", text)
    assert max(len(line.rstrip("\n")) for cell in book["cells"] for line in cell["source"]) <= 120


def test_the_notebook_loads_runs_plots_and_adds_a_protection_in_a_folder_of_its_own() -> None:
    sources = ["".join(cell["source"]) for cell in cells("code")]
    for source in sources:
        if not source.startswith("%%writefile thumbnail.yaml"):
            ast.parse(source.removeprefix("%%writefile thumbnail.py\n"))
    whole = "\n".join(sources)
    assert "tempfile.TemporaryDirectory()" in sources[0]
    assert "os.chdir" in sources[0]
    steps = ("Federation.of(", "fedveil.simulate(", ".plot(", "base.Protection", "METHOD = ", "protection=thumbnail")
    assert [step for step in steps if step not in whole] == []
    assert "data=folder" not in whole  # drawn faces alone


def test_the_notebooks_links_lead_somewhere() -> None:
    for cell in cells("markdown"):
        for target in re.findall(r"\]\(([^)\s#]+)", "".join(cell["source"])):
            assert (NOTEBOOK.parent / target).exists(), f"{target} is not there"


def test_pictures_of_the_site_are_no_scripts_and_load_nothing() -> None:
    found = sorted((SITE / "static").iterdir())
    assert {path.name for path in found} == {"mark.svg", "wordmark.svg", "wordmark-dark.svg", "site.css"}
    for path in found:
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|//|<script|@import|url\(", text.replace("/*", "").replace("*/", ""))


class TestLinks:
    """The checker of the built pages, on pages that are wrong in one way each."""

    @pytest.fixture
    def wrong(self, site: Any, tmp_path: Path) -> Any:
        pytest.importorskip("sphinx", reason="the checker is an extension of Sphinx: pip install '.[docs]'")
        links = site("links")
        (tmp_path / "other.html").write_text('<h2 id="here">Here</h2>')

        def told(body: str) -> list[str]:
            (tmp_path / "page.html").write_text(f"<p>{body}</p>")
            return list(links.wrong(tmp_path)[0])

        return told

    def test_what_is_right_passes(self, wrong: Any) -> None:
        assert wrong('<a href="other.html#here">x</a> <a href="https://arxiv.org/abs/1">y</a> <a href="#">z</a>') == []

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ('<a href="gone.html">x</a>', "not there"),
            ('<a href="other.html#gone">x</a>', "no such anchor"),
            ('<a href="http://example.org/">x</a>', "not https"),
            ('<a href="file:///etc/passwd">x</a>', "no page"),
            ('<img src="https://example.org/x.png">', "from outside"),
            ('<script src="//example.org/x.js"></script>', "from outside"),
            ('<link rel="stylesheet" href="https://example.org/x.css">', "from outside"),
        ],
    )
    def test_what_is_wrong_is_named(self, wrong: Any, body: str, says: str) -> None:
        (told,) = wrong(body)
        assert told.startswith("page.html")
        assert says in told

    def test_a_style_that_loads_is_named(self, wrong: Any, tmp_path: Path) -> None:
        (tmp_path / "a.css").write_text("@import 'https://example.org/font.css';")
        assert wrong("x") == ["a.css loads something from outside"]


def test_a_name_is_looked_up_where_it_stands(site: Any) -> None:
    pytest.importorskip("sphinx", reason="names are looked up by an extension of Sphinx: pip install '.[docs]'")
    found_in = site("names").found_in
    assert found_in("fedveil.attacks.base", "Progress") == "fedveil.attacks.base.Progress"
    assert found_in("fedveil.protections.dctdp", "base.Progress") == "fedveil.protections.base.Progress"
    assert found_in("fedveil.simulation", "Statement") == "fedveil.privacy.statements.Statement"
    assert found_in("fedveil.simulation", "runs") == "fedveil.runs"
    assert found_in("fedveil.simulation", "Path").endswith(".Path")
    assert found_in("fedveil.simulation", "nobody.knows") is None
