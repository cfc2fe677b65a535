"""Scores: chunks, by-products, temperature, and agreement with the logits of real architectures."""

from __future__ import annotations

import math

import pytest
import torch

from architectures import CAUSAL, REFUSED, WORDS, NoWords, build
from autodidact.batch import batch_of
from autodidact.divergence import Divergence
from autodidact.head import Head
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.problem import Problem
from autodidact.view import plain
from toys import laws, random_logits, toy_task

ASKED = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
N = int(ASKED.sum())


def dense(values: list[float]) -> list[float]:
    """Values of the asked tokens among zeros, row by row."""
    found = iter(values)
    return [next(found) if asked else 0.0 for row in ASKED.tolist() for asked in row]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_every_quantity_by_hand(temperature):
    logits = random_logits(N, 5, size=2.0).detach()
    targets = [4, 0, 1, 2, 3, 0, 2, 1][:N]
    found = laws(logits, targets, ASKED, temperature)
    tables = [[x / temperature for x in row] for row in logits.tolist()]
    p = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in tables]
    expected = {
        "logp": [math.log(row[t]) for row, t in zip(p, targets, strict=True)],
        "entropy": [-sum(x * math.log(x) for x in row) for row in p],
        "rank": [float(sum(x > row[t] for x in row)) for row, t in zip(p, targets, strict=True)],
        "self_certainty": [-sum(math.log(5 * x) for x in row) / 5 for row in p],
    }
    for name, values in expected.items():
        value = getattr(found, name)
        assert value.flatten().tolist() == pytest.approx(dense(values), rel=1e-10, abs=1e-12)
    words, logp = found.topk(3)
    for place, row in enumerate(p):
        best = sorted(range(5), key=lambda v, row=row: -row[v])[:3]
        assert words[ASKED][place].tolist() == best
        assert logp[ASKED][place].tolist() == pytest.approx(
            [math.log(row[v]) for v in best], rel=1e-6
        )
    assert not words[~ASKED].any() and not logp[~ASKED].any()


def test_a_uniform_law_has_the_largest_entropy_and_no_certainty():
    found = laws(torch.zeros(N, 5).double(), [0] * N, ASKED)
    assert found.entropy[ASKED].tolist() == pytest.approx([math.log(5)] * N)
    assert found.self_certainty[ASKED].tolist() == pytest.approx([0] * N, abs=1e-15)
    assert not found.rank.any(), "ties are not strictly likelier"


def test_gradients_of_logp_and_entropy_in_the_logits():
    logits = random_logits(N, 5)
    targets = torch.arange(N) % 5
    found = laws(logits, targets, ASKED, 2.0)
    p = (logits / 2).softmax(-1).detach()
    onehot = torch.nn.functional.one_hot(targets, 5)
    got = torch.autograd.grad(found.logp.sum(), logits)[0]
    assert torch.allclose(got, (onehot - p) / 2, atol=1e-14)
    got = torch.autograd.grad(found.entropy.sum(), logits)[0]
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    assert torch.allclose(got, -p * (p.log() + entropy) / 2, atol=1e-14)


def test_nothing_asked_is_nothing_found():
    none = torch.zeros(2, 3, dtype=torch.bool)
    empty = laws(
        torch.zeros(0, 5, dtype=torch.float64, requires_grad=True),
        torch.zeros(0, dtype=torch.long),
        none,
    )
    assert not empty.logp.any() and empty.logp.shape == (2, 3)
    assert empty.topk(2)[0].shape == (2, 3, 2)
    assert not empty.divergence(empty, Divergence()).any()


