"""One HTML file that needs nothing else: style, scripts, figures and pictures are in it, and it may load nothing.

Whatever comes from outside (names of runs, settings, findings) is text: the template escapes all of it, and the page's
content security policy lets a browser run the two scripts of this folder by their hashes, and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedveil.commands.report import plots

_HERE = Path(__file__).parent
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def render(content: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        content: what page.html names; text, or lists and mappings of it.
        figures: plotly figures by key; without any, the page holds no plotting library.
    """
    import jinja2
    from markupsafe import Markup

    library = _script(plots.script() if figures else "")
    script = _script(_read("page.js")) if figures else ""
    allowed = " ".join(f"'sha256-{_digest(text)}'" for text in (library, script) if text)
    policy = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src " + (allowed or "'none'")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_read("page.html")).render(
        {
            **content,
            "policy": policy,
            "css": Markup(_read("page.css")),
            "figures": Markup(in_script(figures)),
            "plotly": Markup(library),
            "script": Markup(script),
            "sign": lambda place: Markup(_sign(place)),
        }
    )


def in_script(value: Any) -> str:
    r"""Return a value as JSON that stands in a script element: no sign of it means anything to HTML.

    >>> print(in_script("</script>&"))
    "\u003c/script\u003e\u0026"
    """
    written = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return written


def data_uri(path: Path) -> str | None:
    """Return a PNG as an address that holds it; None where the file is none, or is not there."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(_SIGNATURE):
        return None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """Return a script that ends where its element does, with the line ends that a browser hashes."""
    return text.replace("\r\n", "\n").replace("</script", "<\\/script")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sign(place: int) -> str:
    """Return a method's marker: the same colour and shape as in the plots."""
    drawn = plots.swatch(place)
    return (
        f'<svg class="swatch" viewBox="0 0 16 16" aria-hidden="true"><polygon points="{drawn["points"]}" '
        f'fill="{drawn["colour"]}"/></svg>'
    )
