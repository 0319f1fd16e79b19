"""Fixtures of the tests of Ollama's store: files that are whole models, and where the store goes.

A test module takes them with `pytest_plugins = ["support.ollama_models"]`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from firstlight.models.synthetic_gguf import write_synthetic_gguf


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A whole GGUF file: the synthetic proof model."""
    return write_synthetic_gguf(tmp_path_factory.mktemp("weights") / "tiny-Q4_K_M.gguf")


@pytest.fixture
def model(weights, tmp_path):
    """The same file, this test's own."""
    return Path(shutil.copy(weights, tmp_path / "tiny.gguf"))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def other(weights, tmp_path):
    """A GGUF file with other bytes that is whole too."""
    path = tmp_path / "other.gguf"
    path.write_bytes(weights.read_bytes() + b"more")
    return path
