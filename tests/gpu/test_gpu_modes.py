"""The choice of the mode, without a GPU: what is measured decides, and a mode that turns out slower is
left.
"""

import numpy as np
import pytest

from localmoe.model.gpu_auto import (
    TRIAL_MOST,
    TRIAL_S,
    TRIAL_SKIPPED,
    TRIAL_STEPS,
    WINDOW,
    ModeChooser,
    Setting,
    load_costs,
    save_costs,
)
from localmoe.model.gpu_costs import Cost, fit_costs

SETTINGS = (Setting("stream"), Setting("cpu"), Setting("split", 0.5))


def steps(chooser, seconds, count):
    """Feeds `count` steps whose time depends on the setting in use."""
    for _ in range(count):
        chooser.observe(seconds[chooser.current])


def try_all(chooser, seconds):
    """Feeds steps until everything has been tried; how many there were."""
    count = 0
    while not chooser.settled:
        steps(chooser, seconds, 1)
        count += 1
    return count


def test_every_setting_is_tried_and_the_fastest_kept():
    chooser = ModeChooser(SETTINGS)
    seconds = dict(zip(SETTINGS, (0.03, 0.02, 0.01), strict=True))
    counts = [min(TRIAL_MOST, max(TRIAL_STEPS, np.ceil(TRIAL_S / t - 1e-9))) for t in seconds.values()]
    assert try_all(chooser, seconds) == sum(counts) + len(SETTINGS) * TRIAL_SKIPPED
    assert chooser.current == Setting("split", 0.5)
    assert chooser.seconds == pytest.approx(seconds)


def test_one_slow_step_in_a_trial_does_not_decide():
    chooser = ModeChooser(SETTINGS[:2])
    for i in range(TRIAL_SKIPPED + TRIAL_STEPS):
        chooser.observe(9.0 if i in (0, 1, 4) else 0.01)
    assert chooser.current == SETTINGS[1]
    try_all(chooser, {SETTINGS[1]: 0.02})
    assert chooser.current == SETTINGS[0]


def test_a_mode_that_becomes_slower_is_left_after_two_windows():
    costs = {s: Cost(t, 0.0) for s, t in zip(SETTINGS, (0.03, 0.02, 0.01), strict=True)}
    chooser = ModeChooser(SETTINGS, costs)
    assert chooser.settled
    seconds = dict(zip(SETTINGS, (0.03, 0.02, 0.05), strict=True))
    steps(chooser, seconds, 2 * WINDOW - 1)
    assert chooser.current == SETTINGS[2]
    steps(chooser, seconds, 1)
    assert chooser.current == SETTINGS[1]
    steps(chooser, seconds, 10 * WINDOW)
    assert chooser.current == SETTINGS[1]


def test_splits_are_tried_around_the_share_with_which_both_engines_end_together():
    chooser = ModeChooser(slices=56)
    for mode, seconds in (("stream", 0.03), ("cpu", 0.01)):
        assert chooser.current == Setting(mode)
        while chooser.current == Setting(mode):
            chooser.observe(seconds)
    tried = []
    while not chooser.settled:
        assert chooser.current.mode == "split"
        now = chooser.current
        tried.append(now.share)
        while chooser.current == now and not chooser.settled:
            chooser.observe(0.005 + abs(now.share - 0.35) / 100)  # fastest at this share
    assert tried[0] == 0.25
    assert set(tried[1:3]) == {0.15, 0.35}
    assert tried[3:] == [0.45]  # 0.35 was the best of three and the outermost: so one more, which was worse
    assert chooser.current == Setting("split", 0.35)
    again = ModeChooser(remembered=chooser.costs, slices=56)
    assert again.settled
    assert again.current == Setting("split", 0.35)


@pytest.mark.parametrize(("slices", "tried"), [(3, [1 / 3, 2 / 3]), (2, [0.5]), (1, [])])
def test_small_experts_are_split_at_whole_slices_only(slices, tried):
    """Shares between them would round to the same rows, or to none."""
    chooser = ModeChooser(slices=slices)
    seconds = {"stream": 0.03, "cpu": 0.01, "split": 0.02}  # both engines would end together at 0.25
    while not chooser.settled:
        chooser.observe(seconds[chooser.current.mode])
    assert [s.share for s in chooser.settings if s.mode == "split"] == tried
    assert chooser.current == Setting("cpu")
    assert ModeChooser(remembered=chooser.costs, slices=slices).settled


