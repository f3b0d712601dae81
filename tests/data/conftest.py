"""How hypothesis looks for counterexamples."""

import os

from hypothesis import HealthCheck, settings

# The same examples on every machine; HYPOTHESIS_PROFILE=explore looks at many new ones.
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", 2000))
COMMON = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("reproducible", COMMON, max_examples=60, derandomize=True)
settings.register_profile("explore", COMMON, max_examples=EXAMPLES, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "reproducible"))
