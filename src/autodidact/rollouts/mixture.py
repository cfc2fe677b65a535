"""Rollouts of two origins: given and drawn rows, or tokens drawn from policy and teacher at once.

Shapes: B rows that are being written, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float

from autodidact.batch import Batch, batch_of
from autodidact.engine import Drawn, Request, fits
from autodidact.engines.copies import fast_head
from autodidact.engines.decoder import Decoder, Whole
from autodidact.engines.lean import Lean, lean
from autodidact.engines.rounds import Row
from autodidact.law import Law, draw, prompt_key, uniform
from autodidact.method import Rollout
from autodidact.model import LM
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.given import Given
from autodidact.rollouts.sample import Sample, answer, complete, sample_numbers, sampled_batch
from autodidact.store import Completion

COIN = -1
"""The position whose uniform number says where a row comes from: no token stands there."""


def partly(sample: Sample, share: float) -> Rollout:
    """Rows of which a share is drawn and the others are given: all, some or none.

    Raises:
        ValueError: a share outside 0 to 1, or a law to draw from where nothing is drawn.
    """
    if share == 1:
        return sample
    if share == 0:
        if sample.law != Law():
            raise ValueError(
                f"on_policy=0 draws nothing, so {sample.law} says nothing: leave out temperature, "
                "top_k and top_p"
            )
        return Given()
    return Mixture(sample, share)


@dataclass(frozen=True)
class Mixture(Rollout):
    """Each row with probability `share` drawn as by `Sample`, else the solution of its problem.

    Which it is depends on the seed, the prompt and the number of the sample only, and what is drawn
    is what `Sample` draws for that number. Given rows count as the policy's own, as in `Given`.

    Streams: `finished` [B] and `given` [B], 1 for given rows. Given tokens were drawn from no law,
    so there is neither `logp` nor `raw`.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    inner: Sample
    share: float = 0.5
    n: int = field(init=False)

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"on_policy={self.share} is a probability: it must be from 0 to 1")
        object.__setattr__(self, "n", self.inner.n)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        policy, law = models.policy, self.inner.law
        prompts = [tuple(policy.render(task.prompt(problem))) for problem in problems]
        named = enumerate(zip(prompts, sample_numbers(prompts, self.n), strict=True))
        rows = [
            (i, Request(prompt, number, self.inner.length))
            for i, (prompt, numbers) in named
            for number in numbers
        ]
        asked = self._drawn([request for _, request in rows], seed)
        drawn = [request for (_, request), each in zip(rows, asked, strict=True) if each]
        found = iter(answer(models, drawn, law, seed))
        written = [
            next(found) if each else _given(policy, problems[i])
            for (i, _), each in zip(rows, asked, strict=True)
        ]
        return batch_of(
            [problems[i] for i, _ in rows],
            [request.prompt for _, request in rows],
            [each.ids for each in written],
            task,
            group=[i for i, _ in rows],
            temperature=law.temperature or 1.0,
            values={
                "finished": [float(each.finished) for each in written],
                "given": [float(not each) for each in asked],
            },
        )

    def _drawn(self, requests: Sequence[Request], seed: int) -> list[bool]:
        """Whether each row is drawn."""
        keys, numbers = torch.tensor([[prompt_key(r.prompt), r.sample] for r in requests]).T
        return (uniform(seed, keys, numbers, COIN) < self.share).tolist()


def _given(lm: LM, problem: Problem) -> Completion:
    assert problem.solution is not None, "checked before the run: the method needs it"
    return Completion(lm.encode(problem.solution), [], [], True)


@dataclass(frozen=True)
class TeacherMixed(Sample):
    """n completions of each problem, each token drawn from share q + (1 - share) p.

    p is the law of the policy and q that of the teacher, who reads the same. Streams: those of
    `Sample`, where `logp` is the law that was drawn from and `raw` the policy's own: the weight of
    a token for the policy is exp(raw - logp), at most 1 / (1 - share).

    Source: MiniLLM, arXiv 2306.08543: text of a policy that games its teacher is drawn less often.

    Attributes:
        teacher: its role.
        share: of the teacher; without one (0) it is `Sample`.

    Raises:
        ValueError: a share outside 0 to below 1; a law that truncates or is greedy.
    """

    teacher: str = "initial"
    share: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        Mixed.check(self.share, self.law)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        prompts = [models.policy.render(task.prompt(problem)) for problem in problems]
        engine = Mixed(replace(models[self.teacher], name=self.teacher), self.share)
        drawn = complete(models, prompts, self.n, self.length, self.law, seed, engine)
        return sampled_batch(problems, prompts, drawn, task, self.law)