def test_of_six_slices_the_best_neighbour_is_tried_too():
    chooser = ModeChooser(slices=6)
    while not chooser.settled:
        now = chooser.current
        chooser.observe(0.03 if now.mode != "split" else 0.01 + abs(now.share - 1 / 6))
    shares = [s.share for s in chooser.settings if s.mode == "split"]
    assert sorted(shares) == [1 / 6, 2 / 6, 3 / 6, 4 / 6]
    assert shares[-1] == 1 / 6


def test_settings_are_compared_at_the_same_number_of_misses():
    """The faster setting has the steps with more misses: by their medians it would lose."""
    rng = np.random.default_rng(5)
    chooser = ModeChooser(SETTINGS[:2])
    while not chooser.settled:
        slower = chooser.current == SETTINGS[0]
        misses = int(rng.integers(0, 8)) if slower else int(rng.integers(6, 14))
        cost = Cost(0.004, 0.0012 if slower else 0.001)
        chooser.observe(cost.seconds(misses) * float(rng.uniform(0.98, 1.02)), misses)
    assert chooser.current == SETTINGS[1]
    assert chooser.costs[SETTINGS[0]].per_miss == pytest.approx(0.0012, rel=0.05)
    assert chooser.costs[SETTINGS[1]].per_miss == pytest.approx(0.0010, rel=0.05)
    assert chooser.costs[SETTINGS[1]].fixed == pytest.approx(0.004, rel=0.1)


def test_a_mode_is_not_left_because_tokens_miss_more():
    costs = {SETTINGS[0]: Cost(0.004, 0.0020), SETTINGS[2]: Cost(0.004, 0.0010)}
    chooser = ModeChooser((SETTINGS[0], SETTINGS[2]), costs)
    for _ in range(4 * WINDOW):
        chooser.observe(costs[chooser.current].seconds(30), 30)
    assert chooser.current == SETTINGS[2]
    for _ in range(2 * WINDOW):  # now it is slower for the same misses
        chooser.observe(0.1, 30)
    assert chooser.current == SETTINGS[0]


def test_costs_where_steps_do_not_tell_the_parts_apart():
    same = fit_costs({"a": [(0.02, 4), (0.022, 4), (0.018, 4)], "b": [(0.01, 4)] * 3})
    assert same["a"].seconds(4) == pytest.approx(0.02)
    assert same["b"] == Cost(0.0, 0.0025)
    none = fit_costs({"a": [(0.02, 0), (0.03, 0), (5.0, 0)]})
    assert none["a"] == Cost(pytest.approx(0.025), 0.0)  # the third step was disturbed
    odd = fit_costs({"a": [(0.02, 1), (0.01, 2)], "b": [(0.02, 2), (0.01, 4)]})  # more misses, less time
    assert odd["a"].fixed == 0.0
    assert odd["a"].per_miss > 0


def test_costs_are_remembered_for_the_same_machine_only(tmp_path):
    path, costs = tmp_path / "modes" / "m.json", {SETTINGS[0]: Cost(0.5, 0.1), SETTINGS[2]: Cost(0.25, 0.0)}
    save_costs(path, "card A", costs)
    assert load_costs(path, "card A") == costs
    assert load_costs(path, "card B") == {}
    assert load_costs(tmp_path / "none.json", "card A") == {}
    for damaged in ('[["stream", "x", 1, 1]]', '[["stream", 0.5, 1]]', '[["stream", 0.5, NaN, 1]]', "1"):
        path.write_text(f'{{"machine": "card A", "costs": {damaged}}}')
        assert load_costs(path, "card A") == {}
    path.write_text('{"machine": "card A", "seconds": [["stream", 0.5, 1]]}')  # of an earlier version
    assert load_costs(path, "card A") == {}
    assert not list(path.parent.glob("*.partial"))
