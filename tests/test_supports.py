"""Divergences over parts of the vocabulary: every kind, support, form and clip against plain
autograd on whole laws written from the definitions; the identities of the forms; their limits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from autodidact import sweep
from autodidact.divergence import Divergence, Support
from toys import FORMS, KINDS, LISTS, laws, random_logits

N, V, K = 5, 9, 3
SUPPORTS = [Support(), *(Support(words, K, form) for words in LISTS for form in FORMS)]
CLIPS = [None, *itertools.product((0.2, 0.02), ("pointwise", "symmetric", "token"))]


@pytest.fixture(autouse=True)
def _as_few_rows_as_there_are(monkeypatch):
    monkeypatch.setattr(sweep, "sizes", lambda count, head: (count, count))


@pytest.fixture
def pair():
    return random_logits(N, V, size=1.5), random_logits(N, V, seed=1, size=1.5)


# ------------------------------------------------------------------ the reference


def f(kind: Divergence, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The terms of a divergence, as its definition has them."""
    if kind.kind == "forward":
        return q * (q / p).log()
    if kind.kind == "reverse":
        return p * (p / q).log()
    if kind.kind == "tv":
        return (p - q).abs() / 2
    b = kind.beta
    m = b * q + (1 - b) * p
    found = b * q * (q / m).log() + (1 - b) * p * (p / m).log()
    return found / (b * (1 - b)) if kind.rescale else found