@dataclass(frozen=True)
class Mixed:
    """The engine of `TeacherMixed`: two decoders write the same rows."""

    teacher: LM
    share: float
    slots: int = 256

    @staticmethod
    def check(share: float, law: Law) -> None:
        """`ValueError` for a share that is none and for a law that cannot be mixed."""
        if not 0 <= share < 1:
            raise ValueError(f"share={share} of the teacher: it must be from 0 to below 1")
        if law.truncates or law.greedy:
            raise ValueError(
                f"{law} cannot be mixed with a teacher: where words are cut off, or the likeliest "
                "is taken, the two laws may share no word; leave out top_k, top_p and min_p, and "
                "take a temperature above 0"
            )

    @property
    def name(self) -> str:
        return f"mixed ({self.share:g} {self.teacher.name})"

    @torch.no_grad()
    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request.

        Raises:
            ValueError: as `check`, a request that does not fit the context of both models, or
                vocabularies of different size.
        """
        self.check(self.share, law)
        for reader in (lm, self.teacher):
            fits(reader, requests)
        sizes = lm.head().words, self.teacher.head().words
        if sizes[0] != sizes[1]:
            raise ValueError(f"vocabularies of {sizes[0]} and {sizes[1]} words cannot be mixed")
        found, read, verified = [], 0, 0
        for start in range(0, len(requests), self.slots):
            pair = _Pair(lm, self.teacher, requests[start : start + self.slots])
            written = pair.write(self.share, law, seed)
            found += written
            read += pair.decoders[0].read
            verified += pair.decoders[1].read + sum(len(each.ids) for each in written)
        return Drawn(found, read, verified=verified)


class _Pair:
    """Rows that policy and teacher read side by side, from their prompts to their ends."""

    def __init__(self, lm: LM, teacher: LM, requests: Sequence[Request]):
        self.requests = requests
        reads = [request.read for request in requests]
        longest, length = max(map(len, reads)), max(request.length for request in requests)
        self.decoders: list[Decoder] = [
            Lean(each, len(reads), longest, length) if lean(each) else Whole(each)
            for each in (lm, teacher)
        ]
        self.heads = [fast_head(each) for each in (lm, teacher)]
        self.hidden = [each.admit(reads, [1] * len(reads)) for each in self.decoders]
        self.ending = torch.zeros(self.heads[0].words, dtype=torch.bool, device=lm.device)
        self.ending[sorted(end for end in lm.ends if end < len(self.ending))] = True

    def laws(
        self, share: float, law: Law
    ) -> tuple[Float[torch.Tensor, "B V"], Float[torch.Tensor, "B V"]]:
        """Log-probabilities of the policy, and those that are drawn from."""
        p, q = (
            law.log_probs(head.logits(hidden))[0]
            for head, hidden in zip(self.heads, self.hidden, strict=True)
        )
        one, other = p.new_tensor([1 - share, share]).log()
        return p, torch.logaddexp(p + one, q.to(p) + other)

    def write(self, share: float, law: Law, seed: int) -> list[Completion]:
        rows = [Row(request, prompt_key(request.prompt)) for request in self.requests]
        live = rows
        while True:
            states = torch.tensor([row.state[:3] for row in live], device=self.ending.device)
            policy, mixed = self.laws(share, law)
            words = draw(mixed, uniform(seed, *states.T))
            logp, raw = (each.gather(1, words[:, None])[:, 0] for each in (mixed, policy))
            columns = (each.tolist() for each in (words, logp, raw, self.ending[words]))
            for row, word, drawn, own, end in zip(live, *columns, strict=True):
                row.ids.append(word)
                row.logp.append(drawn)
                row.raw.append(own)
                row.finished = end
            left = [i for i, row in enumerate(live) if not row.over]
            if not left:
                return [row.completion(law) for row in rows]
            if len(left) < len(live):
                live, kept = [live[i] for i in left], torch.tensor(left, device=words.device)
                words = words[kept]
                for decoder in self.decoders:
                    decoder.keep(kept)
            self.hidden = [decoder.step(words) for decoder in self.decoders]
