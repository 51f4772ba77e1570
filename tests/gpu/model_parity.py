"""A tiny Mixtral through the GPU's code in Triton's interpreter, beside the CPU engine. Run by
test_gpu_model.py.

    python model_parity.py DIRECTORY CASE
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))
import tiny_models

import localmoe
from localmoe.errors import ClosedError
from localmoe.experts.layout import ExpertLayout
from localmoe.kernels import gpu_launch_many as launching
from localmoe.model.config import ModelConfig
from localmoe.model.gpu_plan import SET_ASIDE, plan_gpu
from localmoe.model.gpu_runtime import open_gpu
from localmoe.model.weights import bind
from quant.gguf import GGUFFile

TYPES = {
    "": "q4_k", "attn_k.weight": "q8_0", "attn_v": "q5_0", "blk.1.ffn_down": "q6_k", "attn_output": "q5_k",
    "output.weight": "q6_k",
}  # fmt: skip
QWEN3 = {
    "architecture": "qwen3moe", "head_count_kv": 1, "expert_count": 40, "expert_used_count": 5,
    "expert_feed_forward_length": 512, "dimension_count": 128, "key_length": 128, "value_length": 128,
}  # fmt: skip
GPT_OSS = {
    "architecture": "gpt-oss", "embedding_length": 160, "expert_count": 6, "expert_used_count": 3,
    "expert_feed_forward_length": 288, "key_length": 64, "value_length": 64, "sliding_window": 3,
    "type": "yarn", "factor": 4.0, "original_context_length": 128, "freq_base": 150000.0,
}  # fmt: skip
IDS = [1, 17, 300, 42, 99, 7, 250]
STEPS = [5, 80, 200, 31]


class Case:
    device = "cpu"
    through = None  # a file to save and restore the state through, before the steps

    def __init__(self, directory, types=TYPES, **metadata):
        values = tiny_models.metadata(context_length=512, feed_forward_length=512, **metadata)
        types = {"": "q8_0", "exps": "mxfp4"} if metadata.get("architecture") == "gpt-oss" else types
        self.path = tiny_models.write_model(Path(directory) / "tiny.gguf", values, types)
        self.file = GGUFFile.open(self.path)
        self.config = ModelConfig.from_gguf(self.file)
        self.weights = bind(self.file, self.config)

    def memory_for(self, slots, kv_type="f16", context=64):
        """A budget that leaves about so many expert slots in all."""
        c = self.config
        layout = ExpertLayout.of(self.file, c.layers, c.experts) if c.is_mixture else None
        plan = plan_gpu(c, self.weights, layout, context, kv_type, 64, 1 << 40)
        per_slot = max((k.slot_bytes for k in layout.classes), default=0) if layout else 0
        reserve = SET_ASIDE if self.device != "cpu" else 0
        return plan.total - plan.slot_bytes + slots * per_slot + reserve

    def run(self, ids, steps, slots=8, mode="stream", share=0.5, kv_type="f16", ram=None, prefill=True,
            context=64):  # fmt: skip
        """Logits of the prefill's last token and of each step, float32 [1 + steps, vocab]; and the status."""
        runtime = open_gpu(
            self.file, self.config, self.weights, device=self.device, context=context, threads=1,
            identity="0" * 16, kv_type=kv_type,
            gpu_memory=self.memory_for(slots, kv_type, context), ram=ram, mode="stream", chunk=64,
            keep_statistics=False,
        )  # fmt: skip
        try:
            placed = runtime.gpu._placed.values()
            planned = runtime.plan.weights
            assert not self.config.is_mixture or planned == sum(t.numel() * t.element_size() for t in placed)
            runtime.use_mode(mode, "0" * 16, share)
            decoder = runtime.decoder(context, kv_type)
            out = [decoder.extend(ids)] if prefill else [decoder.extend([i]) for i in ids]
            if self.through is not None:  # a state that was saved and restored goes on with the same bits
                decoder.save(self.through, "m")
                first, decoder = decoder, runtime.decoder(context, kv_type)
                assert decoder.load(self.through, "another model") == 0
                assert decoder.load(self.through, "m") == len(ids)
                assert decoder.tokens == first.tokens
            out += [decoder.extend([i]) for i in steps]
            status = runtime.status()
        finally:
            runtime.close()
        try:
            decoder.extend(ids[:1])
        except ClosedError:
            return np.stack(out), status
        raise AssertionError("a model that was closed answered")

    def reference(self, ids, steps, kv_type="f16"):
        """The CPU engine's, with float32 activations."""
        with localmoe.load(self.path, device="cpu", threads=1, context=64, exact=True, learn=False,
            kv_type=kv_type) as model:
            decoder = model.decoder()
            first = [decoder.extend(ids)]
            return np.stack(first + [decoder.extend([i]) for i in steps])


def close(got, wanted, bound):
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert np.isfinite(got).all()
    assert error < bound, f"relative error {error:.2e}"
    second, top = np.sort(wanted, 1)[:, -2:].T
    clear = top - second > 2 * np.abs(got - wanted).max(1)  # nearer than the error, either choice is right
    assert (got.argmax(1) == wanted.argmax(1))[clear].all()


def in_each_mode(case, ids, slots, bound, with_cpu):
    """The ids one by one with few slots, hits and misses among their experts: as close to the CPU engine as
    `bound` says in `stream`, and `with_cpu` where the CPU computes a share, with int8 activations.
    """
    wanted = case.reference(ids, [])
    for mode in ("stream", "cpu", "split"):
        got, status = case.run(ids, [], slots=slots, mode=mode, prefill=False)
        assert status["mode"] == mode
        assert min(status["hits"], status["misses"]) > 0, status
        close(got[-1:], wanted, bound if mode == "stream" else with_cpu)


