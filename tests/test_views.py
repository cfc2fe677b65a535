"""Views against an oracle without a model: a stand-in that answers with the token it has read.

Output (r, s) of a causal model speaks about the token at (r, s + 1). The stand-in's hidden state
is the fed prefix itself, so a view is right when the prefix before each own token is the prompt
and the tokens up to it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.batch import Batch, batch_of
from autodidact.models import Models
from autodidact.view import View, _check_alignment, plain, reread
from toys import padded, toy_task


def heard(view: View, batch: Batch) -> list[list[list[int]]]:
    """For each own token of each row what the reader has read when it speaks about it."""
    width = view.ids.shape[1]
    found = []
    for row in range(len(batch)):
        row_found = []
        for column in batch.own[row].nonzero().squeeze(1).tolist():
            place, end = divmod(int(view.at[row, column]), width)
            assert view.real[place, : end + 1].all(), "only real tokens are read"
            row_found.append(view.ids[place, : end + 1].tolist())
        found.append(row_found)
    return found


@pytest.fixture
def batch(tokenizer):
    """Three rows with prompts and completions of different lengths."""
    task = toy_task(3)
    prompts = [
        tokenizer.apply_chat_template(task.prompt(p), add_generation_prompt=True, return_dict=False)
        for p in task.train
    ]
    return batch_of(task.train, prompts, [[7, 8, 9, 4], [11], [12, 13]], task), prompts


def test_plain_asks_each_own_token_of_the_output_before_it(batch):
    batch, prompts = batch
    completions = ([7, 8, 9, 4], [11], [12, 13])
    expected = [
        [p + c[:t] for t in range(len(c))] for p, c in zip(prompts, completions, strict=True)
    ]
    for wide in (batch, padded(batch)):
        view = plain(wide)
        assert heard(view, wide) == expected
        assert torch.equal(view.asked, wide.own) and view.grad and view.role == "policy"
    assert not plain(batch, "initial").grad


def test_reread_puts_the_same_tokens_after_another_and_longer_prompt(batch, qwen):
    batch, _ = batch
    told = [batch.task.privileged(p) for p in batch.rows]
    heads = [qwen.render(messages) for messages in told]
    completions = ([7, 8, 9, 4], [11], [12, 13])
    expected = [[h + c[:t] for t in range(len(c))] for h, c in zip(heads, completions, strict=True)]
    for wide in (batch, padded(batch)):
        view = reread(wide, Models(qwen), told)
        assert heard(view, wide) == expected
        assert not view.grad and torch.equal(view.asked, wide.own)
        assert view.real.sum(1).tolist() == [
            len(h) + len(c) for h, c in zip(heads, completions, strict=True)
        ]
    assert view.ids.shape[1] == max(map(len, heads)) + 1 or view.ids.shape[1] > batch.ids.shape[1]


def test_reread_of_the_own_prompt_is_the_plain_view(batch, qwen):
    batch, _ = batch
    view, own = (
        reread(batch, Models(qwen), [batch.task.prompt(p) for p in batch.rows]),
        plain(batch),
    )
    assert heard(view, batch) == heard(own, batch)
    assert torch.equal(view.ids[view.real], own.ids[own.real]) and torch.equal(view.at, own.at)


def test_tokens_in_between_that_are_not_own_are_read_but_not_asked(batch, qwen):
    """A tool answers in the middle of the first row: tokens 8 and 9 are its own no more."""
    batch, prompts = batch
    own = batch.own.clone()
    start = len(prompts[0])
    own[0, start + 1 : start + 3] = False
    turns = replace(batch, own=own)
    head = qwen.render(turns.task.privileged(turns.rows[0]))
    view = reread(turns, Models(qwen), [turns.task.privileged(p) for p in turns.rows])
    assert heard(view, turns)[0] == [head, [*head, 7, 8, 9]]
    assert heard(plain(turns), turns)[0] == [prompts[0], [*prompts[0], 7, 8, 9]]
    assert torch.equal(view.asked, own)


def test_the_law_of_a_token_is_the_models_at_that_place(batch, qwen):
    """The same with a real model, read by itself, prompt by prompt."""
    batch, _ = batch
    models = Models(qwen)
    told = [batch.task.privileged(p) for p in batch.rows]
    found = models.score(reread(batch, models, told), batch).logp
    for row, messages in enumerate(told):
        head, tail = qwen.render(messages), batch.ids[row][batch.own[row]].tolist()
        logits = qwen.model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        expected = [float(logits[len(head) + t - 1, word].detach()) for t, word in enumerate(tail)]
        assert found[row][batch.own[row]].tolist() == pytest.approx(expected, rel=1e-10)


def test_a_prompt_that_does_not_fit_is_refused_and_never_cut(batch, qwen):
    batch, _ = batch
    long = [[{"role": "user", "content": "x" * 300}]] * 3
    with pytest.raises(
        ValueError, match="do not fit the context of 256 tokens of role 'policy'"
    ) as error:
        reread(batch, Models(qwen), long)
    assert "1+1" in str(error.value) and "4 tokens" in str(error.value)


def broken_views(view: View, batch: Batch) -> dict[str, View]:
    """Each with one of the mistakes that the assertion is there for."""
    first = batch.own.nonzero()[0].tolist()
    not_asked = view.at.clone()
    not_asked[tuple(batch.own.nonzero()[3].tolist())] = -1
    other = view.ids.clone()
    other.flatten()[view.at[tuple(first)] + 2] += 1
    shifted = torch.where(view.at >= 0, view.at + 1, view.at)
    truncated = view.real.clone()
    truncated[0, int(view.real[0].sum()) - 1] = False
    return {
        "the end token is not asked": replace(view, at=not_asked),
        "another token than the student's": replace(view, ids=other),
        "one place late": replace(view, at=shifted),
        "cut off": replace(view, real=truncated),
    }


def test_the_alignment_assertion_fires_on_every_mistake(batch, qwen):
    batch, _ = batch
    told = [batch.task.privileged(p) for p in batch.rows]
    heads = [len(qwen.render(messages)) for messages in told]
    view = reread(batch, Models(qwen), told)
    _check_alignment(batch, view, heads)
    for broken in broken_views(view, batch).values():
        with pytest.raises(AssertionError):
            _check_alignment(batch, broken, heads)
    with pytest.raises(AssertionError, match="follows the prompt"):
        _check_alignment(batch, view, [heads[0] - 1, *heads[1:]])


def test_a_row_that_begins_with_an_own_token_is_a_bug():
    task = toy_task(1)
    with pytest.raises(AssertionError, match="begins with its prompt"):
        plain(batch_of(task.train, [[]], [[1, 2]], task))


def test_a_row_without_an_own_token_cannot_be_reread(qwen):
    task = toy_task(1)
    with pytest.raises(AssertionError, match="at least one own token"):
        reread(
            batch_of(task.train, [[1, 2]], [[]], task), Models(qwen), [task.prompt(task.train[0])]
        )


def test_a_prompt_longer_than_another_row_does_not_disturb_it(batch, qwen):
    """Rows of a view have nothing to do with each other."""
    batch, _ = batch
    prompts = [batch.task.prompt(p) for p in batch.rows]
    long = [[{"role": "user", "content": "y" * 90}], *prompts[1:]]
    one, two = (reread(batch, Models(qwen), each) for each in (prompts, long))
    assert heard(one, batch)[1:] == heard(two, batch)[1:]