def test_the_head_scales_caps_and_works_in_float32_at_least():
    hidden, weight, bias = (
        random_logits(3, 6),
        random_logits(11, 6, seed=1),
        random_logits(11, seed=2),
    )
    logits = (hidden @ weight.T + bias) * 0.3
    assert torch.allclose(Head(weight, bias, 0.3).logits(hidden), logits)
    assert torch.allclose(Head(weight, bias, 0.3, 2.0).logits(hidden), 2 * (logits / 2).tanh())
    half = Head(weight.bfloat16()).logits(hidden.float())
    assert half.dtype == torch.float32
    assert not Head(weight, bias).detach().weight.requires_grad


# ------------------------------------------------------------------ real architectures


def random_rows(lengths: list[tuple[int, int]]):
    random = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(3, WORDS, (n,), generator=random).tolist()  # noqa: E731
    return [(draw(a), draw(b)) for a, b in lengths]


@pytest.mark.parametrize("kind", CAUSAL)
def test_scores_are_the_models_own_logits(kind):
    """Right-padded rows in one batch, against each row read alone by the model itself."""
    model = build(kind, CAUSAL[kind])
    lm = LM(model, NoWords(), kind)
    lm.check()
    rows = random_rows([(3, 6), (7, 2), (5, 9)])
    batch = batch_of([Problem("")] * 3, [a for a, _ in rows], [b for _, b in rows], toy_task())
    models = Models(lm)
    with torch.no_grad():
        found = models.score(plain(batch), batch)
    assert float(found.entropy[batch.own].max() - found.entropy[batch.own].min()) > 0.02
    for row, (prompt, completion) in enumerate(rows):
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            law = (
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
                .logits[0]
                .float()
                .log_softmax(-1)
            )
        law = law[len(prompt) - 1 : -1]
        expected = law[range(len(completion)), completion]
        assert torch.allclose(found.logp[row][batch.own[row]], expected, rtol=0, atol=1e-5)
        expected = -(law.exp() * law).sum(-1)
        assert torch.allclose(found.entropy[row][batch.own[row]], expected, rtol=0, atol=1e-5)


def test_scores_of_a_model_in_bfloat16_are_its_own(tiny):
    lm = load("tiny", precision="bf16")
    task = toy_task(3)
    batch = batch_of(
        task.train,
        [lm.render(task.prompt(p)) for p in task.train],
        [lm.encode(p.solution) for p in task.train],
        task,
    )
    found, exact = (Models(each).score(plain(batch), batch).logp for each in (lm, tiny))
    assert next(lm.model.parameters()).dtype == torch.float32 and found.dtype == torch.float32
    assert torch.allclose(found, exact, atol=0.15) and not torch.equal(found, exact)


@pytest.mark.parametrize("kind", REFUSED)
def test_an_architecture_that_cannot_be_scored_is_refused_by_name(kind):
    sizes, words = REFUSED[kind]
    with pytest.raises(ValueError, match=words):
        LM(build(kind, sizes), NoWords(), kind).check()


def test_a_head_of_its_own_making_is_refused():
    """Logits that are not head(trunk(x)), here shifted by a constant at one word."""
    model = build("llama", CAUSAL["llama"])
    inner = model.forward

    def forward(*args, **kwargs):
        output = inner(*args, **kwargs)
        output.logits[..., 3] += 1
        return output

    model.forward = forward
    with pytest.raises(ValueError, match=r"LlamaForCausalLM .*largest difference 1"):
        LM(model, NoWords(), "odd").check()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_local_folder_loads_again(kind, precision, tmp_path, tokenizer):
    sizes = {**CAUSAL[kind], "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    model = build(kind, sizes)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = load(str(tmp_path), precision=precision)
    assert lm.context == 128 and lm.end == tokenizer.eos_token_id
    task = toy_task(2)
    prompts = [lm.render(task.prompt(p)) for p in task.train]
    batch = batch_of(task.train, prompts, [lm.encode(p.solution) for p in task.train], task)
    found, expected = (
        Models(each).score(plain(batch), batch).logp for each in (lm, LM(model, tokenizer))
    )
    assert torch.allclose(found, expected, atol=1e-6 if precision == "fp32" else 0.2)
