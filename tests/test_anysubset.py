"""A model of any subset, and its speculative decoding: one law with the chain, by enumeration."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from recipes import any_subset as recipe
from scipy.stats import chisquare

from autodidact.engine import Request
from autodidact.engines.assd import Assd
from autodidact.lab.anysubset import AnySubset, chain, hide, loss, masking_rate, ranks, reads
from autodidact.law import Law

WORDS = 4
"""The mask, 0, and three words."""
GIVEN = (None, 2, None, None)


def random_model(seed: int = 1, places: int = 6) -> AnySubset:
    """Untrained, in float64, and with words that depend on one another strongly."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AnySubset(WORDS, places, width=8, layers=2, heads=2).double()
        for name, weight in model.named_parameters():
            if name in ("start", "query") or weight.dim() > 1:
                torch.nn.init.normal_(weight, std=2.4 if name.startswith("word") else 0.8)
    return model.eval()


def wanted(samples: int, canvas=GIVEN) -> list[Request]:
    return [Request((), number, len(canvas), canvas=canvas) for number in range(samples)]


def rows_of(canvas) -> torch.Tensor:
    """Every row that a canvas may become."""
    hidden = canvas.count(None)
    rows = []
    for words in itertools.product(range(1, WORDS), repeat=hidden):
        left = iter(words)
        rows.append([next(left) if word is None else word for word in canvas])
    return torch.tensor(rows)


@torch.no_grad()
def joint(model, canvas, law: Law | None = None) -> dict[tuple[int, ...], float]:
    """The probability of each row, one place after the other; hidden places stand masked."""
    rows, law = rows_of(canvas), law or Law()
    total = torch.zeros(len(rows), dtype=torch.float64)
    ids = torch.tensor([[0 if word is None else word for word in canvas]]).repeat(len(rows), 1)
    rank = ranks(torch.tensor([[word is not None for word in canvas]]).expand(len(rows), -1))
    for column in (i for i, word in enumerate(canvas) if word is None):
        _, logp = law.log_probs(model(ids, rank)[:, column])
        total += logp.gather(1, rows[:, column, None]).squeeze(1)
        ids[:, column] = rows[:, column]
    return {tuple(row): p for row, p in zip(rows.tolist(), total.exp().tolist(), strict=True)}


def distance(found: list, law: dict) -> float:
    counts = Counter(tuple(each.ids) for each in found)
    assert counts.keys() <= law.keys()
    return sum(abs(counts[row] / len(found) - p) for row, p in law.items()) / 2


def test_given_tokens_come_first_and_the_others_from_left_to_right():
    given = torch.tensor([[True, False, True, False, False], [False] * 5])
    assert ranks(given).tolist() == [[0, 1, 0, 2, 3], [1, 2, 3, 4, 5]]


