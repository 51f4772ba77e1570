"""How long before their turn weights are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_rows import address

from localmoe.kernels.ahead import (
    AGAIN,
    AHEAD,
    ALONG,
    ASKED,
    IN_ROW,
    LONG_ROW,
    NEXT,
    NEXT_END,
    STEP,
    ask_ahead,
    distances,
    in_halves,
    requests,
    requests_along,
)
from quant.compiled import compiled


@pytest.mark.parametrize(
    ("cpu", "avx512", "ahead", "second_level", "in_row"),
    [("znver5", True, 9216, False, 0), ("znver5", False, 9216, False, 0),
     ("sapphirerapids", True, 17408, True, 0), ("znver4", True, 22528, True, 1024),
     ("znver4", False, 22528, True, 0), ("znver3", False, 22528, True, 0), ("haswell", False, 22528, True, 0),
     ("apple-m1", False, 22528, True, 0)],
)  # fmt: skip
def test_every_cpu_has_the_distances_measured_on_its_like(cpu, avx512, ahead, second_level, in_row):
    found = distances(cpu, avx512)
    assert (found.ahead, found.to_second_level, found.in_row) == (ahead, second_level, in_row)
    assert 0 <= found.again < found.ahead
    more = [distance for distance in found.between if distance]
    assert more == sorted(more, reverse=True)  # each time later
    assert all(found.again < distance < found.ahead for distance in more)
    assert bool(more) == (ahead == 22528)
    assert found.along == (11264 if (cpu, avx512) == ("znver5", True) else 0)


def _asked_again(r0, row_bytes, size):
    """While four rows from r0 on are read: how many bytes of each, and the addresses then asked for again."""
    for at in range(0, row_bytes, size):
        _, _, again, nbytes, apart = requests(r0, at, size, row_bytes)
        for k in range(4):
            yield at, range(again + k * apart, again + k * apart + nbytes)


SIZES, GROUPS = [136, 144, 176, 210], [1, 2, 5, 8, 16, 28, 56]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("groups", GROUPS)
def test_every_byte_is_asked_for_first_and_again(size, groups):
    row_bytes, r0 = size * groups, 10**6 + 13
    first, again = set(), set()
    for start in (r0, r0 + 4 * row_bytes):
        for at in range(0, row_bytes, size):
            to_ask, nbytes, *_ = requests(start, at, size, row_bytes)
            first |= {byte - AHEAD for byte in range(to_ask, to_ask + 4 * nbytes)}
        for _, asked in _asked_again(start, row_bytes, size):
            again |= {byte - (AGAIN if row_bytes < LONG_ROW else 0) for byte in asked}
    second_four = range(r0 + 4 * row_bytes, r0 + 8 * row_bytes)
    assert first.issuperset(second_four)
    assert again.issuperset(second_four)


def test_halves_ask_for_the_same_bytes_again_with_the_first_for_the_others_in_turn():
    first, size, again, again_size, apart = requests(10**6, 288, 144, 28 * 144)
    one, other = in_halves((first, size, again, again_size, apart))
    assert one == (first, 72, again, 144, apart)
    assert other == (first + 4 * 72, 72, again, 0, apart)


@pytest.mark.skipif(not IN_ROW, reason="this CPU asks again in the order of addresses")
@pytest.mark.parametrize("size", SIZES)
def test_long_rows_are_asked_for_again_a_little_later_in_each(size):
    row_bytes = 56 * 176
    row_bytes -= row_bytes % size
    assert row_bytes >= LONG_ROW
    for at, asked in _asked_again(0, row_bytes, size):
        row, column = divmod(asked[0], row_bytes)
        assert asked[-1] // row_bytes == row < 8
        assert (column - at if row < 4 else column + row_bytes - at) == IN_ROW // size * size


def test_short_rows_are_asked_for_again_in_the_order_of_addresses():
    size, groups = 144, 8
    starts = [asked[0] for _, asked in _asked_again(0, size * groups, size)]
    assert starts == list(range(3 * size * groups + AGAIN, 7 * size * groups + AGAIN, size))


@pytest.mark.parametrize("then", [10**6 + 400_000, 10**6 + 200_000, 10**5])
@pytest.mark.parametrize("size", [*SIZES, 272])
def test_along_rows_every_byte_is_asked_for_once_and_then_those_read_next(size, then):
    """`ALONG` bytes before, or a little more or less: whole steps. Nothing between the two stretches."""
    step, start = 4 * size, 10**6
    end = start + 200_000 // step * step
    asked = []
    for at in range(start, end, step):
        to_ask, nbytes, _, again, _ = requests_along(at, size, end, then)
        halves = [(first, half) for first, half, *_ in in_halves((to_ask, nbytes, 0, 0, 0))]
        assert halves == [(to_ask, nbytes // 2), (to_ask + 2 * nbytes, nbytes // 2)]
        assert not again
        asked += range(to_ask, to_ask + 4 * nbytes)
    early = asked[0] - start
    assert abs(early - ALONG) <= step // 2
    assert asked == [*range(start + early, end), *range(then, then + early)]


@compiled("void(int64)")
def _ask(place):
    ask_ahead(place)


def test_what_comes_next_is_asked_for_step_by_step_to_its_end_and_no_further():
    place = np.zeros(4, np.int64)  # behind a ticket: where it begins, its end, how far it was asked for

    def asked(steps):
        for _ in range(steps):
            _ask(address(place))
        return int(place[ASKED // 8])

    assert asked(3) == 0  # nothing is known
    place[NEXT // 8], place[NEXT_END // 8] = 10**6, 10**6 + 3 * STEP + 100
    steps = [asked(1) - 10**6 for _ in range(6)]
    assert steps == [STEP, 2 * STEP, 3 * STEP, *[3 * STEP + 100] * 3]
    place[NEXT // 8], place[NEXT_END // 8] = 500, 500 + STEP  # another matrix
    assert asked(1) == 500 + STEP
    place[NEXT // 8], place[NEXT_END // 8] = 0, 0
    assert asked(2) == 500 + STEP
