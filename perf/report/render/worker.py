"""`python -m segattn_triton.perf.report.render.worker OUT SHARE COUNT`: a share of the figures of OUT's records."""

import sys
from pathlib import Path

from ...records import load
from .figures import draw_share, jobs
from .frame import from_records

if __name__ == "__main__":
    out, share, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw_share(jobs(from_records(load(out / "records.jsonl"))), out / "plots", share, count)