def derivative(kind: Divergence, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """d f_v / d p_v."""
    still = p.detach().requires_grad_()
    return torch.autograd.grad(f(kind, still, q).sum(), still)[0]


def words_of(support: Support, p: torch.Tensor, q: torch.Tensor) -> list[int]:
    def best(law):
        return set(sorted(range(len(law)), key=lambda v: -float(law[v]))[: support.k])

    ours, theirs = best(p.detach()), best(q)
    every = set(range(len(p)))
    found = {
        "full": every, "student": ours, "teacher": theirs, "union": ours | theirs,
        "intersection": ours & theirs,
    }  # fmt: skip
    return sorted(found[support.words])


def over(support: Support, words: list[int], law: torch.Tensor) -> torch.Tensor:
    """The probabilities that a divergence is taken of."""
    inside = law[words]
    if support.words == "full" or support.form == "raw":
        return inside
    if support.form == "renormalised":
        return inside / inside.sum()
    others = [v for v in range(len(law)) if v not in words]
    return torch.cat([inside, law[others].sum()[None]])


def plainly(kind: Divergence, student: torch.Tensor, teacher: torch.Tensor, targets):
    """Value, gradient in the logits and notes of one token after the other."""
    found = []
    for row, other in zip(student.detach(), teacher.detach().softmax(-1), strict=True):
        logits = row.clone().requires_grad_()
        law = logits.softmax(-1)
        words = words_of(kind.support, law, other)
        p, q = over(kind.support, words, law), over(kind.support, words, other)
        terms = f(kind, p, q)
        kept = torch.ones_like(terms, dtype=torch.bool)
        value = terms.sum()
        if kind.clip is not None and kind.clip_kind == "token":
            kept = kept & (value < kind.clip)
            value = value.clamp(max=kind.clip)
        elif kind.clip is not None:
            least = -kind.clip if kind.clip_kind == "symmetric" else -torch.inf
            kept = (terms < kind.clip) & (terms > least)
            value = torch.where(kept, terms, terms.detach().clamp(least, kind.clip)).sum()
        pulls = (value, terms.sum())
        if kind.centred:
            weight = derivative(kind, p, q) - derivative(kind, q, q)
            pulls = ((p * weight * kept).sum(), (p * weight).sum())
        # A sum of nothing has a gradient too, which is zero.
        clipped, plain = (
            torch.autograd.grad(pull + 0 * law.sum(), logits, retain_graph=True)[0]
            for pull in pulls
        )
        found.append(
            {
                "value": value.detach(),
                "gradient": clipped,
                "cosine": torch.cosine_similarity(clipped, plain, 0),
                "mass": law[words].sum().detach(),
                "teacher_mass": other[words].sum(),
                "negative": (value.detach() < 0).double(),
                "tv": 1 - torch.minimum(law.detach(), other).sum(),
                "logp": law.detach()[targets[len(found)]].log(),
                "teacher_logp": other[targets[len(found)]].log(),
            }
        )
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def swept(kind: Divergence, student: torch.Tensor, teacher: torch.Tensor, temperature=(1.0, 1.0)):
    """The same from Scores."""
    targets = torch.arange(len(student)) % student.shape[-1]
    one, two = laws(student, targets, None, temperature[0]), laws(teacher, targets, None, temperature[1])  # fmt: skip
    value = one.divergence(two, kind)
    gradient = torch.autograd.grad(value.sum(), student)[0]
    notes = {name: note[0] for name, note in one.notes.items()}
    return {"value": value[0].detach(), "gradient": gradient, **notes}


def assert_same(found, expected, skip=()):
    for name, value in expected.items():
        if name in found and name not in skip:
            assert torch.allclose(found[name], value, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("support", SUPPORTS, ids=lambda s: f"{s.words}-{s.form}")
@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
def test_every_value_gradient_and_note_is_that_of_the_definition(pair, kind, support):
    student, teacher = pair
    for clip, centred in itertools.product(CLIPS, (False, True)):
        bound, how = clip or (None, "pointwise")
        one = replace(kind, support=support, clip=bound, clip_kind=how, centred=centred)
        found = swept(one, student, teacher, (1.3, 0.7))
        expected = plainly(one, student / 1.3, teacher / 0.7, range(N))
        expected["gradient"] = expected["gradient"] / 1.3
        unsure = expected["value"].abs() < 1e-12
        assert_same(found, expected, skip=("negative",))
        assert torch.equal(found["negative"][~unsure], expected["negative"][~unsure])
        assert ("mass" in found) == ("teacher_mass" in found) == support.listed
        assert ("cosine" in found) == (clip is not None)


def test_the_clips_of_that_test_cut_some_terms_and_leave_others(pair):
    student, teacher = pair
    for kind, support in itertools.product(KINDS, SUPPORTS):
        if support.words == "intersection":
            continue  # of few words, or none
        plain = swept(replace(kind, support=support), student, teacher)["gradient"]
        cut = [
            swept(replace(kind, support=support, clip=c, clip_kind=h), student, teacher)["gradient"]
            for c, h in CLIPS[1:]
        ]
        assert plain.any() and any(each.any() and not torch.equal(each, plain) for each in cut)


# ------------------------------------------------------------------ limits of the supports


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
@pytest.mark.parametrize("words", ["student", "teacher"])
def test_all_words_but_one_and_a_tail_are_the_whole_vocabulary(pair, kind, words):
    expected = swept(kind, *pair)
    found = swept(replace(kind, support=Support(words, V - 1, "tail")), *pair)
    assert_same(found, expected)
    assert (found["mass"] < 1).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [V, V + 5])
def test_lists_of_all_words_are_the_whole_vocabulary(pair, kind, form, k):
    expected = swept(kind, *pair)
    for words in LISTS:
        found = swept(replace(kind, support=Support(words, k, form)), *pair)
        assert_same(found, expected)
        assert torch.allclose(found["mass"], torch.ones(N).double())


def test_a_tail_never_says_more_than_the_whole_vocabulary(pair):
    """Words put together hide their differences: the data processing inequality."""
    for kind, words in itertools.product(KINDS, LISTS):
        whole = swept(kind, *pair)["value"]
        last = torch.zeros(N).double()
        for k in range(1, V):
            found = swept(replace(kind, support=Support(words, k, "tail")), *pair)["value"]
            assert (found <= whole + 1e-12).all() and (found >= -1e-12).all()
            last = torch.maximum(last, found)
        assert (last > 0).all()


def test_the_union_holds_the_lists_and_the_lists_hold_the_intersection(pair):
    p, q = (x.detach().softmax(-1) for x in pair)
    mass = {
        words: swept(Divergence(support=Support(words, K, "tail")), *pair)["mass"]
        for words in LISTS
    }
    assert torch.allclose(
        mass["union"] + mass["intersection"], mass["student"] + mass["teacher"], rtol=1e-12
    )
    assert torch.allclose(mass["student"], p.topk(K).values.sum(-1))
    expected = torch.gather(p, -1, q.topk(K).indices).sum(-1)
    assert torch.allclose(mass["teacher"], expected)
    for listed in (mass["student"], mass["teacher"]):
        assert (mass["union"] >= listed - 1e-15).all()
        assert (mass["intersection"] <= listed + 1e-15).all()
    assert (mass["union"] > mass["intersection"]).any()


def test_an_empty_intersection_tells_nothing_but_its_tail_is_finite():
    student = torch.tensor([[5.0, 4, 0, 0, 0], [5, 4, 0, 0, 0]], dtype=torch.float64)
    student.requires_grad_()
    teacher = torch.tensor([[0.0, 0, 0, 4, 5], [0, 0, 0, 4, 5]], dtype=torch.float64)
    for kind, form in itertools.product(KINDS, FORMS):
        one = replace(kind, support=Support("intersection", 2, form))
        found = swept(one, student, teacher)
        assert float(found["gradient"].abs().max()) < 1e-15
        assert float(found["value"].abs().max()) < 1e-15
        assert not found["mass"].any() and not found["teacher_mass"].any()


@pytest.mark.parametrize("words", LISTS)
def test_one_renormalised_word_is_refused(words):
    with pytest.raises(ValueError, match="always zero; take k of 2 or more"):
        Support(words, 1, "renormalised")
    assert Support(words, 1, "tail").k == Support("full", 1, "renormalised").k == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": "studnet"}, "did you mean 'student'"),
        ({"form": "renormalized"}, "did you mean 'renormalised'"),
        ({"k": 0}, "k=0 words"),
    ],
)
def test_an_unknown_support_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Support(**arguments)


