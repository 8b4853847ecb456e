"""Settings of hypothesis for every property-based test."""

from hypothesis import HealthCheck, settings

# The same examples each time, and no more time than the other tests.
steady = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
