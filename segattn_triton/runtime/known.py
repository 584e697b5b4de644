"""What is known of descriptions that were seen: one dictionary, its bound, and its switch."""

from typing import Any

MOST = 4096  # descriptions that are known at a time
SEEN, REFUSED = "seen", "refused"  # once; and that it cannot be repeated
programs: dict[tuple, Any] = {}  # description -> SEEN, REFUSED, its Program, or of a public function its `Known`
enabled = True


class set_programs_enabled:
    """Whether calls that repeat earlier ones run what these wrote down: on by default.

    A statement, or a context manager, as `torch.set_grad_enabled`. Off, every call is checked and planned anew, and
    what is written down is dropped: to tell whether a program is at fault. For the whole process, not for a thread.
    """

    def __init__(self, mode: bool):
        if not isinstance(mode, bool):
            raise TypeError(f"mode: got {mode!r}, expected True or False")
        self.before = enabled
        _set_enabled(mode)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error) -> None:
        _set_enabled(self.before)


def _set_enabled(mode: bool) -> None:
    global enabled
    enabled = mode
    if not mode:
        programs.clear()


def remember(key: tuple, value: Any) -> None:
    if not enabled:
        return
    if len(programs) >= MOST and key not in programs:
        for once in [k for k, v in programs.copy().items() if v is SEEN]:
            programs.pop(once, None)
        if len(programs) > MOST // 2:
            programs.clear()
    programs[key] = value
