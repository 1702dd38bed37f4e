"""The site's pages in their order, by group, each with a short title; README.md is where it starts.

The documents hold no directive of Sphinx for it: this list is put below the start page when the site is built.
"""

from __future__ import annotations

from typing import Any

HOME = "README"
PATTERNS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/deployment/*.md",
    "docs/*.ipynb",
    "experiments/*/README.md",
)
"""What may be a page, beside the reference that `reference` writes."""

GROUPS: dict[str, dict[str, str]] = {
    "Start": {
        "README": "Overview",
        "docs/first_steps": "First steps",
    },
    "For you": {
        "docs/for-researchers": "Researchers: compare",
        "docs/for-engineers": "Engineers: deploy",
        "docs/for-owners": "Owners: decide",
    },
    "Use": {
        "docs/data": "Data of the field",
        "docs/recipe": "Recipe",
        "docs/sweeps": "Sweeps",
        "docs/report": "The report",
        "docs/synthesis": "Synthetic faces",
        "docs/interchange": "Networks in and out",
    },
    "Methods and privacy": {
        "docs/adding-a-protection": "Adding a protection",
        "docs/private-training": "Private training",
        "docs/secure-aggregation": "Secure aggregation",
        "docs/accounting": "Accounting",
        "docs/attacks": "Attacks",
        "docs/membership": "Membership",
        "docs/audits": "Audits",
        "docs/sharp-edges": "Sharp edges",
    },
    "Deploy": {
        "docs/deployment": "Deployment",
        "docs/deployment/supervised": "Kept running",
        "docs/nodes": "Nodes",
        "docs/devices": "Devices",
        "docs/benchmarks": "Benchmarks",
    },
    "Reference": {
        "docs/configuration": "Configuration",
        "docs/reference/index": "Python API",
    },
    "Studies": {
        "experiments/federated_vs_central/README": "Federated or central",
        "experiments/methods_on_lfw/README": "Methods on LFW",
        "experiments/noise_cost/README": "What noise costs",
        "experiments/client_level/README": "Hiding a client",
        "experiments/matrix_noise/README": "Banded noise",
        "experiments/private_training/README": "Private training",
        "experiments/attacks/README": "Attacks",
        "experiments/secure_aggregation/README": "Perfect sums",
        "experiments/synthesis/README": "Synthetic faces",
        "experiments/recipe/README": "Recipe",
        "experiments/private_step/README": "Private steps",
        "experiments/aggregation/README": "Sums of a round",
        "experiments/engine/README": "Engines",
        "experiments/device/README": "Devices",
        "experiments/benchmarks/README": "Benchmarks",
    },
    "Project": {
        "docs/design": "Design",
        "CONTRIBUTING": "Contributing",
        "CHANGELOG": "Changes",
    },
}


def trees() -> str:
    """Return the table of contents as MyST directives, one per group."""
    parts = []
    for group, pages in GROUPS.items():
        entries = "\n".join(f"{title} <{'self' if page == HOME else f'/{page}'}>" for page, title in pages.items())
        parts.append(f"```{{toctree}}\n:hidden:\n:caption: {group}\n\n{entries}\n```")
    return "\n\n".join(parts) + "\n"


def setup(app: Any) -> dict[str, Any]:
    """Put the table of contents below the start page."""
    app.connect("source-read", _below)
    return {"parallel_read_safe": True}


def _below(app: Any, page: str, source: list[str]) -> None:
    if page == HOME:
        source[0] += "\n" + trees()
