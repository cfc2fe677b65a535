"""The local engine draws from exactly the law it was asked for, whatever stands beside it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from architectures import CAUSAL, RECURRENT, NoWords, build
from autodidact.batch import batch_of
from autodidact.engine import Request
from autodidact.engines.local import Local
from autodidact.law import Law, draw, prompt_key, uniform
from autodidact.model import LM
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.view import plain
from toys import WORDS, generate, random_qwen, toy_task

PROMPTS = [[7, 8, 9], [10, 11, 12, 13, 14, 15, 16, 17], [20], [30, 31, 32, 33, 34]]


def ids(found) -> list[list[list[int]]]:
    return [[each.ids for each in completions] for completions in found]


# ------------------------------------------------------------------ the law


LOGITS = torch.tensor([[0.5, 0.1, 0.25, 0.05, 0.1]]).log()


@pytest.mark.parametrize(
    ("law", "kept"),
    [
        (Law(), [0, 1, 2, 3, 4]),
        (Law(top_k=2), [0, 2]),
        (Law(top_k=3), [0, 1, 2, 4]),  # the third and the fourth are tied
        (Law(top_k=99), [0, 1, 2, 3, 4]),
        (Law(top_p=0.5), [0]),
        (Law(top_p=0.51), [0, 2]),
        (Law(top_p=0.75), [0, 2]),
        (Law(min_p=0.2), [0, 1, 2, 4]),  # at least a fifth as likely as the likeliest
        (Law(min_p=0.21), [0, 2]),
        (Law(top_k=2, top_p=0.6), [0]),  # of the two that are left 0 has 2/3 of the mass
        (Law(temperature=0.5, top_p=0.75), [0]),  # squared: 0.25 of 0.3350 is 0.746...
    ],
    ids=str,
)
def test_what_is_kept_and_how_likely_it_is(law, kept):
    raw, found = law.log_probs(LOGITS + 3.0)
    p = [math.exp(x / law.temperature) for x in LOGITS[0].tolist()]
    if law.temperature == 0.5:
        kept = [0, 2] if p[0] / sum(p) < 0.75 else [0]
    assert raw[0].exp().tolist() == pytest.approx([x / sum(p) for x in p], rel=1e-5)
    mass = sum(p[v] for v in kept)
    expected = [p[v] / mass if v in kept else 0.0 for v in range(5)]
    assert found[0].exp().tolist() == pytest.approx(expected, rel=1e-5)


def test_temperature_zero_is_a_point_mass_at_the_likeliest():
    raw, found = Law(0.0).log_probs(LOGITS)
    assert found[0].tolist() == [0.0, -math.inf, -math.inf, -math.inf, -math.inf]
    assert torch.allclose(raw, LOGITS, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": 1.0}]
)
def test_impossible_laws_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Law(**wrong)


# ------------------------------------------------------------------ randomness


def test_uniform_numbers_are_uniform_and_independent():
    """Kolmogorov-Smirnov over samples, positions, prompts and seeds, and correlations between them.

    The numbers are fixed, so this passes always or never; the bounds have a chance of 1e-4 each
    to fail for a perfect generator.
    """
    many = torch.arange(1000)
    keys = torch.tensor([prompt_key([5, 6, i]) for i in range(1000)])
    same = torch.full_like(many, prompt_key([5]))
    series = [
        uniform(0, same, many, 0),
        uniform(0, keys, torch.zeros_like(many), 0),
        uniform(1, same, many, 0),
        uniform(0, same, many, 1),
        torch.cat([uniform(0, same[:1], many[:1], step) for step in range(1000)]),
        torch.cat([uniform(seed, same[:1], many[:1], 0) for seed in range(1000)]),
    ]
    for numbers in series:
        assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
        assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-4
        assert abs(float(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1])) < 0.123
    assert torch.corrcoef(torch.stack(series)).fill_diagonal_(0).abs().max() < 0.123


def test_a_uniform_number_belongs_to_its_seed_prompt_sample_and_position():
    key = torch.tensor([prompt_key([1, 2]), prompt_key([2, 1])])
    sample = torch.tensor([0, 0])
    base = uniform(5, key, sample, 3)
    assert torch.equal(base, uniform(5, key, sample, 3))
    for other in (
        uniform(6, key, sample, 3),
        uniform(5, key, sample + 1, 3),
        uniform(5, key, sample, 4),
    ):
        assert (other != base).all()
    assert base[0] != base[1]
    assert prompt_key([1, 23]) != prompt_key([12, 3])


def test_draw_takes_each_word_on_its_share_of_the_unit_interval():
    law = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0]).double().log()
    grid = (torch.arange(1000).double() + 0.5) / 1000
    words = draw(law.expand(1000, 6), grid)
    assert words.bincount(minlength=6).tolist() == [0, 200, 0, 500, 300, 0]
    edges = torch.tensor([0.0, 1 - 2.0**-53]).double()
    assert draw(law.expand(2, 6), edges).tolist() == [1, 4], "never a word without mass"


# ------------------------------------------------------------------ generation


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_stored_log_probabilities_are_the_trainers(qwen, temperature):
    task, models = toy_task(5), Models(qwen)
    batch = Sample(4, 9, Law(temperature))(task.train, models, task, 0)
    logp = models.score(plain(batch), batch).logp.detach()
    assert torch.allclose(batch.take("logp").double(), logp, rtol=0, atol=2e-6)
    assert torch.equal(batch.take("logp"), batch.take("raw"))
    assert batch.temperature == temperature


def test_truncated_laws_store_both_log_probabilities(qwen):
    """`raw` is the trainer's; `logp` is the share among the words that were kept."""
    task, models = toy_task(5), Models(qwen)
    batch = Sample(4, 9, Law(1.1, top_k=5))(task.train, models, task, 0)
    scores = models.score(plain(batch), batch)
    own = batch.own
    assert torch.allclose(batch.take("raw")[own].double(), scores.logp[own].detach(), atol=2e-6)
    mass = scores.topk(5)[1][own].exp().sum(-1).log()
    assert torch.allclose(batch.take("logp")[own], batch.take("raw")[own] - mass, atol=1e-5)
    assert int(scores.rank.max()) < 5


