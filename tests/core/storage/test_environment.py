"""What made a run, in facts of JSON's own types; where a system does not tell one, the others are there."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilevelrl as bl
from bilevelrl.storage import environment

ALGORITHM = bl.algorithm("m-sobirl")
PROBLEM = bl.problem("synthetic-quadratic", states=3, actions=2, dimension=2)


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError("no such thing here")


def test_facts_go_through_json_unchanged_and_name_versions_plugins_seed_and_machine() -> None:
    facts = environment.environment_of(PROBLEM, ALGORITHM, 7)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["seed"] == 7
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["versions"]["problem 'synthetic-quadratic' from"] == f"bilevelrl {bl.__version__}"
    assert facts["python"] == platform.python_version()
    assert facts["processors"] == os.cpu_count()


def test_thread_variables_are_facts_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.THREADS:
        monkeypatch.delenv(name, raising=False)
    assert environment.host_facts()["threads"] == {}
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert environment.host_facts()["threads"] == {"OPENBLAS_NUM_THREADS": "1"}


def test_what_the_system_does_not_tell_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    environment._processor.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(np, "show_config", refuse)
        patch.setattr(Path, "read_text", refuse)
        patch.setattr(os, "sysconf", refuse)
        made = environment.versions_of(PROBLEM, ALGORITHM)
        assert made["BLAS"] == "unknown"
        assert made["processor"] == (platform.processor() or platform.machine())
        assert environment.host_facts()["memory_gib"] is None
    environment._processor.cache_clear()
