"""The description of all runs together, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

NOTE = "mlflow.note.content"
"""The tag, of a run or an experiment, that MLflow shows as its description."""
EXPERIMENT = "Federated recognition of protected faces"
"""How the description of an experiment that fedveil wrote begins; one that begins otherwise is a person's."""
_WHAT = f"{EXPERIMENT}: accuracy against privacy budget, and against what attacks recover."

_COLUMNS = """`accuracy` is the share of right verifications on public pairs of people who did not train, by the model
after the last round, over all noise draws. `epsilon_image`, `epsilon_identity` and `epsilon_client` are the privacy
losses that are proven for one picture, one person and one client, nats: below 1 is strong, above 20 means little, and
a run without a number has no guarantee (its tag `epsilon_image` says so). Their relation, delta and view are tags.
`linked` and `rank1` are measured: the share of victims whom the strongest of the attacks that were run on a method
(`fedveil attack`) links to another photograph of theirs, at one false alarm in a hundred, and finds first among all."""


def percent(share: float) -> str:
    """Return a share as it stands in a sentence.

    >>> percent(0.8125)
    '81.2 %'
    """
    return f"{100 * share:.1f} %"


def experiment(rows: Iterable[tuple[str, float, str]]) -> str:
    """Return the description of all runs together, Markdown.

    Args:
        rows: (method, final accuracy, its claims in sentences) of every finished run.
    """
    groups: dict[str, list[tuple[float, str]]] = {}
    for method, accuracy, claimed in rows:
        groups.setdefault(method, []).append((accuracy, claimed))
    lines = [f"- **{method}**: {_spread([accuracy for accuracy, _ in found])} {found[0][1]}".rstrip()
             for method, found in sorted(groups.items())]  # fmt: skip
    done = ["**What was run**, runs of the same name but for the seed together:", "", *lines] if lines else []
    return "\n\n".join(part for part in (_WHAT, " ".join(_COLUMNS.split()), "\n".join(done)) if part)


def _spread(accuracies: Sequence[float]) -> str:
    if len(accuracies) == 1:
        return f"accuracy {percent(accuracies[0])}, one run."
    mean, spread = percent(statistics.fmean(accuracies)), percent(statistics.stdev(accuracies))
    return f"accuracy {mean} ± {spread} (standard deviation over {len(accuracies)} runs)."
