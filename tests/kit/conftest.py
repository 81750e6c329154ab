"""Which laws of first-party components `make test` leaves to `make test-all`."""

import pytest

# They call an estimator hundreds of times on large batches; `make test` holds one estimator to one of them.
ABOUT_MEANS = ("-standard_error_covers", "-unbiased_to_one_percent", "-bias_is_within_the_declared")
KEPT = "hpgd-unbiased_to_one_percent"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name == "test_first_party.py" and hasattr(item, "callspec"):
            case = item.callspec.id
            if case.endswith(ABOUT_MEANS) and case != KEPT:
                item.add_marker(pytest.mark.slow)