def modes(directory):
    """All resident, then a few slots in each mode: close to the CPU; in `stream` equal to the last bit."""
    case = Case(directory)
    ids, steps = IDS[:2], STEPS[:2]
    wanted = case.reference(ids, steps)
    resident, status = case.run(ids, steps, prefill=False)
    close(resident[1:], wanted, 4e-3)  # the cache there holds float16, here float32
    assert status["hits"] > 0, status
    assert status["misses"] == 0, status
    few, status = case.run(ids, steps, slots=3, prefill=False)
    assert status["misses"] > 0, status
    assert status["resident_experts"] <= 3, status
    assert np.array_equal(few, resident), "residency changed the result in stream mode"
    for mode in ("cpu", "split"):
        mixed, status = case.run(ids, steps, slots=3, mode=mode, share=0.5, prefill=False)
        assert status["misses"] > 0, status
        assert status["mode"] == mode
        close(mixed[1:], wanted, 5e-2)
    print("modes: right")


def qwen(directory):
    """Many experts, normed heads wider together than the hidden state, rotary pairs half a head apart:
    prefill with all resident and with few slots, a step, and a token with few slots in each mode.
    """
    case = Case(directory, block_count=1, **QWEN3)
    resident, _ = case.run(IDS[:2], STEPS[:1], slots=40)
    wanted = case.reference(IDS[:2], STEPS[:1])
    close(resident, wanted, 2e-2)
    few, _ = case.run(IDS[:2], [], slots=3)
    assert np.array_equal(few, resident[:1]), "residency changed the result of prefill"
    in_each_mode(case, IDS[:1], 3, 2e-3, 3e-2)
    print("qwen: right")


def gpt_oss(directory):
    """Biases, sinks, a window in one layer of two, the clamped unit, rows of odd lengths: as `qwen`."""
    case = Case(directory, **GPT_OSS)
    resident, _ = case.run(IDS, STEPS[:1], slots=12)
    close(resident, case.reference(IDS, STEPS[:1]), 4e-2)
    few, _ = case.run(IDS, [], slots=3)
    assert np.array_equal(few, resident[:1]), "residency changed the result of prefill"
    in_each_mode(case, IDS[:2], 4, 2e-3, 5e-2)
    print("gpt_oss: right")


def few_bits(directory):
    """Types of two and three bits: prefill, a step, and a token with few slots in each mode."""
    case = Case(directory, {"": "q3_k", "ffn_down": "q2_k", "attn_v": "q4_k", "output.weight": "q6_k"},
                block_count=1)  # fmt: skip
    resident, _ = case.run(IDS[:2], STEPS[:1])
    close(resident, case.reference(IDS[:2], STEPS[:1]), 2e-2)
    few, _ = case.run(IDS[:2], [], slots=2)
    assert np.array_equal(few, resident[:1]), "residency changed the result of prefill"
    in_each_mode(case, IDS[:2], 3, 4e-3, 5e-2)
    print("few_bits: right")


def prefill(directory):
    """Prefill with all resident and with few slots: the same bits, close to the CPU, then decoding goes
    on.
    """
    case = Case(directory)
    wanted = case.reference(IDS, STEPS[:2])
    all_in, _ = case.run(IDS, STEPS[:2])
    close(all_in, wanted, 3e-2)
    case.through = Path(directory) / "state.kv"
    few, status = case.run(IDS, STEPS[:2], slots=3)
    assert np.array_equal(all_in, few)
    assert status["resident_experts"] == 2, "prefill fills free slots"
    print("prefill: right")


def file_only(directory):
    """Too little RAM for every expert: the CPU computes those that are only in the file, in every mode."""
    case = Case(directory)
    wanted = case.reference(IDS[:3], STEPS[:2])
    for mode in ("stream", "split"):  # in `split` also beside experts of which the GPU could compute a part
        got, status = case.run(IDS[:3], STEPS[:2], slots=2, mode=mode, ram=400_000, prefill=False)
        assert status["misses"] > 0
        close(got[2:], wanted, 5e-2)
    print("file_only: right")


def dense(directory):
    """A model without experts, q8_0 keys and values."""
    case = Case(directory, expert_count=None, expert_used_count=None)
    wanted = case.reference(IDS, STEPS[:1], "q8_0")
    got, _ = case.run(IDS, STEPS[:1], kv_type="q8_0")
    close(got, wanted, 4e-2)
    print("dense: right")


def many(directory):
    """More tokens than weights are decoded for tile by tile: these are widened first. A mixture and a
    dense model; beside each other, since bfloat16's own error is larger than what they differ by.
    """
    ids = (IDS * 6)[:40]
    for metadata in ({}, {"expert_count": None, "expert_used_count": None}):
        case = Case(directory, **metadata)
        widened, _ = case.run(ids, STEPS[:1])
        usual = launching.INTERPRETED
        launching.INTERPRETED = replace(usual, tokens=64)
        decoded, _ = case.run(ids, STEPS[:1])
        launching.INTERPRETED = usual
        assert not np.array_equal(widened, decoded), "both went the same way"
        close(widened, decoded, 1e-2)
    print("many: right")


if __name__ == "__main__":
    cases = (modes, prefill, file_only, dense, many, qwen, gpt_oss, few_bits)
    {case.__name__: case for case in cases}[sys.argv[2]](sys.argv[1])
