"""Gate and up in small items of one matrix, by many threads, give the same bits as 256 rows of both."""

import numpy as np
import pytest

from localmoe.kernels import tasks_experts
from localmoe.kernels.elementwise import quantize_row
from localmoe.kernels.geometry import GROUP, LEVELS, SUMS
from localmoe.kernels.orders import LONE, ORDERS, int8_rows
from localmoe.kernels.pool import Pool
from localmoe.kernels.task_pieces import gate_up_piece_task
from quant.blocks import FORMATS

HIDDEN, EXPERTS, SCRATCH = 512, 3, 1 << 16


def at(array):
    return int(array.ctypes.data)


@pytest.fixture(scope="module")
def pool():
    pool = Pool(4)  # more than cores: pieces of one group are then stored in any order
    yield pool
    pool.close()


def inner(pool, task, items, chunk, gates, ups, kinds, x, chosen, ffn, floats, clamped=False):
    """(int8, scales, sums, float32) of the inner activations of the chosen experts, as `task` writes them.
    `clamped`: the unit is; gate and up have biases.
    """
    rng, groups = np.random.default_rng(9), -(-ffn // GROUP)
    q = int8_rows(np.zeros((LONE * ORDERS + 1, HIDDEN), np.int8))
    scales = np.zeros(HIDDEN // GROUP, np.float32)
    sums = np.zeros(HIDDEN // GROUP * SUMS, np.int16)
    quantize_row(at(x), HIDDEN, at(q), at(scales), at(sums), 0)
    k = len(chosen)
    memory = rng.integers(-100, 100, (LONE * ORDERS + k, groups * GROUP), dtype=np.int8)
    out_q = int8_rows(memory)  # poisoned: all must be written
    out_scales = np.full((k, groups), np.nan, np.float32)
    out_sums = np.full((k, groups * SUMS), 31000, np.int16)
    hidden = np.full((k, ffn), np.nan, np.float32)
    gate_up = np.full((k, 2, groups * GROUP), np.nan, np.float32)
    addresses = np.array([[at(gates[e]), at(ups[e]), 0] for e in chosen], np.int64)
    ranks, starts = np.arange(k, dtype=np.int32), np.arange(k + 1, dtype=np.int32)
    token_of, stored = np.zeros(k, np.int32), np.zeros(k * groups, np.int64)
    scratch = np.zeros(pool.threads * SCRATCH, np.uint8)
    gate, up = (FORMATS[kind] for kind in kinds)
    bias = rng.standard_normal((k, 2, ffn)).astype(np.float32) * 5
    biases = np.array([[at(bias[c, 0]), at(bias[c, 1])] for c in range(k)], np.int64)
    formats = np.array([
        up.ggml_type, up.block_bytes, up.row_bytes(HIDDEN), int(floats), at(out_q), at(out_scales),
        at(out_sums), at(stored), at(gate_up), at(biases) if clamped else 0, int(clamped),
    ])  # fmt: skip
    pool.wake()
    pool.run(
        task.address, items, at(ranks), chunk, at(addresses), at(starts), at(token_of), HIDDEN, ffn,
        gate.ggml_type, gate.block_bytes, gate.row_bytes(HIDDEN), at(LEVELS), at(x), at(q), at(scales),
        at(sums), at(hidden), 0, at(scratch), SCRATCH, at(formats),
    )  # fmt: skip
    assert not stored.any()  # ready for the next token
    return out_q, out_scales, out_sums, hidden


@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("chunk", [64, 128, 256])
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("ffn", [32, 256, 352, 1024])
@pytest.mark.parametrize("kinds", [("q4_k", "q4_k"), ("q6_k", "q5_0"), ("f16", "q8_0")])
def test_small_pieces_give_the_same_bits(pool, kinds, ffn, floats, chunk, clamped):
    rng = np.random.default_rng(ffn)
    x = rng.standard_normal(HIDDEN).astype(np.float32)
    gates, ups = ([FORMATS[kind].encode(rng.standard_normal((ffn, HIDDEN)).astype(np.float32) / 16)
                   for _ in range(EXPERTS)] for kind in kinds)  # fmt: skip
    arguments = gates, ups, kinds, x, (2, 0), ffn, floats, clamped
    expected = inner(pool, tasks_experts.gate_up_task, 2 * -(-ffn // GROUP), GROUP, *arguments)
    for _ in range(10):  # in another order each time
        got = inner(pool, gate_up_piece_task, 4 * -(-ffn // chunk), chunk, *arguments)
        for ours, theirs in zip(got[3:] if floats else got[:3], expected[3:] if floats else expected[:3],
                                strict=True):  # fmt: skip
            np.testing.assert_array_equal(ours, theirs)
            assert not np.isnan(ours.astype(np.float64)).any()
