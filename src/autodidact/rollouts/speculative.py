"""Rollouts that a smaller model proposes and the policy judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autodidact.batch import Batch
from autodidact.engines import speculative
from autodidact.engines.accept import Form
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.sample import Sample, complete, sampled_batch


@dataclass(frozen=True)
class Speculative(Sample):
    """n completions of each problem by speculative decoding.

    Streams: those of `Sample`. Without lenience (1) the rows are on-policy, as those of `Sample`:
    each is drawn from the law of the policy itself. With lenience they are not: `logp` is then the
    law that was sampled from, as ratios to the behaviour need it, and `raw` remains the policy's.

    Source: arXiv 2211.17192 and 2302.01318; lenience: DistillSpec, arXiv 2310.08461.

    Attributes:
        draft: the role that proposes, such as a folder with a smaller model, or "initial".
        guess: proposals that the policy reads at a time.
        lenience, form: e and f of `engines.accept.Lenience`.

    Raises:
        ValueError: nothing to draw, no proposals, or a lenience that is none.
    """

    draft: str = "initial"
    guess: int = 4
    lenience: float = 1.0
    form: Form = "linear"

    def __post_init__(self):
        super().__post_init__()
        speculative.check(self.guess, self.lenience, self.form)

    def __call__(self, problems: Sequence[Problem], models: Models, task: Task, seed: int) -> Batch:
        prompts = [models.policy.render(task.prompt(problem)) for problem in problems]
        draft = replace(models[self.draft], name=self.draft)
        engine = speculative.Speculative(draft, self.guess, self.lenience, self.form)
        drawn = complete(models, prompts, self.n, self.length, self.law, seed, engine)
        return sampled_batch(problems, prompts, drawn, task, self.law)
