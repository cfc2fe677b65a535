"""How a divergence becomes a gradient, by enumeration: what every accepted estimator is on average,
and what every refused one would be. Seven words, or two-step texts over four words."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from autodidact import sweep
from autodidact.divergence import Divergence, Support
from autodidact.losses.divergence import Estimator, advantage, distill
from autodidact.losses.policy import clipped, k3
from toys import FORMS, KINDS, LISTS, about, random_logits, rows_of

V, K = 7, 3
SAMPLED = Support("sampled")


@pytest.fixture(autouse=True)
def _as_few_rows_as_there_are(monkeypatch):
    monkeypatch.setattr(sweep, "sizes", lambda count, head: (count, count))


@pytest.fixture
def pair():
    """Logits of the student and of the teacher at one position."""
    return random_logits(V, size=1.5), random_logits(V, seed=1, size=1.5).detach()


def every_word(logits: torch.Tensor, teacher: torch.Tensor, logp: torch.Tensor | None = None):
    """Student, teacher and batch: each word is the sampled token once, one row for each.

    `logp` is the law that they were sampled from.
    """
    batch = rows_of([1] * V, prompt=1)
    ids = batch.ids.clone()
    ids[:, 1] = torch.arange(V)
    batch = replace(batch, ids=ids)
    if logp is not None:
        batch = batch.put(logp=torch.stack([torch.zeros(V).double(), logp], 1))
    return about(batch, logits.expand(V, V)), about(batch, teacher.expand(V, V)), batch


def per_word(logits, teacher, estimator: Estimator, logp=None) -> torch.Tensor:
    """The value of an estimator for each word that may have been sampled."""
    return distill(*every_word(logits, teacher, logp), estimator)[:, 1]


def mean_gradient(values: torch.Tensor, logits: torch.Tensor, law=None) -> torch.Tensor:
    """Its mean over the words sampled: the sampling is not differentiated."""
    chance = logits.softmax(-1) if law is None else law
    return torch.autograd.grad((chance.detach() * values).sum(), logits, retain_graph=True)[0]


def exact(kind: Divergence, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The gradient of a divergence over the whole vocabulary, by autograd on its definition."""
    p, q = logits.softmax(-1), teacher.softmax(-1)
    m = kind.beta * q + (1 - kind.beta) * p
    value = {
        "forward": (q * (q / p).log()).sum(),
        "reverse": (p * (p / q).log()).sum(),
        "tv": (p - q).abs().sum() / 2,
        "jsd": kind.beta * (q * (q / m).log()).sum() + (1 - kind.beta) * (p * (p / m).log()).sum(),
    }[kind.kind]
    if kind.rescale:
        value = value / (kind.beta * (1 - kind.beta))
    return torch.autograd.grad(value, logits)[0]


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    assert expected.abs().max() > 1e-3, "two zeros agree about nothing"
    return torch.allclose(found, expected, rtol=1e-9, atol=1e-13)


# ------------------------------------------------------------------ accepted


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
@pytest.mark.parametrize("estimator", ["direct", "policy_gradient"])
def test_over_the_whole_vocabulary_both_are_exact_at_every_token(pair, kind, estimator):
    values = per_word(*pair, Estimator(kind, estimator))
    assert float(values.detach().std()) < 1e-15, "the same for every token sampled"
    assert same(mean_gradient(values, pair[0]), exact(kind, *pair))


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
@pytest.mark.parametrize("words", LISTS)
@pytest.mark.parametrize("form", ["renormalised", "tail"])
def test_over_complete_lists_the_policy_gradient_is_the_direct_one(pair, kind, words, form):
    one = replace(kind, support=Support(words, K, form))
    direct, still = (
        mean_gradient(per_word(*pair, Estimator(one, how)), pair[0])
        for how in ("direct", "policy_gradient")
    )
    assert same(still, direct)


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
@pytest.mark.parametrize("words", LISTS)
def test_over_raw_lists_the_policy_gradient_is_their_part_of_the_exact_one(pair, kind, words):
    """The rest of it, from the words outside the list, makes it exact."""
    logits = pair[0]
    one = replace(kind, support=Support(words, K, "raw"))
    found = mean_gradient(per_word(*pair, Estimator(one, "policy_gradient")), logits)
    each = per_word(*pair, Estimator(replace(kind, support=SAMPLED), "policy_gradient"))
    ours, theirs = (set(x.topk(K).indices.tolist()) for x in pair)
    listed = {
        "student": ours, "teacher": theirs, "union": ours | theirs, "intersection": ours & theirs
    }[words]  # fmt: skip
    inside = torch.tensor([v in listed for v in range(V)])
    part = mean_gradient(each * inside, logits)
    assert same(found, part)
    assert same(part + mean_gradient(each * ~inside, logits), exact(kind, *pair))


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
def test_the_sampled_policy_gradient_is_exact_in_the_mean(pair, kind):
    logits = pair[0]
    values = per_word(*pair, Estimator(replace(kind, support=SAMPLED), "policy_gradient"))
    assert same(mean_gradient(values, logits), exact(kind, *pair))
    assert (values >= 0).all() and float(values.detach().std()) > 1e-2
    whole = per_word(*pair, Estimator(kind))[0]
    chance = logits.softmax(-1)
    assert float((chance * values).sum().detach()) == pytest.approx(float(whole.detach()), rel=1e-9)