# ------------------------------------------------------------------ the pull on the mass


@pytest.mark.parametrize("words", LISTS)
@pytest.mark.parametrize(("kind", "sign"), [("reverse", 1), ("forward", -1)])
def test_a_raw_list_adds_the_gradient_of_its_mass(pair, words, kind, sign):
    """direct = stop-gradient version + (reverse), or - (forward), the gradient of sum_S p."""
    student, teacher = pair
    raw = Divergence(kind, support=Support(words, K, "raw"))
    direct = swept(raw, student, teacher)["gradient"]
    still = swept(replace(raw, centred=True), student, teacher)["gradient"]
    p, q = student.softmax(-1), teacher.softmax(-1).detach()
    mass = sum(p[row][words_of(raw.support, p[row], q[row])].sum() for row in range(N))
    pulled = torch.autograd.grad(mass, student)[0]
    assert pulled.abs().max() > 0.05
    assert torch.allclose(direct, still + sign * pulled, rtol=1e-10, atol=1e-14)


def test_a_word_of_a_raw_reverse_list_is_raised_only_where_the_teacher_likes_it_e_times_more(pair):
    student, teacher = pair
    raw = Divergence("reverse", support=Support("student", K, "raw"))
    slopes = raw.measure(student.log_softmax(-1), teacher.log_softmax(-1))[1].detach()
    ratio = (teacher.softmax(-1) / student.softmax(-1)).detach()
    assert torch.equal(slopes < 0, ratio > torch.e) and (ratio > torch.e).any()


@pytest.mark.parametrize("support", SUPPORTS, ids=lambda s: f"{s.words}-{s.form}")
@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
def test_where_student_and_teacher_agree_only_raw_direct_kl_has_a_gradient(pair, kind, support):
    student = pair[0]
    one = replace(kind, support=support)
    centred = swept(replace(one, centred=True), student, student.detach())
    assert float(centred["gradient"].abs().max()) < 1e-15
    assert float(centred["value"].abs().max()) < 1e-15
    direct = float(swept(one, student, student.detach())["gradient"].abs().max())
    pulls = support.listed and support.form == "raw" and kind.kind in ("forward", "reverse")
    assert direct > 0.05 if pulls else direct < 1e-15


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
def test_the_centred_form_is_the_plain_one_over_complete_laws(pair, kind):
    for support in SUPPORTS:
        if support.form == "raw" and support.listed:
            continue
        one = replace(kind, support=support)
        centred = swept(replace(one, centred=True), *pair)["gradient"]
        assert torch.allclose(centred, swept(one, *pair)["gradient"], rtol=1e-9, atol=1e-14)


def test_centred_forward_with_a_clip_lowers_no_word_that_the_teacher_prefers(pair):
    student, teacher = pair
    wanted = (teacher.softmax(-1) > student.softmax(-1)).detach()
    for clip in (0.05, 1e-3, 1e-7):
        plain = swept(Divergence(clip=clip), student, teacher)["gradient"]
        centred = swept(Divergence(clip=clip, centred=True), student, teacher)["gradient"]
        assert (centred[wanted] < 0).all() and (plain[wanted] > 0).any()


# ------------------------------------------------------------------ clips


