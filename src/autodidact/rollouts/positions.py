"""Positions of a text as problems: think, then guess the next token.

Shapes: B rows, T columns. The text is the solution of each problem, read after its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from autodidact.batch import Batch, join
from autodidact.credits.spans import tokens_until
from autodidact.law import Law, prompt_key, uniform
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.names import at_least_one
from autodidact.problem import Message, Problem, Task
from autodidact.rollouts.given import Given
from autodidact.rollouts.paths import given_ids
from autodidact.rollouts.sample import complete, sample_numbers, sampled_batch
from autodidact.store import Completion
from autodidact.view import plain

ASK = (
    "{question}\n{text}\n\nWhat is the next token of this text? Think in about {budget} tokens, "
    "then write {marker} and the token."
)
TIERS = ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5))
"""Chances of easy, middling and hard positions, at the start and at the end: chosen here."""
TURN = (0.3, 0.7)
"""Between these shares of a run the chances move from the first to the last."""
CHOICE = 2**42
"""Added to the seed for the choice of positions."""
ROOM = 4
"""Tokens for the guess, beside those of the marker."""


def chances(progress: float) -> tuple[float, ...]:
    """How likely each tier of positions is after that share of the run: linear between `TURN`."""
    first, last = TURN
    share = min(1.0, max(0.0, (progress - first) / (last - first)))
    return tuple((1 - share) * a + share * b for a, b in zip(*TIERS, strict=True))


def budget_at(progress: float, start: int, shrink: float) -> int:
    """max(1, floor(start shrink^progress)): tokens of thought that are asked for."""
    return max(1, int(start * shrink**progress))


def length_reward(tokens: float, budget: int) -> float:
    """0 at 0, 1 at the budget, 0 from twice the budget on, and linear between."""
    return max(0.0, 1 - abs(tokens / budget - 1))


@dataclass(frozen=True)
class Positions(Rollout):
    """`guesses` thoughts about each of some tokens of a text, and the rest of the text as it is.

    The positions come from three tiers, the thirds of a text by the entropy of the policy at the
    time of the call: a tier by `chances`, then a position in it, none twice. Tokens that are
    blank, or a piece of a character, are never asked for. The policy reads the question, the text
    before the position and a budget, may write twice as much, and its guess is what follows the
    last marker. The text itself is one more row (unless `corpus` is off), whose tokens are own but
    for those that are guessed.

    Streams: those of `Sample`; `kind` [B], 1 for guesses and 0 for the text; `matched` [B], whether
    the guess is the token; `thought` [B], tokens before the marker; `reward` [B], (1 - w) matched
    + w `length_reward`. A row of text has the means over its problem's guesses. The guesses about
    one position form a group; a text is a group of its own.

    Source: Reinforcement Mid-Training, arXiv 2509.24375.

    Attributes:
        positions: of each text; fewer where it has no more.
        budget, shrink: see `budget_at`.
        weight: w, the share of the length in the reward.
        over: updates in which the curriculum and the budget run their course.
        marker: what stands before a guess.
        corpus: whether the text itself is a row.

    Raises:
        ValueError: numbers out of range; and when drawing, a row that does not fit the context.
    """

    guesses: int = 8
    positions: int = 1
    budget: int = 800
    shrink: float = 0.2
    weight: float = 0.1
    over: int = 1000
    marker: str = "Next:"
    corpus: bool = True

    def __post_init__(self):
        at_least_one(
            guesses=self.guesses, positions=self.positions, budget=self.budget, over=self.over
        )
        if not (0 < self.shrink <= 1 and 0 <= self.weight <= 1 and self.marker):
            raise ValueError(
                f"shrink={self.shrink}, weight={self.weight}, marker={self.marker!r}: allowed are "
                "a shrink above 0 and at most 1, a weight from 0 to 1, and some text"
            )

    @property
    def n(self) -> int:  # type: ignore[override]
        """Rows of a problem whose text is long enough."""
        return self.guesses * self.positions + self.corpus

    @property
    def length(self) -> int:
        """A number of tokens that no guess exceeds, what is asked with it included."""
        return 2 * self.budget + 2 * len(self.marker.encode()) + ROOM + len(ASK)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        lm = models.policy
        progress = min(1.0, models.ledger.optimizer_steps / self.over)
        budget = budget_at(progress, self.budget, self.shrink)
        texts, entropy = _read(problems, models, task, seed)
        chosen = self._chosen(lm, texts, entropy, chances(progress), seed)
        asked = [(row, place) for row, places in enumerate(chosen) for place in places]
        prompts = [lm.render(self._ask(lm, texts, row, place, budget)) for row, place in asked]
        limit = 2 * budget + len(given_ids(lm, self.marker)) + ROOM
        drawn = complete(models, prompts, self.guesses, limit, Law(), seed)
        rows = [
            (row, *self._judged(lm, each, int(texts.ids[row, place]), budget))
            for (row, place), completions in zip(asked, drawn, strict=True)
            for each in completions
        ]
        guesses = sampled_batch([problems[row] for row, _ in asked], prompts, drawn, task, Law())
        told = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
        guesses = _told(guesses, told[:, 1:], 1.0)
        if not self.corpus:
            return guesses
        means = torch.stack([_mean(told[told[:, 0] == row, 1:]) for row in range(len(problems))])
        hidden = torch.zeros_like(texts.own)
        for row, place in asked:
            hidden[row, place] = True
        return join([guesses, _told(replace(texts, own=texts.own & ~hidden), means, 0.0)])

    def _chosen(
        self,
        lm: LM,
        texts: Batch,
        entropy: Float[torch.Tensor, "B T"],
        tiers: Sequence[float],
        seed: int,
    ) -> list[list[int]]:
        """The columns that are asked about, for each text."""
        prompts = [
            tuple(ids[: int(own.int().argmax())].tolist())
            for ids, own in zip(texts.ids, texts.own, strict=True)
        ]
        found = []
        for row, numbers in enumerate(sample_numbers(prompts, self.positions)):
            columns = texts.own[row].nonzero().flatten().tolist()
            fit = [c for c in columns if _askable(lm.decode([int(texts.ids[row, c])]))]
            fit.sort(key=lambda column: float(entropy[row, column]))
            tier = {column: 3 * rank // len(fit) for rank, column in enumerate(fit)}
            keys = torch.full((len(numbers),), prompt_key(prompts[row]))
            draws = uniform(seed + CHOICE, keys, torch.tensor(list(numbers)), 0).tolist()
            places: list[int] = []
            for draw in draws[: len(fit)]:
                left = [column for column in fit if column not in places]
                places.append(_pick(left, [tier[column] for column in left], tiers, draw))
            found.append(places)
        return found

    def _ask(self, lm: LM, texts: Batch, row: int, place: int, budget: int) -> list[Message]:
        """What the policy reads before it guesses the token at that column."""
        *before, last = texts.task.prompt(texts.rows[row])
        start = int(texts.own[row].int().argmax())
        text = lm.decode(texts.ids[row, start:place].tolist())
        asked = ASK.format(question=last["content"], text=text, budget=budget, marker=self.marker)
        return [*before, {**last, "content": asked}]

    def _judged(
        self, lm: LM, written: Completion, token: int, budget: int
    ) -> tuple[float, float, float]:
        """(reward, matched, thought) of one guess."""
        text = lm.decode(written.ids)
        place = text.rfind(self.marker)
        size = len(written.ids) - written.finished
        if place >= 0:
            [size] = tokens_until(lm, written.ids, [place])
        guess = text[place + len(self.marker) :] if place >= 0 else ""
        matched = float(guess.strip() == lm.decode([token]).strip())
        reward = (1 - self.weight) * matched + self.weight * length_reward(size, budget)
        return reward, matched, float(size)


def _read(
    problems: Sequence[Problem], models: Models, task: Task, seed: int
) -> tuple[Batch, Float[torch.Tensor, "B T"]]:
    """The texts as rows, with what the policy says of them, and its entropy at each token."""
    texts = Given()(problems, models, task, seed)
    with torch.no_grad():
        here = texts.to(models.policy.device)
        found = models.score(plain(here, grad=False), here).read("logp", "entropy")
    logp = found["logp"].float().to(texts.ids.device)
    streams = {"logp": logp, "raw": logp, "finished": torch.ones(len(texts))}
    return texts.put(**streams), found["entropy"].to(texts.ids.device)


def _askable(text: str) -> bool:
    return bool(text.strip()) and "\ufffd" not in text


def _pick(
    columns: Sequence[int], tiers: Sequence[int], chance: Sequence[float], draw: float
) -> int:
    """A column: its tier by chance, all columns of a tier alike; tiers without any are left out."""
    weights = [chance[tier] / tiers.count(tier) for tier in tiers]
    passed = draw * sum(weights)
    for column, weight in zip(columns, weights, strict=True):
        passed -= weight
        if passed < 0:
            return column
    return columns[-1]


def _mean(values: Float[torch.Tensor, "n 3"]) -> Float[torch.Tensor, "3"]:
    return values.mean(0) if len(values) else values.new_zeros(3)


def _told(batch: Batch, values: Float[torch.Tensor, "B 3"], kind: float) -> Batch:
    reward, matched, thought = values.T
    return batch.put(
        reward=reward, matched=matched, thought=thought, kind=torch.full((len(batch),), kind)
    )