def test_the_first_tokens_have_the_law_they_are_drawn_from(qwen):
    """Chi-square over 4000 samples of one prompt; fails for a right engine with chance 1e-4."""
    draws = 4000
    found = generate(qwen, [PROMPTS[0]], [list(range(draws))], 1, Law(), 11)[0]
    logits = qwen.model(torch.tensor([PROMPTS[0]])).logits[0, -1].detach()
    expected = logits.softmax(-1) * draws
    counts = torch.bincount(torch.tensor([each.ids[0] for each in found]), minlength=WORDS).double()
    common = expected >= 5
    assert 5 < int(common.sum()) < WORDS
    observed = [*counts[common].tolist(), float(counts[~common].sum())]
    wanted = [*expected[common].tolist(), float(expected[~common].sum())]
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_second_tokens_have_the_law_given_the_first(qwen):
    """The same one step on, after the most frequent first token that does not end."""
    found = generate(qwen, [PROMPTS[0]], [list(range(4000))], 2, Law(0.6), 11)[0]
    longer = [each.ids for each in found if len(each.ids) == 2]
    firsts = [first for first, _ in longer]
    first = max(set(firsts), key=firsts.count)
    seconds = [second for each, second in longer if each == first]
    logits = qwen.model(torch.tensor([[*PROMPTS[0], first]])).logits[0, -1].detach() / 0.6
    expected = logits.softmax(-1) * len(seconds)
    counts = torch.bincount(torch.tensor(seconds), minlength=WORDS).double()
    common = expected >= 5
    assert len(seconds) > 200 and int(common.sum()) > 5
    observed = [*counts[common].tolist(), float(counts[~common].sum())]
    wanted = [*expected[common].tolist(), float(expected[~common].sum())]
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_a_completion_does_not_depend_on_what_stands_beside_it(qwen):
    together = ids(generate(qwen, PROMPTS, [list(range(8))] * 4, 12, Law(), 3))
    assert any(len(each) < 12 for row in together for each in row), "rows leave the batch early"
    for prompt, expected in zip(PROMPTS, together, strict=True):
        assert ids(generate(qwen, [prompt], [list(range(8))], 12, Law(), 3)) == [expected]
        for sample in (0, 5):
            assert ids(generate(qwen, [prompt], [[sample]], 12, Law(), 3)) == [[expected[sample]]]
    backwards = generate(qwen, PROMPTS[::-1], [list(range(8))[::-1]] * 4, 12, Law(), 3)
    assert [row[::-1] for row in ids(backwards)][::-1] == together


