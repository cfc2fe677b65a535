"""Caches of denoising: exact where they say so, measured where they are not, and all is counted."""

from __future__ import annotations

import pytest
import torch

from autodidact.engine import Request
from autodidact.engines.cached import Cached, error
from autodidact.engines.canvas import Canvas
from autodidact.engines.columns import Memory
from autodidact.engines.denoise import Denoise
from autodidact.law import Law
from autodidact.model import load
from toys import random_masked, random_qwen

LAWS = (Law(), Law(temperature=0))
PLACES = 8
KINDS = ("prefix", "dual", "free")


def requests(places: int = PLACES) -> list[Request]:
    """Prompts of different lengths; the last canvas has a given word in each half."""
    asked = [
        Request(tuple(range(5, 5 + size)), sample, places)
        for size, sample in ((3, 0), (7, 0), (7, 1), (1, 0))
    ]
    given = [9, *[None] * (places - 2), 11]
    return [*asked, Request((5, 6), 0, places, canvas=tuple(given))]


def gpt2(tokenizer):
    """A random GPT-2 that reads both ways, in float64."""
    from transformers import GPT2Config, GPT2LMHeadModel

    lm = random_qwen(tokenizer)
    config = GPT2Config(
        vocab_size=261, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=None, eos_token_id=4,
    )  # fmt: skip
    config.is_causal, config.mask_token_id = False, 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm.model = GPT2LMHeadModel(config).double().eval()
    return lm


def shifted(lm):
    """The same model, its output about a token one column before it."""
    lm.model.config.output_shift = 1
    return lm


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    "options",
    [
        {"cache": "none"},
        *({"cache": kind, "refresh": 1} for kind in KINDS),
        {"cache": "free", "window": 100},
        # A block that is the whole canvas leaves nothing to keep to what is before the block.
        {"cache": "free", "block": None},
    ],
)
def test_a_cache_that_reads_everything_is_none_bit_for_bit(tokenizer, law, options):
    lm, shared = random_masked(tokenizer), {"block": 3, "steps": 5} | options
    plain = Denoise(steps=5, block=shared["block"]).draw(lm, requests(), law, 7)
    assert Cached(**shared).draw(lm, requests(), law, 7) == plain


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", ["prefix", "dual"])
@pytest.mark.parametrize("threshold", [None, 0.1])
def test_one_layer_keeps_what_depends_on_its_own_token_only(tokenizer, law, kind, threshold):
    lm = random_masked(tokenizer, num_hidden_layers=1)
    options = {"block": 3, "threshold": threshold}
    plain = Denoise(**options).draw(lm, requests(), law, 3)
    kept = Cached(cache=kind, **options).draw(lm, requests(), law, 3)
    assert [c.ids for c in kept.completions] == [c.ids for c in plain.completions]
    assert [c.order for c in kept.completions] == [c.order for c in plain.completions]
    for one, other in zip(kept.completions, plain.completions, strict=True):
        assert one.logp == pytest.approx(other.logp, abs=1e-9)
    assert kept.calls == plain.calls and kept.read < plain.read


def test_one_layer_without_a_window_is_not_exact_as_words_were_hidden_when_they_were_kept(
    tokenizer,
):
    lm = random_masked(tokenizer, num_hidden_layers=1)
    for block, far in ((1, 1), (2, 2)):
        loose = error(lm, requests(), Law(), 3, Cached(cache="free", block=block))
        tight = error(lm, requests(), Law(), 3, Cached(cache="free", block=block, window=far))
        assert loose.worst > 1e-3 and tight.worst < 1e-9


@pytest.mark.parametrize("make", [random_masked, gpt2, lambda t: shifted(random_masked(t))])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_some_columns_of_a_canvas_that_stands_gives_what_all_give(tokenizer, make, kind):
    lm = make(tokenizer)
    canvas = Canvas.of(lm, requests()[:4])
    rows = torch.tensor([0, 1, 3])
    canvas.put(torch.arange(PLACES).expand(4, -1) < 3, torch.full((4, PLACES), 17))
    memory = Memory(lm, canvas, kind, 3, None, 2)
    with torch.no_grad():
        memory.kept.fed = torch.arange(4), None
        whole = memory.hidden(torch.arange(4), None)
        memory.age[:], memory.block[:] = 1, 1
        before = memory.read
        part = memory.states(rows)
    assert memory.read - before < int(canvas.real[rows].sum())
    inside = torch.arange(3, 6) - lm.shift
    for number, row in enumerate(rows.tolist()):
        columns = canvas.start[row] + inside
        torch.testing.assert_close(part[number, columns], whole[row, columns])
    assert memory.age.tolist() == [2, 2, 1, 2]


