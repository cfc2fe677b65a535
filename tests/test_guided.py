"""Guided denoising: a supervisor that accepts all, none, or what it would have said itself."""

from __future__ import annotations

import pytest
import torch

from autodidact.engine import Request
from autodidact.engines.canvas import Canvas
from autodidact.engines.denoise import Denoise
from autodidact.engines.guided import Guided, Judge
from autodidact.law import Law
from test_cached import requests
from toys import WORDS, random_masked, random_qwen

LAWS = (Law(), Law(temperature=0))
ALL, NOTHING = {"accept": Law()}, {"accept": Law(), "above": 1.0}


@pytest.fixture
def models(tokenizer):
    masked, causal = random_masked(tokenizer), random_qwen(tokenizer, seed=1)
    masked.model.generation_config.eos_token_id = 4
    return masked, causal


@pytest.mark.parametrize("law", LAWS)
def test_a_supervisor_that_accepts_all_gives_one_shot(models, law):
    masked, causal = models
    drawn = Guided(causal, **ALL).draw(masked, requests(), law, 3)
    plain = Denoise(steps=1).draw(masked, requests(), law, 3)
    assert drawn._replace(verified=0) == plain
    assert drawn.calls == len(requests()) and drawn.verified == drawn.read


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("block", [None, 3])
def test_one_that_accepts_nothing_gives_one_token_after_the_other(models, law, block):
    masked, causal = models
    drawn = Guided(causal, **NOTHING, block=block).draw(masked, requests(), law, 3)
    plain = Denoise(order="left", block=block).draw(masked, requests(), law, 3)
    ended = [set(c.ids) & masked.ends for c in plain.completions]
    assert not any(ended), "else fewer calls would do"
    assert drawn._replace(verified=0) == plain


@pytest.mark.parametrize("accept", [Law(temperature=0), Law(top_k=40), Law(min_p=0.3)])
def test_calls_are_at_most_tokens_and_something_is_written_at_each(models, accept):
    masked, causal = models
    for request in requests():
        drawn = Guided(causal, accept).draw(masked, [request], Law(), 3)
        order = [step for step in drawn.completions[0].order if step]
        assert drawn.calls == max(order) <= len(order)
        assert order == sorted(order) and set(order) == set(range(1, drawn.calls + 1))


def test_a_law_that_keeps_every_word_accepts_all_and_more_words_save_calls(models):
    masked, causal = models
    calls = [
        Guided(causal, Law(top_k=k)).draw(masked, requests(), Law(), 3).calls
        for k in (1, 130, WORDS)
    ]
    assert calls[0] > calls[1] > calls[2] == len(requests())


@pytest.mark.parametrize("above", [0.0, 0.001])
def test_the_longest_prefix_that_the_supervisor_accepts_stands(models, above):
    """Against the rule applied word by word, each judged by a reading of its own."""
    masked, causal = models
    accept, seen = Law(top_k=200), set()
    asked = requests()
    canvas = Canvas.of(masked, asked)
    draft = torch.randint(5, WORDS, canvas.hidden.shape, generator=torch.Generator().manual_seed(2))
    judge = Judge(causal, accept, above, torch.tensor([4]))
    with torch.no_grad():
        stands = judge.stands(canvas, canvas.hidden, draft)
    for row, request in enumerate(asked):
        given = request.canvas or (None,) * request.length
        said, alive, expected = list(request.read), True, []
        for place, word in enumerate(given):
            if word is None:
                fine = alive and accepts(causal, said, int(draft[row, place]), accept, above)
                expected.append(fine or not any(expected))
                alive = fine
            said.append(int(draft[row, place]) if word is None else word)
        assert stands[row][canvas.hidden[row]].tolist() == expected
        seen.add(sum(expected))
    assert judge.read == int(canvas.real.sum()) and len(seen) > 1


@torch.no_grad()
def accepts(lm, said, word, law, above) -> bool:
    ids = torch.tensor([said])
    logits = lm.head().logits(
        lm.hidden(ids, torch.ones_like(ids, dtype=torch.bool)).last_hidden_state[:, -1]
    )
    own = logits.softmax(-1)[0, word]
    return bool(law.log_probs(logits)[1][0, word] > -torch.inf) and bool(own > above)


def test_what_follows_an_end_that_stands_is_kept_as_it_is(models):
    masked, causal = models
    judge = Judge(causal, Law(), 1.0, torch.tensor([4]))
    canvas = Canvas.of(masked, [Request((5, 6), k, 5) for k in range(3)])
    # An end that stands as it comes first, one that was written before, and one that falls.
    canvas.put(torch.tensor([[False] * 5, [True] + [False] * 4, [False] * 5]), canvas.step + 4)
    draft = torch.tensor([[4, 9, 9, 9, 9], [0, 9, 9, 9, 9], [9, 4, 9, 9, 9]])
    with torch.no_grad():
        stands = judge.stands(canvas, canvas.hidden, draft)
    assert stands.tolist() == [
        [True] * 5,
        [False, True, True, True, True],
        [True, False, False, False, False],
    ]


def test_the_first_token_of_a_row_without_a_prompt_stands(models):
    masked, causal = models
    judge = Judge(causal, Law(), 1.0, torch.tensor([4]))
    canvas = Canvas.of(masked, [Request((), 0, 3)])
    with torch.no_grad():
        stands = judge.stands(canvas, canvas.hidden, torch.tensor([[9, 8, 7]]))
    assert stands.tolist() == [[True, False, False]]


@pytest.mark.parametrize("cache", ["prefix", "dual", "free"])
def test_it_denoises_from_a_cache_as_well(models, cache):
    masked, causal = models
    asked = requests()[:4]
    plain = Guided(causal, Law(top_k=60), block=4).draw(masked, asked, Law(), 3)
    same = Guided(causal, Law(top_k=60), block=4, cache=cache, refresh=1)
    assert same.draw(masked, asked, Law(), 3) == plain
    kept = Guided(causal, Law(top_k=60), block=4, cache=cache).draw(masked, asked, Law(), 3)
    assert kept.read / kept.calls < plain.read / plain.calls
    assert all(0 not in c.order for c in kept.completions)


def test_models_that_do_not_fit_are_refused(models, tokenizer):
    masked, causal = models
    with pytest.raises(ValueError, match="masked"):
        Guided(masked).draw(masked, requests(), Law(), 0)
    other = random_qwen(tokenizer, vocab_size=WORDS + 1)
    with pytest.raises(ValueError, match=f"{WORDS + 1} words.*{WORDS}.*same vocabulary"):
        Guided(other).draw(masked, requests(), Law(), 0)
    with pytest.raises(ValueError, match=r"above=1\.5"):
        Guided(causal, above=1.5)
    with pytest.raises(ValueError, match="cache"):
        Guided(causal, cache="duel")
