"""Conversions that tests plan and break off."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.convert import Progress, convert
from quant.plan import Plan, make_plan
from quant.recipes import recipe_named
from quant.sources import open_source


def planned(source: Path, recipe: str = "q4_k_m", **options) -> Plan:
    return make_plan(open_source(source), recipe_named(recipe), version="1.0", **options)


class Stop(Exception):
    """Raised by a test in the middle of a conversion."""


def interrupted(plan: Plan, out: Path, tensor: int) -> None:
    """Leaves what a run leaves that ends in tensor number `tensor`."""

    def stop(progress: Progress) -> None:
        if progress.tensor == tensor:
            raise Stop

    with pytest.raises(Stop):
        convert(plan, out, threads=2, progress=stop)