@pytest.mark.parametrize("clip", [0.2, 0.02, 1e-6])
def test_the_pointwise_clip_teaches_a_teacher_without_its_favourites(pair, clip):
    """U the words kept: q(U) p - q 1_U."""
    found = swept(Divergence(clip=clip), *pair)
    p, q = (x.detach().softmax(-1) for x in pair)
    terms = q * (q / p).log()
    kept = (terms < clip).double()
    assert 0 < kept.mean() < 1
    expected = (q * kept).sum(-1, keepdim=True) * p - q * kept
    assert torch.allclose(found["gradient"], expected, rtol=1e-9, atol=1e-14)
    assert torch.allclose(found["value"], terms.clamp(max=clip).sum(-1), rtol=1e-9, atol=1e-14)


def test_a_huge_clip_of_any_kind_changes_nothing(pair):
    for kind, support in itertools.product(KINDS, SUPPORTS):
        expected = swept(replace(kind, support=support), *pair)
        for clip, how in itertools.product((1e9, torch.inf), ("pointwise", "symmetric", "token")):
            one = replace(kind, support=support, clip=clip, clip_kind=how)
            found = swept(one, *pair)
            assert_same(found, expected)
            some = expected["gradient"].abs().amax(-1) > 1e-12
            assert torch.allclose(found["cosine"][some], torch.ones(1).double())
            assert some.all() or support.words == "intersection"


def test_a_token_above_the_token_clip_has_its_value_and_no_gradient(pair):
    plain = swept(Divergence(), *pair)
    clip = float(plain["value"].median())
    found = swept(Divergence(clip=clip, clip_kind="token"), *pair)
    above = plain["value"] >= clip
    assert above.any() and not above.all()
    assert torch.equal(found["value"], plain["value"].clamp(max=clip))
    assert not found["gradient"][above].any() and not found["cosine"][above].any()
    assert torch.equal(found["gradient"][~above], plain["gradient"][~above])
    assert torch.allclose(found["cosine"][~above], torch.ones(1).double())


def test_symmetric_terms_are_bounded_on_both_sides(pair):
    clip = 0.02
    found = swept(Divergence(clip=clip, clip_kind="symmetric"), *pair)
    p, q = (x.detach().softmax(-1) for x in pair)
    terms = q * (q / p).log()
    assert (terms < -clip).any() and (terms > clip).any()
    assert torch.allclose(found["value"], terms.clamp(-clip, clip).sum(-1), rtol=1e-9)
    kept = (terms.abs() < clip).double()
    expected = (q * kept).sum(-1, keepdim=True) * p - q * kept
    assert torch.allclose(found["gradient"], expected, rtol=1e-9, atol=1e-14)


def test_small_pointwise_clips_push_away_from_the_teacher():
    """2000 words, as an enumeration cannot show it: the smaller the clip, the more positions whose
    gradient points away from that of the divergence, and nearly all losses below zero."""
    random = torch.Generator().manual_seed(0)
    base = 3 * torch.randn(200, 2000, generator=random, dtype=torch.float64)
    shift = torch.randn(200, 2000, generator=random, dtype=torch.float64)
    for size in (0.3, 1.0):
        opposed, negative, cosine = [], [], []
        for clip in (1.0, 0.05, 1e-3, 1e-7):
            found = swept(Divergence(clip=clip), base.clone().requires_grad_(), base + size * shift)
            opposed.append(float((found["cosine"] < 0).double().mean()))
            negative.append(float(found["negative"].mean()))
            cosine.append(float(found["cosine"].mean()))
        assert opposed == sorted(opposed) and cosine == sorted(cosine, reverse=True)
        assert opposed[0] < 0.02 and 0.02 < opposed[1] < 0.6 and opposed[3] > 0.8
        assert cosine[3] < -0.3
        assert negative[0] == 0 and min(negative[2:]) > 0.97
    assert found["tv"].mean() > 0.1


# ------------------------------------------------------------------ total variation


def test_the_gradient_of_the_total_variation_is_minus_that_of_the_acceptance(pair):
    student, teacher = pair
    found = swept(Divergence("tv"), student, teacher)
    accepted = torch.minimum(student.softmax(-1), teacher.softmax(-1).detach()).sum(-1)
    gradient = torch.autograd.grad(accepted.sum(), student)[0]
    assert torch.allclose(found["value"], 1 - accepted.detach(), rtol=1e-12)
    assert torch.allclose(found["gradient"], -gradient, rtol=1e-9, atol=1e-14)


# ------------------------------------------------------------------ numbers at the edge


