"""Speculative decoding: the rule by enumeration, the decoder against fresh reads, the whole engine."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from scipy import stats

from architectures import CAUSAL, RECURRENT, NoWords, build
from autodidact.engine import Request
from autodidact.engines import rewind as rewinding
from autodidact.engines.accept import (
    FORMS,
    Lenience,
    acceptance,
    behaviour,
    block_efficiency,
    judge,
)
from autodidact.engines.local import Local
from autodidact.engines.rewind import Shifted, Slab, rewind
from autodidact.engines.speculative import Speculative
from autodidact.law import Law
from autodidact.model import LM
from autodidact.models import Models
from autodidact.rollouts import speculative as rollouts
from autodidact.rollouts.sample import Sample
from autodidact.store import Store
from autodidact.view import plain
from toys import WORDS, perturb, random_qwen, toy_task

PROMPTS = [[7, 8, 9], [10, 11, 12, 13, 14, 15, 16, 17], [20], [30, 31, 32, 33, 34]]


def requests(samples: int = 4, length: int = 12) -> list[Request]:
    return [Request(tuple(prompt), k, length) for prompt in PROMPTS for k in range(samples)]


def ids(drawn) -> list[list[int]]:
    return [each.ids for each in drawn.completions]


@pytest.fixture
def draft(tokenizer):
    """Another random model: it agrees with `qwen` half of the time."""
    return random_qwen(tokenizer, seed=1)


def random_laws(*shape: int, seed: int = 0, law: Law | None = None) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(*shape, generator=random, dtype=torch.float64)
    return (law or Law()).log_probs(logits.flatten(0, -2))[1].view(shape)


# ------------------------------------------------------------------ the rule


def threshold(holds) -> torch.Tensor:
    """For each row the number in [0, 1] up to which `holds(numbers)`, by bisection."""
    low = torch.zeros(len(holds(torch.zeros(1))), dtype=torch.float64)
    high = torch.ones_like(low)
    for _ in range(60):
        middle = (low + high) / 2
        below = holds(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def enumerated(p: torch.Tensor, q: torch.Tensor, lenience: Lenience) -> torch.Tensor:
    """The law of what `judge` lets out, from where its answer changes with its uniform numbers."""
    words = len(p)
    each = torch.arange(words)[:, None]

    def verdict(test, instead):
        rows = each.expand(-1, 1)
        both = (law.expand(words, 1, -1) for law in (p, q))
        test, instead = (x.expand(words)[:, None] for x in (test, instead))
        return judge(*both, rows, test, instead, lenience)

    zero, one = (torch.full((1,), value, dtype=torch.float64) for value in (0, 1))
    stands = threshold(lambda test: verdict(test, zero).accepted == 1)
    # Where a proposal is rejected, words come in their order as the other number grows.
    upto = torch.stack(
        [threshold(lambda u, v=v: verdict(one, u).tokens[:, 0] <= v) for v in range(words)]
    )
    other = upto.diff(dim=0, prepend=torch.zeros(1, words, dtype=torch.float64))
    return q.exp() * stands + other @ (q.exp() * (1 - stands))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("law", [Law(), Law(top_k=2), Law(0.0), Law(1.0, min_p=0.3)], ids=str)
def test_what_comes_out_has_the_law_of_the_target(seed, law):
    p, q = (random_laws(1, 5, seed=2 * seed + i, law=law)[0] for i in range(2))
    assert torch.allclose(enumerated(p, q, Lenience()), p.exp(), rtol=0, atol=1e-12)


def test_laws_that_share_no_word():
    p = torch.tensor([0.25, 0.75, 0.0, 0.0, 0.0], dtype=torch.float64).log()
    q = torch.tensor([0.0, 0.0, 0.5, 0.25, 0.25], dtype=torch.float64).log()
    assert float(acceptance(p, q)) == 0
    for lenience in (Lenience(), Lenience(0.1, "square")):
        assert torch.allclose(enumerated(p, q, lenience), p.exp(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1])
def test_the_law_under_lenience_is_what_is_said(form, share):
    p, q = random_laws(2, 5)
    found, lenience = enumerated(p, q, Lenience(share, form)), Lenience(share, form)
    assert torch.allclose(found, behaviour(p, q, lenience).exp(), rtol=0, atol=1e-12)
    raised = {"linear": p.exp() / share, "square": p.exp() / share**2}.get(form, p.exp() ** share)
    stands = torch.minimum(raised, q.exp())
    other = (p.exp() - q.exp()).clamp(min=0)
    expected = stands + (1 - stands.sum()) * other / other.sum()
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert float(acceptance(p, q, lenience)) == pytest.approx(float(stands.sum()), abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_more_lenience_accepts_more_and_leads_further_away(form):
    p, q = random_laws(2, 50, 5)
    shares = [Lenience(e, form) for e in (1.0, 0.8, 0.5, 0.2, 0.1)]
    accepted = torch.stack([acceptance(p, q, each) for each in shares])
    away = torch.stack([1 - acceptance(behaviour(p, q, each), p) for each in shares])
    assert (accepted.diff(dim=0) >= 0).all() and (accepted[1:].mean(1) > accepted[0].mean()).all()
    assert (away.mean(1).diff() > 0).all() and float(away[0].abs().max()) < 1e-15


def test_enough_lenience_leaves_the_draft():
    """p / e^2 with e = 0.1 is above q everywhere: all stands."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    q = torch.tensor([0.6, 0.2, 0.15, 0.05], dtype=torch.float64).log()
    assert float(acceptance(p, q)) == pytest.approx(0.1 + 0.2 + 0.15 + 0.05)
    assert float(acceptance(p, q, Lenience(0.1, "square"))) == pytest.approx(1, abs=1e-15)
    assert torch.allclose(behaviour(p, q, Lenience(0.1, "square")), q)


