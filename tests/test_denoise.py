"""The engine of masked models against tables, and against itself in other company."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from recipes.studies.tabular import everything, exact

from autodidact.engine import Request
from autodidact.engines.denoise import Denoise
from autodidact.law import Law
from autodidact.losses.likelihood import Likelihood
from autodidact.rollouts.sample import sampled_batch
from tabular import PROMPT, models_of, table, texts_of, values
from toys import random_masked, toy_task

ORDERS = ("confidence", "margin", "entropy", "random", "left")
WAYS = (
    Denoise(),
    Denoise(steps=3),
    Denoise(block=2, order="margin"),
    Denoise(steps=4, block=3, order="entropy"),
    Denoise(threshold=0.4, block=4),
    Denoise(steps=4, remask="running"),
    Denoise(order="random", guidance=0.5),
)


def asked(count: int, length: int, prompt=PROMPT, canvas=()) -> list[Request]:
    return [Request(tuple(prompt), k, length, canvas=tuple(canvas)) for k in range(count)]


def drawn(way: Denoise, lm, requests, temperature: float = 1.0, seed: int = 0):
    return way.draw(lm, requests, Law(temperature), seed)


def assert_follows(counts: torch.Tensor, law: torch.Tensor) -> None:
    """Pearson's statistic lies within four standard deviations of its mean."""
    expected = law * counts.sum()
    assert expected.min() > 3
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(law) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def count_texts(completions, places: int, words: int = 3) -> torch.Tensor:
    scale = words ** torch.arange(places - 1, -1, -1)
    names = (torch.tensor([each.ids for each in completions]) * scale).sum(1)
    return torch.bincount(names, minlength=words**places).double()


def test_random_order_one_at_a_time_draws_the_exact_law(tokenizer):
    lm = table(tokenizer, 3, seed=2, spread=0.5)
    found = drawn(Denoise(order="random"), lm, asked(4000, 3)).completions
    assert_follows(count_texts(found, 3), exact(everything(lm, PROMPT, texts_of(3))).exp())
    orders = [tuple(each.order) for each in found]
    counts = torch.tensor([orders.count(o) for o in permutations((1, 2, 3))]).double()
    assert_follows(counts, torch.full((6,), 1 / 6, dtype=torch.double))


def test_all_at_once_draws_a_product(tokenizer):
    lm = table(tokenizer, 3, seed=2, spread=0.5)
    found = drawn(Denoise(steps=1), lm, asked(4000, 3)).completions
    law = everything(lm, PROMPT, texts_of(3))[:, -1].sum(1).exp()
    assert_follows(count_texts(found, 3), law)
    assert all(each.order == [1, 1, 1] for each in found)


@pytest.mark.parametrize("way", [Denoise(block=1), Denoise(order="left")])
def test_blocks_of_one_are_the_order_of_a_causal_model(way, tokenizer):
    lm = table(tokenizer, 4, seed=2)
    (greedy,) = drawn(way, lm, asked(1, 4), temperature=0).completions
    text, rest = [], [lm.mask] * 4
    for place in range(4):
        ids = torch.tensor([[*PROMPT, *text, *rest[place:]]])
        text.append(int(lm.model(ids).last_hidden_state[0, 1 + place].argmax()))
    assert greedy.ids == text and greedy.order == [1, 2, 3, 4]
    some = drawn(way, lm, asked(30, 4)).completions
    assert_likely(lm, some, "left")


def assert_likely(lm, completions, kind: str) -> None:
    """What is noted of each word is what the canvas says in which it was written."""
    task = toy_task(1)
    batch = sampled_batch(task.train, [PROMPT], [completions], task, Law())
    found = values(Likelihood(kind), batch, models_of(lm))
    expected = torch.tensor([sum(each.raw) for each in completions], dtype=torch.double)
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("way", [way for way in WAYS if way.remask == "none" and not way.guidance])
def test_a_trace_reads_the_canvases_that_were_drawn_from(way, tokenizer):
    completions = drawn(way, random_masked(tokenizer), asked(6, 5)).completions
    assert_likely(random_masked(tokenizer), completions, "trace")


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_keeps_what_it_says(order, tokenizer):
    """One step of two, greedy, by hand."""
    lm = table(tokenizer, 4, seed=6)
    (found,) = drawn(Denoise(steps=2, order=order), lm, asked(1, 4), temperature=0).completions
    ids = torch.tensor([[*PROMPT, *[lm.mask] * 4]])
    law = lm.model(ids).last_hidden_state[0, 1:].softmax(-1).detach()
    best = law.topk(2).values
    sure = {
        "confidence": best[:, 0],
        "margin": best[:, 0] - best[:, 1],
        "entropy": -torch.special.entr(law).sum(-1),
        "left": -torch.arange(4.0),
    }
    assert sorted(found.order) == [1, 1, 2, 2]
    if order in sure:
        first = sure[order].topk(2).indices
        assert [found.order[i] for i in first.tolist()] == [1, 1]
        assert [found.ids[i] for i in first.tolist()] == law[first].argmax(-1).tolist()


def test_filling_a_canvas_with_nothing_given_is_drawing(tokenizer):
    lm = random_masked(tokenizer)
    for way in WAYS:
        free = drawn(way, lm, asked(4, 6, (7, 8)))
        filled = drawn(way, lm, asked(4, 6, (7, 8), [None] * 6))
        assert free == filled