EVERY = [
    *SUPPORTS,
    Support("sampled"),
    Support("teacher", 1, "tail"),
    Support("student", 9, "tail"),
]


@pytest.mark.parametrize("support", EVERY, ids=lambda s: f"{s.words}-{s.form}-{s.k}")
@pytest.mark.parametrize("size", [30.0, 1e4, 1e30])
def test_laws_that_share_nothing_stay_finite_in_float32(support, size):
    rows = torch.linspace(-1, 1, V).repeat(2, 1)
    one_word = torch.zeros(2, V).index_fill(1, torch.tensor([0]), 1)
    for shape, kind in itertools.product((rows, one_word), KINDS):
        for clip, centred in itertools.product((None, 0.05), (False, True)):
            if clip and support.words == "sampled":
                continue
            one = replace(kind, support=support, clip=clip, centred=centred)
            student = (size * shape).requires_grad_()
            found = swept(one, student, size * shape.flip(-1))
            assert found["gradient"].dtype == torch.float32
            for name in ("value", "gradient", *(("cosine",) if clip else ())):
                assert found[name].isfinite().all(), (name, one)


def test_a_tail_of_no_mass_keeps_the_gradient_of_the_others_in_float32():
    """The student leaves 1e-9 to the tail, the teacher most: what the listed words get is not
    drowned by the share of the words outside."""
    logits = torch.tensor([[25.0, 24, 23, 0, 1, 2, 0, 1, 2]])
    teacher = torch.tensor([[1.0, 2, 0, 3, 4, 3, 2, 4, 3]])
    for kind in KINDS:
        one = replace(kind, support=Support("student", K, "tail"))
        exact = swept(one, logits.double().requires_grad_(), teacher.double())["gradient"]
        found = swept(one, logits.clone().requires_grad_(), teacher)["gradient"]
        assert torch.allclose(found.double(), exact, rtol=1e-4, atol=1e-6)


def test_ties_are_broken_somehow_and_harm_nothing():
    student = torch.zeros(2, V, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0] * 4 + [0.0] * 5, [0.0] * V], dtype=torch.float64)
    for kind, support in itertools.product(KINDS, SUPPORTS):
        found = swept(replace(kind, support=support), student, teacher)
        assert found["gradient"].isfinite().all() and found["value"].isfinite().all()
        if support.listed and support.words != "intersection":
            assert (found["mass"] >= K / V - 1e-12).all()


# ------------------------------------------------------------------ the sampled token


@pytest.mark.parametrize("kind", KINDS, ids=lambda d: f"{d.kind}-{d.beta}")
def test_the_sampled_token_is_right_in_the_mean_and_never_negative(kind):
    """Every word as the sampled one, weighed by its probability."""
    logits, teacher = random_logits(V, size=1.5), random_logits(V, seed=1, size=1.5).detach()
    chance = logits.softmax(-1).detach()
    rows, others = logits.expand(V, V), teacher.expand(V, V)
    one = replace(kind, support=Support("sampled"))
    values = laws(rows, range(V)).divergence(laws(others, range(V)), one)[0]
    assert (values >= 0).all() and values.max() > 0.1
    whole = laws(logits[None], [0]).divergence(laws(teacher[None], [0]), kind)[0]
    assert float((chance * values).sum().detach()) == pytest.approx(
        float(whole.detach()), rel=1e-10
    )
    found = torch.autograd.grad((chance * values).sum(), logits)[0]
    expected = torch.autograd.grad(whole.sum(), logits)[0]
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-14)


def test_a_clip_of_the_sampled_token_is_refused_as_it_has_the_gradient_of_no_divergence():
    with pytest.raises(ValueError, match="the sampled token is no sum"):
        Divergence(clip=0.05, support=Support("sampled"))
    logits, teacher = random_logits(V, size=1.5), random_logits(V, seed=1, size=1.5).detach()
    p, q = logits.softmax(-1).detach(), teacher.softmax(-1)
    clip = 0.05
    kept = (q / p) * (q / p).log() < clip
    weight = (1 - q / p) * kept  # a cut token has no gradient
    found = torch.autograd.grad((p * weight * logits.log_softmax(-1)).sum(), logits)[0]
    for how, kind in itertools.product(("pointwise", "symmetric", "token"), KINDS):
        for bound in (clip, None):
            one = replace(kind, clip=bound, clip_kind=how)
            other = swept(one, logits[None], teacher[None])["gradient"][0]
            if other.any():
                assert float(torch.cosine_similarity(found, other, dim=0)) < 0.99
