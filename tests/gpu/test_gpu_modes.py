"""The choice of the mode, without a GPU: what is measured decides, and a mode that turns out slower is
left.
"""

from localmoe.model.gpu_auto import (
    TRIAL_SKIPPED,
    TRIAL_STEPS,
    WINDOW,
    ModeChooser,
    Setting,
    load_times,
    save_times,
)

SETTINGS = (Setting("stream"), Setting("cpu"), Setting("split", 0.5))


def steps(chooser, seconds, count):
    """Feeds `count` steps whose time depends on the setting in use."""
    for _ in range(count):
        chooser.observe(seconds[chooser.current])


def test_every_setting_is_tried_and_the_fastest_kept():
    chooser = ModeChooser(SETTINGS)
    seconds = dict(zip(SETTINGS, (0.03, 0.02, 0.01), strict=True))
    assert not chooser.settled
    steps(chooser, seconds, len(SETTINGS) * (TRIAL_SKIPPED + TRIAL_STEPS))
    assert chooser.settled
    assert chooser.current == Setting("split", 0.5)
    assert chooser.seconds == seconds


def test_one_slow_step_in_a_trial_does_not_decide():
    chooser = ModeChooser(SETTINGS[:2])
    for i in range(TRIAL_SKIPPED + TRIAL_STEPS):
        chooser.observe(9.0 if i in (0, 1, 4) else 0.01)
    steps(chooser, {SETTINGS[1]: 0.02}, TRIAL_SKIPPED + TRIAL_STEPS)
    assert chooser.current == SETTINGS[0]


def test_a_mode_that_becomes_slower_is_left_after_two_windows():
    chooser = ModeChooser(SETTINGS, dict(zip(SETTINGS, (0.03, 0.02, 0.01), strict=True)))
    assert chooser.settled
    seconds = dict(zip(SETTINGS, (0.03, 0.02, 0.05), strict=True))
    steps(chooser, seconds, 2 * WINDOW - 1)
    assert chooser.current == SETTINGS[2]
    steps(chooser, seconds, 1)
    assert chooser.current == SETTINGS[1]
    steps(chooser, seconds, 10 * WINDOW)
    assert chooser.current == SETTINGS[1]


def test_splits_are_tried_around_the_share_with_which_both_engines_end_together():
    chooser = ModeChooser(splits=True)
    trial = TRIAL_SKIPPED + TRIAL_STEPS
    for mode, seconds in (("stream", 0.03), ("cpu", 0.01)):
        assert chooser.current == Setting(mode)
        steps(chooser, {Setting(mode): seconds}, trial)
    tried = []
    while not chooser.settled:
        assert chooser.current.mode == "split"
        tried.append(chooser.current.share)
        # fastest at the share above
        steps(chooser, {chooser.current: 0.005 + abs(chooser.current.share - 0.35) / 100}, trial)
    assert tried[0] == 0.25
    assert set(tried[1:3]) == {0.15, 0.35}
    assert tried[3:] == [0.45]  # 0.35 was the best of three and the outermost: so one more, which was worse
    assert chooser.current == Setting("split", 0.35)
    again = ModeChooser(remembered=chooser.seconds, splits=True)
    assert again.settled
    assert again.current == Setting("split", 0.35)


def test_times_are_remembered_for_the_same_machine_only(tmp_path):
    path = tmp_path / "modes" / "m.json"
    save_times(path, "card A", {SETTINGS[0]: 0.5, SETTINGS[2]: 0.25})
    assert load_times(path, "card A") == {SETTINGS[0]: 0.5, SETTINGS[2]: 0.25}
    assert load_times(path, "card B") == {}
    assert load_times(tmp_path / "none.json", "card A") == {}
    path.write_text('{"machine": "card A", "seconds": [["stream", "x", 1]]}')
    assert load_times(path, "card A") == {}
    assert not list(path.parent.glob("*.partial"))