def test_the_weights_of_the_sampled_token_are_those_of_the_table(pair):
    logits, teacher = pair
    p, q = logits.softmax(-1).detach(), teacher.softmax(-1)
    m = 0.3 * q + 0.7 * p
    expected = {
        "forward": 1 - q / p,
        "reverse": (p / q).log(),
        "jsd": 0.7 * (p / m).log(),
        "tv": (p - q).sign() / 2,
    }
    for kind in KINDS[:4]:
        how = Estimator(replace(kind, support=SAMPLED), "advantage")
        found = advantage(*every_word(*pair)[:2], how)[:, 1]
        assert not found.requires_grad
        assert torch.allclose(found, -expected[kind.kind], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("name", "kind"), [("k2", "reverse"), ("k3", "forward")])
def test_k2_is_reverse_and_k3_is_forward_and_both_are_token_by_token_what_people_write(
    pair, name, kind
):
    logits, teacher = pair
    found = per_word(*pair, Estimator(Divergence(kind, support=SAMPLED), name))
    logp, reference = logits.log_softmax(-1), teacher.log_softmax(-1)
    written = (logp - reference) ** 2 / 2 if name == "k2" else k3(logp[None], reference[None])[0]
    for word in range(V):
        one = torch.autograd.grad(found[word], logits, retain_graph=True)[0]
        other = torch.autograd.grad(written[word], logits, retain_graph=True)[0]
        assert same(one, other)
    assert same(mean_gradient(found, logits), exact(Divergence(kind), *pair))


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
def test_as_the_advantage_of_another_loss_it_adds_the_gradient_of_the_divergence(pair, kind):
    logits = pair[0]
    how = Estimator(replace(kind, support=SAMPLED), "advantage")
    reward = torch.linspace(-1, 1, V).double()
    student, other, _ = every_word(*pair)
    told = advantage(student, other, how)
    logp = student.logp
    both = clipped(logp, logp, told + reward[:, None], 0.2, 0.2)[:, 1]
    alone = clipped(logp, logp, reward[:, None].expand(V, 2), 0.2, 0.2)[:, 1]
    added = mean_gradient(both, logits) - mean_gradient(alone, logits)
    assert same(added, exact(kind, *pair))
    assert same(mean_gradient(distill(*every_word(*pair), how)[:, 1], logits), exact(kind, *pair))


def test_an_advantage_is_zero_where_nothing_was_asked_and_reads_each_side_once(pair, monkeypatch):
    student, other, _ = every_word(*pair)
    how = Estimator(Divergence("jsd", 0.3, support=SAMPLED), "advantage")
    student.divergence(other, Divergence())
    walks = []
    run = sweep.Walk.run
    monkeypatch.setattr(sweep.Walk, "run", lambda walk: walks.append(walk) or run(walk))
    told = advantage(student, other, how)
    assert len(walks) == 1, "the student has been read"
    assert torch.equal(told, advantage(student, other, how)) and len(walks) == 1
    assert not told[:, 0].any() and told[:, 1].all()


# ------------------------------------------------------------------ importance ratios


