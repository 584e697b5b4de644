"""`python -m segattn_triton.perf.render.worker OUT SHARE COUNT` draws a share of the figures of OUT's records."""

import sys
from pathlib import Path

from segattn_triton.perf.records import load
from segattn_triton.perf.render.figures import draw_share, jobs
from segattn_triton.perf.render.frame import from_records

if __name__ == "__main__":
    out, share, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw_share(jobs(from_records(load(out / "records.jsonl"))), out / "plots", share, count)