@pytest.mark.parametrize("way", WAYS)
def test_given_tokens_stay_and_the_mask_is_never_written(way, tokenizer):
    lm = random_masked(tokenizer)
    with torch.no_grad():
        lm.model.lm_head.weight[lm.mask] = 50 * lm.model.lm_head.weight[17]
    given = (5, None, None, 9, None, 200, None)
    for temperature in (0.0, 1.0):
        for each in drawn(way, lm, asked(8, 7, (7, 8), given), temperature).completions:
            for before, word, step, logp in zip(
                given, each.ids, each.order, each.logp, strict=True
            ):
                assert word == before if before is not None else word != lm.mask
                assert (step == 0) == (before is not None)
                assert logp == 0 if step == 0 else logp > -torch.inf
            assert each.finished and each.written == 4


def test_the_law_leaves_the_mask_out_and_raw_keeps_it(tokenizer):
    """Of three words and a mask with logit 0."""
    lm = table(tokenizer, 1, seed=4, mask=0.0)
    logits = lm.model(torch.tensor([[*PROMPT, lm.mask]])).last_hidden_state[0, 1].detach()
    for each in drawn(Denoise(), lm, asked(20, 1)).completions:
        (word,) = each.ids
        assert each.logp[0] == pytest.approx(float(logits[:3].log_softmax(-1)[word]), abs=1e-12)
        assert each.raw[0] == pytest.approx(float(logits.log_softmax(-1)[word]), abs=1e-12)
    law = Law(top_k=1)
    best = Denoise().draw(lm, asked(5, 1), law, 0).completions
    assert {each.ids[0] for each in best} == {int(logits[:3].argmax())}


@pytest.mark.parametrize("way", WAYS)
def test_rows_do_not_depend_on_their_neighbours(way, tokenizer):
    """Neighbours with other prompts, other clues, that end a block earlier, in another order."""
    lm = random_masked(tokenizer)
    given = [(None,) * 7, (5, None, 6, 7, None, 8, None), (9, 9, 9, 9, 9, None, None), ()]
    requests = [
        Request(prompt, k, 7, canvas=canvas)
        for canvas in given
        for k, prompt in enumerate([(7, 8), (7, 8, 9, 10, 11)])
    ]
    together = drawn(way, lm, requests)
    back = drawn(way, lm, requests[::-1])
    for number, request in enumerate(requests):
        (alone,) = drawn(way, lm, [request]).completions
        for other in (together.completions[number], back.completions[::-1][number]):
            assert (alone.ids, alone.order) == (other.ids, other.order)
            assert alone.logp == pytest.approx(other.logp, abs=1e-9)
    assert (together.calls, together.read) == (back.calls, back.read)
    alone = [drawn(way, lm, [request]) for request in requests]
    assert together.calls == sum(each.calls for each in alone)
    assert len({tuple(each.ids) for each in together.completions}) > 4


def test_samples_and_seeds_draw_apart(tokenizer):
    lm = random_masked(tokenizer)
    first, second = (drawn(Denoise(), lm, asked(5, 6), seed=seed).completions for seed in (0, 1))
    assert len({tuple(each.ids) for each in first + second}) == 10


def test_bounds_on_memory_change_nothing(tokenizer, monkeypatch):
    lm, requests = random_masked(tokenizer), asked(7, 6)
    whole = drawn(Denoise(steps=3), lm, requests)
    monkeypatch.setattr("autodidact.engines.denoise.ROWS", 3)
    monkeypatch.setattr("autodidact.engines.denoise.PLACES", 4)
    parts = drawn(Denoise(steps=3), lm, requests)
    assert [(e.ids, e.order) for e in whole.completions] == [
        (e.ids, e.order) for e in parts.completions
    ]
    assert (whole.calls, whole.read) == (parts.calls, parts.read) == (21, 147)


def test_without_guidance_nothing_is_read_twice_and_with_it_the_law_is_tilted(tokenizer):
    lm = table(tokenizer, 2, seed=4)
    plain, none = (drawn(way, lm, asked(9, 2)) for way in (Denoise(), Denoise(guidance=0.0)))
    assert plain == none
    tilted = drawn(Denoise(guidance=1.5), lm, asked(30, 2))
    plain = drawn(Denoise(), lm, asked(30, 2))
    assert (tilted.calls, tilted.read) == (2 * plain.calls, 2 * plain.read)
    full, free = (
        lm.model(torch.tensor([[word, lm.mask, lm.mask]])).last_hidden_state[0, 1:].detach()
        for word in (PROMPT[0], lm.mask)
    )
    law = (2.5 * full - 1.5 * free)[:, :3].log_softmax(-1)
    firsts = 0
    for each in tilted.completions:
        place = each.order.index(1)
        assert each.logp[place] == pytest.approx(float(law[place, each.ids[place]]), abs=1e-9)
        firsts += place
    assert 0 < firsts < 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"order": "confidenc"}, "confidence"),
        ({"remask": "all"}, "remask"),
        ({"steps": -1}, "steps=-1"),
        ({"threshold": 0.0}, "above 0"),
        ({"threshold": 0.5, "order": "entropy"}, "confidence, margin"),
        ({"threshold": 0.5, "remask": "running"}, "without remasking"),
        ({"guidance": -1.0}, "at least 0"),
    ],
)
def test_wrong_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Denoise(**options)


def test_what_does_not_fit_is_refused(tokenizer):
    lm = random_masked(tokenizer)
    with pytest.raises(ValueError, match="more than the context of 256"):
        drawn(Denoise(), lm, asked(1, 256))
    lm.model.config.output_shift = 1
    with pytest.raises(ValueError, match="needs a prompt"):
        drawn(Denoise(), lm, asked(1, 3, ()))
    assert drawn(Denoise(), lm, asked(1, 3)).calls == 3
