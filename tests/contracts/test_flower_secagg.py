"""Why Flower's secure aggregation is not used: what docs/secure-aggregation.md says of it, on its own code.

Owners run the stages of Flower's own modifier and do nothing wrong; the coordinator is the adversary. For another
version of Flower these tests are skipped, and the page is to be read again.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation import secaggplus_utils
from flwr.common.secure_aggregation.crypto import shamir, symmetric_encryption
from flwr.common.secure_aggregation.secaggplus_constants import Key, Stage
from flwr.server.workflow.secure_aggregation import secaggplus_workflow
from flwr.supercore.primitives import asymmetric

READ = "1.41.0"  # the version that docs/secure-aggregation.md was written on
pytestmark = pytest.mark.skipif(importlib.metadata.version("flwr") != READ, reason=f"the page is about flwr {READ}")

owner: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
OWNERS, THRESHOLD, RING, LEVELS, RANGE, WEIGHT = [11, 12, 13], 2, 2**32, 2**22, 8.0, 100
VICTIM = OWNERS[0]


def begun(nid: int) -> Any:
    state = owner.SecAggPlusState()
    state.nid = nid
    told = {
        Key.SAMPLE_NUMBER: 3, Key.SHARE_NUMBER: 3, Key.THRESHOLD: THRESHOLD, Key.CLIPPING_RANGE: RANGE,
        Key.TARGET_RANGE: LEVELS, Key.MOD_RANGE: RING, Key.MAX_WEIGHT: float(WEIGHT),
    }  # fmt: skip
    owner._setup(state, ConfigRecord(told))
    return state


def masked(state: Any, given: dict[int, bytes], vector: np.ndarray) -> list[np.ndarray]:
    """Return what an owner uploads; `given` is the ciphertext of each peer, as the coordinator hands it on."""
    record = ConfigRecord({Key.SOURCE_LIST: list(given), Key.CIPHERTEXT_LIST: list(given.values())})
    answer = owner._collect_masked_vectors(state, record, WEIGHT, ndarrays_to_parameters([vector]))
    return [secaggplus_workflow.bytes_to_ndarray(part) for part in answer[Key.MASKED_PARAMETERS]]


def shared(state: Any, keys: dict[int, tuple[bytes, bytes]]) -> dict[int, bytes]:
    answer = owner._share_keys(state, {str(nid): list(pair) for nid, pair in keys.items()})
    return dict(zip(answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST], strict=True))


def opened(sent: list[np.ndarray], self_seed: bytes, pairwise: dict[int, bytes]) -> np.ndarray:
    """Take every mask off the victim's upload; return its vector."""
    found = [part.copy() for part in sent]
    shapes = [part.shape for part in sent]
    for peer, sign in [(None, -1), *((peer, -1 if peer < VICTIM else 1) for peer in pairwise)]:
        seed = self_seed if peer is None else pairwise[peer]
        for part, mask in zip(found, secaggplus_utils.pseudo_rand_gen(seed, RING, shapes), strict=True):
            part += sign * mask
    whole = [(part % RING).astype(np.float64) for part in found]
    return whole[1] / (LEVELS / (2 * RANGE)) - RANGE


def test_256_bits_of_secret_become_32_of_mask() -> None:
    ones, others = bytes(32), bytes([7] * 8) + bytes(20) + bytes(4)
    first = bytes([1, 2, 3, 4]) + bytes(28)
    second = bytes(28) + bytes([1, 2, 3, 4])
    assert first != second
    made = [secaggplus_utils.pseudo_rand_gen(seed, RING, [(1000,)])[0] for seed in (first, second, ones, others)]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[2], made[3])  # what is there twice folds to nothing
    assert not np.array_equal(made[0], made[2])


def test_a_mask_never_takes_the_largest_value_of_its_ring() -> None:
    bit = secaggplus_utils.pseudo_rand_gen(bytes(32), 2, [(1000,)])[0]
    assert bit.max() == 0  # a ring of two values: no mask at all


