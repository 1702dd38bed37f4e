"""Names in docstrings and signatures: `disk.write_atomic` leads to what it names, where that is one public thing."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.util.nodes import make_refnode

_NAME = re.compile(r"[A-Za-z]\w*(\.\w+)*(\(\))?")
_OURS = ("fedveil", "fedveil_clients", "fedveil_strategies")
_ends: dict[str, list[str]] = {}


def known(name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    """Return what stands in single backticks as code; a name, as a reference to what it names."""
    if not _NAME.fullmatch(text):
        return [nodes.literal(rawtext, text)], []
    context = inliner.document.settings.env.ref_context
    made = addnodes.pending_xref(
        rawtext, nodes.literal(rawtext, text), refdomain="py", reftype="obj", reftarget=text.removesuffix("()"),
        refexplicit=False, refwarn=False, **{key: context.get(key) for key in ("py:module", "py:class")},
    )  # fmt: skip
    return [made], []


def index(app: Any, env: Any) -> None:
    """Find every object by the ends of its name: `write_atomic`, `disk.write_atomic`, `storage.disk.write_atomic`."""
    _ends.clear()
    for full in env.get_domain("py").objects:
        parts = full.split(".")
        for start in range(1, len(parts)):
            _ends.setdefault(".".join(parts[start:]), []).append(full)


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Return a reference where Sphinx found none; the text alone for what is not ours, private, or no one thing.

    What is written out in full and leads nowhere is left to Sphinx, which warns.
    """
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py":
        return None
    found = _ends.get(target, [])
    if len(found) == 1 and ("." in target or target[0].isupper()):
        entry = env.get_domain("py").objects[found[0]]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [content], found[0])
    private = any(part.startswith("_") for part in target.split("."))
    in_full = target.split(".")[0] in _OURS and not private and not _is_variable(target)
    return None if in_full and node["reftype"] != "obj" else content


def _is_variable(target: str) -> bool:
    """Return whether a dotted name is a type variable, which signatures name and nobody documents."""
    import importlib
    import typing

    module, _, name = target.rpartition(".")
    return isinstance(getattr(importlib.import_module(module), name, None), typing.TypeVar)


def setup(app: Any) -> dict[str, Any]:
    """Add the role and the resolver."""
    app.add_role("known", known)
    app.connect("env-updated", index)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