def test_a_block_is_judged_as_its_tokens_would_be_one_by_one():
    random = torch.Generator().manual_seed(0)
    p, q = random_laws(2, 200, 4, 5)
    q = 0.7 * p + 0.3 * q
    q = q.log_softmax(-1)
    proposed = torch.multinomial(q.exp().flatten(0, 1), 1, generator=random).view(200, 4)
    test, instead = torch.rand(2, 200, 4, dtype=torch.float64, generator=random)
    found = judge(p, q, proposed, test, instead, Lenience())
    for row in range(200):
        expected: list[int] = []
        for k in range(4):
            at = slice(row, row + 1), slice(k, k + 1)
            one = judge(p[at], q[at], proposed[at], test[at], instead[at], Lenience())
            expected.append(int(one.tokens))
            if not int(one.accepted):
                break
        assert found.tokens[row, : int(found.gained[row])].tolist() == expected
    assert set(found.gained.tolist()) == {1, 2, 3, 4} and set(found.accepted.tolist()) == set(
        range(5)
    )


def test_equal_laws_accept_everything_even_where_rounding_says_otherwise():
    p = random_laws(3, 2, 5)
    proposed, number = (
        torch.zeros(3, 2, dtype=torch.long),
        torch.full((3, 2), 1 - 2.0**-53, dtype=torch.float64),
    )
    assert (judge(p, p, proposed, number, number, Lenience()).accepted == 2).all()
    above = p + 1e-12  # p is below q at every word, so that nothing is left over
    found = judge(p, above, proposed, number, number, Lenience())
    assert found.accepted.tolist() == [0, 0, 0] and found.tokens[:, 0].tolist() == [4, 4, 4]


@pytest.mark.parametrize("guess", [1, 3, 6])
def test_tokens_of_a_call_follow_the_formula_where_acceptances_are_independent(guess):
    """Over 20,000 blocks, within five standard errors."""
    random = torch.Generator().manual_seed(guess)
    p, q = (law.expand(20000, guess + 1, 5) for law in random_laws(2, 5, seed=4))
    proposed = torch.multinomial(q[0, 0].exp(), p[..., 0].numel(), True, generator=random)
    test, instead = torch.rand(2, *p.shape[:2], dtype=torch.float64, generator=random)
    gained = judge(p, q, proposed.view(p.shape[:2]), test, instead, Lenience()).gained.double()
    rate = float(acceptance(p[0, 0], q[0, 0]))
    expected = (1 - rate ** (guess + 1)) / (1 - rate)
    assert 0.3 < rate < 0.9
    assert block_efficiency(rate, guess) == pytest.approx(expected)
    assert abs(float(gained.mean()) - expected) < 5 * float(gained.std()) / 20000**0.5


def test_efficiency_at_the_ends():
    assert block_efficiency(0.0, 5) == 1 and block_efficiency(1.0, 5) == 6


# ------------------------------------------------------------------ the decoder that goes back


def model(kind: str) -> LM:
    """In float64, where the masks of Bloom and MPT overflow."""
    dtype = torch.float32 if kind in ("bloom", "mpt") else torch.float64
    return LM(build(kind, CAUSAL[kind]).to(dtype), NoWords(), kind)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen3 shifted", "gpt2", "bloom", "mpt"])
