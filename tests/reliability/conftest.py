"""What the tests of faults share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def two(tokenizer, tmp_path_factory):
    """A training (`stepped`), and a folder with its checkpoints of steps 1 and 2: copy it."""
    from stepped import saved, training

    found, folder = training(tokenizer), Path(tmp_path_factory.mktemp("two")) / "checkpoints"
    for step in (1, 2):
        saved(found, folder, step)
    return found, folder
