"""Weights of tokens: each kind by hand, their sums, ties, and that no split of a batch matters."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp

from autodidact.credits.quantile import highest
from autodidact.grade import grade
from autodidact.learn import learn
from autodidact.losses.tokens import Tokens
from autodidact.losses.weights import sequence_mean, told_mean
from autodidact.method import token_mean
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.methods.thr import thr
from autodidact.models import Models
from autodidact.run import Run
from autodidact.teachers import Teacher
from toys import about, perturb, random_logits, random_qwen, rows_of, toy_task


def weights(text, batch, base=token_mean):
    """The weights of the own tokens, over those of the base where they do not vanish."""
    return (Tokens.parse(text).weigh(base)(batch) / base(batch))[batch.own]


def near(*values):
    return pytest.approx(list(values), rel=1e-6)


# ------------------------------------------------------------------ each kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uniform", [1, 1, 1, 1, 1]),
        ("prefix:2", [5 / 4, 5 / 4, 0, 5 / 4, 5 / 4]),
        ("prefix:9", [1, 1, 1, 1, 1]),
        ("prefix:0.5", [5 / 3, 5 / 3, 0, 5 / 3, 0]),
        ("prefix:1.0", [1, 1, 1, 1, 1]),
        ("position:1", [2 / 6 * 10 / 7, 4 / 6 * 10 / 7, 10 / 7, 5 / 7, 10 / 7]),
        ("entropy:0.4", [0, 2.5, 0, 0, 2.5]),
        ("entropy:0.41", [5 / 3, 5 / 3, 0, 0, 5 / 3]),
        ("lowest:0.2", [0, 0, 0, 5, 0]),
        ("prefix:0.5 * entropy:0.4", [0, 5, 0, 0, 0]),
        ("prefix:1 * lowest:0.4", [0, 0, 0, 5, 0]),
        ("prefix:1 * entropy:0.2", [0, 0, 0, 0, 0]),
    ],
)
def test_each_kind_is_what_one_counts_by_hand(text, expected):
    """Rows of 3 and 2 tokens; the weights sum to what they would without."""
    entropy, raw = [0.5, 2.0, 0.1, 0.2, 3.0], [-1.0, -0.1, -2.0, -3.0, -0.2]
    batch = rows_of([3, 2], entropy=entropy, raw=raw)
    assert weights(text, batch).tolist() == near(*expected)


@pytest.mark.parametrize("base", [token_mean, sequence_mean])
@pytest.mark.parametrize("text", ["prefix:2", "position:2.5", "entropy:0.3", "lowest:0.3"])
def test_the_sum_of_the_weights_is_that_of_the_base(base, text):
    numbers = random_logits(9, 1).detach().flatten()
    batch = rows_of([5, 1, 3], entropy=numbers, raw=numbers)
    found = Tokens.parse(text).weigh(base)(batch)
    assert float(found.sum()) == pytest.approx(float(base(batch).sum()), rel=1e-6)
    assert found.dtype == base(batch).dtype and not found[~batch.own].any()


def test_tokens_that_the_base_leaves_out_are_no_part_of_a_share():
    """Half of the tokens of the row that was told is one of two, whatever the other row holds."""
    batch = rows_of([2, 2], entropy=[9.0, 9.0, 1.0, 2.0]).put(told=torch.tensor([0.0, 1.0]))
    found = Tokens.parse("entropy:0.5").weigh(told_mean)(batch)
    assert found[batch.own].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_branches_count_by_what_they_decide():
    """Two rows of reward 1 and 0 part at their second token; a third, of reward 0, at its first."""
    batch = rows_of([2, 2, 2], [1.0, 0.0, 0.0])
    batch = replace(batch, ids=torch.tensor([[0, 1, 1], [0, 1, 2], [0, 2, 1]]))
    made = Tokens.parse("tempo:3").credit(batch, None)
    changed = torch.tensor([[1 / 6, 1 / 2], [1 / 6, 1 / 2], [1 / 3, 0.0]], dtype=torch.float64)
    assert torch.allclose(made.take("tempo")[:, 1:], 1 + 3 * changed, atol=1e-12)
    expected = (1 + 3 * changed).flatten()
    assert weights("tempo:3", made).tolist() == near(*(expected / expected.mean()).tolist())


def test_gates_of_policy_gradients_apply_to_a_divergence_unchanged(tokenizer):
    """THR, 80/20 and TEMPO make the same weights whichever loss they stand before."""
    models, task = Models(random_qwen(tokenizer)), toy_task(8)
    method = opsd(n=4, length=6)
    batch = grade(method.rollout(task.train, models, task, 2), models)
    policy = thr(n=4, kl=0.0, scale="none").credit(batch, models)
    plain = grpo(n=4, scale="none").credit(batch, models).take("advantage")
    told = (plain != 0) & batch.own
    gate = (policy.take("advantage") / plain)[told]
    found = opsd(n=4, length=6, tokens="thr:0.1").credit(batch, models).take("thr")
    assert torch.allclose(found[told], gate, rtol=1e-6)
    assert 0 < float((gate == 0).double().mean()) < 1
    for tokens in ("entropy:0.2", "tempo:1", "thr:0.1"):
        gated = opsd(n=4, length=6, tokens=tokens)
        made = gated.credit(batch, models)
        made = made.put(weight=gated.weigh(made))
        scores = models.scores(gated.views(made, models), made)
        ours = (gated.loss(scores, made) * made.take("weight")).sum()
        scores = models.scores(method.views(batch, models), batch)
        by_hand = (method.loss(scores, batch) * made.take("weight")).sum()
        assert float(ours.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-9)
        assert gated.needs == (("solution",) if tokens[0] == "e" else ("solution", "answer"))


def test_tokens_that_tie_with_the_last_are_kept():
    values = torch.tensor([[3.0, 1.0, 2.0, 2.0 + 1e-9, 2.0, 0.0]], dtype=torch.float64)
    counted = torch.tensor([[True, True, True, True, True, False]])
    for share in ("entropy:0.3", "entropy:0.5", "entropy:0.8"):
        (_, amount) = Tokens.parse(share).terms[0]
        assert highest(values, counted, amount).tolist() == [[True, False, True, True, True, False]]


def test_nothing_is_kept_of_nothing():
    batch = rows_of([2, 1], entropy=[1.0, 2.0, 3.0])
    empty = replace(batch, own=torch.zeros_like(batch.own))
    found = Tokens.parse("entropy:0.5 * prefix:1").weigh(token_mean)(empty)
    assert not found.any() and found.isfinite().all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("entorpy:0.2", "did you mean 'entropy'"),
        ("entropy", "takes a share"),
        ("entropy:20", "takes a share"),
        ("lowest:1.5", "takes a share"),
        ("prefix:0", "a count as in prefix:8"),
        ("position:-1", "a power above 0"),
        ("overlap:0.5", "a count of words"),
        ("uniform * prefix:2", "stands alone"),
        ("prefix:2 * prefix:0.5", "a kind twice"),
    ],
)
def test_what_means_nothing_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        opsd(tokens=text)


# ------------------------------------------------------------------ weights that a loss makes


def test_iw_opd_weighs_a_token_by_the_discrepancy_still_to_come():
    batch = rows_of([3, 1])
    student, teacher = random_logits(4, 3), random_logits(4, 3, seed=1)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    weighed, plain = (
        opsd(tokens=text).loss(scores, batch) for text in ("divergence:0.5", "uniform")
    )
    words = batch.ids[batch.own]
    both = student.detach().log_softmax(-1) - teacher.detach().log_softmax(-1)
    gap = both[range(4), words].abs().tolist()
    whole = sum(gap[:3])
    shares = [1.0, 1 - gap[0] / whole, gap[2] / whole, 1.0]
    found = (weighed / plain)[batch.own].tolist()
    assert found == pytest.approx([1 + 0.5 * each for each in shares], rel=1e-9)


def test_overlap_keeps_the_tokens_that_both_find_likely():
    batch = rows_of([4])
    words = batch.ids[batch.own].tolist()
    student, teacher = (torch.zeros(4, 3, dtype=torch.float64) for _ in range(2))
    for laws, favoured, size in ((student, (0, 1), 1.0), (teacher, (1, 2), 2.0)):
        for place, word in enumerate(words):
            laws[place, word if place in favoured else (word + 1) % 3] = size
    scores = {"policy": about(batch, student.requires_grad_()), "teacher": about(batch, teacher)}
    plain = opsd(divergence="tv").loss(scores, batch)[batch.own].tolist()
    assert min(plain) > 0
    for k, kept in ((1, [1]), (3, [0, 1, 2, 3])):
        found = opsd(divergence="tv", tokens=f"overlap:{k}").loss(scores, batch)[batch.own]
        expected = [plain[i] if i in kept else 0.0 for i in range(4)]
        assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_teacher_of_overlap_is_the_whole_sum():
    """2 t - 1 s of logits ranks otherwise than t does."""
    batch = rows_of([1])
    word = int(batch.ids[batch.own])
    order = [word, (word + 1) % 3, (word + 2) % 3]
    first, second, policy = (torch.zeros(1, 3, dtype=torch.float64) for _ in range(3))
    first[0, order], second[0, order] = torch.tensor([[1.0, 0.9, 0.0], [1.0, 0.0, 0.0]]).double()
    policy[0, word] = 1.0
    scores = {
        "policy": about(batch, policy), "teacher": about(batch, first),
        "teacher 2": about(batch, second),
    }  # fmt: skip
    judge, base = Teacher.parse("2*ema - 1*initial"), lambda scores, batch: batch.own.double()
    found = [
        float(Tokens.parse("overlap:1").loss(base, who)(scores, batch).sum())
        for who in (Teacher.parse("ema"), judge)
    ]
    assert found == [1.0, 0.0]


def test_a_loss_without_a_teacher_has_none_of_these():
    batch = rows_of([2])
    scores = {"policy": about(batch, random_logits(2, 3))}
    base = lambda scores, batch: scores["policy"].nll  # noqa: E731
    for text, words in (
        ("divergence:0.5", "a divergence to a teacher"),
        ("overlap:2", "a teacher"),
    ):
        with pytest.raises(ValueError, match=words):
            Tokens.parse(text).loss(base)(scores, batch)


# ------------------------------------------------------------------ whole updates


class Tap(torch.optim.SGD):
    """Keeps the gradient of the update."""

    def step(self, closure=None):
        self.seen = torch.cat(
            [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        )


def gradient(method, models, batch, micro_rows=None):
    tap = Tap(models.policy.model.parameters(), lr=1.0)
    run = Run(steps=1, rows=len(batch), micro_rows=micro_rows, grad_clip=0)
    learn(method, models, batch, tap, run)
    return tap.seen


def drawn(method, lm):
    models, task = Models(lm), toy_task(6)
    batch = method.rollout(task.train[: 6 // method.rollout.n], models, task, 0)
    for view in method.views(batch, models).values():
        models[view.role]
    perturb(models.policy)
    return models, batch


TEXTS = [
    "prefix:2", "position:1 * entropy:0.4", "lowest:0.3", "divergence:0.5",
    "overlap:40 * prefix:0.5",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_micro_batches_and_row_order_do_not_matter(text, tokenizer):
    method = opsd(length=5, tokens=text)
    models, batch = drawn(method, random_qwen(tokenizer))
    whole = gradient(method, models, batch)
    assert whole.norm() > 1e-6
    for other, rows in ((batch, 1), (batch, 4), (batch.select([3, 1, 5, 0, 2, 4]), 2)):
        assert float((gradient(method, models, other, rows) - whole).norm() / whole.norm()) < 1e-9


def test_a_policy_gradient_takes_them_too(tokenizer):
    """GRPO on the flattest fifth: the gradient of the sum over those tokens, by hand."""
    plain = grpo(n=2, length=5)
    models, batch = drawn(plain, random_qwen(tokenizer))
    batch = batch.put(reward=torch.tensor([1.0, 0.0] * 3))
    method = Tokens.parse("entropy:0.2").on(plain)
    found = gradient(method, models, batch)
    with torch.no_grad():
        credited = method.credit(batch, models)
    entropy, base = credited.take("entropy"), sequence_mean(batch)
    count = -(-int(batch.own.sum()) // 5)
    last = entropy[batch.own].sort(descending=True).values[count - 1]
    kept = batch.own & (entropy >= last - 1e-9)
    assert int(kept.sum()) == count
    weight = kept * base / (kept * base).sum() * base.sum()
    by_hand = replace(plain, weigh=lambda batch: weight)
    expected = gradient(by_hand, models, batch)
    assert expected.norm() > 1e-6
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_uniform_is_the_method_itself(tokenizer):
    method = grpo(n=2)
    assert Tokens.parse("uniform").on(method) is method


def test_the_notes_of_the_sweep_are_left_for_the_measures():
    batch = rows_of([3])
    student, teacher = random_logits(3, 3), random_logits(3, 3, seed=1)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    opsd(tokens="divergence:0.5", clip=0.1).loss(scores, batch)
    assert {"tv", "negative", "cosine", "teacher_logp"} <= scores["policy"].notes.keys()


# ------------------------------------------------------------------ several processes


def part(rank: int, place: str) -> None:
    """What one of two processes does: the weights of its own rows."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{place}/meet", rank=rank, world_size=2)
    found = Tokens.parse("entropy:0.3 * position:1").weigh(token_mean)(shard([[0, 1], [2]][rank]))
    torch.save(found, os.path.join(place, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def shard(rows):
    return rows_of([3, 1, 4], entropy=[3.0, 1.0, 7.0, 2.0, 6.0, 5.0, 0.0, 4.0]).select(rows)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed part")
def test_the_share_is_of_the_tokens_of_all_processes(tmp_path):
    whole = Tokens.parse("entropy:0.3 * position:1").weigh(token_mean)(shard([0, 1, 2]))
    mp.spawn(part, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.allclose(found[0], whole[:2, :4], rtol=1e-6)
    assert torch.allclose(found[1], whole[2:], rtol=1e-6)
    assert int((whole > 0).sum()) == 3
