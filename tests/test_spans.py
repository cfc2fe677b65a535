"""Spans: sums and places against loops, and steps of text whose tokens are bytes or words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from autodidact.batch import batch_of
from autodidact.credits.spans import Spans, chunks, cut_at, lines, tokens_until, written
from toys import padded, rows_of, toy_task

NUMBER = torch.tensor([[-1, 0, 0, -1, 1, 1, 1, 2], [-1, -1, 0, 1, 1, -1, -1, -1], [-1] * 8])
VALUES = torch.arange(24, dtype=torch.float64).view(3, 8) ** 2 / 10 + 1


def by_loops(row, number):
    return [column for column in range(8) if int(NUMBER[row, column]) == number]


def test_sums_sizes_and_means_are_those_of_loops():
    spans = Spans(NUMBER)
    assert spans.most == 3 and torch.equal(spans.inside, NUMBER >= 0)
    for row in range(3):
        for number in range(3):
            columns = by_loops(row, number)
            total = float(VALUES[row, columns].sum())
            assert float(spans.sums(VALUES)[row, number]) == pytest.approx(total, abs=1e-12)
            assert int(spans.sizes()[row, number]) == len(columns)
            mean = total / len(columns) if columns else 0.0
            assert float(spans.means(VALUES)[row, number]) == pytest.approx(mean, abs=1e-12)


def test_values_of_spans_come_back_at_their_tokens():
    spans = Spans(NUMBER)
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    expected = [
        [0, 1, 1, 0, 2, 2, 2, 3],
        [0, 0, 4, 5, 5, 0, 0, 0],
        [0] * 8,
    ]
    assert spans.at(values).tolist() == expected
    assert torch.allclose(spans.sums(spans.at(values)), values * spans.sizes())


def test_places_and_last_tokens():
    spans = Spans(NUMBER)
    assert spans.places().tolist() == [
        [0, 0, 1, 0, 0, 1, 2, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0] * 8,
    ]
    assert spans.last.nonzero().tolist() == [[0, 2], [0, 6], [0, 7], [1, 2], [1, 4]]


def test_no_span_at_all():
    spans = Spans(torch.full((2, 3), -1))
    assert spans.most == 0 and spans.sums(torch.ones(2, 3)).shape == (2, 0)
    assert not spans.last.any() and not spans.at(torch.zeros(2, 0)).any()
    assert Spans(torch.zeros(0, 0, dtype=torch.long)).most == 0


def test_chunks_are_runs_of_own_tokens_and_the_last_may_be_short():
    own = rows_of([5, 2, 1], prompt=2).own
    assert chunks(own, 2).number.tolist() == [
        [-1, -1, 0, 0, 1, 1, 2],
        [-1, -1, 0, 0, -1, -1, -1],
        [-1, -1, 0, -1, -1, -1, -1],
    ]
    assert torch.equal(chunks(own, 1).places(), torch.zeros(3, 7, dtype=torch.long))
    assert chunks(own, 9).sizes().flatten().tolist() == [5, 2, 1]


def test_chunks_go_on_over_tokens_in_between_that_are_not_own():
    own = torch.tensor([[False, True, True, False, True, True]])
    assert chunks(own, 3).number.tolist() == [[-1, 0, 0, -1, 0, 1]]


def test_cuts_begin_a_span_and_so_does_the_first_own_token():
    own = torch.tensor([[False, True, True, True, True], [False, True, True, False, False]])
    begins = torch.tensor([[True, False, False, True, False], [False, True, False, True, True]])
    assert cut_at(own, begins).number.tolist() == [[-1, 0, 0, 1, 1], [-1, 0, 0, -1, -1]]


def steps_of(lm, texts, mark="\n"):
    """The pieces of each text, and the spans they were cut by."""
    task = toy_task(1)
    prompt = lm.render(task.prompt(task.train[0]))
    batch = batch_of(
        [task.train[0]] * len(texts), [prompt] * len(texts), list(map(lm.encode, texts)), task
    )
    spans = lines(batch, lm, mark)
    wide = lines(padded(batch), lm, mark).number[:, : batch.ids.shape[1]]
    assert torch.equal(wide, spans.number), "padding is no step"
    assert torch.equal(spans.inside, batch.own)
    return [
        [lm.decode(ids[number == k].tolist()) for k in range(int(number.max()) + 1)]
        for ids, number in zip(batch.ids, spans.number, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "mark", "pieces"),
    [
        ("1+1=2\n2+1=3", "\n", ["1+1=2\n", "2+1=3"]),
        ("one line", "\n", ["one line"]),
        ("a\n\nb\nc\n\nd", "\n\n", ["a\n\n", "b\nc\n\n", "d"]),
        ("a\nb\n", "\n", ["a\n", "b\n", ""]),
        ("\u00e9\u00e8\n\u20ac", "\n", ["\u00e9\u00e8\n", "\u20ac"]),
        ("a\u20acb\u20acc", "\u20ac", ["a\u20ac", "b\u20ac", "c"]),
        ("", "\n", [""]),
    ],
)
def test_a_step_ends_with_its_mark(tiny, text, mark, pieces):
    """Tokens are bytes here; the end token belongs to what it closes, or is a step of its own."""
    assert steps_of(tiny, [text, "other"], mark)[0] == pieces


def words(*pieces):
    """A model whose tokens are these texts."""
    return SimpleNamespace(decode=lambda ids: "".join(pieces[i] for i in ids))


def test_a_token_that_holds_a_mark_and_more_ends_the_step():
    lm = words("ab", "\n\nc", "d", "\n", "\n")
    assert tokens_until(lm, [0, 1, 2], [4]) == [2]
    assert tokens_until(lm, [0, 3, 4, 2], [4]) == [3], "the mark is complete with its second half"


def test_tokens_until_is_the_least_number_that_has_written_so_much(tiny):
    text = "a\u00e9\n\u20acb"
    ids = tiny.encode(text)[:-1]
    assert len(ids) == 1 + 2 + 1 + 3 + 1
    complete = written(tiny, ids)
    assert [complete(count) for count in range(9)] == [0, 1, 1, 2, 3, 3, 3, 4, 5]
    found = tokens_until(tiny, ids, range(6))
    assert found == [0, 1, 3, 4, 7, 8]
    for size, count in zip(range(6), found, strict=True):
        assert tiny.decode(ids[:count]).startswith(text[:size])
        assert count == 0 or complete(count - 1) < size
    assert tokens_until(tiny, ids, [99]) == [len(ids) + 1], "more than there is"
