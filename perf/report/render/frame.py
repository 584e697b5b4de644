"""From records to one table: a row per point, with what follows from its time.

GB/s counts the floor's bytes (each input once, each output once), whatever a provider really moves: lines compare.
The share of the floor is the time of `copy_` moving those bytes, measured in the same run, over the time.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import lru_cache

import numpy as np
import pandas as pd

from ...records import SEGATTN, Point, Record

POINT = [f.name for f in fields(Point)]
VALUES = [f.name for f in fields(Record) if f.name != "point"]
PROBLEM = [name for name in POINT if name != "provider"]  # what providers of one comparison share
GROUP = ["op", "mode", "dtype", "layout", "timer"]  # what one figure or line of the summary shows
NUMBERS = ["N", "C", "H", "W", "ms", "ms_20", "ms_80", "floor_bytes", "planned_bytes", "flops", "peak_memory", "error"]
CEILINGS = ("copy", "matmul")
GPU_TIMERS = ("events", "graph")
RIVAL_PROVIDERS = ("eager", "compile", "compile-best")
LAUNCH_MS = 0.020  # a floor below this is decided by the launch, not by the kernel


def from_records(records: Iterable[Record]) -> pd.DataFrame:
    """One row per point, its latest record; times of failed points are NaN."""
    latest: dict[Point, Record] = {}
    for record in records:
        latest.pop(record.point, None)
        latest[record.point] = record
    rows = [{**asdict(p), **{name: getattr(r, name) for name in VALUES}} for p, r in latest.items()]
    df = pd.DataFrame(rows, columns=[*POINT, *VALUES])
    for name in NUMBERS:
        df[name] = pd.to_numeric(df[name], errors="coerce").astype(float)
    for name in ("op", "provider", "mode", "dtype", "layout", "timer", "inputs", "status"):
        df[name] = df[name].astype(object).map(str)
    timed = (df.status == "ok") & (df.ms > 0) & np.isfinite(df.ms)
    df.loc[~timed, ["ms", "ms_20", "ms_80"]] = np.nan
    return _with_ratios(_with_ceilings(_with_rates(df)))


def _with_rates(df: pd.DataFrame) -> pd.DataFrame:
    df["predicted"] = df.timer == "predicted"
    df["extra"] = df["extra"].map(lambda extra: extra if isinstance(extra, dict) else {})
    df["ceiling"] = df.op.isin(CEILINGS)
    df["side"] = np.sqrt(df.H * df.W)
    df["pixels"] = df.N * df.H * df.W
    for name, amount in (("gbps", df.floor_bytes / 1e6), ("mpixels", df.pixels / 1e3), ("tflops", df.flops / 1e9)):
        known = amount.where(amount > 0)
        df[name], df[f"{name}_20"], df[f"{name}_80"] = known / df.ms, known / df.ms_80, known / df.ms_20
    return df


class Ceiling:
    """The measured speed of moving bytes (`copy`), at any size: interpolated over the logarithm of the size."""

    def __init__(self, rows: pd.DataFrame, predicted: bool = False):
        self.predicted = predicted
        rows = rows[(rows.op == "copy") & (rows.gbps > 0)]
        best = rows.groupby("floor_bytes").gbps.max()
        self.bytes, self.gbps = best.index.to_numpy(float), best.to_numpy(float)

    @property
    def peak(self) -> float:
        return float(self.gbps.max()) if len(self.gbps) else np.nan

    def ms(self, moved) -> np.ndarray:
        moved = np.asarray(moved, float)
        if not len(self.gbps):
            return np.full(moved.shape, np.nan)
        with np.errstate(divide="ignore"):
            at = np.interp(np.log(moved), np.log(self.bytes), np.log(self.gbps))
        return np.where(moved > 0, moved / np.exp(at) / 1e6, np.nan)


def ceiling(df: pd.DataFrame, timer: str) -> Ceiling:
    """The copy ceiling of a timer; a GPU timer without one borrows the other's, never a prediction."""
    found = Ceiling(df[df.timer == timer])
    if not len(found.gbps) and timer in GPU_TIMERS:
        found = Ceiling(df[df.timer.isin(GPU_TIMERS)])
    return found