def test_who_reads_whom():
    """Contents themselves and what comes before, queries what comes before; given ones all given."""
    seen = reads(torch.tensor([[1, 0, 2, 0]]))[0].int().tolist()
    contents = [[1, 0, 0, 0, 0], [1, 1, 1, 0, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]
    queries = [[1, 0, 1, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 1], [1, 0, 0, 0, 0]]
    assert seen == contents + queries


def test_a_place_depends_on_what_comes_before_and_on_nothing_else():
    model, rank = random_model(), torch.tensor([[2, 0, 3, 1, 0, 4]])
    ids = torch.tensor([[1, 2, 3, 1, 2, 3]])
    before = model(ids, rank)
    for changed in range(6):
        other = ids.clone()
        other[0, changed] = ids[0, changed] % 3 + 1
        moved = (model(other, rank) - before).nan_to_num().abs().amax(-1)[0] > 1e-9
        assert moved.tolist() == (rank[0] > rank[0, changed]).tolist()


def test_one_reading_gives_the_whole_chain():
    """The chain of a full row is that of places written one after the other, and sums to one."""
    model = random_model()
    for canvas in (GIVEN, (None, None, None), (3, None, 1, 2, None)):
        law, rows = joint(model, canvas), rows_of(canvas)
        given = torch.tensor([[word is not None for word in canvas]]).expand(len(rows), -1)
        whole = chain(model, rows, given)
        assert (whole[given] == 0).all()
        torch.testing.assert_close(whole.sum(1).exp().tolist(), list(law.values()))
        assert sum(law.values()) == pytest.approx(1)


def test_the_loss_is_the_mean_over_hidden_tokens():
    model, ids = random_model(), torch.tensor([[1, 2, 3, 1], [2, 2, 1, 3]])
    given = torch.tensor([[True, False, False, True], [False, True, False, False]])
    parts = [
        -chain(model, row[None], known[None]).sum() for row, known in zip(ids, given, strict=True)
    ]
    torch.testing.assert_close(loss(model, ids, given), torch.stack(parts).sum() / 5)


@pytest.mark.parametrize("guess", [1, 2, 5])
@pytest.mark.parametrize("law", [Law(), Law(0.5), Law(1.0, top_k=2)])
def test_speculation_draws_from_the_law_of_one_place_after_the_other(guess, law):
    """Total variation, and chi-square on what the law allows: 6000 rows over 27."""
    model, engine = random_model(), Assd(guess)
    expected = joint(model, GIVEN, law)
    found = engine.draw(model, wanted(6000), law, 0).completions
    assert distance(found, expected) < 0.035
    counts = Counter(tuple(each.ids) for each in found)
    kept = [row for row, p in expected.items() if p * 6000 > 5]
    rest = 6000 - sum(counts[row] for row in kept)
    mass = 6000 - sum(expected[row] * 6000 for row in kept)
    seen = [*(counts[row] for row in kept), rest] if mass > 1 else [counts[row] for row in kept]
    theory = (
        [*(expected[row] * 6000 for row in kept), mass]
        if mass > 1
        else [expected[row] * 6000 for row in kept]
    )
    scale = sum(seen) / sum(theory)
    assert chisquare(seen, [scale * p for p in theory]).pvalue > 1e-3
    for each in found[:50]:
        assert sum(each.logp) == pytest.approx(
            torch.tensor(expected[tuple(each.ids)]).log().item(), abs=1e-4
        )


def test_proposals_that_nobody_judges_have_another_law():
    """The comparison can fail: drafts alone ignore one another."""
    model = random_model()
    rank = torch.tensor([[1, 0, 1, 1]])
    logp = model(torch.tensor([[0, 2, 0, 0]]), rank).log_softmax(-1)[0].detach()
    drafts = {
        row: float(sum(logp[i, row[i]] for i in (0, 2, 3)).exp()) for row in joint(model, GIVEN)
    }
    law = joint(model, GIVEN)
    assert sum(abs(drafts[row] - law[row]) for row in law) / 2 > 0.1


@pytest.mark.parametrize("guess", [1, 2, 3, 8])
def test_readings_are_never_more_than_places(guess):
    """Row by row, whatever was hidden; the first proposal of a round always stands."""
    model = random_model(3)
    for number, canvas in enumerate(
        [(None,) * 6, GIVEN, (1, None), (None, 1, None, None, None, 3)]
    ):
        engine = Assd(guess)
        drawn = engine.draw(model, [Request((), number, len(canvas), canvas=canvas)], Law(), number)
        hidden = canvas.count(None)
        assert drawn.calls <= hidden and drawn.completions[0].written == hidden
        steps = Counter(drawn.completions[0].order)
        left = hidden
        for step in range(1, max(steps) + 1):
            assert steps[step] >= min(2, guess, left)
            left -= steps[step]
        assert drawn.calls == hidden if guess == 1 else drawn.calls <= 2 * max(steps)


def test_one_proposal_is_sequential_and_greedy_does_not_depend_on_the_guess():
    model = random_model(5)
    one = Assd(1).draw(model, wanted(20), Law(), 0)
    assert all(each.order == [1, 0, 2, 3] for each in one.completions)
    assert one.calls == 60 and one.verified == 0
    best = Assd(1).draw(model, wanted(1), Law(0.0), 0).completions[0].ids
    assert {
        tuple(e.ids)
        for g in (2, 3, 9)
        for e in Assd(g).draw(model, wanted(3), Law(0.0), 1).completions
    } == {tuple(best)}


def test_rows_do_not_depend_on_their_neighbours():
    model = random_model()
    asked = [*wanted(5), *wanted(5, (None,) * 5)]
    together = Assd(3).draw(model, asked, Law(), 7).completions
    alone = [Assd(3).draw(model, [each], Law(), 7).completions[0].ids for each in reversed(asked)]
    assert [each.ids for each in together] == alone[::-1]


class Blind:
    """Reads what is given and nothing that was drawn: a masked model without an order."""

    mask = 0

    def __init__(self, model: AnySubset):
        self.model = model

    def __call__(self, ids, rank):
        return self.model(ids, rank.clamp(max=1))


def test_without_an_order_every_proposal_stands_and_nothing_is_corrected():
    model, engine = random_model(), Assd(3)
    drawn = engine.draw(Blind(model), wanted(4000), Law(), 0)
    assert drawn.verified == 0 and engine.tally.acceptance == 1
    assert distance(drawn.completions, joint(model, GIVEN)) > 0.1
    engine.draw(model, wanted(4000), Law(), 0)
    assert 0.3 < engine.tally.acceptance < 1


def test_the_share_of_hidden_places_grows():
    assert masking_rate(0, 100) == (0.15, 0.15) and masking_rate(100, 100) == (0.75, 0.85)
    assert masking_rate(50, 100) == pytest.approx((0.45, 0.5))
    random = torch.Generator().manual_seed(0)
    hidden = ~hide((500, 20), (0.2, 0.6), random)
    assert hidden.sum(1).min() == 4 and hidden.sum(1).max() == 12
    assert (hidden.float().mean(0) - 0.4).abs().max() < 0.08
    assert (~hide((3, 4), (0.0, 0.0), random)).sum(1).tolist() == [1, 1, 1]


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="guess=0"):
        Assd(0)
    with pytest.raises(ValueError, match="prompt of 2 tokens"):
        Assd().draw(random_model(), [Request((1, 2), 0, 3)], Law(), 0)


def test_a_small_model_learns_to_fill_any_gap():
    """Trained for seconds: what it writes is right, as often with speculation as without, by fewer
    readings; places that do not see one another are right by chance. Gaps anywhere are filled."""
    model = recipe.train(250, places=4)
    alone, speculative, at_once = recipe.write(model, 1000)
    assert alone.right > 0.8 and at_once.right < 0.1
    assert abs(alone.right - speculative.right) < 0.05  # four standard errors
    assert speculative.readings < 3.5 < alone.readings == 4 and alone.stood is None
    rows = recipe.strings()[:, :4]
    canvases = [
        tuple(word if known else None for word, known in zip(row, (0, 1, 0, 1), strict=True))
        for row in rows.tolist()
    ]
    asked = [Request((), 0, 4, canvas=canvas) for canvas in canvases]
    filled = Assd(2).draw(model, asked, Law(0.0), 0).completions
    right = sum(each.ids == row for each, row in zip(filled, rows.tolist(), strict=True))
    assert right > len(rows) / 2  # by chance it is one
    assert sum(weight.numel() for weight in AnySubset(8, 8).parameters()) < 200_000


def test_the_recipe_prints_its_table(capsys):
    assert recipe.main(["--steps", "3"]) == 0
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["right", "readings", "stood"] and len(lines) == 3
