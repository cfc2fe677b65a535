"""The model that both sides train."""

from __future__ import annotations

import pytest

from autodidact.model import load
from autodidact.models import Models
from toys import perturb


@pytest.fixture(scope="session")
def blurred(tmp_path_factory) -> str:
    """A folder with the shipped model, blurred so that its texts vary in words and length."""
    folder = str(tmp_path_factory.mktemp("blurred"))
    lm = load("tiny", device="cpu")
    perturb(lm, 0.03)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def models(blurred) -> Models:
    """It as the policy, and a frozen copy as "initial"; on the CPU, as TRL's."""
    found = Models(load(blurred, device="cpu"))
    assert found["initial"] is not found.policy
    return found
