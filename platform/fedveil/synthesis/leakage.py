"""Does a synthetic set show the people whom its generator learnt? A search, and the same one among strangers.

In all of six published sets training faces were found again (https://arxiv.org/abs/2410.24015). The nearest training
face of a synthetic one says nothing by itself: some face is always nearest. So the same search is made among equally
many people and pictures of strangers, whom the generator never saw, and any excess of members over strangers is
leakage. What this search does not find another one may: no excess is no guarantee, and no epsilon follows from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.attacks._judges import Judge
from fedveil.attacks.base import Progress, silent
from fedveil.data.faces import FaceSet
from fedveil.data.split import shared_people
from fedveil.evaluation.identification import threshold_at
from fedveil.synthesis import _membership
from fedveil.synthesis._measured import pairs_of
from fedveil.synthesis._search import BATCH, Search, embedded, equal, nearest, told

LEAST = 10
"""People of a kind, members or strangers, that say something."""
_BLAMED = 0.05  # of innocent sets, at most
_LEAKS = "Synthetic faces are nearer to people whom the generator learnt than to strangers: the set leaks."
_SEES_NOTHING = (
    "Synthetic faces are no nearer to people whom the generator learnt than to strangers, as far as this search sees."
)


def leakage(
    images: NDArray[np.uint8], labels: NDArray[np.int64], embed_judge: Judge, members: FaceSet, strangers: FaceSet,
    seed: int = 1, far: float = 1e-4, pairs: int = 50, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Return what a search for training faces in a synthetic set finds, as plain JSON types.

    Members and strangers are compared over equally many people with equally many pictures each:

    * `distributions`: of each synthetic picture's largest cosine to a member and to a stranger, the quantiles, and the
      two-sample Kolmogorov-Smirnov statistic with its p. The p takes pictures for independent, which those of one
      person are not: it is too small;
    * `nearest_is_member`: the share of synthetic pictures whose nearest person is a member, a mean over synthetic
      people;
    * `membership`: the area under the curve of a real person's largest cosine to any synthetic picture, as a test of
      who was learnt; 0.5 without leakage. The interval resamples people of both kinds;
    * `first`: members among the ten real people nearest to any synthetic picture;
    * `above`: synthetic pictures whose nearest member, or stranger, the judge accepts as the same person at the false
      accept rate `far`; the threshold comes from pairs of different strangers.

    `nearest_is_member`, `membership` and `first` stand beside what chance gives (`_membership`). The verdict is that
    the set leaks where the smallest of their p is below 0.05 / 3: one innocent set in twenty is blamed at most.

    `nearest` are the closest pairs among ALL members, one for each synthetic picture at most, for somebody to look at.

    Args:
        images: (N, 3, H, W) synthetic pictures.
        labels: (N,) which synthetic person is on them.
        embed_judge: a recogniser that saw neither members nor strangers.
        members: all faces that the generator, or what its conditions come from, was trained on.
        strangers: faces of the same kind of people that nothing was trained on.
        seed: public: who is compared where the groups differ in size, and intervals.
        far: false accept rate of `above`; it needs 10 / far pairs.
        pairs: how many closest pairs are listed.
        progress: is shown pictures.

    Raises:
        fedveil.checks.UserError: somebody is in both groups, or a group has fewer than ten people.
    """
    checks.same_shape(labels.shape, images=images.shape[:1])
    checks.positive(synthetic=len(images), pairs=pairs)
    _apart(members, strangers)
    total, done = len(images) + len(members) + len(strangers), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress("searching for training faces", done, total)

    synthetic = np.concatenate([told(embed_judge, images[i : i + BATCH], tell) for i in range(0, len(images), BATCH)])
    learnt, others = embedded(members, embed_judge, tell), embedded(strangers, embed_judge, tell)
    equal_learnt, equal_others = equal(learnt, others, seed)
    to_members, to_strangers = nearest(synthetic, equal_learnt), nearest(synthetic, equal_others)
    to_all = nearest(synthetic, learnt)
    _, who, count = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1.0 / (count[who] * len(count))
    rng = randomness.public_rng(seed, "leakage", "chance")
    signs = {
        "nearest_is_member": _membership.nearest_share(to_members, to_strangers, equal_learnt.person, weights, rng),
        "membership": _membership.area(to_members.people, to_strangers.people, rng),
        "first": _membership.first_people(to_members.people, to_strangers.people, rng),
    }
    first = np.argsort(-to_all.cosine, kind="stable")[:pairs]
    return {
        "judge": embed_judge.said,
        "people": {
            "synthetic": len(count), "members": len(members.identities), "strangers": len(strangers.identities),
            "compared": len(to_members.people),
        },
        "images": {
            "synthetic": len(images), "members": len(learnt.places), "strangers": len(others.places),
            "compared": len(equal_learnt.places), "unreadable": len(members) - len(learnt.places),
        },
        "distributions": _distributions(to_members.cosine, to_strangers.cosine),
        **signs,
        "above": _above(others, [to_members.cosine, to_strangers.cosine, to_all.cosine], far, seed),
        "nearest": [
            {
                "synthetic": int(i), "label": int(labels[i]), "cosine": float(to_all.cosine[i]),
                "member": members.names[int(learnt.person[to_all.picture[i]])],
                "position": int(learnt.places[to_all.picture[i]]),
            }
            for i in first
        ],
        "verdict": _LEAKS if min(sign["p"] for sign in signs.values()) < _BLAMED / len(signs) else _SEES_NOTHING,
        "notes": [
            "No excess of members over strangers is no proof: another search may find what this one does not. No "
            "epsilon is derived from it."
        ],
    }  # fmt: skip


def _apart(members: FaceSet, strangers: FaceSet) -> None:
    if shared := shared_people(members, strangers):
        raise checks.UserError(
            f"{len(shared)} people are members and strangers, for example {shared[:3]}: what is compared with itself "
            "shows no difference. Take them out of the strangers."
        )
    for name, faces in (("members", members), ("strangers", strangers)):
        if len(faces.identities) < LEAST:
            raise checks.UserError(
                f"Expected {LEAST} {name} or more, got {len(faces.identities)}: fewer people say nothing."
            )


def _distributions(members: NDArray[np.float64], strangers: NDArray[np.float64]) -> dict[str, Any]:
    from scipy import stats

    found = stats.ks_2samp(members, strangers, method="asymp")
    levels = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    return {
        "quantiles": list(levels), "members": np.quantile(members, levels).tolist(),
        "strangers": np.quantile(strangers, levels).tolist(),
        "ks": {"statistic": float(found.statistic), "p": float(found.pvalue)},
    }  # fmt: skip


def _above(others: Search, cosines: list[NDArray[np.float64]], far: float, seed: int) -> dict[str, Any]:
    """Return how many pictures are above the threshold of pairs of different strangers."""
    different = pairs_of(others.embeddings, np.unique(others.person, return_inverse=True)[1], seed).different
    if different.size < 10 / far:
        few = f"it needs {10 / far:.0f} pairs of different strangers, there are {different.size}"
        return {"far": far, "omitted": few}
    tau = threshold_at(different, far)
    counts = zip(("members", "strangers", "all_members"), cosines, strict=True)
    return {"far": far, "threshold": tau, **{name: int((one > tau).sum()) for name, one in counts}}
