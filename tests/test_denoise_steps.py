"""How many words a step keeps: even shares, thresholds, and words that are taken back."""

from __future__ import annotations

import pytest
import torch

from autodidact.engine import Request
from autodidact.engines.denoise import Denoise
from autodidact.law import Law
from tabular import PROMPT, table


@pytest.fixture
def seen(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What is hidden, how sure each word is, and what was open, after every step."""
    found, step = [], Denoise._step

    def watched(self, lm, canvas, *rest):
        step(self, lm, canvas, *rest)
        found.append((canvas.hidden.clone(), canvas.sure.clone(), canvas.open.clone()))

    monkeypatch.setattr(Denoise, "_step", watched)
    return found


def requests(count: int, canvas=(None,) * 5) -> list[Request]:
    return [Request(PROMPT, k, len(canvas), canvas=tuple(canvas)) for k in range(count)]


@pytest.mark.parametrize(("steps", "left"), [(5, [4, 3, 2, 1, 0]), (3, [3, 1, 0]), (1, [0])])
def test_hidden_places_follow_the_schedule_to_the_end(steps, left, tokenizer, seen):
    Denoise(steps=steps, remask="running").draw(table(tokenizer, 5), requests(50), Law(), 0)
    for (hidden, _, _), count in zip(seen, left, strict=True):
        assert (hidden.sum(1) == count).all()


def test_no_word_is_kept_that_is_less_sure_than_one_taken_back(tokenizer, seen):
    given = (None, 2, None, None, None)
    way = Denoise(steps=4, remask="running")
    drawn = way.draw(table(tokenizer, 5), requests(200, given), Law(), 0)
    again = 0
    for number, (hidden, sure, open_) in enumerate(seen[:-1]):
        kept = torch.where(open_ & ~hidden, sure, torch.inf).amin(1)
        back = torch.where(hidden, sure, -torch.inf).amax(1)
        assert (kept >= back).all()
        assert not hidden[:, 1].any()
        if number:
            again += int((hidden & ~seen[number - 1][0]).sum())
    assert again > 10, "some words of earlier steps are taken back"
    assert all(each.ids[1] == 2 and each.order[1] == 0 for each in drawn.completions)


@pytest.mark.parametrize(("steps", "block"), [(None, None), (5, None), (3, 4), (5, 3)])
def test_where_sureness_does_not_change_nothing_is_taken_back(steps, block, tokenizer):
    lm = table(tokenizer, 8, seed=1, free=True)
    asked = [Request(PROMPT, k, 8) for k in range(10)]
    plain, running = (
        Denoise(steps, block, remask=remask).draw(lm, asked, Law(0.0), 0)
        for remask in ("none", "running")
    )
    assert plain == running


@pytest.mark.parametrize(
    ("way", "steps"),
    [
        (Denoise(), [1] * 8),
        (Denoise(steps=5), [2, 2, 2, 1, 1]),
        (Denoise(steps=5, remask="running"), [2, 2, 2, 1, 1]),
        (Denoise(steps=3), [3, 3, 2]),
        (Denoise(steps=20), [1] * 8),
        (Denoise(block=3), [1] * 8),
        (Denoise(block=5), [1] * 8),
        (Denoise(steps=4, block=4), [2, 2, 2, 2]),
        (Denoise(steps=3, block=4), [2, 2, 4]),
        (Denoise(steps=1, block=4), [4, 4]),
    ],
)
def test_steps_write_even_shares(way, steps, tokenizer):
    lm = table(tokenizer, 8, seed=1, free=True)
    for each in way.draw(lm, requests(3, (None,) * 8), Law(), 0).completions:
        assert [each.order.count(step) for step in range(1, len(steps) + 1)] == steps
        blocks = [number // (way.block or 8) for number in range(8)]
        pairs = sorted(zip(each.order, blocks, strict=True))
        assert [block for _, block in pairs] == blocks


@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.0])
def test_a_threshold_keeps_all_that_is_sure_and_one_in_any_case(threshold, tokenizer):
    lm = table(tokenizer, 5, seed=1)
    result = Denoise(threshold=threshold, block=3).draw(lm, requests(40), Law(), 0)
    assert result.calls <= 40 * 5
    for each in result.completions:
        assert set(each.order) == set(range(1, max(each.order) + 1))
        for step in set(each.order):
            chances = [lp for lp, s in zip(each.raw, each.order, strict=True) if s == step]
            assert len(chances) == 1 or min(chances) >= torch.tensor(threshold).log() - 1e-12
    assert (result.calls == 200) == (threshold == 1.0)
