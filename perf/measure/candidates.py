"""What a tuner asks of a config before it times it: that it compiles, and that its results are right.

Both in child processes: a config that takes the process down, or never ends, costs itself alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ...catalog import Problem
from . import child

SECONDS = 60.0  # for one config
LATE = "the time was over"  # before its turn
VERIFIERS = 8  # processes that share the GPU: each is bound by its host


def compiled(pieces: Sequence[Mapping], workers: int, seconds: float) -> list[str | None]:
    """Compile configs in parallel, into Triton's cache; why each cannot be used, None where it can."""
    return _parallel([{**piece, "action": "compile"} for piece in pieces], {"TRITON_INTERPRET": None}, workers, seconds)


def verified(pieces: Sequence[Mapping], device: str, seconds: float) -> list[str | None]:
    """Run configs against the reference; why each cannot be used, None where it can."""
    on_gpu = device == "cuda"
    pieces = [{**piece, "action": "verify", "device": device} for piece in pieces]
    workers = min(VERIFIERS, os.cpu_count() or 1) if on_gpu else 1
    return _parallel(pieces, {"TRITON_INTERPRET": None if on_gpu else "1"}, workers, seconds)


def _parallel(pieces: Sequence[Mapping], variables: Mapping, workers: int, seconds: float) -> list[str | None]:
    workers = min(workers, len(pieces))
    shares = [pieces[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        answers = [iter(a) for a in pool.map(lambda share: list(_ask(share, variables, seconds)), shares)]
    return [next(answers[i % workers], LATE) for i in range(len(pieces))]


def _ask(pieces: Sequence[Mapping], variables: Mapping, seconds: float) -> Iterator[str | None]:
    for answer in child.results(__name__, pieces, variables, seconds, each=SECONDS):
        yield answer.get(child.DIED) or answer.get("failure")


def _work(piece: dict) -> dict:
    problem, forced = Problem.of(piece["problem"]), {piece["key"]: piece["index"]}
    try:
        return {"failure": (_compile if piece["action"] == "compile" else _verify)(piece, problem, forced)}
    except Exception as error:
        _end_if_lost()
        return {"failure": child.one_line(error)}


def _end_if_lost() -> None:
    """After an illegal access no call of this process succeeds: the next config gets another one."""
    import torch

    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except Exception:
            os._exit(3)


def _compile(piece: Mapping, problem: Problem, forced: Mapping) -> str | None:
    from ... import compiled as static
    from ...tuning import choice as tuning
    from ...tuning.target import SHARED

    with tuning.using((), forced):
        plans = static.plans_of(problem, piece["arch"])
        (plan, *_) = [p for p in plans if p.config.choice and p.config.choice.key == piece["key"]]
    found = static.compile_plan(plan, piece["arch"])
    limit = SHARED[max(c for c in SHARED if c <= max(piece["arch"], 75))]
    return f"{found.shared} bytes of shared memory, {limit} are there" if found.shared > limit else None


def _verify(piece: Mapping, problem: Problem, forced: Mapping) -> str | None:
    """Every output and gradient, all new memory filled with NaN before; of fewer pixels where those launch it, too."""
    import torch

    from ... import testing
    from ...runtime.plan import recorded
    from ...tuning import choice as tuning

    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    for p in (problem.small(), replace(problem, N=1)):
        try:
            with tuning.using((), forced), recorded() as plans:
                found = testing.matches(p.row, *p.inputs(piece["device"]), needs=p.wants, **p.keywords)
        except tuning.CannotRun:
            continue
        wrong = [f"{m.name}: {m.detail}" for m in found if not m.ok]
        if wrong:
            return f"wrong results: {'; '.join(wrong)}"[:300]
        if any(plan.config.choice and plan.config.choice.key == piece["key"] for plan in plans):
            return None
    return "no problem that can be verified launches it"


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    child.serve(_work)
