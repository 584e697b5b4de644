"""What a tuner asks of a config before it times it: that it compiles, and that its results are right.

Both in child processes: a config that takes the process down, or never ends, costs itself alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from . import child

SECONDS = 60.0  # for one config
LATE = "the time was over"  # before its turn
VERIFIERS = 8  # processes that share the GPU: each is bound by its host
SMALL = 72  # pixels a side, of the problem that is verified


@dataclass(frozen=True)
class Problem:
    """A call of an operator, forward and backward, as its plans follow from it."""

    op: str  # a row of the catalog
    dtype: str
    layout: str
    N: int
    C: int
    S: tuple[int, ...]
    others: tuple[tuple[str, Any], ...] = ()  # sizes that the row would choose otherwise
    param_dtype: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    absent: tuple[str, ...] = ()  # optional inputs that are not given
    needs: tuple[bool, ...] = ()  # which inputs want a gradient: all, if empty

    @property
    def row(self):
        from ...catalog import BY_NAME

        return BY_NAME[self.op]

    @property
    def sizes(self) -> dict[str, Any]:
        return {"N": self.N, "C": self.C, "S": self.S, "Cr": max(1, self.C // 2), **dict(self.others)}

    @property
    def keywords(self) -> dict[str, Any]:
        return {**self.row.defaults, **dict(self.options)}

    @classmethod
    def of(cls, values: Mapping) -> "Problem":
        """From JSON, which has no tuples."""
        pairs = {
            name: tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values[name])
            for name in ("others", "options")
        }
        return cls(**{**values, **{k: tuple(values[k]) for k in ("S", "absent", "needs")}, **pairs})

    def small(self) -> "Problem":
        """Of fewer pixels, which divide by what these do: the same kernels, but for the pixel count."""
        side = {1: 65, 2: 66, 4: 68}  # what it divides by -> the length of that class
        S = tuple(s if s <= SMALL else next((side[a] for a in side if s % (2 * a)), 64) for s in self.S)
        return replace(self, N=min(self.N, 2), S=S)

    def inputs(self, device, seed: int = 0) -> list:
        import torch

        from ...testing import make_inputs

        dtypes = getattr(torch, self.dtype), getattr(torch, self.param_dtype or self.dtype)
        row, names = self.row, [name.removesuffix("?") for name in self.row.inputs]
        if str(device) == "meta":
            from ...compiled import meta_map

            made = [
                row.view(spec, meta_map(row.map_shape(spec, self.sizes), dtypes[0], self.layout), self.sizes)
                if "*" in spec
                else torch.empty(row.shape(spec, self.sizes), dtype=dtypes[1], device="meta")
                for spec in row.inputs.values()
            ]
        else:
            made = make_inputs(
                row, self.sizes, dtypes[0], layout=self.layout, device=device, seed=seed, param_dtype=dtypes[1]
            )
        return [None if name in self.absent else t for name, t in zip(names, made, strict=True)]

    def timed_inputs(self, device) -> list:
        """The same made on the device: seconds sooner."""
        import torch

        made = []
        for spec, t in zip(self.row.inputs.values(), self.inputs("meta"), strict=True):
            if t is not None:
                t = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device).normal_()
                t = t if "*" in spec else t / max(1, t[0].numel()) ** 0.5
            made.append(t)
        return made

    def wants(self) -> list[bool]:
        given = [name.removesuffix("?") not in self.absent for name in self.row.inputs]
        return [g and n for g, n in zip(given, self.needs or given, strict=True)]

    def plans(self, arch: int) -> list:
        """All that it launches on a GPU of that capability, in order; nothing runs."""
        from ... import compiled as static
        from ...tuning.target import planning_for

        with planning_for(arch):
            return list(chain(*static.planned(self.row.op, *self.inputs("meta"), needs=self.wants(), **self.keywords)))


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
        (plan, *_) = [
            p for p in problem.plans(piece["arch"]) if p.config.choice and p.config.choice.key == piece["key"]
        ]
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
                found = testing.matches(p.row, *p.inputs(piece["device"]), needs=p.wants(), **p.keywords)
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
