"""Stopping in time: what the next piece of work will take, from what such work took before."""

from collections import defaultdict, deque
from collections.abc import Callable

FIRST_GUESS = {
    "compile": 45.0,
    "measure": 2.0,
    "check": 10.0,
    "ceiling": 3.0,
    "prepare": 3.0,
    "tune": 2.0,
    "launch": 2.0,
}  # seconds, by the first word of the kind, before anything is known
MARGIN = 1.3
MEMORY = 4  # recent pieces of work of a kind that the prediction looks at


class Budget:
    def __init__(self, seconds: float, now: Callable[[], float]):
        self.now = now
        self.end = now() + seconds
        self._history: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=MEMORY))

    @property
    def left(self) -> float:
        return self.end - self.now()

    def predict(self, kind: str, work: float = 1.0) -> float:
        """Seconds that work of this kind will take; more work than before takes proportionally longer."""
        history = self._history[kind]
        if not history:
            return FIRST_GUESS[kind.split()[0]]
        return MARGIN * max(seconds * max(1.0, work / max(before, 1.0)) for before, seconds in history)

    def learn(self, kind: str, seconds: float, work: float = 1.0) -> None:
        self._history[kind].append((work, seconds))
