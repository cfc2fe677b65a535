"""Policy-gradient losses and estimators of the divergence to a reference, token by token.

Shapes: B rows, T columns. rho_t = p(y_t) / old(y_t), A_t the advantage, both from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float

from autodidact.batch import Batch
from autodidact.losses.importance import Correct, Correction
from autodidact.losses.reading import Plain, Reading
from autodidact.losses.weights import Weigh
from autodidact.method import Method, Rollout
from autodidact.names import choose
from autodidact.view import View

if TYPE_CHECKING:
    from autodidact.models import Models
    from autodidact.scores import Scores

SurrogateKind = Literal["clip", "cap", "none"]
Level = Literal["token", "sequence", "sequence_token"]
KL = Literal["k2", "k3", "k3_plus", "k3_ratio"]
Values = Float[torch.Tensor, "B T"]


def clipped(
    logp: Values,
    old: Values,
    advantage: Values,
    low: float | Values,
    high: float | Values,
    dual: float | None = None,
) -> Values:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), with rho = exp(logp - old) (1707.06347).

    `old` and `advantage` are detached. At rho = 1 its gradient is that of -A logp. With `dual`
    the loss of a negative advantage is at most -dual A (1912.09729).
    """
    ratio = (logp - old.detach()).exp()
    bounded = _within(ratio, low, high)
    advantage = advantage.detach()
    loss = -torch.minimum(ratio * advantage, bounded * advantage)
    if dual is None:
        return loss
    return torch.where(advantage < 0, torch.minimum(loss, -dual * advantage), loss)


def capped(
    logp: Values, old: Values, advantage: Values, low: float | Values, high: float | Values
) -> Values:
    """-sg[clip(rho, 1 - low, 1 + high)] A logp: no token loses its gradient (CISPO, 2506.13585)."""
    ratio = (logp - old).detach().exp()
    return -_within(ratio, low, high) * advantage.detach() * logp


def _within(ratio: Values, low: float | Values, high: float | Values) -> Values:
    least, most = (torch.as_tensor(x, dtype=ratio.dtype) for x in (1 - low, 1 + high))
    return ratio.clamp(least.to(ratio.device), most.to(ratio.device))


def of_rows(logp: Values, old: Values, own: torch.Tensor, *, each: bool) -> Values:
    """log s = (1/T) sum_t (logp - old) of a row, at each of its own tokens (GSPO, 2507.18071).

    With `each` it is sg[log s] + logp - sg[logp]: the same value, with the gradient of the token.
    """
    gap = torch.where(own, logp - old.detach(), 0.0)
    mean = gap.sum(1, keepdim=True) / own.sum(1, keepdim=True).clamp(min=1)
    if each:
        return torch.where(own, mean.detach() + logp - logp.detach(), 0.0)
    return mean * own


def k2(logp: Values, reference: Values) -> Values:
    """(logp - r)^2 / 2 at the sampled token (r = reference, detached).

    On-policy its gradient is on average that of KL(policy || reference); its value is biased.
    """
    return (logp - reference.detach()) ** 2 / 2


def k3(logp: Values, reference: Values) -> Values:
    """exp(r - l) - (r - l) - 1 at the sampled token (l = logp, r = reference, detached).

    On-policy its mean is KL(policy || reference), while the mean of its gradient is that of
    KL(reference || policy): see `tests/test_estimators.py`.
    """
    gap = reference.detach() - logp
    return gap.exp() - gap - 1


def penalty(kind: KL, logp: Values, reference: Values, old: Values) -> Values:
    """An estimate of the divergence to the reference, at the sampled token.

    | kind     | value on average         | gradient on average, on-policy |
    |----------|--------------------------|--------------------------------|
    | k2       | biased                   | KL(policy, reference)          |
    | k3       | KL(policy, reference)    | KL(reference, policy)          |
    | k3_plus  | KL(policy, reference)    | KL(policy, reference)          |
    | k3_ratio | KL(policy, reference)    | KL(policy, reference)          |

    k3_plus has the value of k3 and the gradient of k2 (verl); k3_ratio is exp(logp - old) k3, as
    in TRL, and right for tokens that `old` drew. k1, the log-ratio itself, has a gradient of zero
    on average as a loss, and is refused; it belongs into a reward.
    """
    if kind == "k2":
        return k2(logp, reference)
    value = k3(logp, reference)
    if kind == "k3_plus":
        slope = k2(logp, reference)
        return value.detach() + slope - slope.detach()
    return (logp - old.detach()).exp() * value if kind == "k3_ratio" else value


def nll(scores: Mapping[str, Scores], batch: Batch) -> Values:
    """-log p of every own token, as a method's loss."""
    return scores["policy"].nll


