"""A method of your own: four verbs, one function.

Prefix distillation: only the first tokens of an answer are taught. It is OPSD with another weight
on each token, so only `weigh` changes.

Run it with `python docs/tutorials/3_a_method_in_one_file.py`; it takes a few seconds.
"""

from autodidact.contexts import Context
from autodidact.divergence import Divergence
from autodidact.method import Method, factory
from autodidact.model import load
from autodidact.models import Models
from autodidact.parallel import total
from autodidact.rollouts.sample import Sample
from autodidact.run import Run
from autodidact.tasks.random_calculation import tiny_calculation
from autodidact.train import Training
from autodidact.view import plain, reread


@factory
def prefix_opsd(length: int = 1024, prefix: int = 8) -> Method:
    """OPSD on the first `prefix` tokens: L = (1/N) sum_{t <= prefix} KL(q_t || p_t)."""

    def views(batch, models):
        told = reread(batch, models, Context().prompts(batch), "initial")
        return {"policy": plain(batch), "teacher": told}

    def loss(scores, batch):
        return scores["policy"].divergence(scores["teacher"], Divergence("forward"))

    def weigh(batch):
        # A value at column t is about token t, so counting own tokens from the left is enough.
        chosen = batch.own & (batch.own.cumsum(1) <= prefix)
        return chosen / total(chosen.sum()).clamp(min=1)

    return Method(Sample(1, length), loss, views=views, weigh=weigh, needs=("solution",))


training = Training(
    prefix_opsd(length=40), Models(load("tiny")), tiny_calculation(), Run(steps=3, rows=32, lr=3e-4)
)
for _ in range(3):
    batch, line = training.advance()
    print({name: line[name] for name in ("step", "loss", "signal", "accuracy")})
