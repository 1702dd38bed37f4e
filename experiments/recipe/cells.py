"""One cell of the study: a federation, or one place that has all faces, trained and evaluated in this process.

The rounds, the clients and the server rule are fedveil's own, called one after another. Neither Flower nor a tracker is
imported, so a cell runs wherever the numerical part does; its model has the bits of `fedveil simulate engine=inline`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedveil import randomness
from fedveil.commands import simulate
from fedveil.evaluation import protocol
from fedveil.federation import graphs, training
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.records import Failure, Tensors, Update
from fedveil_clients import private_training, sites
from fedveil_clients import training as client
from fedveil_clients.node import here
from fedveil_clients.sites import Site
from fedveil_strategies import averaging, coordinator, rounds
from fedveil_strategies.session import Session

MOMENTUM = 0.9  # of central training; a federation has it at the server


@contextlib.contextmanager
def opened(federation: Federation) -> Iterator[Session]:
    """Open a run of a federation: what is learnt on public faces, and the network that it starts from."""
    session = coordinator.open_session(federation, "cell", "quiet")
    try:
        yield session
    finally:
        if session.lock is not None:
            session.lock.close()
        session.tracker.finish("FINISHED")


def site_of(session: Session, name: str) -> Site:
    """Return a client of a simulation, as `fedveil simulate` has it."""
    words = {**simulate.node_words(session.settings), "client-id": name}
    return sites.open_site(
        session.federation, session.run_id, name, here(session.federation, words).node, session.state
    )


def federated(session: Session) -> Tensors:
    """Run all rounds of a federation without phases and return its model; private rounds are booked as in a run."""
    federation = session.federation
    step = client.train_round if federation.private is None else private_training.train_round
    opened_sites: dict[str, Site] = {}

    def transport(number: int, cohort: Sequence[str], tensors: Tensors) -> Iterable[Update | Failure]:
        if session.private is not None:
            session.private.ask(number)
        for name in cohort:
            if name not in opened_sites:
                opened_sites[name] = site_of(session, name)
            update = step(opened_sites[name], number, tensors)
            opened_sites[name].booked.on_disk()
            yield update

    rule, sent = averaging.rule(federation, session.stage), averaging.sent(federation, session.plan)
    return rounds.run(session.plan, session.start, transport, rule, [], sent=sent).tensors


def central(session: Session, steps: int) -> Tensors:
    """Train by SGD with momentum at the one client of a federation, who has all faces and one softmax over all people.

    Batches and first centres are those of `experiments/federated_vs_central`.
    """
    settings, site = session.settings, site_of(session, session.federation.registry[0])
    train, place = settings.train, site.place
    set_tensors(site.backbone, session.start.tensors)
    with torch.inference_mode():
        dimension = int(site.backbone(torch.zeros(1, *site.layout, device=place.device)).shape[1])
    generator = randomness.public_torch(settings.seed, "head", "central")
    centres = place.fed(training.head_init(site.classes, dimension, generator))
    with contextlib.closing(place.ahead(batches(site, steps))) as made:
        loss = training.local_sgd(
            site.backbone, centres, session.federation.head, made, train.lr,
            momentum=MOMENTUM, weight_decay=train.weight_decay, precision=place.precision,
        )  # fmt: skip
    training.check_finite(loss, [centres, *site.backbone.parameters()], **{"train.lr": train.lr})
    return get_tensors(site.backbone)


def batches(site: Site, steps: int) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield features and labels of so many steps."""
    settings, count = site.federation.settings, int(site.labels.numel())
    indices = training.batch_indices(count, settings.train.batch_size, settings.seed, "batches", "central", steps=steps)
    for step, index in enumerate(indices):
        yield site.features(index, step), site.labels[site.place.fed(torch.from_numpy(index))]


def evaluated(session: Session, tensors: Tensors, *, flip: bool) -> dict[str, float]:
    """Return what the public pairs say of a model, with one draw of noise."""
    federation, settings = session.federation, session.settings
    set_tensors(session.backbone, tensors)
    found = protocol.evaluate(
        session.backbone, federation.protection, session.state, federation.pairs, draws=1, seed=settings.seed,
        fars=settings.evaluation.far, repeats=0, place=federation.place, flip=flip,
    )  # fmt: skip
    return {"accuracy": found.accuracy, "auc": found.auc, "eer": found.eer}


def trained(words: Sequence[str], silos: int, passes: int, *, alone: bool) -> dict[str, Any]:
    """Train and evaluate one configuration, without and with flips at evaluation.

    Args:
        words: the configuration, all but train.clients, train.rounds and where things are kept.
        silos: clients of the federation.
        passes: how often each image is visited; 0 stands for one round.
        alone: train in one place that has all faces instead.
    """
    torch.set_num_threads(1)
    begun, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="fedveil-", dir=os.environ.get("FEDVEIL_SCRATCH")) as scratch:
        kept = [f"runs.root={Path(scratch) / 'runs'}", f"vault.root={Path(scratch) / 'vault'}"]
        words = [*words, *kept, f"train.clients={1 if alone else silos}"]
        loaded = Federation.of(words)
        images, train = len(loaded.split.train), loaded.settings.train
        number = max(1, round(passes * images / silos / train.batch_size / (train.local.steps or 1)))
        with opened(Federation.of([*words, f"train.rounds={number}"])) as session:
            steps = max(1, round(passes * images / train.batch_size))
            tensors = central(session, steps) if alone else federated(session)
            without, flipped = (evaluated(session, tensors, flip=flip) for flip in (False, True))
            name = session.federation.place.name
        graphs.forget()
    return {
        "images": images, "rounds": 0 if alone else number, **without, **_named("flip", flipped), "device": name,
        "seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - spent,
    }  # fmt: skip


def _named(prefix: str, found: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in found.items()}


def seconds_of(words: Sequence[str], silos: int) -> tuple[float, float]:
    """Return the seconds that a cell takes beside its rounds, and those of one pass, in a process that is warm."""
    trained(words, silos, 0, alone=False)  # a device is asked for, and the pictures are decoded
    least, more = (trained(words, silos, passes, alone=False) for passes in (0, 2))
    a_round = max(0.0, more["seconds"] - least["seconds"]) / (more["rounds"] - least["rounds"])
    return least["seconds"] - a_round, a_round * more["rounds"] / 2
