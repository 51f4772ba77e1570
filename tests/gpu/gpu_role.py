"""The GPU's part of the handshake, played by a process: posts work, waits, checks. Run by
test_gpu_handshake.py.

Arguments: shared memory name, steps, file with the reference results. Prints how many posts were answered.
"""

import sys
import time
from multiprocessing import resource_tracker, shared_memory

import numpy as np

POSTED, DONE, FAILED, HEADER, IDS, RANKS, ACTIVATIONS = 0, 128, 256, 384, 512, 640, 1024


def main(name, steps, file):
    memory = shared_memory.SharedMemory(name=name)
    resource_tracker.unregister(memory._name, "shared_memory")  # the test owns it
    known = np.load(file)
    inputs, expected, k = known["inputs"], known["expected"], int(known["k"])
    inputs_n, layers, experts, shares, hidden = expected.shape
    firsts = known["firsts"].tolist()
    results_at = -(-(ACTIVATIONS + hidden * 4) // 256) * 256
    posted, done, failed = (np.frombuffer(memory.buf, np.int32, 1, at) for at in (POSTED, DONE, FAILED))
    header = np.frombuffer(memory.buf, np.int32, 3, HEADER)
    ids = np.frombuffer(memory.buf, np.int32, k, IDS)
    ranks = np.frombuffer(memory.buf, np.int32, k, RANKS)
    x = np.frombuffer(memory.buf, np.float32, hidden, ACTIVATIONS)
    results = np.frombuffer(memory.buf, np.float32, k * hidden, results_at).reshape(k, hidden)
    rng = np.random.default_rng(5)
    seen = {}
    for step in range(steps):
        i, layer, share = (int(rng.integers(n)) for n in (inputs_n, layers, shares))
        misses = int(rng.integers(1, k + 1))
        chosen = rng.choice(experts, misses, replace=False)
        places = np.sort(rng.choice(k, misses, replace=False))
        results[:] = np.nan
        x[:] = inputs[i]
        ids[:misses], ranks[:misses] = chosen, places
        header[:] = layer, misses, firsts[share]
        posted[0] += 1
        limit = time.monotonic() + 10
        while done[0] != posted[0]:
            if failed[0] or time.monotonic() > limit:
                print("no answer", step)
                return 3
            time.sleep(0)  # the core may be needed by the other side
        for expert, place in zip(chosen.tolist(), places.tolist(), strict=True):
            wanted = expected[i, layer, expert, share]
            if not np.abs(results[place] - wanted).max() <= 0.05 * np.abs(wanted).max():
                error = np.abs(results[place] - wanted).max() / np.abs(wanted).max()
                print("wrong result", step, (i, layer, expert, share), f"error {error:.3f}")
                return 4
            before = seen.setdefault((i, layer, expert, share), results[place].tobytes())
            if before != results[place].tobytes():
                print("not the same bits as before", step)
                return 5
        if not np.isnan(results[[c for c in range(k) if c not in places]]).all():
            print("a row that nobody asked for was written", step)
            return 6
    print(int(posted[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
