"""What the built pages lead to and load: links and anchors inside the site hold, nothing is loaded from outside.

Links to other sites are not followed, because the build asks no network; they are listed in build/links.txt, and each
must be an https address.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.util import logging

_LOG = logging.getLogger(__name__)
_LOADS = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data"),
          ("video", "src"), ("audio", "src"), ("embed", "src"), ("form", "action")}  # fmt: skip
_IN_STYLES = re.compile(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"](https?:)?//")


class Page(HTMLParser):
    """One page: the anchors it has, what it loads, where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.loads: set[str] = set()
        self.leads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down one tag."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif (tag, name) in _LOADS:
                self.loads.add(value)
            elif tag == "a" and name == "href":
                self.leads.add(value)


def outside(address: str) -> bool:
    """Return whether an address is another site's.

    >>> outside("https://arxiv.org/abs/1607.00133"), outside("//cdn.example/x.js"), outside("docs/data.html#ijb")
    (True, True, False)
    """
    return bool(urlsplit(address).netloc)


def wrong(site: Path) -> tuple[list[str], list[str]]:
    """Return what is wrong in a built site, a sentence each, and the addresses of other sites that it leads to."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found: list[str] = []
    others: set[str] = set()
    for path, page in pages.items():
        here = path.relative_to(site)
        found += [f"{here} loads {address} from outside" for address in sorted(page.loads) if outside(address)]
        for address in sorted(page.leads):
            parts = urlsplit(address)
            if outside(address):
                others.add(address)
                found += [] if parts.scheme == "https" else [f"{here} leads to {address}, which is not https"]
                continue
            if parts.scheme:
                found.append(f"{here} leads to {address}, which is no page")
                continue
            aim = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not aim.exists():
                found.append(f"{here} leads to {address}, which is not there")
            elif anchor and aim in pages and anchor not in pages[aim].anchors:
                found.append(f"{here} leads to {address}: no such anchor")
    styles = [path for path in sorted(site.rglob("*.css")) if _IN_STYLES.search(path.read_text(encoding="utf-8"))]
    found += [f"{path.relative_to(site)} loads something from outside" for path in styles]
    return found, sorted(others)


def check(app: Any, error: Exception | None) -> None:
    """Check the site that was built, and warn of what is wrong, which fails the build as any warning does."""
    site = Path(app.outdir).resolve()
    if error is not None or app.builder.format != "html":
        return
    start = site / f"{app.config.root_doc}.html"
    (site / "index.html").write_bytes(start.read_bytes())  # the same folder, so all its links hold
    found, others = wrong(site)
    (site.parent / "links.txt").write_text("\n".join(others) + "\n", encoding="utf-8")
    for line in found:
        _LOG.warning(line, type="site")


def setup(app: Any) -> dict[str, Any]:
    """Check when all is written."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
