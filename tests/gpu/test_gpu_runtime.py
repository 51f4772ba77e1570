"""What opening a model for a GPU puts where; on CPU tensors, and nothing here launches a kernel."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from model_parity import Case

from localmoe.errors import UsageError
from localmoe.model import gpu_decoder
from localmoe.model.gpu_runtime import open_gpu


@pytest.fixture
def opened(tmp_path):
    """Opens a tiny model with so many slots (8 are all of it)."""

    @contextmanager
    def open_with(slots, **settings):
        case = Case(tmp_path)
        runtime = open_gpu(
            case.file, case.config, case.weights, device="cpu", context=64, threads=1, identity="0" * 16,
            gpu_memory=case.memory_for(slots), mode="stream", chunk=64, keep_statistics=False, **settings,
        )  # fmt: skip
        try:
            yield runtime
        finally:
            runtime.close()

    return open_with


@pytest.mark.parametrize("ram", [None, 1 << 30])
def test_nothing_is_pinned_where_every_expert_has_a_slot(opened, ram):
    with opened(8, ram=ram) as runtime:
        residency = runtime.residency
        assert not residency.host.home.any()
        assert residency.host.arena.nbytes == 4096
        assert (residency.tables.slot_of_host >= 0).all()
        assert residency.worker is None
        layout, tables = residency.layout, residency.tables
        for layer in range(layout.layers):
            for expert in range(layout.experts):
                slot = tables.slot(layer, int(tables.slot_of_host[layer, expert])).numpy()
                residency.host.fill(layer, expert, wanted := slot.copy())
                assert (slot == wanted).all()


def test_without_a_bound_not_more_is_pinned_than_is_free(opened, monkeypatch):
    with opened(3) as runtime:
        assert (runtime.residency.host.home != 0).all()
        everything = runtime.residency.host.arena.nbytes
    monkeypatch.setattr("localmoe.model.gpu_plan.available_memory", lambda: everything // 2)
    with opened(3) as runtime:
        assert 0 < runtime.residency.host.arena.nbytes < everything // 2
        assert runtime.residency.host.home.any()
        assert not runtime.residency.host.home.all()
    with opened(3, ram=everything) as runtime:
        assert runtime.residency.host.home.all()


def test_no_conversation_goes_past_the_rotary_table(opened):
    with opened(8) as runtime:
        assert runtime.decoder().context == runtime.decoder(64).context == 64
        for context in (0, 65):
            with pytest.raises(UsageError, match="loaded with 64"):
                runtime.decoder(context)


def test_calibration_takes_no_more_positions_than_there_are(opened, monkeypatch, tmp_path):
    asked = []

    def decoder(_runtime, context, _kv_type):
        asked.append(SimpleNamespace(context=context, tokens=(tokens := []), extend=tokens.extend))
        return asked[-1]

    monkeypatch.setenv("LOCALMOE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpu_decoder, "GpuDecoder", decoder)
    with opened(3) as runtime:
        runtime.use_mode("auto", "0" * 16)
    assert [(d.context, len(d.tokens)) for d in asked] == [(64, 64)]