BEHAVIOUR = random_logits(V, seed=2, size=0.7).detach().log_softmax(-1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
@pytest.mark.parametrize("support", [Support(), SAMPLED], ids=lambda s: s.words)
def test_tokens_of_another_law_give_the_students_gradient_with_an_unbounded_ratio(
    pair, kind, support
):
    logits = pair[0]
    estimator = Estimator(replace(kind, support=support), "policy_gradient", ratio_clip=math.inf)
    values = per_word(*pair, estimator, logp=BEHAVIOUR)
    found = mean_gradient(values, logits, BEHAVIOUR.exp())
    assert same(found, exact(kind, *pair))
    if support.words == "sampled":
        plain = per_word(*pair, replace(estimator, ratio_clip=None))
        assert not same(mean_gradient(plain, logits, BEHAVIOUR.exp()), found)


@pytest.mark.parametrize("bound", [1.0, 1.5])
def test_the_ratio_is_cut_and_detached(pair, bound):
    logits = pair[0]
    ratio = (logits.log_softmax(-1).detach() - BEHAVIOUR).exp().clamp(max=bound)
    assert (ratio == bound).any() and (ratio < 1).any()
    for support, how in ((Support(), "direct"), (SAMPLED, "policy_gradient")):
        plain = Estimator(Divergence("reverse", support=support), how)
        values = per_word(*pair, replace(plain, ratio_clip=bound), logp=BEHAVIOUR)
        free = per_word(*pair, plain)
        assert torch.allclose(values, ratio * free, rtol=1e-12)
        assert same(mean_gradient(values, logits), mean_gradient(ratio * free, logits))


def test_on_policy_the_ratio_is_one_and_what_stands_beside_the_tokens_is_not_read(pair):
    logits = pair[0]
    plain = Estimator(Divergence("reverse", support=SAMPLED), "policy_gradient")
    bounded = replace(plain, ratio_clip=math.inf)
    student, other, batch = every_word(*pair)
    behaviour = torch.full(batch.ids.shape, -1e9).double()
    behaviour[:, 1] = logits.log_softmax(-1).detach()
    found = distill(student, other, batch.put(logp=behaviour), bounded)
    assert torch.equal(found, distill(student, other, batch, plain))


def test_a_ratio_needs_the_law_that_was_sampled(pair):
    with pytest.raises(ValueError, match="no stream 'logp'"):
        per_word(*pair, Estimator(Divergence(), ratio_clip=2.0))


# ------------------------------------------------------------------ texts of two tokens


W = 4


class Texts:
    """Every text of two tokens over four words, with laws that depend on the first token."""

    def __init__(self):
        self.first = random_logits(W, size=1.2)
        self.second = random_logits(W, W, seed=1, size=1.2)
        self.teacher = [random_logits(W, seed=2).detach(), random_logits(W, W, seed=3).detach()]
        texts = torch.tensor(list(itertools.product(range(W), repeat=2)))
        batch = rows_of([2] * len(texts))
        ids = batch.ids.clone()
        ids[:, 1:] = texts
        self.batch, self.texts = replace(batch, ids=ids), texts

    def scores(self, first: torch.Tensor, second: torch.Tensor):
        rows = torch.stack([first.expand(len(self.texts), W), second[self.texts[:, 0]]], 1)
        return about(self.batch, rows.flatten(0, 1))

    def logps(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """[texts, 2] log-probabilities of the tokens."""
        one = first.log_softmax(-1)[self.texts[:, 0]]
        two = second.log_softmax(-1)[self.texts[:, 0], self.texts[:, 1]]
        return torch.stack([one, two], 1)

    @property
    def chance(self) -> torch.Tensor:
        return self.logps(self.first, self.second).sum(1).exp().detach()

    def gradient(self, total: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(total, [self.first, self.second], retain_graph=True)
        return torch.cat([each.flatten() for each in found])

    def estimated(self, estimator: Estimator) -> torch.Tensor:
        """The mean gradient of an estimator over the student's own texts."""
        student, teacher = self.scores(self.first, self.second), self.scores(*self.teacher)
        values = distill(student, teacher, self.batch, estimator)
        return self.gradient((self.chance[:, None] * values).sum())

    def whole(self) -> torch.Tensor:
        """The gradient of KL(student || teacher) of whole texts."""
        ours, theirs = self.logps(self.first, self.second), self.logps(*self.teacher)
        p = ours.sum(1).exp()
        return self.gradient((p * (ours.sum(1) - theirs.sum(1))).sum())

    def own(self) -> torch.Tensor:
        """That of the divergences of single tokens along the student's texts."""
        logp, logq = self.second.log_softmax(-1), self.teacher[1].log_softmax(-1)
        second = (logp.exp() * (logp - logq)).sum(-1)
        one, two = self.first.log_softmax(-1), self.teacher[0].log_softmax(-1)
        first = (one.exp() * (one - two)).sum()
        return self.gradient(first + (one.exp().detach() * second).sum())


@pytest.fixture
def texts():
    return Texts()


REVERSE = {
    "direct": Estimator(Divergence("reverse")),
    "policy_gradient": Estimator(Divergence("reverse"), "policy_gradient"),
    "sampled": Estimator(Divergence("reverse", support=SAMPLED), "policy_gradient"),
    "k2": Estimator(Divergence("reverse", support=SAMPLED), "k2"),
    "advantage": Estimator(Divergence("reverse", support=SAMPLED), "advantage"),
    "huge clip": Estimator(Divergence("reverse", clip=1e9)),
    "long list": Estimator(Divergence("reverse", support=Support("teacher", W, "raw")), "policy_gradient"),
}  # fmt: skip


@pytest.mark.parametrize("name", REVERSE)
def test_undiscounted_returns_give_the_gradient_of_whole_texts(texts, name):
    """Exact or sampled at its own token, and return-to-go for later ones: MiniLLM's identity."""
    found = texts.estimated(replace(REVERSE[name], discount=1.0))
    assert same(found, texts.whole())


@pytest.mark.parametrize("name", REVERSE)
def test_discount_zero_drops_the_long_term_term_and_nothing_else(texts, name):
    found = texts.estimated(REVERSE[name])
    assert same(found, texts.own())
    assert not same(found, texts.whole())


@pytest.mark.parametrize("name", REVERSE)
def test_between_them_the_long_term_term_is_weighed_by_the_discount(texts, name):
    found = texts.estimated(replace(REVERSE[name], discount=0.3))
    assert same(found, texts.own() + 0.3 * (texts.whole() - texts.own()))


@pytest.mark.parametrize("name", REVERSE)
def test_returns_change_gradients_and_no_value(texts, name):
    scores = texts.scores(texts.first, texts.second), texts.scores(*texts.teacher)
    plain = distill(*scores, texts.batch, REVERSE[name])
    assert torch.equal(distill(*scores, texts.batch, replace(REVERSE[name], discount=0.5)), plain)


def test_the_return_to_go_is_reinforce(texts):
    ours, theirs = texts.logps(texts.first, texts.second), texts.logps(*texts.teacher)
    cost = (ours - theirs).detach()
    togo = torch.stack([cost.sum(1), cost[:, 1]], 1)
    reinforce = texts.gradient((texts.chance[:, None] * togo * ours).sum())
    assert same(reinforce, texts.whole())
    how = Estimator(Divergence("reverse", support=SAMPLED), "advantage", discount=1.0)
    scores = texts.scores(texts.first, texts.second), texts.scores(*texts.teacher)
    assert torch.allclose(advantage(*scores, how)[:, 1:], -togo, rtol=1e-10)


def test_exact_divergences_to_come_vary_less_than_sampled_ones(texts):
    """The whole vocabulary sums the means of what MiniLLM samples."""
    student, teacher = texts.scores(texts.first, texts.second), texts.scores(*texts.teacher)
    how = replace(REVERSE["direct"], discount=1.0)
    values = distill(student, teacher, texts.batch, how)
    ours, theirs = texts.logps(texts.first, texts.second), texts.logps(*texts.teacher)
    exact_one = student.divergence(teacher, how.divergence)
    sampled = exact_one[:, 1] + (ours - theirs).detach()[:, 1] * ours[:, 0] + exact_one[:, 2]
    noise = []
    for each in (values.sum(1), sampled):
        rows = torch.stack([texts.gradient(value) for value in each])
        mean = (texts.chance[:, None] * rows).sum(0)
        assert same(mean, texts.whole())
        noise.append(float((texts.chance * ((rows - mean) ** 2).sum(1)).sum()))
    assert noise[0] < noise[1]


def test_returns_count_own_tokens_only_and_end_with_the_row():
    batch = rows_of([5, 3, 1], prompt=2)
    own = batch.own.clone()
    own[0, 4] = False  # a tool's word between two of the student's
    batch = replace(batch, own=own)
    count = int(own.sum())
    student, teacher = (about(batch, random_logits(count, 3, seed=seed)) for seed in (0, 1))
    how = Estimator(Divergence("reverse", support=SAMPLED), "advantage", discount=0.5)
    found = advantage(student, teacher, how)
    told = advantage(student, teacher, replace(how, discount=0.0))
    assert torch.equal(told[~own], torch.zeros(int((~own).sum())).double())
    for row in range(3):
        single = told[row][own[row]].tolist()
        togo = [
            sum(0.5 ** (u - t) * x for u, x in enumerate(single) if u >= t)
            for t in range(len(single))
        ]
        assert found[row][own[row]].tolist() == pytest.approx(togo, rel=1e-12)
    assert not found[~own].any()


# ------------------------------------------------------------------ refused, and why


def refused(message: str, divergence: Divergence, kind: str, **options) -> None:
    with pytest.raises(ValueError, match=message):
        Estimator(divergence, kind, **options)


def test_k1_is_noise_that_knows_nothing_of_the_teacher(pair):
    logits, teacher = pair
    for kind in KINDS:
        refused("expected gradient is zero", replace(kind, support=SAMPLED), "k1")
    refused(
        "E.grad log p. = 0; take 'policy_grad", Divergence("reverse", support=SAMPLED), "direct"
    )
    ratio = logits.log_softmax(-1) - teacher.log_softmax(-1)
    assert float(mean_gradient(ratio, logits).abs().max()) < 1e-15
    one = torch.autograd.grad(ratio[0], logits, retain_graph=True)[0]
    other = torch.autograd.grad(logits.log_softmax(-1)[0], logits, retain_graph=True)[0]
    assert same(one, other), "the same for every teacher"


def test_differentiating_an_estimate_at_the_sampled_token_forgets_the_sampling(pair):
    logits, teacher = pair
    for kind in KINDS:
        if kind.kind == "reverse":
            continue
        refused("as if the token had not been drawn", replace(kind, support=SAMPLED), "direct")
        p, q = logits.softmax(-1), teacher.softmax(-1)
        m = kind.beta * q + (1 - kind.beta) * p
        terms = {
            "forward": q * (q / p).log(),
            "tv": (p - q).abs() / 2,
            "jsd": kind.beta * q * (q / m).log() + (1 - kind.beta) * p * (p / m).log(),
        }[kind.kind]
        scale = 1 / (kind.beta * (1 - kind.beta)) if kind.rescale else 1.0
        estimate = scale * terms / p
        found, expected = mean_gradient(estimate, logits), exact(kind, *pair)
        assert float(torch.cosine_similarity(found, expected, dim=0)) < 0.98
        forgotten = mean_gradient(estimate.detach() * logits.log_softmax(-1), logits)
        assert same(found + forgotten, expected)


def test_the_absolute_log_ratio_has_the_gradient_of_no_divergence(pair):
    logits, teacher = pair
    for kind in KINDS:
        refused("that of no divergence", replace(kind, support=SAMPLED), "abs")
    found = mean_gradient((logits.log_softmax(-1) - teacher.log_softmax(-1)).abs(), logits)
    assert found.abs().max() > 1e-2
    for kind in KINDS[:2]:
        expected = exact(kind, *pair)
        assert float(torch.cosine_similarity(found, expected, dim=0)) < 0.99


@pytest.mark.parametrize(("name", "right"), [("k2", "reverse"), ("k3", "forward")])
def test_k2_and_k3_under_another_divergence_have_the_gradient_of_their_own(pair, name, right):
    logits, teacher = pair
    logp, reference = logits.log_softmax(-1), teacher.log_softmax(-1)
    values = (logp - reference) ** 2 / 2 if name == "k2" else k3(logp[None], reference[None])[0]
    found = mean_gradient(values, logits)
    for kind in KINDS:
        if kind.kind != right:
            refused(f"take divergence '{right}'", replace(kind, support=SAMPLED), name)
            assert not same(found, exact(kind, *pair))
    assert same(found, exact(Divergence(right), *pair))


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
@pytest.mark.parametrize("words", ["full", *LISTS])
def test_a_sum_over_words_as_the_advantage_of_the_sampled_token_teaches_nothing(pair, kind, words):
    logits = pair[0]
    one = replace(kind, support=Support(words, K))
    refused("as an advantage its expected gradient is zero", one, "advantage")
    student, other, _ = every_word(*pair)
    told = -student.divergence(other, one).detach()
    found = mean_gradient(clipped(student.logp, student.logp, told, 0.2, 0.2)[:, 1], logits)
    assert told.abs().max() > 1e-3 and float(found.abs().max()) < 1e-15


@pytest.mark.parametrize("words", LISTS)
@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_raw_lists_of_the_kl_forms_pull_on_mass_where_all_agree(pair, kind, words):
    raw = Divergence(kind, support=Support(words, K, "raw"))
    more = {"reverse": "q > e p", "forward": "every word of the list rises"}[kind]
    refused(f"does not vanish at student = teacher.*{more}.*'policy_gradient'", raw, "direct")
    logits = pair[0]
    student, twin, _ = every_word(logits, logits.detach())
    found = mean_gradient(student.divergence(twin, raw)[:, 1], logits)
    assert found.abs().max() > 1e-2
    still = distill(*every_word(logits, logits.detach()), Estimator(raw, "policy_gradient"))
    assert float(mean_gradient(still[:, 1], logits).abs().max()) < 1e-15
    for fine in ("jsd", "tv"):
        assert Estimator(replace(raw, kind=fine)).kind == "direct"
    assert Estimator(replace(raw, centred=True)).measured.centred


def test_only_reverse_has_later_tokens_in_its_gradient(texts):
    """Returns of forward weights along the student's texts are not the gradient of the forward
    divergence of whole texts, which runs along the teacher's."""
    for kind in KINDS:
        if kind.kind != "reverse":
            refused("only the reverse divergence", kind, "direct", discount=0.5)
            one = replace(kind, support=SAMPLED)
            refused("only the reverse divergence", one, "policy_gradient", discount=1.0)
    ours, theirs = texts.logps(texts.first, texts.second), texts.logps(*texts.teacher)
    q = theirs.sum(1).exp()
    forward = texts.gradient((q * (theirs.sum(1) - ours.sum(1))).sum())
    weight = 1 - (theirs - ours).detach().exp()
    togo = torch.stack([weight.sum(1), weight[:, 1]], 1)
    found = texts.gradient((texts.chance[:, None] * togo * ours).sum())
    assert float(torch.cosine_similarity(found, forward, dim=0)) < 0.98


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "abs"])
@pytest.mark.parametrize("words", ["full", *LISTS])
def test_estimators_of_the_sampled_token_need_it(kind, words):
    refused("reads the sampled token only", Divergence(support=Support(words)), kind)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "policygradient"}, "did you mean 'policy_gradient'"),
        ({"discount": 1.5}, "discount=1.5 must be between 0 and 1"),
        ({"ratio_clip": 0.2}, "ratio_clip=0.2 must be at least 1"),
        ({"kind": "advantage", "ratio_clip": 2.0}, "has a ratio of its own"),
    ],
)
def test_numbers_and_names_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Estimator(Divergence("reverse", support=SAMPLED), **{"kind": "k2", **options})


def test_every_combination_is_either_refused_with_a_way_out_or_right(pair):
    """Nothing that is accepted has a zero gradient, or one where student and teacher agree."""
    logits = pair[0]
    accepted = 0
    supports = [Support(), SAMPLED, *(Support(w, K, f) for w in LISTS for f in FORMS)]
    names = ("direct", "policy_gradient", "advantage", "k1", "k2", "k3", "abs")
    for kind, support, name in itertools.product(KINDS, supports, names):
        estimator, reason = made(replace(kind, support=support), name)
        if estimator is None:
            assert "take " in reason
            continue
        accepted += 1
        found = mean_gradient(per_word(*pair, estimator), logits)
        expected = exact(kind, *pair)
        assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.2
        agreed = mean_gradient(per_word(logits, logits.detach(), estimator), logits)
        assert float(agreed.abs().max()) < 1e-14
    whole, lists, sampled = 5 * 2, 5 * 12 * 2 - 2 * 4, 5 * 2 + 2
    assert accepted == whole + lists + sampled


def made(divergence: Divergence, name: str) -> tuple[Estimator | None, str]:
    try:
        return Estimator(divergence, name), ""
    except ValueError as error:
        return None, str(error)
