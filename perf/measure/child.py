"""Work in a child process, one JSON line in for each piece and one out: results arrive as they come.

A crash costs the piece that it happened on, a deadline those that were not done.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

DIED = "died"  # the key of the reason, in place of the result of a piece that ended its process


def results(
    module: str,
    pieces: Sequence[Mapping],
    variables: Mapping[str, str | None],
    seconds: float | None = None,
    each: float | None = None,
) -> Iterator[dict]:
    """The results of `python -m module` for these pieces, in order, as many as there are after `seconds`.

    `variables` are set in the child's environment; None removes one. A piece that takes longer than `each` seconds,
    the start of its process included, ends like one that crashed.
    """
    end = time.monotonic() + (threading.TIMEOUT_MAX / 2 if seconds is None else seconds)
    todo, idle = list(pieces), 0
    while todo:
        done = 0
        child = _Child(module, todo, variables, end, each)
        with contextlib.closing(child.lines()) as lines:
            for line in lines:
                done += 1
                child.watch()
                yield json.loads(line)
        if done == len(todo) or time.monotonic() >= end:
            return
        yield {DIED: child.reason()}
        todo = todo[done + 1 :]
        idle = idle + 1 if done == 0 and child.process.returncode == 1 else 0
        if idle == 2:  # an exception ends it before the first piece: it cannot even start
            yield from ({DIED: child.reason()} for _ in todo)
            return


def shared(
    module: str, pieces: Sequence[Mapping], workers: int, seconds: float, each: float
) -> Iterator[tuple[Mapping, dict]]:
    """(piece, result) of pieces that so many processes share, as they come."""
    answers: queue.SimpleQueue = queue.SimpleQueue()
    shares = [pieces[i::workers] for i in range(min(workers, len(pieces)))]

    def ask(share: Sequence[Mapping]) -> None:
        try:
            for piece, answer in zip(share, results(module, share, {}, seconds, each), strict=False):
                answers.put((piece, answer))
        finally:
            answers.put(None)

    for share in shares:
        threading.Thread(target=ask, args=(share,), daemon=True).start()
    for _ in shares:
        yield from iter(answers.get, None)


class _Child:
    def __init__(self, module: str, pieces: Sequence[Mapping], variables: Mapping[str, str | None], end: float, each):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        environment = {k: v for k, v in {**os.environ, **variables}.items() if v is not None}
        self.process = subprocess.Popen([sys.executable, "-m", module], env=environment, **pipes)
        self.said: list[str] = []
        text = "".join(json.dumps(piece) + "\n" for piece in pieces)
        self.end, self.each, self.timer = end, each, None
        self.watch()
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr))
        self.writer = threading.Thread(target=self._write, args=(text,))
        for thread in (self.reader, self.writer):
            thread.daemon = True
            thread.start()

    def watch(self) -> None:
        """The next piece has its time from now on."""
        if self.timer is not None:
            self.timer.cancel()
        left = self.end - time.monotonic()
        self.late = self.each is not None and self.each < left
        self.timer = threading.Timer(min(left, self.each or left), self.process.kill)
        self.timer.daemon = True
        self.timer.start()

    def _write(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError), self.process.stdin:
            self.process.stdin.write(text)

    def lines(self) -> Iterator[str]:
        """Its results; a line that a crash cut short is none. It does not outlive this."""
        try:
            yield from (line for line in self.process.stdout if line.startswith("{") and line.endswith("}\n"))
            self.process.wait()
        finally:
            self.timer.cancel()
            self.process.kill()
            self.process.wait()
            self.reader.join()

    def reason(self) -> str:
        if self.late and self.process.returncode == -signal.SIGKILL:
            return f"no answer within {self.each:g} seconds"
        last = next((line.strip() for line in reversed(self.said) if line.strip()), "it said nothing")
        return f"the process ended with code {self.process.returncode}: {last}"[:300]


def serve(work: Callable[[dict], dict]) -> None:
    """In the child: answer every piece on standard input."""
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


def one_line(error: BaseException) -> str:
    """`OutOfMemoryError: CUDA out of memory. Tried ...`, cut to a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300].removesuffix(": ")