def roofline(df: pd.DataFrame, timer: str) -> Ceiling:
    """What a figure draws above its lines: the measured ceiling, else for a GPU the predicted one, marked as such."""
    measured = ceiling(df, timer)
    if timer != "predicted" and (len(measured.gbps) or timer not in GPU_TIMERS):
        return measured
    predicted = Ceiling(df[df.predicted], predicted=True)
    if not len(predicted.gbps):
        stated = df.loc[df.predicted, "extra"].map(lambda extra: extra.get("bandwidth")).dropna()
        if len(stated):
            predicted.bytes, predicted.gbps = np.array([1.0]), np.array([stated.max() / 1e9])
    return predicted


def _with_ceilings(df: pd.DataFrame) -> pd.DataFrame:
    """floor_ms and share of the copy ceiling; matmul_ms and share of the matrix rate of the same dtype."""
    df["floor_ms"] = df["matmul_ms"] = np.nan
    for timer in df.timer.unique():
        rows = df.timer == timer
        df.loc[rows, "floor_ms"] = ceiling(df, timer).ms(df.floor_bytes[rows])
        alike = df.timer.isin(GPU_TIMERS) if timer in GPU_TIMERS else rows
        rate = df[(df.op == "matmul") & alike].groupby("dtype").tflops.max()
        df.loc[rows, "matmul_ms"] = df.flops[rows] / 1e9 / df.dtype[rows].map(rate).astype(float)
    for name in ("floor_ms", "matmul_ms"):
        df[name] = df[name].where((df[name] > 0) & ~df.ceiling)
    measured = ~df.predicted
    df["share"] = (df.floor_ms / df.ms).where(measured)
    df["share_matmul"] = (df.matmul_ms / df.ms).where(measured)
    return df


def _with_ratios(df: pd.DataFrame) -> pd.DataFrame:
    """At the same point: times_X, how many times faster than provider X; tied_X, whether the two 20-80 % bands overlap,
    so that neither is the faster one; fastest, who wins it: several names where no band is apart from the least; and
    of our rows `outcome`: "won" where our band is apart from every rival's, "lost" where a rival's is below ours, else
    "tied".
    """
    compared = ~(df.predicted | df.ceiling)
    wide, low, high = (_by_provider(df, column) for column in ("ms", "ms_20", "ms_80"))
    low, high = low.fillna(wide), high.fillna(wide)  # a time without quantiles is a band of no width
    own_low, own_high = df.ms_20.fillna(df.ms), df.ms_80.fillna(df.ms)
    keys = pd.MultiIndex.from_frame(df[PROBLEM])
    for rival in sorted({*RIVAL_PROVIDERS, *wide.columns} - {SEGATTN}):
        theirs, their_low, their_high = (
            t[rival].reindex(keys).to_numpy() if rival in t else np.full(len(df), np.nan) for t in (wide, low, high)
        )
        known = compared & (df.provider != rival)
        df[f"times_{rival}"] = (theirs / df.ms).where(known)
        df[f"tied_{rival}"] = known & (own_low <= their_high) & (their_low <= own_high)
    several = wide[wide.notna().sum(axis=1) > 1]
    fastest = pd.Series([_fastest(low.loc[p], high.loc[p], wide.loc[p]) for p in several.index], several.index, object)
    df["fastest"] = pd.Series(fastest.reindex(keys).to_numpy(), df.index, dtype=object).where(compared)
    rivals = [p for p in several.columns if not is_ours(p) and p != "reference"]
    best = several[rivals].min(axis=1)
    ours = compared & df.provider.map(is_ours)
    df["times_fastest"] = (best.reindex(keys).to_numpy() / df.ms).where(ours)
    below = (high.loc[several.index, rivals].min(axis=1).reindex(keys).to_numpy() < own_low).to_numpy()
    above = (low.loc[several.index, rivals].min(axis=1).reindex(keys).to_numpy() > own_high).to_numpy()
    outcome = np.select([below, above], ["lost", "won"], "tied")
    df["outcome"] = pd.Series(outcome, df.index, dtype=object).where(ours & df.times_fastest.notna(), "")
    return df


