"""Every SIMD form: those of this machine run and agree to the bit, others compile to what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llvmlite import binding as llvm

from localmoe.kernels import simd
from localmoe.kernels.simd import FORMS, SimdError, available_forms, choose_form

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def script(name: str, *arguments: str, **environment: str) -> str:
    """What tests/kernels/NAME prints, run by itself."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    result = subprocess.run(
        [sys.executable, str(HERE / name), *arguments],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def probe(*arguments: str, **environment: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(script("simd_probe.py", *arguments, **environment).splitlines()[-1])
    return report


def holds(form: str, found: dict[str, int]) -> bool:
    """Whether the assembly of a dot product is of that form."""
    if form == "amx" and found["tile dots"] == 0:
        return False
    if form in ("amx", "avx512vnni"):
        return found["vpdpbusd"] == found["wide dots"] > 0 and found["pmaddubsw"] == 0
    if form == "avxvnni":  # a CPU that has AVX-512 too may use its registers for the rest
        return found["vpdpbusd"] > 0 and found["wide dots"] == 0 and found["pmaddubsw"] == 0
    if form == "avx2":
        return found["vpmaddubsw"] > 0 and found["vpdpbusd"] == 0
    return found["vpdpbusd"] == found["pmaddubsw"] == 0


@pytest.mark.slow  # compiles the dot products of every block type once per form
def test_the_forms_of_this_machine_give_the_same_bits():
    reports = {form: probe("run", LOCALMOE_SIMD=form) for form in available_forms() if form != "neon"}
    expected = next(iter(reports.values()))["results"]
    for form, report in reports.items():
        assert report["form"] == form
        assert holds(form, report["assembly"]), (form, report["assembly"])
        assert report["results"] == expected, form


# A CPU by name: what is compiled is really for that machine, not for this one in another form.
# With 64 bytes, Intel's code differs from AMD's.
NAMED = {
    "haswell": "avx2", "cascadelake": "avx512vnni", "znver4": "avx512vnni", "nehalem": "portable",
    "x86-64": "portable",
}  # fmt: skip
BEYOND_FORM = {"znver4": ("avx512bf16", "avx512vbmi", "avx512vbmi2", "gfni")}  # the form promises none


@pytest.mark.slow
@pytest.mark.parametrize("cpu", NAMED)
def test_another_cpus_code_gives_the_same_bits(cpu):
    form = NAMED[cpu]
    features = llvm.get_host_cpu_features()
    if form not in available_forms() or not all(features.get(name) for name in BEYOND_FORM.get(cpu, ())):
        pytest.skip(f"this machine cannot run code for {cpu}")
    report = probe("run", NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="")
    assert report["form"] == form
    assert holds(form, report["assembly"]), report["assembly"]
    assert report["results"] == probe("run")["results"]


@pytest.mark.parametrize("form", [f for f in FORMS if f in available_forms() and f != "neon"])
def test_the_form_asked_for_is_the_one_that_runs(form):
    report = probe(LOCALMOE_SIMD=form)
    assert report["form"] == form
    assert holds(form, report["assembly"]), report["assembly"]


@pytest.mark.slow
def test_the_form_of_newer_desktop_cpus_compiles():
    """AVX-VNNI without AVX-512: not to be run here, but compiled by numba as there."""
    report = probe(NUMBA_CPU_NAME="alderlake", NUMBA_CPU_FEATURES="")
    assert report["form"] == "avxvnni"
    assert holds("avxvnni", report["assembly"]), report["assembly"]
    assert report["assembly"]["{vex}"] > 0
    assert report["assembly"]["zmm"] == 0


TARGETS = {  # form, machine, CPU, features, what the assembly must hold, and what not
    "neon": ("neon", "aarch64", "apple-m1", "", ["sdot", "tbl"], ["vpdpbusd"]),
    "avxvnni": ("avxvnni", "x86_64", "alderlake", "", ["{vex}", "vpdpbusd", "vpshufb"], ["zmm"]),
    "avx2": ("avx2", "x86_64", "haswell", "", ["vpmaddubsw", "vpshufb"], ["vpdpbusd", "zmm", "pinsrb"]),
    "avx512vnni": ("avx512vnni", "x86_64", "cascadelake", "", ["vpdpbusd", "zmm"], ["vgf2p8affineqb"]),
    "gfni": ("avx512vnni", "x86_64", "znver4", "+gfni", ["vpdpbusd", "vgf2p8affineqb"], []),
    "amx": ("amx", "x86_64", "sapphirerapids", "", ["tdpbsud", "tdpbssd", "ldtilecfg", "vpdpbusd"], []),
    "portable": ("portable", "x86_64", "x86-64", "", [], ["hfsf2", "sfhf2", "ymm"]),
    "portable on ARM": ("portable", "aarch64", "cortex-a53", "", [], ["sdot"]),
    "portable on RISC-V": ("portable", "riscv64", "generic-rv64", "+m,+a,+f,+d", [], ["hfsf2"]),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_intrinsic_compiles_for_its_machine(target):
    """No library is called for float16, which a Python process would not hold."""
    form, machine, cpu, features, expected, refused = TARGETS[target]
    text = script("simd_lower.py", form, f"{machine}-unknown-linux-gnu", cpu, features)
    for word in expected:
        assert word in text, word
    for word in refused:
        assert word not in text, word


@pytest.mark.parametrize("request_", ["avx3", "sse"])
def test_an_unknown_form_is_refused_with_the_choices(request_):
    with pytest.raises(SimdError, match="choose one of amx, avx512vnni, avxvnni, avx2, neon, portable"):
        choose_form(request_)


def test_a_form_that_this_cpu_lacks_is_refused():
    missing = [form for form in FORMS if form not in available_forms()]
    assert missing  # no CPU is x86 and ARM
    for form in missing:
        with pytest.raises(SimdError, match="this CPU can run only"):
            choose_form(form)


def test_amx_is_offered_only_where_the_system_permits_it(monkeypatch):
    features = dict.fromkeys(simd._FEATURES["amx"], True)
    monkeypatch.setattr(simd.llvm, "get_host_cpu_features", lambda: features)
    monkeypatch.setattr(simd, "amx_permitted", lambda: False)
    assert available_forms()[0] == "avx512vnni"
    monkeypatch.setattr(simd, "amx_permitted", lambda: True)
    assert available_forms()[0] == "amx"


def test_a_form_that_cannot_be_is_one_line_and_exit_2():
    result = subprocess.run(
        [sys.executable, "-m", "localmoe", "bench", "demo"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "LOCALMOE_SIMD": "avx3"},
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("localmoe: LOCALMOE_SIMD=avx3")
    assert len(result.stderr.strip().splitlines()) == 1
