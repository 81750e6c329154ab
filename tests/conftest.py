"""Hypothesis profiles: a quick one for every run, a thorough one on demand (HYPOTHESIS_PROFILE=thorough), and one for
mutation testing, whose every run must be the same."""

import os

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("quick", max_examples=40, **COMMON)
settings.register_profile("thorough", max_examples=1000, **COMMON)
settings.register_profile("mutants", max_examples=10, database=None, derandomize=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
