"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE: "quick" for `make test`, "full" for `make test-all`, "thorough" on
demand, and "mutants" for mutation testing, whose every run must be the same.

No test depends on the clock or on inherited signals: see `child_processes`, and BILEVELRL_CHECK_PATIENCE below.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import child_processes

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("quick", max_examples=15, **COMMON)
settings.register_profile("full", max_examples=40, **COMMON)
settings.register_profile("thorough", max_examples=1000, **COMMON)
settings.register_profile("mutants", max_examples=10, database=None, derandomize=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# The kit's limits in seconds never end a law here, only its limits on examples and calls do.
os.environ["BILEVELRL_CHECK_PATIENCE"] = "1000"

# Laws that call an estimator hundreds of times; `make test` sees two planted faults of `kit` break them.
ABOUT_MEANS = ("-standard_error_covers", "-unbiased_to_one_percent", "-bias_is_within_the_declared")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those laws slow, whatever test asks for them."""
    for item in items:
        case = getattr(item, "callspec", None)
        if case is not None and case.id.endswith(ABOUT_MEANS):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """What a test started ends with it, however it ends."""
    yield
    child_processes.end_all()
