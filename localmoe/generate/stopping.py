"""Stop strings, which may straddle tokens: text that could be the start of one is held back until it is
decided.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on until one of the stop strings occurs in it; the stop string itself is not passed on."""

    def __init__(self, stops: str | Sequence[str]) -> None:
        """A bare text is one stop string."""
        several = (stops,) if isinstance(stops, str) else stops
        self._stops = tuple(stop for stop in several if stop)
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    def push(self, text: str) -> str:
        """The text that is decided by now. After a stop string was found: always ""."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        matches = [(self._held.find(stop) + len(stop), stop) for stop in self._stops if stop in self._held]
        if matches:
            # What is complete first counts, and of several the longest, however the text was cut into pieces.
            end, self.found = min(matches, key=lambda match: (match[0], -len(match[1])))
            passed, self._held = self._held[: end - len(self.found)], ""
            return passed
        keep = self._undecided()
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def finish(self) -> str:
        """The text that was held back, now that no more follows."""
        held, self._held = self._held, ""
        return held

    def _undecided(self) -> int:
        """The length of the longest end of the held text with which a stop string begins."""
        longest = max(map(len, self._stops)) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if self._held.endswith(tuple(stop[:length] for stop in self._stops if len(stop) > length)):
                return length
        return 0
