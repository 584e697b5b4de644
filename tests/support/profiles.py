"""How many examples hypothesis tries: `pytest --hypothesis-profile fuzz`; without the option, "ci"."""

import math

from hypothesis import HealthCheck, settings
from support import DTYPES

from segattn_triton.catalog import ROWS, Op

CI, FUZZ = 3_000, 10_000  # examples over all rows; examples of each row
SLOW = {
    "local_gate_depthwise": 0.2,
    "local_pool_gate": 0.2,
    "gate_mul_resized": 0.1,
    "pixel_adaptive_refinement": 0.05,
    "neighborhood_attention": 0.05,
}  # their share: a stencil takes the interpreter a second

_common = dict(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.register_profile("ci", derandomize=True, database=None, **_common)
settings.register_profile("fuzz", max_examples=math.ceil(FUZZ / len(DTYPES)), **_common)
settings.load_profile("ci")


def examples(row: Op, profile: str | None = None) -> int:
    """Of a row in each dtype, in a profile or in the one that is loaded."""
    profile = profile or settings.get_current_profile_name()
    if profile != "ci":
        return settings.get_profile(profile).max_examples
    whole = sum(SLOW.get(other.name, 1) for other in ROWS) * len(DTYPES)
    return math.ceil(CI * SLOW.get(row.name, 1) / whole)