def test_a_coordinator_that_asks_for_both_shares_reads_one_owners_vector() -> None:
    """No stage compares the two lists, and nothing tells an owner what the others were asked."""
    states = {nid: begun(nid) for nid in OWNERS}
    keys = {nid: (state.pk1, state.pk2) for nid, state in states.items()}
    letters = {nid: shared(state, keys) for nid, state in states.items()}
    secret = np.linspace(-1, 1, 50)
    sent: dict[int, list[np.ndarray]] = {}
    for nid, state in states.items():
        given = {peer: letters[peer][nid] for peer in OWNERS if peer != nid}
        sent[nid] = masked(state, given, secret if nid == VICTIM else np.zeros(50))
    asked = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: OWNERS, Key.DEAD_NODE_ID_LIST: [VICTIM]})
    answers = [owner._unmask(states[nid], asked)[Key.SHARE_LIST] for nid in OWNERS[1:]]
    seed = shamir.combine_shares([shares[OWNERS.index(VICTIM)] for shares in answers])
    private = asymmetric.bytes_to_private_key(shamir.combine_shares([shares[-1] for shares in answers]))
    pairwise = {
        peer: symmetric_encryption.generate_shared_key(private, asymmetric.bytes_to_public_key(keys[peer][0]))
        for peer in OWNERS[1:]
    }
    assert opened(sent[VICTIM], seed, pairwise) == pytest.approx(secret, abs=2 * RANGE / LEVELS)


def test_a_coordinator_that_sends_keys_of_its_own_reads_one_owners_vector() -> None:
    """Nobody signs a key and no owner knows another's: the peers of the victim are all the coordinator."""
    victim, played = begun(VICTIM), {nid: begun(nid) for nid in OWNERS[1:]}
    keys = {VICTIM: (victim.pk1, victim.pk2), **{nid: (state.pk1, state.pk2) for nid, state in played.items()}}
    letters = shared(victim, keys)
    given = {nid: shared(state, keys)[VICTIM] for nid, state in played.items()}
    secret = np.linspace(-1, 1, 50)
    sent = masked(victim, given, secret)
    parts = []
    for nid, letter in letters.items():
        plain = symmetric_encryption.decrypt(played[nid].ss2_dict[VICTIM], letter)
        parts.append(secaggplus_utils.share_keys_plaintext_separate(plain)[2])
    pairwise = {
        nid: symmetric_encryption.generate_shared_key(
            asymmetric.bytes_to_private_key(state.sk1), asymmetric.bytes_to_public_key(victim.pk1)
        )
        for nid, state in played.items()
    }
    assert opened(sent, shamir.combine_shares(parts), pairwise) == pytest.approx(secret, abs=2 * RANGE / LEVELS)


def test_it_wants_the_old_kind_of_server_app() -> None:
    workflow = secaggplus_workflow.SecAggPlusWorkflow(3, 2)
    with pytest.raises(TypeError, match="LegacyContext"):
        workflow(None, None)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (secaggplus_utils.pseudo_rand_gen, "np.random.RandomState(seed32)"),
        (owner._setup, "state.threshold = cast(int, sec_agg_param_dict[Key.THRESHOLD])"),
        (owner.check_stage, "Restart from the setup stage"),
        (owner.secaggplus_mod, "for arr_record in out_content.array_records.values():"),
        (secaggplus_workflow.SecAggPlusWorkflow._check_init_params, "WARN"),
    ],
)
def test_the_page_points_at_what_is_there(part: Any, says: str) -> None:
    assert says in inspect.getsource(part)


def test_its_stages_are_the_four_of_the_semi_honest_protocol() -> None:
    """The fifth, in which owners sign what they saw and compare, is what an active adversary needs."""
    assert [*Stage.all()] == [Stage.SETUP, Stage.SHARE_KEYS, Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK]


def test_the_files_that_the_page_names_are_there() -> None:
    page = (Path(__file__).parents[2] / "docs" / "secure-aggregation.md").read_text()
    found = set(re.findall(r"`((?:common|client|server)/[\w/]+\.py)`", page))
    assert len(found) >= 5
    missing = [name for name in found if not (Path(flwr.__file__).parent / name).is_file()]
    assert missing == []
    assert f"`flwr` {READ}" in page
