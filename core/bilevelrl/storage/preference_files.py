"""Labelled pairs of trajectories in files."""

from __future__ import annotations

from pathlib import Path

from bilevelrl.objectives.preferences import PARTS, PreferenceDataset
from bilevelrl.storage.archives import read_arrays, write_arrays
from bilevelrl.validation.errors import as_path


def read_preferences(path: str | Path) -> PreferenceDataset:
    """The dataset in an `.npz` archive of five arrays, such as `np.savez` and `write_preferences` make it.

    Raises:
        InputError: where the file cannot be read, is no such archive, or its arrays do not fit together.
    """
    return PreferenceDataset.of(read_arrays(as_path("path", path), PARTS))


def write_preferences(path: str | Path, dataset: PreferenceDataset) -> None:
    """Write a dataset where `read_preferences` finds it; the file's name should end in `.npz`."""
    write_arrays(as_path("path", path), dataset.arrays())