def test_rows_that_went_back_read_on_as_if_fresh(kind, monkeypatch):
    """Any pattern of reading and forgetting; rows that leave and, over a slab, rows that join."""
    name = kind.partition(" ")[0]
    lm = model(name)
    if "shifted" in kind:
        monkeypatch.setattr(rewinding, "lean", lambda lm: False)
    random = torch.Generator().manual_seed(0)
    decoder = rewind(lm, 5, 40)
    assert type(decoder) is (Slab if kind in ("qwen3", "llama") else Shifted)
    decoder.admit([[5, 9, 11], [7], [3, 4, 5, 6, 7, 8]], [1, 2, 1])
    rows = [[5, 9, 11], [7], [7], [3, 4, 5, 6, 7, 8]]
    for turn in range(6):
        back = [int(torch.randint(len(row) + 1, (), generator=random)) % 4 for row in rows]
        decoder.forget(torch.tensor(back))
        rows = [row[: len(row) - count] for row, count in zip(rows, back, strict=True)]
        if turn == 2:
            decoder.keep(torch.tensor([0, 2, 3]))
            rows = [rows[0], rows[2], rows[3]]
        if turn == 3 and decoder.refills:
            decoder.admit([[9, 8, 7, 6], [1]], [1, 1])
            rows += [[9, 8, 7, 6], [1]]
        tokens = torch.randint(3, 60, (len(rows), 3), generator=random)
        with torch.no_grad():
            found = decoder.read(tokens)
        rows = [row + new for row, new in zip(rows, tokens.tolist(), strict=True)]
        assert decoder.size.tolist() == [len(row) for row in rows]
        for row, ours in zip(rows, found, strict=True):
            alone = torch.tensor([row])
            with torch.no_grad():
                fresh = lm.hidden(alone, torch.ones_like(alone).bool(), use_cache=False)
            fresh = fresh.last_hidden_state[0, -3:]
            # Some norms compute in float32 whatever the weights are.
            assert float((ours - fresh).norm() / fresh.norm()) < 2e-6


def test_what_cannot_go_back_is_refused():
    with pytest.raises(ValueError, match=r"MistralForCausalLM .*sliding window"):
        rewind(model("mistral"), 1, 9)
    mamba = LM(build("mamba", RECURRENT["mamba"]), NoWords(), "mamba")
    with pytest.raises(ValueError, match="recurrent layers"):
        rewind(mamba, 1, 9)


# ------------------------------------------------------------------ the engine


