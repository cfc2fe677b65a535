"""Shared fixtures. Shapes in signatures are checked here, before the package is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
ANNOTATED = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in sorted((SOURCE / "autodidact").rglob("*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
install_import_hook(ANNOTATED, "shapes.check")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs the network; a wrong name fails at once


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    """The shipped tiny model. Shared: do not train it, see `fresh`."""
    from autodidact.model import load

    return load("tiny")


@pytest.fixture
def fresh():
    """A tiny model of one's own."""
    from autodidact.model import load

    return load("tiny")


@pytest.fixture(scope="session")
def tokenizer(tiny):
    return tiny.tokenizer


@pytest.fixture
def qwen(tokenizer):
    """A random Qwen3 in float64."""
    from toys import random_qwen

    return random_qwen(tokenizer)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data folder shared/data beside the checkout")
    return folder
