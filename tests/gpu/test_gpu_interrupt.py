"""Ctrl-C and failures in the middle of a decode step: the device is waited for, the worker sleeps, the
tokens stay right.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from localmoe.kernels.handshake import HandshakeError
from localmoe.model.gpu_decoder import GpuDecoder


class FakeGpu:
    """Stands where the device would be; `interrupt` raises in the wait for the step's end."""

    def __init__(self):
        self.device, self.chunk, self.events, self.interrupt = SimpleNamespace(type="cpu"), 8, [], None
        self.logits = SimpleNamespace(cpu=lambda: SimpleNamespace(numpy=lambda: np.zeros(4, np.float32)))

    def cache(self, context, q8):
        return SimpleNamespace(context=256)

    def room_for_partials(self, context):
        pass

    def set_inputs(self, ids, position):
        self.events.append("inputs")

    def compute_logits(self, hidden, output):
        self.events.append("launched")

    def synchronize(self):
        self.events.append("waited")
        error, self.interrupt = self.interrupt, None
        if error is not None:
            raise error


class FakeRuntime:
    def __init__(self):
        import threading

        self.gpu, self.lock = FakeGpu(), threading.Lock()
        self.config = SimpleNamespace(layers=1, vocab=4)
        self.transformer = SimpleNamespace(forward=lambda *_: None, output=None)
        self.failure, self.closed = None, False
        self.residency = SimpleNamespace(begin_step=lambda: self.gpu.events.append("begin"),
            end_step=self.end_step)

    def end_step(self):
        self.gpu.events.append("end")
        if self.failure is not None:
            raise self.failure

    def step_took(self, seconds):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("device")])
def test_an_interrupted_step_is_waited_for_and_ended(error):
    runtime = FakeRuntime()
    decoder = GpuDecoder(runtime, 16)
    decoder.extend([1])
    runtime.gpu.events.clear()
    runtime.gpu.interrupt = error
    with pytest.raises(type(error)):
        decoder.extend([2])
    assert runtime.gpu.events == ["inputs", "begin", "launched", "waited", "waited", "end"]
    assert decoder.tokens == [1]  # the token does not count as held
    assert not runtime.lock.locked()
    decoder.extend([3])  # and the next one works
    assert decoder.tokens == [1, 3]


def test_a_share_that_did_not_arrive_is_an_error_and_the_token_is_not_held():
    runtime = FakeRuntime()
    decoder = GpuDecoder(runtime, 16)
    runtime.failure = HandshakeError("late")
    with pytest.raises(HandshakeError):
        decoder.extend([1])
    assert decoder.tokens == []