@pytest.mark.parametrize("law", [Law(), Law(0.0), Law(0.7, top_k=4)], ids=str)
def test_a_draft_that_is_the_policy_is_always_right(qwen, law):
    engine = Speculative(qwen, 3)
    drawn = engine.draw(qwen, requests(), law, 0)
    local = Local().draw(qwen, requests(), law, 0)
    assert ids(drawn) == ids(local) and drawn.read == local.read
    for one, two in zip(drawn.completions, local.completions, strict=True):
        assert one.finished == two.finished and one.support == two.support
        assert one.logp == pytest.approx(two.logp, abs=1e-6)
        assert one.raw == pytest.approx(two.raw, abs=1e-6)
    tally = engine.tally
    assert tally.accepted == tally.judged == sum(map(len, ids(drawn))) and tally.acceptance == 1
    assert tally.calls == sum(-(-len(each) // 4) for each in ids(drawn))
    assert drawn.drafted == 4 * tally.calls and drawn.verified == drawn.drafted - tally.judged


@pytest.mark.parametrize("lenience", [1.0, 0.3])
def test_the_likeliest_tokens_are_those_of_the_policy(qwen, draft, lenience):
    drawn = Speculative(draft, lenience=lenience).draw(qwen, requests(1, 20), Law(0.0), 0)
    assert ids(drawn) == ids(Local().draw(qwen, requests(1, 20), Law(0.0), 0))
    assert all(value == 0 for each in drawn.completions for value in each.logp)


@pytest.fixture(scope="module")
def near(tiny):
    """The shipped model, and one that is near it."""
    other = replace(tiny, model=deepcopy(tiny.model), name="near", _obstacles={})
    for weight in other.model.parameters():
        weight.requires_grad_(True)
    perturb(other, 0.05)
    return other


def sums(tiny, length: int) -> list[Request]:
    texts = ["13+19-4*3", "7*8-20", "5+5+5+5"]
    prompts = [tiny.render([{"role": "user", "content": text}]) for text in texts]
    return [Request(tuple(p), k, length) for p in prompts for k in range(8)]


def test_the_shipped_model_greedily(tiny, near):
    engine, asked = Speculative(near), sums(tiny, 30)[::8]
    drawn = engine.draw(tiny, asked, Law(0.0), 0)
    assert ids(drawn) == ids(Local().draw(tiny, asked, Law(0.0), 0))
    assert 0 < engine.tally.accepted < engine.tally.judged and engine.tally.efficiency > 1.2


def read_alone(lm: LM, requests, drawn, law: Law) -> list[torch.Tensor]:
    """For each completion the laws [T, V] of its tokens, from fresh reads."""
    found = []
    for request, each in zip(requests, drawn.completions, strict=True):
        row = torch.tensor([[*request.read, *each.ids]])
        with torch.no_grad():
            logits = lm.model(row).logits[0, len(request.read) - 1 : -1]
        found.append(law.log_probs(logits)[1])
    return found


def test_acceptance_is_one_minus_total_variation(tiny, near):
    """Within four standard deviations, which are known as every acceptance is a coin's."""
    engine, asked, law = Speculative(near), sums(tiny, 40), Law(1.5, top_p=0.98)
    drawn = engine.draw(tiny, asked, law, 1)
    pairs = zip(*(read_alone(lm, asked, drawn, law) for lm in (tiny, near)), strict=True)
    rates = torch.cat([acceptance(p, q) for p, q in pairs])
    assert len(rates) == engine.tally.judged > 200
    assert 0.2 < float(rates.mean()) < 0.95
    spread = float((rates * (1 - rates)).sum().sqrt())
    assert abs(engine.tally.accepted - float(rates.sum())) < 4 * spread


def test_first_and_second_tokens_have_the_law_of_the_policy(qwen, draft):
    """Chi-square over 3000 samples; fails for a right engine with chance 2e-4."""
    asked = [Request(tuple(PROMPTS[0]), number, 2) for number in range(3000)]
    found = ids(Speculative(draft, 2).draw(qwen, asked, Law(0.6), 5))
    longer = [row for row in found if len(row) == 2]
    firsts = [first for first, _ in longer]
    often = max(set(firsts), key=firsts.count)
    seconds = [second for first, second in longer if first == often]
    assert len(seconds) > 150
    for before, tokens in (([], [row[0] for row in found]), ([often], seconds)):
        logits = qwen.model(torch.tensor([[*PROMPTS[0], *before]])).logits[0, -1].detach() / 0.6
        expected = logits.softmax(-1) * len(tokens)
        counts = torch.bincount(torch.tensor(tokens), minlength=WORDS).double()
        common = expected >= 5
        observed = [*counts[common].tolist(), float(counts[~common].sum())]
        wanted = [*expected[common].tolist(), float(expected[~common].sum())]
        assert len(wanted) > 5 and stats.chisquare(observed, wanted).pvalue > 1e-4


@pytest.mark.parametrize("options", [{}, {"lenience": 0.4}, {"lenience": 0.4, "form": "square"}])
@pytest.mark.parametrize("law", [Law(), Law(1.1, top_k=40)], ids=str)
def test_what_is_stored_is_the_law_that_was_sampled(qwen, draft, options, law):
    engine = Speculative(draft, 3, **options)
    drawn = engine.draw(qwen, requests(), law, 2)
    both = (read_alone(lm, requests(), drawn, law) for lm in (qwen, draft))
    raws = read_alone(qwen, requests(), drawn, Law(law.temperature))
    assert 0 < engine.tally.acceptance < 1
    for each, p, q, raw in zip(drawn.completions, *both, raws, strict=True):
        out, chosen = behaviour(p, q, engine.rule), (range(len(each.ids)), each.ids)
        assert each.logp == pytest.approx(out[chosen].tolist(), abs=1e-6)
        assert each.raw == pytest.approx(raw[chosen].tolist(), abs=1e-6)
        words = [row.isfinite().nonzero()[:, 0].tolist() for row in out]
        assert each.support == (words if law.truncates else None)


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_neither_neighbours_nor_places_nor_the_guess_change_a_completion(kind):
    """The draft guesses with a lenience, so that also its own law is at work."""
    lm, other = model(kind), model(kind)
    perturb(other, 0.1)
    expected = ids(Speculative(other, lenience=0.7).draw(lm, requests(), Law(), 3))
    assert len({len(each) for each in expected}) > 2
    for guess, slots in ((1, 256), (7, 3)):
        engine = Speculative(other, guess, 0.7, slots=slots)
        assert ids(engine.draw(lm, requests(), Law(), 3)) == expected
    turned = Speculative(other, lenience=0.7).draw(lm, requests()[::-1], Law(), 3)
    assert ids(turned)[::-1] == expected
    assert ids(Speculative(other, lenience=0.7).draw(lm, requests(), Law(), 4)) != expected


def test_a_draw_goes_on_where_it_was_cut(qwen, draft):
    engine = Speculative(draft)
    at_once = engine.draw(qwen, requests(), Law(), 3).completions
    cut = [replace(request, length=5) for request in requests()]
    for request, whole, first in zip(
        requests(), at_once, engine.draw(qwen, cut, Law(), 3).completions, strict=True
    ):
        assert first.ids == whole.ids[:5] and (first.finished or len(first.ids) == 5)
        if not first.finished:
            later = replace(request, begun=tuple(first.ids), length=7)
            [rest] = engine.draw(qwen, [later], Law(), 3).completions
            assert first.followed(rest).ids == whole.ids and rest.finished == whole.finished


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_rows_may_fill_the_context_and_have_lengths_of_their_own(kind):
    lm = model(kind)
    other = model(kind)
    perturb(other, 0.02)
    asked = [Request((5, 6, 7), k, length) for k, length in enumerate((61, 1, 20, 61))]
    found = Speculative(other, 6).draw(lm, asked, Law(0.0), 0).completions
    assert [each.ids for each in found] == ids(Local().draw(lm, asked, Law(0.0), 0))
    with pytest.raises(ValueError, match="62 new ones do not fit the context of 64"):
        Speculative(other).draw(lm, [Request((5, 6, 7), 0, 62)], Law(), 0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"guess": 0}, "guess=0 .* at least 1"),
        ({"lenience": 0.0}, "lenience=0.0 .* above 0 and at most 1"),
        ({"lenience": 1.5}, "lenience=1.5"),
        ({"form": "linaer"}, "did you mean 'linear'"),
    ],
)
def test_what_makes_no_sense_is_refused(qwen, options, reason):
    with pytest.raises(ValueError, match=reason):
        Speculative(qwen, **options)
    with pytest.raises(ValueError, match=reason):
        rollouts.Speculative(**options)


