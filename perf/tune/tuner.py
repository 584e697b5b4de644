"""The autotuner: finds the fastest config of every kernel that some problems launch, and writes them into a table.

A *unit* is one entry of a tuned table: a kernel and a key. Its candidates, the cheapest by the model first, are
compiled in parallel processes, run against the reference on fresh memory filled with NaN in a process with a time
limit, and those that are left timed in interleaved rounds with a cold L2 cache, always beside the config that runs
today. That one stays unless another is faster by more than `GAIN`.

Each unit is written as soon as it is known: into the table, whose writers wait for each other, and with every time
into a log beside it, FILE.log.jsonl, by which a tuner that was killed goes on.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton

from ...catalog import Problem
from ...tuning import choice as tuning
from ...tuning import tables as tuned
from ...tuning.choice import Choice
from ...tuning.model import Config
from ..measure import candidates, env, timing
from ..measure import points as measure
from ..measure.backends import Cpu
from ..measure.budget import Budget
from ..measure.child import one_line
from ..options import Usage
from . import log as tune_log
from .log import Id, Result

GAIN = 0.02  # less than this is noise
MOST = 24  # candidates of a unit
BATCH = 8  # units that are compiled and verified together
SECONDS, WARM_UP = 0.02, 0.005  # of timing a candidate
TOGETHER = 8  # candidates that are timed in one set of rounds, at most: each keeps its own tensors
MEMORY_SHARE = 0.4  # of what is free, for those tensors
SPILLED = 1e6  # cost by the model of what does not fit the registers
_pid = os.getpid()


@dataclass(frozen=True)
class Unit:
    problem: Problem
    choice: Choice
    now: int  # the config that runs today
    floor_bytes: int  # of its tensors, each read once and written once

    @property
    def name(self) -> str:
        return f"{self.choice.key} 2^{self.choice.bucket}"

    @property
    def id(self) -> Id:
        return self.choice.key, self.choice.bucket, tuning.digest(tuning.SPACES[self.choice.kernel])


def refusal() -> str | None:
    """Why nothing may be tuned here and now."""
    if os.getpid() != _pid:
        return "this process was forked from one that had imported the tuner; expected a process of its own"
    if torch.compiler.is_compiling():
        return "inside torch.compile; expected eager code"
    if torch.are_deterministic_algorithms_enabled():
        return "torch.use_deterministic_algorithms is on, and a tuned config rounds in its own order; expected it off"
    if torch.cuda.is_available() and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return "the current stream captures a CUDA graph; expected to be called before or after"
    return None


class Tuner:
    def __init__(
        self,
        backend: Cpu,
        out: Path | None,
        seconds: float,
        say: Callable[[str], None],
        check: Callable[..., list[str | None]] | None = None,
        compile: Callable[..., list[str | None]] | None = None,
    ):
        if problem := refusal():
            raise Usage(f"tune: {problem}")
        if torch.version.hip and backend.device.type == "cuda":
            raise Usage("tune: this is an AMD GPU, for which nothing was ever tuned; expected one of NVIDIA's")
        if not backend.gpu:
            reason = env.unusable_gpu() or "there is no GPU here; expected one, because nothing is timed without"
            raise Usage(f"tune: {reason}")
        self.backend, self.say = backend, say
        self.check, self.compile = check or backend.verified, compile or backend.compiled
        self.arch = backend.capability
        self.path = tuned.user_path(backend.name) if out is None else Path(out)
        self.log = self.path.with_name(f"{self.path.name}.log.jsonl")
        self.budget = Budget(seconds, backend.now)
        self.seconds = seconds
        self.tables = self._tables()
        self.results: list[Result] = []
        self.complete = False

    def _tables(self) -> Sequence[tuned.Table]:
        """What a user runs today, and that the file can be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a"):
                pass
        except OSError as error:
            raise Usage(f"--out: cannot write to {self.path}: {error.strerror}; expected a file to write") from None
        found = []
        if self.path.exists():
            try:
                found = [tuned.read(self.path, self.backend.name)]
            except ValueError as error:
                if "is for" in str(error):
                    raise Usage(f"--out: {self.path} {error}; expected another file") from None
                self.say(f"{self.path} {error}: it is ignored, and replaced")
        known = tuning.tables(self.backend.device)
        return [*found, *known]

    def units(self, problems: Iterable[Problem]) -> Iterator[Unit]:
        """The entries that these problems look for, each once, those of the first problems first."""
        from ...compiled import plans_of

        seen: set[tuple[str, int]] = set()
        for problem in problems:
            with tuning.using(()):
                model = [p for p in plans_of(problem, self.arch) if p.config.choice is not None]
            with tuning.using(self.tables):
                now = [p.config.choice.index for p in plans_of(problem, self.arch) if p.config.choice is not None]
            for plan, index in zip(model, now, strict=True):
                choice = plan.config.choice
                if (choice.key, choice.bucket) not in seen:
                    seen.add((choice.key, choice.bucket))
                    yield Unit(problem, choice, index, _floor_bytes(plan))

    def run(self, problems: Iterable[Problem]) -> list[Result]:
        """The results of all units, those of an earlier run included; as many as there is time for."""
        known, again, batch = tune_log.read(self.log), [], []
        self.complete, units = True, self.units(problems)
        try:
            for unit in itertools.chain(units, [None]):
                if unit is None or len(batch) == BATCH:
                    if batch:
                        self._batch(batch)
                    batch = []
                if unit is not None and self.budget.left <= 0:
                    self.complete = False
                    batch.clear()
                    units.close()
                elif unit is not None and (result := known.get(unit.id)) is not None:
                    self.results.append(result)
                    again.append(result)
                elif unit is not None:
                    batch.append(unit)
                    needed = self.budget.predict("tune") + len(batch) * self.budget.predict("prepare")
                    if needed > self.budget.left:
                        self.complete = False
                        batch.pop()
                        units.close()
        finally:
            self._write(again)  # the run before may have been killed between its log and its table
        return self.results

    def _batch(self, units: Sequence[Unit]) -> None:
        """Compile and verify the candidates of all, then time unit by unit. One that the time cut short is left."""
        begin = self.backend.now()
        tried = [(unit, index) for unit in units for index in self._candidates(unit)]
        pieces = [dict(problem=asdict(u.problem), key=u.choice.key, index=i, arch=self.arch) for u, i in tried]
        reasons = self.compile(pieces, os.cpu_count() or 1, max(self.budget.left, 1.0))
        sound = [n for n, reason in enumerate(reasons) if reason is None]
        checked = self.check([pieces[n] for n in sound], self.backend.device.type, max(self.budget.left, 1.0))
        for n, reason in zip(sound, checked, strict=True):
            reasons[n] = reason
        self.budget.learn("prepare", (self.backend.now() - begin) / len(units))
        for unit in units:
            outcome = {i: reason for (u, i), reason in zip(tried, reasons, strict=True) if u is unit}
            if candidates.LATE in outcome.values() or self.budget.predict("tune") > self.budget.left:
                self.complete = False
                continue
            begin = self.backend.now()
            result = self._tune(unit, outcome)
            self.budget.learn("tune", self.backend.now() - begin)
            if result is not None:
                self._keep(result)

    def _candidates(self, unit: Unit) -> list[int]:
        """The config of today, then the cheapest by the model."""
        cheap = [i for i, price in unit.choice.costs().items() if price < SPILLED][:MOST]
        return list(dict.fromkeys([unit.now, *cheap]))

    def _tune(self, unit: Unit, outcome: dict[int, str | None]) -> Result | None:
        costs, indices = unit.choice.costs(), list(outcome)
        excluded = {i: reason for i, reason in outcome.items() if reason}
        if unit.now in excluded:
            self.say(f"{unit.name}: the config that runs today is excluded: {excluded[unit.now]}")
        ms = self._times(unit, [i for i in indices if i not in excluded], costs, excluded)
        if not ms:
            self.say(f"{unit.name}: none of {len(indices)} configs can be used: {next(iter(excluded.values()), '')}")
            return None
        best = min(ms, key=lambda i: (ms[i], i))
        before = unit.now if unit.now in ms else best
        best = best if ms[best] < (1 - GAIN) * ms[before] else before
        p = unit.problem
        return Result(
            unit.choice.key,
            unit.choice.bucket,
            unit.id[2],
            p.op,
            before,
            best,
            ms,
            excluded,
            "x".join(map(str, (p.N, p.C, *p.S))),
            unit.floor_bytes,
            triton.__version__,
            _words(tuning.SPACES[unit.choice.kernel][best]),
        )

    def _times(self, unit: Unit, indices: list[int], costs: dict, excluded: dict) -> dict[int, float]:
        """Medians, in rounds of a few that include the config of today; then the best of each round together."""

        def together(chosen: Sequence[int]) -> dict[int, float]:
            calls = {}
            for i in chosen:
                try:
                    calls[str(i)] = self.backend.candidate(unit, i, costs[i])
                except Exception as error:
                    excluded[i] = one_line(error)
                    measure.recover(self.backend)
            failed = lambda name, e: (excluded.update({int(name): one_line(e)}), measure.recover(self.backend))  # noqa: E731
            return {
                int(i): s.ms for i, s in timing.interleaved(calls, self.backend, 1, failed, SECONDS, WARM_UP).items()
            }

        fit = int(MEMORY_SHARE * self.backend.free_memory() / max(unit.floor_bytes, 1))
        size = min(max(fit, 2), TOGETHER) - 1
        others = [i for i in indices if i != unit.now]
        found: dict[int, float] = {}
        winners: list[int] = []
        for first in range(0, max(len(others), 1), size):
            ms = together([i for i in (unit.now, *others[first : first + size]) if i in indices])
            found |= {i: t for i, t in ms.items() if i not in found}
            winners += [min(ms, key=ms.get)] if ms else []
        fastest = sorted({i for i in winners if i not in excluded} - {unit.now}, key=found.get)
        finals = [i for i in (unit.now, *fastest[:size]) if i in found and i not in excluded]
        if len(finals) > 1:
            found |= together(finals)
        return {i: t for i, t in found.items() if i not in excluded}

    def _keep(self, result: Result) -> None:
        self.results.append(result)
        tune_log.add(self.log, result)
        self._write([result])
        self.say(result.sentence)

    def _write(self, results: Sequence[Result]) -> None:
        spaces = {tuned.kernel_of(r.key): r.digest for r in results}
        configs: dict[str, dict[int, int]] = {}
        for r in results:
            configs.setdefault(r.key, {})[r.bucket] = r.best
        if configs:
            tuned.write(self.path, tuned.Table(self.backend.name, self.arch, triton.__version__, spaces, configs))

    def summary(self) -> str:
        changed = [r for r in self.results if r.best != r.before]
        won = sum(r.saved for r in changed)
        text = f"{len(self.results)} keys tuned, {len(changed)} changed, {1e3 * won:.1f} us saved over all of them"
        return text + ("" if self.complete else "; the time is over before all were: another run goes on")


def _floor_bytes(plan) -> int:
    tensors = {name: getattr(value, "base", value) for name, value in plan.args.items() if value is not None}
    touched = (
        (tensors[n], min(1, reads) + min(1, writes)) for n, (reads, writes) in plan.traffic.items() if n in tensors
    )
    return round(sum(t.numel() * t.element_size() * times for t, times in touched))


def _words(config: Config) -> str:
    blocks = " ".join(f"{name.removeprefix('BLOCK_')}{value}" for name, value in config.blocks.items())
    programs = f" p{config.programs}" if config.programs else ""
    return f"{blocks} w{config.num_warps} s{config.num_stages}{programs}"
