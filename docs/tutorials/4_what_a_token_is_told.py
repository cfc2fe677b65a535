"""What each token is told: the token view, as data.

For a few held-out problems: the student's own completion, and at each token the divergence to
the teacher and the likeliest words of both. The HTML report draws the same.

Run it with `python docs/tutorials/4_what_a_token_is_told.py`; it takes a few seconds.
"""

from autodidact.methods.opsd import opsd
from autodidact.microscope import look
from autodidact.model import load
from autodidact.models import Models
from autodidact.tasks.random_calculation import tiny_calculation

task = tiny_calculation()
seen = look(opsd(length=40), Models(load("tiny")), task, task.test[:4])
for problem in seen["problems"]:
    print(f"\n{problem['question']}  ({'right' if problem['correct'] else 'wrong'})")
    for token in problem["tokens"]:
        mark = "#" * round(20 * min(token["signal"], 1.0))
        said = f"teacher prefers {token['teacher'][0][0]!r}" if token["signal"] > 0.5 else ""
        print(f"  {token['text']!r:8} {token['signal']:7.3f} {mark:20} {said}")