@pytest.mark.parametrize(
    ("options", "each"),
    [
        # 2 blocks of 4 places after 5 tokens, one place a step: the columns fed at each step.
        ({"cache": "none"}, [13] * 8),
        ({"cache": "prefix"}, [13, 8, 8, 8, 13, 4, 4, 4]),
        ({"cache": "dual"}, [13, 4, 4, 4] * 2),
        ({"cache": "dual", "refresh": 2}, [13, 4, 13, 4] * 2),
        ({"cache": "free"}, [13] * 4 + [4] * 4),
        ({"cache": "free", "window": 3}, [13] * 4 + [7] * 4),
        ({"cache": "free", "refresh": 3}, [13] * 4 + [4, 4, 13, 4]),
    ],
)
def test_every_token_that_is_fed_is_counted(tokenizer, options, each):
    lm, asked = random_masked(tokenizer), [Request((5, 6, 7, 8, 9), 0, 8)]
    fed = []
    inner = lm.hidden

    def hidden(ids, real, **more):
        fed.append(ids.shape[1])
        return inner(ids, real, **more)

    lm.hidden = hidden
    drawn = Cached(block=4, **options).draw(lm, asked, Law(), 0)
    assert (fed, drawn.read, drawn.calls) == (each, sum(each), 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [None, 0.9])
def test_a_row_is_written_alike_whatever_stands_beside_it(tokenizer, kind, factor):
    lm = random_masked(tokenizer)
    engine = Cached(cache=kind, block=3, refresh=4, window=4, factor=factor)
    beside = engine.draw(lm, requests(), Law(), 1)
    alone = [engine.draw(lm, [request], Law(), 1) for request in requests()]
    for one, other in zip(beside.completions, [a.completions[0] for a in alone], strict=True):
        assert (one.ids, one.order) == (other.ids, other.order)
        assert one.logp == pytest.approx(other.logp, abs=1e-9)
    assert beside.calls == sum(a.calls for a in alone)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cache_costs_is_measured_and_the_more_is_read_the_less(tokenizer, kind):
    """Two layers: what is kept has not read the words written since."""
    lm = random_masked(tokenizer)
    found = [
        error(lm, requests(), Law(), 2, Cached(cache=kind, block=4, refresh=k)) for k in (3, 1)
    ]
    print(kind, found[0])
    assert 1e-6 < found[0].mean < found[0].worst < 0.9
    assert 0.3 < found[0].agreed <= 1 and 0.3 < found[0].read < 1
    assert found[1] == (0, 0, 1, 1)


def test_an_error_is_that_of_the_laws_it_drew_from():
    """On the shipped model: small, as its blocks read mostly what stands from the start."""
    lm = load("tiny_diffusion")
    asked = [Request((), 0, 16, canvas=tuple([3 + i % 4 if i % 2 else None for i in range(16)]))]
    found = error(lm, asked, Law(temperature=0), 0, Cached(cache="dual", block=8))
    assert found.worst < 0.9 and found.read < 1


def test_the_factor_keeps_as_many_words_as_it_may():
    engine = Cached(factor=0.5)
    # (n + 1)(1 - p_n): .2, .3, .48 | 1.0 and 1.2, .18 | nothing under the factor
    sure = torch.tensor([[0.88, 0.9, 0.8, 0.9], [0.4, 0.91, 0.9, 0.9], [0.5, 0.4, 0.1, 0.3]])
    hidden = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
    kept = engine._kept(sure, hidden, left=1)
    assert kept.tolist() == [
        [True, True, False, True],
        [False, True, False, False],
        [True, False, False, False],
    ]


def test_words_kept_by_a_factor_of_one_are_the_likeliest_jointly():
    """If each of n words has more than 1 - 1/(n + 1), no other n words are likelier together.

    Any law with these marginals: the words jointly keep 1 - sum(1 - p), more than 1/(n + 1); the
    rest holds less than the sum of (1 - p) over one place, which is less than 1/(n + 1).
    """
    random = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(300):
        table = torch.rand(3, 3, generator=random, dtype=torch.float64) ** 8
        table[0, 0] += 3 * torch.rand((), generator=random)
        table /= table.sum()
        first, second = table.sum(1), table.sum(0)
        sure = torch.stack([first.max(), second.max()])[None]
        kept = Cached(factor=1.0)._kept(sure, torch.ones(1, 2, dtype=torch.bool), left=1)
        if kept.all():
            held += 1
            assert table.argmax() == 3 * first.argmax() + second.argmax()
    assert held > 30


def test_a_factor_as_small_as_that_writes_one_word_a_step(tokenizer):
    lm = random_masked(tokenizer)
    plain = Denoise().draw(lm, requests(), Law(), 5)
    assert Cached(cache="none", factor=1e-9).draw(lm, requests(), Law(), 5) == plain
    all_at_once = Cached(cache="none", factor=100.0).draw(lm, requests(), Law(), 5)
    assert all_at_once.calls == len(requests())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache": "duel"}, "dual"),
        ({"refresh": 0}, "refresh=0"),
        ({"window": -1}, "window=-1"),
        ({"guidance": 1.0}, "guidance=1.0"),
        ({"factor": 0.0}, "factor=0.0"),
        ({"factor": 0.5, "threshold": 0.9}, "threshold=0.9"),
        ({"factor": 0.5, "order": "left"}, "order='left'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Cached(**options)


def test_names_tell_engines_apart():
    engines = [Cached(), Cached(cache="free"), Cached(refresh=2), Cached(factor=0.5), Denoise()]
    assert len({engine.name for engine in engines}) == len(engines)