def test_another_seed_is_another_draw_and_samples_differ(qwen):
    one, two = (ids(generate(qwen, PROMPTS, [[0, 1, 2]] * 4, 12, Law(), s)) for s in (0, 1))
    assert one != two
    assert all(len({tuple(each) for each in row}) == 3 for row in one)


def test_greedy_is_greedy_of_transformers(qwen):
    found = generate(qwen, PROMPTS, [[0]] * 4, 15, Law(0.0), 0)
    for prompt, [completion] in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        expected = qwen.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=15,
            eos_token_id=sorted(qwen.ends), pad_token_id=0,
        )[0, len(prompt) :]  # fmt: skip
        assert completion.ids == expected.tolist()
        assert completion.logp == [0.0] * len(completion.ids)
        law = qwen.model(torch.tensor([prompt + completion.ids])).logits[0].log_softmax(-1)
        picked = law[range(len(prompt) - 1, len(prompt) - 1 + len(completion.ids)), completion.ids]
        assert completion.raw == pytest.approx(picked.tolist(), abs=1e-5)


def test_the_sampling_defaults_of_a_model_have_no_effect(tokenizer):
    """Hub models ship top_k=20 and the like; `generate` of transformers would obey."""
    plain_model, trap = random_qwen(tokenizer), random_qwen(tokenizer)
    for name, value in {
        "do_sample": True, "top_k": 1, "temperature": 0.1, "top_p": 0.3, "min_p": 0.5,
        "repetition_penalty": 3.0, "max_length": 5, "bad_words_ids": [[9]], "max_new_tokens": 2,
    }.items():  # fmt: skip
        setattr(trap.model.generation_config, name, value)
    for law in (Law(), Law(0.0)):
        one, two = (generate(lm, PROMPTS, [[0, 1]] * 4, 10, law, 0) for lm in (plain_model, trap))
        assert one == two


def test_every_end_token_ends_and_nothing_else_does(qwen):
    found = generate(qwen, PROMPTS, [list(range(16))] * 4, 8, Law(), 0)
    flat = [each for row in found for each in row]
    assert {each.finished for each in flat} == {True, False}
    assert len({each.ids[-1] for each in flat if each.finished}) > 3
    for each in flat:
        assert each.finished == (each.ids[-1] in qwen.ends)
        assert not set(each.ids[:-1]) & qwen.ends
        assert each.finished or len(each.ids) == 8
        assert len(each.ids) == len(each.logp) == len(each.raw)


def test_the_batch_says_which_rows_finished(qwen):
    task = toy_task(4)
    batch = Sample(4, 6)(task.train, Models(qwen), task, 0)
    for row in range(len(batch)):
        last = int(batch.ids[row][batch.own[row]][-1])
        assert bool(batch.take("finished")[row]) == (last in qwen.ends)
    assert batch.group.tolist() == [g for g in range(4) for _ in range(4)]


def test_ragged_prompts_are_each_read_as_if_alone(tokenizer):
    """Padding on the left, against the model's own unpadded logits, in float64."""
    lm = random_qwen(tokenizer, dtype=torch.float64)
    found = generate(lm, PROMPTS, [[0, 1]] * 4, 10, Law(), 4)
    for prompt, completions in zip(PROMPTS, found, strict=True):
        for each in completions:
            law = lm.model(torch.tensor([prompt + each.ids])).logits[0].log_softmax(-1)
            picked = law[range(len(prompt) - 1, len(prompt) - 1 + len(each.ids)), each.ids]
            assert each.raw == pytest.approx(picked.tolist(), abs=2e-6)


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_architecture_draws_what_the_trainer_scores(kind):
    """Caches, positions, sliding windows of four tokens and the head, for ragged prompts."""
    lm = LM(build(kind, CAUSAL[kind]), NoWords(), kind)
    found = generate(lm, PROMPTS, [[0, 1, 2]] * 4, 12, Law(), 0)
    rows = [(p, each) for p, row in zip(PROMPTS, found, strict=True) for each in row]
    assert max(len(each.ids) for _, each in rows) == 12
    task = toy_task(1)
    batch = batch_of(
        task.train * len(rows), [p for p, _ in rows], [each.ids for _, each in rows], task,
        tokens={"raw": [each.raw for _, each in rows]},
    )  # fmt: skip
    with torch.no_grad():
        logp = Models(lm).score(plain(batch), batch).logp
    assert torch.allclose(batch.take("raw"), logp, rtol=0, atol=3e-5)


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_architectures_are_refused_by_name(kind):
    lm = LM(build(kind, RECURRENT[kind]), NoWords(), kind)
    with pytest.raises(ValueError, match=r"MambaForCausalLM .*recurrent"):
        generate(lm, PROMPTS, [[0]] * 4, 5, Law(), 0)


