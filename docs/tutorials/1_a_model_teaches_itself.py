"""A model teaches itself: OPSD on the shipped tiny model, in Python.

Run it with `python docs/tutorials/1_a_model_teaches_itself.py`; it takes about half a minute.
"""

from autodidact.evaluate import Evaluation
from autodidact.methods.opsd import opsd
from autodidact.model import load
from autodidact.models import Models
from autodidact.run import Run
from autodidact.tasks.random_calculation import tiny_calculation
from autodidact.train import Training, fit

# Problems: arithmetic with worked solutions. The student reads the question; the teacher, the
# same weights as they were at the start, reads the question and its solution.
task = tiny_calculation()
problem = task.train[0]
print("the student reads ", task.prompt(problem))
print("the teacher reads ", task.privileged(problem))

models = Models(load("tiny"))
evaluation = Evaluation(task, task.test[:100], samples=4, length=40)

# A method is a value: what is sampled, who reads what, what the loss is. Its arguments are the
# whole configuration.
method = opsd(length=40, divergence="reverse")
training = Training(method, models, task, Run(steps=12, rows=64, lr=5e-4, eval_points=1))


def on_point(fraction: float) -> None:
    print(f"{fraction:4.0%} of the run:", evaluation(models)["metrics"])


def on_step(batch, line) -> None:
    print(f"step {line['step']:2d}  divergence {line['loss']:.4f}  accuracy {line['accuracy']:.2f}")


fit(training, on_step, on_point)

# What it cost, by kind: any two runs can be compared at equal cost of any kind.
print(models.ledger)
