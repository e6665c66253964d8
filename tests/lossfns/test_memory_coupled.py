"""Temporary memory of losses that couple rows: a few tables [rows, columns], never [rows, columns, features]."""

import jax
import jax.numpy as jnp
import pytest

import lossfns
from tests.cases import CASES

ROWS, FEATURES = 2048, 32


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


X, TABLE, LABELS = floats(ROWS, FEATURES), floats(ROWS, ROWS), integers(ROWS)
LABELLED, VIEWS, SCORES, WIDE = (X, LABELS), (X, X), (TABLE, TABLE), (floats(ROWS, 128),) * 2

# Name of the row -> arrays, options, and how many tables [rows, columns] value and gradient need at most.
COUPLED = {
    "barlow_twins": (WIDE, {}, 1),
    "batch_hard_triplet": (LABELLED, {}, 1),
    "batch_hard_triplet, l1": (LABELLED, {"norm": "l1"}, 1),
    "batch_hard_triplet, squared": (LABELLED, {"norm": "squared_l2"}, 1),
    "circle": (LABELLED, {}, 1),
    "crd": ((*VIEWS, X), {"dataset_size": 1e4}, 3),
    "debiased_contrastive": (VIEWS, {}, 1),
    "decoupled_contrastive": (VIEWS, {}, 1),
    "hard_negative_contrastive": (VIEWS, {}, 2),
    "koleo": ((X,), {}, 3),
    "moco_v3": ((*VIEWS, *VIEWS), {}, 1),
    "msn": (SCORES, {}, 3),
    "multi_similarity": (LABELLED, {}, 2),
    "n_pairs": (VIEWS, {}, 1),
    "nnclr": ((*VIEWS, *VIEWS, X), {}, 3),
    "proxy_anchor": ((X, X, LABELS), {}, 3),
    "proxy_nca": ((X, X, LABELS), {}, 1),
    "relational_distance": (VIEWS, {}, 4),
    "semi_hard_triplet": (LABELLED, {}, 2),
    "semi_hard_triplet, l2": (LABELLED, {"norm": "l2"}, 2),
    "sigreg": ((X, floats(FEATURES, ROWS)), {}, 4),
    "similarity_preserving": (VIEWS, {}, 3),
    "sinkhorn": ((TABLE,), {}, 3),
    "supcon, in": (LABELLED, {"form": "in"}, 1),
    "swav": (SCORES, {}, 4),
    "uniformity": ((X,), {}, 1),
    "vicreg": (WIDE, {}, 1),
    "wmse": (WIDE, {}, 1),
}
# Losses of other tables than [rows, rows]: the number of its entries, and how many of them.
SQUARE = 1024 * 1024
OTHERS = {
    "relational_angle": ((floats(512, FEATURES),) * 2, {}, SQUARE // 4, 3),  # part of one corner at a time, of 512
    "soft_dtw": ((floats(1, 1024, 16),) * 2, {}, SQUARE, 3.1),
    "soft_dtw, divergence": ((floats(1, 1024, 16),) * 2, {"divergence": True}, SQUARE, 4.4),  # three, one by one
    "lovasz_softmax": (
        (floats(2, 4096, 32), integers(2, 4096)),
        {},
        2 * 4096 * 32,
        4,
    ),  # sorted a few classes at a time
    "soft_f1": ((floats(ROWS, 128), integers(ROWS)), {}, ROWS * 128, 4.1),
    "moe_load_balance": ((floats(ROWS, 128),), {}, ROWS * 128, 1.1),
    "ctc": ((floats(2, 512, 64), integers(2, 128)), {}, 2 * 512 * 257, 4.1),  # frames x labels and blanks
    "rnn_transducer": ((floats(1, 128, 65, 64), integers(1, 64)), {}, 128 * 65 * 64, 2),  # logits
    "linear_chain_crf": ((floats(16, 128, 64), floats(64, 64), integers(16, 128)), {}, 16 * 128 * 64, 8),  # emissions
}
IN_BLOCKS = {"clip", "nt_xent", "siglip", "info_nce", "supcon", "moco"}  # in test_memory_contrastive.py, by the byte
# What has no table: numbers of rows, or the sums of losses that are here.
NO_TABLE = {"kto", "coca", "hard_negative_pairs", "dice over the batch", "soft_f1 of many labels"}


def tables_needed(name, arrays, options, entries):
    loss = getattr(lossfns, name.split(",")[0])
    moved = tuple(i for i, x in enumerate(arrays) if x.dtype == jnp.float32)

    def total(*given):
        return jnp.sum(loss(*given, **options))

    compiled = jax.jit(jax.value_and_grad(total, argnums=moved)).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (4 * entries)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="bytes of the CPU's compiler")
@pytest.mark.parametrize("name", COUPLED)
def test_a_coupled_loss_holds_a_few_tables(name):
    arrays, options, limit = COUPLED[name]
    assert limit <= 4
    needed = tables_needed(name, arrays, options, ROWS * ROWS)
    a_few_vectors = 8 / ROWS
    message = f"{name} needs {needed:.3f} tables [rows, columns], at most {limit} are promised"
    assert needed <= limit + a_few_vectors, message


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="bytes of the CPU's compiler")
@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_of_another_table_holds_a_few_of_it(name):
    arrays, options, entries, limit = OTHERS[name]
    needed = tables_needed(name, arrays, options, entries)
    assert needed <= limit, f"{name} needs {needed:.2f} tables, at most {limit} are promised"


def test_every_coupled_loss_is_measured():
    measured = {name.split(",")[0] for name in (*COUPLED, *OTHERS)}
    missing = {name for name, case in CASES.items() if case.batch_coupled} - measured - IN_BLOCKS - NO_TABLE
    assert not missing
