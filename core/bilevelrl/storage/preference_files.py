"""Labelled pairs of trajectories in files."""

from __future__ import annotations

from pathlib import Path

from bilevelrl.objectives.preferences import PARTS, PreferenceDataset
from bilevelrl.storage.array_files import read_arrays, write_arrays
from bilevelrl.validation.errors import as_path


def read_preferences(path: str | Path) -> PreferenceDataset:
    """The dataset in a safetensors file of five arrays, such as `write_preferences` writes.

    Raises:
        InputError: if the file cannot be read, is not such a file, or its arrays do not fit together.
    """
    return PreferenceDataset.of(read_arrays(as_path("path", path), PARTS))


def write_preferences(path: str | Path, dataset: PreferenceDataset) -> None:
    """Write a dataset for `read_preferences`; the file's name should end in `.safetensors`."""
    write_arrays(as_path("path", path), dataset.arrays())