def test_a_prompt_that_does_not_fit_is_refused(qwen):
    with pytest.raises(ValueError, match=r"8 tokens and 249 new ones .* context of 256"):
        generate(qwen, PROMPTS, [[0]] * 4, 249, Law(), 0)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"length": 0}])
def test_nothing_to_sample_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Sample(**wrong)


def test_a_prompt_that_recurs_gets_other_completions(tiny):
    from autodidact.models import Models
    from autodidact.rollouts.sample import complete, sample_numbers

    assert sample_numbers([[1], [2], [1]], 2) == [range(2), range(2), range(2, 4)]
    prompt = tiny.render([{"role": "user", "content": "13+19-4*3"}])
    first, second = complete(Models(tiny), [prompt, prompt], 8, 40, Law(2.0), 0)
    [both] = complete(Models(tiny), [prompt], 16, 40, Law(2.0), 0)
    assert [each.ids for each in first + second] == [each.ids for each in both]
    assert [each.ids for each in first] != [each.ids for each in second]


# ------------------------------------------------------------------ what is asked


def test_a_draw_goes_on_where_it_was_cut(qwen):
    """Asked for in two pieces, a completion is the one that is drawn at once."""
    whole = [Request(tuple(prompt), k, 12) for prompt in PROMPTS for k in range(6)]
    at_once = Local().draw(qwen, whole, Law(), 3).completions
    first = Local().draw(qwen, [replace(r, length=5) for r in whole], Law(), 3).completions
    later = [
        (i, replace(r, length=7, begun=tuple(f.ids)))
        for i, (r, f) in enumerate(zip(whole, first, strict=True))
        if not f.finished
    ]
    assert 5 < len(later) < len(whole)
    rest = Local().draw(qwen, [request for _, request in later], Law(), 3).completions
    joined = list(first)
    for (i, _), piece in zip(later, rest, strict=True):
        joined[i] = first[i].followed(piece)
    for one, two in zip(at_once, joined, strict=True):
        assert one.ids == two.ids and one.finished == two.finished
        assert one.logp == pytest.approx(two.logp, abs=1e-6)


def test_every_request_has_a_length_of_its_own(qwen):
    asked = [Request(tuple(PROMPTS[0]), k, length) for k, length in enumerate((1, 9, 3, 9, 6))]
    found = Local(slots=2).draw(qwen, asked, Law(), 0).completions
    alone = [Local().draw(qwen, [request], Law(), 0).completions[0] for request in asked]
    assert [each.ids for each in found] == [each.ids for each in alone]
    assert all(len(f.ids) == r.length or f.finished for f, r in zip(found, asked, strict=True))


@pytest.mark.parametrize("law", [Law(0.7, top_k=3), Law(1.3, top_p=0.6), Law(1.0, min_p=0.2)])
def test_the_words_that_truncation_left_are_kept(qwen, law):
    """The raw log-probabilities over them, renormalised, are those of the law."""
    task = toy_task(6)
    models = Models(qwen)
    batch = Sample(2, 5, law)(task.train, models, task, 0)
    support = batch.take("support")
    assert support.shape[:2] == batch.ids.shape and (support[~batch.own] == -1).all()
    with torch.no_grad():
        trunk = qwen.hidden(batch.ids, batch.real, use_cache=False).last_hidden_state
        logits = qwen.head().logits(trunk[:, :-1].flatten(0, 1)).unflatten(0, (len(batch), -1))
        raw = (logits / law.temperature).log_softmax(-1)
    for row, column in batch.own.nonzero().tolist():
        kept = support[row, column]
        kept, own = kept[kept >= 0], raw[row, column - 1]
        word = int(batch.ids[row, column])
        assert word in kept.tolist()
        assert float(own[word]) == pytest.approx(float(batch.take("raw")[row, column]), abs=1e-5)
        law_logp = float(own[word] - own[kept].logsumexp(0))
        assert law_logp == pytest.approx(float(batch.take("logp")[row, column]), abs=1e-5)
    assert "support" not in Sample(1, 2)(task.train, models, task, 0).streams
    assert "support" not in Sample(1, 2, Law(0.0, top_k=3))(task.train, models, task, 0).streams