@dataclass(frozen=True)
class Surrogate:
    """What a policy-gradient method does with the stream `advantage`.

    Attributes:
        kind: "clip" (PPO), "cap" (CISPO), or "none": -A logp, REINFORCE without a ratio.
        level: of the ratio: "token", "sequence" (GSPO), or "sequence_token", the same value with
            the gradient of each token (GSPO-token).
        low, high: the ratio counts within 1 - low and 1 + high, which is `low` by default; streams
            `clip_low` and `clip_high` [B, T] take their place.
        dual: see `clipped`.
        correct, cap: weights of tokens that another law drew, see `losses.importance`; then the
            ratio is to the trainer's own law before the update.
        kl, kl_kind: weight and kind of a penalty towards the role `reference`, see `penalty`.
        entropy: weight of a bonus for the entropy of the law, which keeps it flat.
        reading: how log-probabilities are asked for: of the row as it is, or a `Likelihood` of what
            a masked model wrote.

    Raises:
        ValueError: an unknown kind or level, or a `kl_kind` whose gradient is wrong.
    """

    kind: SurrogateKind = "clip"
    level: Level = "token"
    low: float = 0.2
    high: float | None = None
    dual: float | None = None
    correct: Correct | None = None
    cap: float = 2.0
    kl: float = 0.0
    kl_kind: KL = "k3"
    reference: str = "initial"
    entropy: float = 0.0
    reading: Reading = field(default_factory=Plain)

    def __post_init__(self):
        choose("surrogate", self.kind, get_args(SurrogateKind))
        choose("level", self.level, get_args(Level))
        if self.kl_kind == "k1":
            raise ValueError(
                "kl_kind='k1' is refused: as a loss the log-ratio has an expected gradient of "
                "zero. Take k2, k3, k3_plus or k3_ratio, or a method with the penalty in its "
                "reward, such as reinforce_pp or ppo"
            )
        choose("kl_kind", self.kl_kind, get_args(KL))
        if self.correct is not None:
            Correction(self.correct, self.cap)

    def credit(self, batch: Batch, models: Models, epochs: int = 1) -> Batch:
        """The trainer's own law before the update, stream `old`, where the loss needs it."""
        batch = self.reading.credit(batch, models)
        if self.correct is None or epochs == 1:
            return batch
        views = self.reading.views(batch, models, "policy", "policy", grad=False)
        return batch.put(old=self.reading.laws(models.scores(views, batch), batch)[0])

    def views(self, batch: Batch, models: Models) -> dict[str, View]:
        own = self.reading.views(batch, models, "policy", "policy")
        if self.kl == 0:
            return own
        return {**own, **self.reading.views(batch, models, "reference", self.reference)}

    def loss(self, scores: Mapping[str, Scores], batch: Batch) -> Values:
        """A value for each own token, to be weighed."""
        now, then = self.reading.laws(scores, batch)
        old = then if self.correct is None else batch.streams.get("old", now.detach())
        value = self._surrogate(now, old, batch)
        if self.correct is not None:
            value = value * Correction(self.correct, self.cap).weights(old, then, batch.own)
        if self.kl:
            logp = now if "support" not in batch.streams else scores["policy"].logp
            reference = self.reading.logp(scores, batch, "reference")
            value = value + self.kl * penalty(self.kl_kind, logp, reference, old)
        if self.entropy:
            value = value - self.entropy * scores["policy"].entropy
        return value

    def _surrogate(self, now: Values, old: Values, batch: Batch) -> Values:
        advantage = batch.take("advantage")
        if self.kind == "none":
            return -advantage.detach() * now
        low = batch.streams.get("clip_low", self.low)
        high = batch.streams.get("clip_high", self.low if self.high is None else self.high)
        if self.level != "token":
            now = of_rows(now, old, batch.own, each=self.level == "sequence_token")
            old = torch.zeros_like(now)
        if self.kind == "cap":
            return capped(now, old, advantage, low, high)
        return clipped(now, old, advantage, low, high, self.dual)


def policy_gradient(
    rollout: Rollout,
    credit: Callable[[Batch, Models], Batch],
    surrogate: Surrogate,
    weigh: Weigh,
    *,
    epochs: int = 1,
    needs: tuple[str, ...] = ("answer",),
    roles: tuple[str, ...] = (),
) -> Method:
    """A method whose credit makes the stream `advantage` [B, T].

    Its signal, what the token view shows, is that advantage. `roles` are those that only the
    credit reads.
    """

    def whole(batch: Batch, models: Models) -> Batch:
        return surrogate.credit(credit(batch, models), models, epochs)

    return Method(
        rollout,
        surrogate.loss,
        whole,
        surrogate.views,
        weigh,
        needs=needs,
        epochs=epochs,
        roles=roles,
        masked=surrogate.reading.masked,
        # What a masked model is compared with is its own law as it is now, not that which drew.
        stale=not surrogate.reading.masked
        and (surrogate.kind != "none" or surrogate.correct is not None),
        signal=lambda scores, batch, values: batch.take("advantage"),
        signal_name="advantage",
    )