def _by_provider(df: pd.DataFrame, column: str) -> pd.DataFrame:
    rows = df[~df.ceiling & df.ms.notna()]
    return rows.pivot(index=PROBLEM, columns="provider", values=column)


def _fastest(low: pd.Series, high: pd.Series, ms: pd.Series) -> tuple[str, ...]:
    """The provider of the least median, and those whose bands overlap its own; in the order of their medians."""
    first = ms.idxmin()
    return tuple(p for p in ms.dropna().sort_values(kind="stable").index if p == first or low[p] <= high[first])


def is_ours(provider: str) -> bool:
    """segattn, or a labelled variant of it ("segattn-library")."""
    return provider.startswith(SEGATTN)


def results(df: pd.DataFrame) -> pd.DataFrame:
    """Measured times of ops: no ceilings, no predictions, no failures."""
    return df[df.ms.notna() & ~df.predicted & ~df.ceiling]


def predictions(df: pd.DataFrame) -> pd.DataFrame:
    return df[df.ms.notna() & df.predicted & ~df.ceiling]


def missing(df: pd.DataFrame) -> pd.DataFrame:
    """Points that were not measured, and why."""
    return df[df.status != "ok"]


def subject(rows: pd.DataFrame) -> str:
    """Whose time a table shows: ours; where we were not timed the reference, else whoever was."""
    present = list(rows.provider.unique())
    return next((p for p in (SEGATTN, "reference", "eager") if p in present), min(present, default=SEGATTN))


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """A row per op, mode, dtype, layout and timer: the largest problem that the subject and most rivals have."""
    chosen = []
    found = results(df)
    for _, rows in found[found.inputs == "normal"].groupby(GROUP, sort=False):
        own = rows[rows.provider == subject(rows)]
        rivals = own[[f"times_{r}" for r in RIVAL_PROVIDERS]].notna().sum(axis=1)
        own = own.assign(_rivals=rivals).sort_values(["_rivals", "floor_bytes", "side"], kind="stable")
        chosen.append(own.index[-1])
    return by_catalog(df.loc[chosen])


@lru_cache
def catalog() -> dict:
    from ....catalog import BY_NAME  # imports torch: only when something is drawn

    return BY_NAME


def by_catalog(df: pd.DataFrame) -> pd.DataFrame:
    """In the order of the catalog, unknown ops last; forward before backward, plain before channels_last."""
    order = {name: i for i, name in enumerate(catalog())}
    keys = pd.DataFrame(
        {
            "op": df.op.map(lambda op: (order.get(op, len(order)), op)),
            "timer": df.timer,
            "mode": df["mode"].map(lambda m: (m != "fwd", m)),
            "dtype": df.dtype.map(lambda d: (d != "bfloat16", d)),
            "layout": df.layout.map(lambda x: (x != "contiguous", x)),
            **{name: df[name] for name in ("C", "side", "N", "provider")},
        },
        index=df.index,
    )
    return df.loc[sorted(df.index, key=lambda i: tuple(keys.loc[i]))]


def write_csv(df: pd.DataFrame, path) -> None:
    """Every column; whole numbers as such, `extra` as JSON."""
    out = df.copy()
    for name in ("N", "C", "H", "W", "floor_bytes", "planned_bytes", "flops", "peak_memory", "schema", "pixels"):
        out[name] = pd.to_numeric(out[name], errors="coerce").round().astype("Int64")
    out["extra"] = out["extra"].map(lambda extra: json.dumps(extra, default=str))
    out["fastest"] = out["fastest"].map(lambda names: ", ".join(names) if isinstance(names, tuple) else "")
    out.to_csv(path, index=False)
