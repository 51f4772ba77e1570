"""The CPU worker answers a process in the GPU's role: right, quickly, and whatever dies."""

import subprocess
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest

from localmoe.kernels.handshake import HandshakeError, LayerFormats, Region, Worker
from localmoe.kernels.handshake_layout import ACTIVE, DONE, FAILED, POSTED, WORKER_ENDED
from localmoe.kernels.matrix import Matrix
from localmoe.kernels.pool import Pool
from quant.blocks import FORMATS

HIDDEN, FFN, EXPERTS, K, FIRSTS = 256, 768, 9, 8, (0, 256, 512)
KINDS = (("q4_k", "q4_k", "q4_k"), ("q4_k", "q5_0", "q6_k"), ("q8_0", "q8_0", "f16"))


def weights(rng, rows, cols, kind):
    return FORMATS[kind].encode((rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32))


@pytest.fixture
def region():
    memory = shared_memory.SharedMemory(create=True, size=Region.nbytes_for(HIDDEN, K))
    memory.buf[:] = bytes(memory.size)
    view = np.frombuffer(memory.buf, np.uint8)
    yield memory, Region(int(view.ctypes.data), HIDDEN, K)
    del view
    memory.close()
    memory.unlink()


@pytest.fixture
def experts():
    """Weights of every layer and expert; formats; addresses int64 [layers, experts, 3]; biases of gate and up
    of the second layer, float32 [2, experts, ffn].
    """
    rng = np.random.default_rng(3)
    shapes = ((FFN, HIDDEN), (FFN, HIDDEN), (HIDDEN, FFN))
    arrays = [[[weights(rng, *s, k) for s, k in zip(shapes, kinds,
        strict=True)] for _ in range(EXPERTS)] for kinds in KINDS]
    biases = rng.standard_normal((2, EXPERTS, FFN)).astype(np.float32) * 3
    at = [(0, 0, 0), (*(int(bias.ctypes.data) for bias in biases), 0), (0, 0, 0)]
    formats = [
        LayerFormats(*(Matrix(0, *s, k, bias) for s, k, bias in zip(shapes, kinds, own, strict=True)))
        for kinds, own in zip(KINDS, at, strict=True)
    ]
    addresses = np.array([[[a.ctypes.data for a in expert] for expert in layer] for layer in arrays],
        np.int64)
    return arrays, formats, addresses, biases


@pytest.fixture
def worker(request, region, experts):
    """`request.param`: whether the gated unit is clamped."""
    pool = Pool(1)  # with the other process that makes two, as many as a small machine has cores
    worker = Worker(region[1], pool, experts[1], experts[2], FFN, getattr(request, "param", False))
    yield worker
    worker.close()
    pool.close()


def unit(g, u, clamped):
    if clamped:
        g, u = np.minimum(g, 7), np.clip(u, -7, 7) + 1
    return g / (1 + np.exp(-g * (1.702 if clamped else 1))) * u


def reference(arrays, biases, inputs, clamped):
    """What each expert's rows from `first` on contribute: float32 [inputs, layers, experts, shares,
    hidden].
    """
    out = np.zeros((len(inputs), len(KINDS), EXPERTS, len(FIRSTS), HIDDEN), np.float32)
    for layer, kinds in enumerate(KINDS):
        for expert in range(EXPERTS):
            gate, up, down = (FORMATS[k].decode(a).astype(np.float64) for k,
                a in zip(kinds, arrays[layer][expert], strict=True))
            own = biases[:, expert] if layer == 1 else (0, 0)
            inner = unit(inputs @ gate.T + own[0], inputs @ up.T + own[1], clamped)
            for share, first in enumerate(FIRSTS):
                out[:, layer, expert, share] = inner[:, first:] @ down.T[first:]
    return out


def start_role(region, experts, tmp_path, steps, clamped=False):
    inputs = np.random.default_rng(4).standard_normal((3, HIDDEN)).astype(np.float32)
    file = tmp_path / "known.npz"
    expected = reference(experts[0], experts[3], inputs, clamped)
    np.savez(file, inputs=inputs, expected=expected, k=K, firsts=FIRSTS)
    script = Path(__file__).with_name("gpu_role.py")
    return subprocess.Popen(
        [sys.executable, str(script), region[0].name, str(steps), str(file)], stdout=subprocess.PIPE,
        text=True
    )


@pytest.mark.parametrize(
    ("worker", "clamped", "steps"), [(False, False, 10_000), (True, True, 300)], indirect=["worker"]
)
def test_thousands_of_steps_are_answered_right(region, experts, worker, clamped, steps, tmp_path):
    worker.begin_step()
    role = start_role(region, experts, tmp_path, steps, clamped)
    out, _ = role.communicate(timeout=200)
    assert (role.returncode, out.strip()) == (0, str(steps))
    worker.end_step()


def test_the_worker_outlives_the_other_side(region, experts, worker, tmp_path):
    worker.begin_step()
    role = start_role(region, experts, tmp_path, 10**9)
    limit = time.monotonic() + 60
    while region[1].flag(DONE) < 50 and time.monotonic() < limit:
        time.sleep(0.01)
    role.kill()
    role.communicate()
    worker.end_step()
    time.sleep(0.2)
    assert worker.alive
    assert region[1].flag(DONE) == region[1].flag(POSTED) >= 50  # nothing is left over
    worker.begin_step()
    answered = region[1].flag(DONE)
    region[1].set_flag(POSTED, answered + 1)  # the last header once more: any work will do
    while region[1].flag(DONE) == answered and time.monotonic() < limit:
        time.sleep(0.001)
    assert region[1].flag(DONE) == answered + 1
    worker.end_step()


def test_a_worker_that_ended_is_an_error_not_a_hang(region, experts, worker, tmp_path):
    worker.close()
    assert not worker.alive
    assert region[1].flag(FAILED) == WORKER_ENDED
    role = start_role(region, experts, tmp_path, 10)
    out, _ = role.communicate(timeout=60)
    assert (role.returncode, out.strip()) == (3, "no answer 0")
    with pytest.raises(HandshakeError, match="did not deliver"):
        worker.begin_step()


def test_the_worker_sleeps_between_steps(region, worker):
    worker.begin_step()
    worker.end_step()
    time.sleep(0.3)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05
    worker.begin_step()
    before, limit = time.process_time(), time.monotonic() + 30
    while time.process_time() - before < 0.05 and time.monotonic() < limit:
        time.sleep(0.05)
    assert time.process_time() - before >= 0.05  # within a step it looks without pause
    assert region[1].flag(ACTIVE) == 1
    worker.end_step()