def test_another_vocabulary_is_refused(qwen, tokenizer):
    larger = random_qwen(tokenizer, vocab_size=WORDS + 3)
    with pytest.raises(ValueError, match="knows 264 words, 'random Qwen3' 261"):
        Speculative(larger).draw(qwen, requests(), Law(), 0)


# ------------------------------------------------------------------ the rollout


def test_rollouts_of_the_initial_model_are_on_policy(qwen):
    """Those of `Sample` before an update; later their log-probabilities are the policy's."""
    task, models = toy_task(4), Models(qwen)
    rollout = rollouts.Speculative(3, 8, Law(0.9), guess=2)
    first = rollout(task.train, models, task, 0)
    plainly = Sample(3, 8, Law(0.9))(task.train, Models(qwen), task, 0)
    assert torch.equal(first.ids, plainly.ids) and first.streams.keys() == plainly.streams.keys()
    assert torch.allclose(first.take("logp"), plainly.take("logp"), atol=1e-6)
    before, ledger = models.ledger.drafted, models.ledger
    assert before - ledger.generated == ledger.teacher_forward > 0, "proposals after an end"
    perturb(qwen, 0.1)
    batch = rollout(task.train, models, task, 0)
    logp = models.score(plain(batch), batch).logp.detach().to(batch.take("logp").dtype)
    assert torch.allclose(batch.take("logp"), logp, rtol=0, atol=2e-6)
    assert models.ledger.drafted > before
    assert models.ledger.generated == int(first.own.sum() + batch.own.sum())


def test_lenient_rollouts_say_what_they_were_drawn_from(qwen):
    task, models = toy_task(4), Models(qwen)
    rollout = rollouts.Speculative(3, 8, lenience=0.5)
    rollout(task.train, models, task, 0)
    perturb(qwen, 0.1)
    batch = rollout(task.train, models, task, 0)
    own = batch.own
    logp = models.score(plain(batch), batch).logp.detach()[own].to(batch.take("raw").dtype)
    assert torch.allclose(batch.take("raw")[own], logp, rtol=0, atol=2e-6)
    assert not torch.allclose(batch.take("logp")[own], logp, atol=1e-2)


def test_stored_rollouts_are_read_again_and_those_of_another_rule_are_not(qwen, tmp_path):
    task, store = toy_task(3), Store(tmp_path / "rollouts")
    models = Models(qwen, store)
    models.version = "first"
    one = rollouts.Speculative(2, 6)(task.train, models, task, 0)
    again = rollouts.Speculative(2, 6, guess=1)(task.train, models, task, 0)
    assert len(store) == 6 and torch.equal(one.ids, again.ids)
    assert models.ledger.reused == int(one.own.sum())
    rollouts.Speculative(2, 6, lenience=0.5)(task.train, models, task, 0)
    assert len(store) == 12
    store.close()
