"""Scores: what a model says at the asked tokens, without ever holding their logits.

Shapes: N asked tokens, D hidden size, V vocabulary, [B, T] the batch. Law 3: only this file and
what it asks (`questions`, `sweep`, `head`, `divergence`) touch the vocabulary axis, and the
sampler of an engine, which must draw from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int

from autodidact.divergence import Divergence
from autodidact.head import Head
from autodidact.questions import Comparison, Filtered, Reading, Within
from autodidact.sweep import Question, Side, Walk, sizes


@dataclass
class _Listed(Walk):
    """A walk with several words for each token, as `Within` takes them."""

    targets: Int[torch.Tensor, "N K"]


@dataclass(frozen=True)
class Scores:
    """What one role says about the asked tokens of a batch.

    Every quantity is [B, T] and 0 where nothing was asked. Natural logarithms, so nats.

    Attributes:
        hidden: final hidden states of the N asked tokens, in row-major order of `asked`.
        asked: [B, T], which tokens were asked.
        targets: [N], the ids of those tokens.
        temperature: the logits are divided by it.
        weight: [N], what a token counts in a loss that is the weighted sum of its values, where
            that is known beforehand. It saves `divergence` and `nll` a second walk over a head
            that is trained, and changes no number.
        notes: detached [B, T] by-products of sweeps already made (`entropy`, `logp`, ...).
    """

    hidden: Float[torch.Tensor, "N D"]
    head: Head
    asked: Bool[torch.Tensor, "B T"]
    targets: Int[torch.Tensor, "N"]
    temperature: float = 1.0
    weight: Float[torch.Tensor, "N"] | None = None
    notes: dict[str, Float[torch.Tensor, "B T"]] = field(default_factory=dict)

    def __post_init__(self):
        assert len(self.hidden) == len(self.targets) == int(self.asked.sum())

    @property
    def logp(self) -> Float[torch.Tensor, "B T"]:
        """Log-probability of each token."""
        return self.read("logp")["logp"]

    @property
    def nll(self) -> Float[torch.Tensor, "B T"]:
        """-log-probability of each token, for a loss that is its weighted sum."""
        return -self._ask(Reading(("logp",)))["logp"]

    @property
    def entropy(self) -> Float[torch.Tensor, "B T"]:
        """Entropy of the whole next-token law; differentiable."""
        return self.read("entropy")["entropy"]

    @property
    def rank(self) -> Float[torch.Tensor, "B T"]:
        """How many words are strictly likelier than the token; no gradient."""
        return self.read("rank")["rank"]

    @property
    def self_certainty(self) -> Float[torch.Tensor, "B T"]:
        """KL(uniform || p) = -mean_v log(V p_v) (2502.18581): 0 for a uniform law."""
        return self.read("self_certainty")["self_certainty"]

    def read(self, *names: str) -> dict[str, Float[torch.Tensor, "B T"]]:
        """Several of `logp`, `entropy`, `rank`, `self_certainty` in one sweep over the head."""
        return replace(self, weight=None)._ask(Reading(names))

    def within(self, words: Int[torch.Tensor, "B T K"]) -> Float[torch.Tensor, "B T"]:
        """log p(x) - log sum_{v listed} p(v): of each token, renormalised over some words.

        With the words that a truncated law left (stream `support`) it is the log-probability of
        that law, at these weights. Leaves the notes `logp` and `entropy`, of the whole law.

        Args:
            words: of each asked token, itself among them, filled up with -1.
        """
        listed = words[self.asked]
        token = self.targets[:, None]
        assert (listed == token).any(1).all(), "a token is one of the words that were left"
        # Few sizes: where the work is compiled, it is compiled for each.
        free = (1 << (listed.shape[1] - 1).bit_length()) - listed.shape[1]
        targets = torch.cat([token, torch.nn.functional.pad(listed, (0, free), value=-1)], 1)
        student = Side(self.hidden, self.head, self.temperature)
        return self._answers(_Listed(Within(), student, None, targets))["within"]

    def filtered(self, share: float) -> Float[torch.Tensor, "B T"]:
        """KL(q || p) of this law p to itself without its unlikely words, which is held fixed.

        q is p on the words above `share` of the likeliest, renormalised. The value is -log of what
        they hold, the gradient p - q in the logits: kept words rise, the others fall. Leaves the
        notes `logp`, `entropy` and `kept`, 1 where the token is one of those words.

        Raises:
            ValueError: a share outside 0 (keeps all) to below 1.
        """
        if not 0 <= share < 1:
            raise ValueError(f"share={share} of the likeliest word: it must be from 0 to below 1")
        return replace(self, weight=None)._ask(Filtered(share))["filtered"]

    def divergence(self, teacher: Scores, kind: Divergence) -> Float[torch.Tensor, "B T"]:
        """Divergence of this law (student) to the teacher's, token by token.

        The teacher is detached. Notes left on the way: `entropy` and `logp` of both,
        `tv` (one minus the acceptance rate of speculative decoding), `negative`, the share of
        tokens whose value is below zero (only a clip, or raw parts of the vocabulary, make it
        so), with a clip `cosine`, of the gradient in the logits to the one without the clip, and
        with a support `mass` and `teacher_mass`, the probability of its words.

        Raises:
            ValueError: the two vocabularies have different sizes.
        """
        assert torch.equal(self.asked, teacher.asked), "both sides must be asked the same tokens"
        if self.head.words != teacher.head.words:
            raise ValueError(
                f"the student's vocabulary has {self.head.words} words, the teacher's "
                f"{teacher.head.words}: a divergence needs the same vocabulary"
            )
        value = self._ask(Comparison(kind), teacher)["divergence"]
        self.notes["negative"] = (value < 0).to(value.dtype)
        return value

    @torch.no_grad()
    def topk(self, k: int) -> tuple[Int[torch.Tensor, "B T k"], Float[torch.Tensor, "B T k"]]:
        """The k likeliest words of each asked token, with their log-probabilities."""
        words = torch.zeros((*self.asked.shape, k), dtype=torch.long, device=self.hidden.device)
        logps = torch.zeros((*self.asked.shape, k), device=self.hidden.device)
        count = len(self.targets)
        step = sizes(count, self.head)[0]
        found = [
            (self.head.logits(self.hidden[i : i + step]) / self.temperature).log_softmax(-1).topk(k)
            for i in range(0, count, step)
        ]
        if found:
            words[self.asked] = torch.cat([each.indices for each in found])
            logps[self.asked] = torch.cat([each.values for each in found]).to(logps.dtype)
        return words, logps

    def _ask(
        self, question: Question, teacher: Scores | None = None
    ) -> dict[str, Float[torch.Tensor, "B T"]]:
        """One sweep. Returns the values by name and leaves the notes."""
        other = None
        if teacher is not None:
            other = Side(teacher.hidden.detach(), teacher.head.detach(), teacher.temperature)
        student = Side(self.hidden, self.head, self.temperature)
        return self._answers(Walk(question, student, other, self.targets, self.weight))

    def _answers(self, walk: Walk) -> dict[str, Float[torch.Tensor, "B T"]]:
        values, notes = walk.run()
        self.notes.update(zip(walk.question.notes, map(self._dense, notes), strict=True))
        return dict(zip(walk.question.values, map(self._dense, values), strict=True))

    def _dense(self, values: Float[torch.Tensor, "N"]) -> Float[torch.Tensor, "B T"]:
        return values.new_zeros(self.asked.shape).masked_scatter(self.asked, values)
