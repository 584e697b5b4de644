"""How many examples hypothesis tries: `pytest --hypothesis-profile fuzz`; without the option, "ci"."""

from hypothesis import HealthCheck, settings
from support import DTYPES

from segattn_triton.catalog import OPS

CI, FUZZ = 3_000, 10_000  # examples over all rows; examples of each row

_common = dict(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,  # an example takes 100 ms, not 1
)
settings.register_profile(
    "ci", max_examples=-(-CI // (len(OPS) * len(DTYPES))), derandomize=True, database=None, **_common
)
settings.register_profile("fuzz", max_examples=-(-FUZZ // len(DTYPES)), **_common)
settings.load_profile("ci")
