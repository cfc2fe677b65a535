"""Your own data and your own reward: a JSONL file, a Python function, a run directory.

Run it with `python docs/tutorials/2_your_own_data_and_reward.py`; it takes a few seconds. The tiny
model will not learn this: the path is what counts. With a real model only `model=` changes.
"""

import json
import tempfile
from pathlib import Path

from autodidact.calls import Call
from autodidact.run import Run
from autodidact.session import execute
from autodidact.spec import Spec

folder = Path(tempfile.mkdtemp())

# One problem a line. The column names are yours; `columns` says which is which.
rows = [
    {"problem": f"Double {n}.", "rationale": f"{n}+{n}={2 * n}", "result": str(2 * n)}
    for n in range(40)
]
data = folder / "doubles.jsonl"
data.write_text("\n".join(json.dumps(row) for row in rows))

# A reward has the signature f(prompts, completions, **columns): a score for each completion, or
# None for one that cannot be scored.
rewards = folder / "rewards.py"
rewards.write_text(
    "def brief(prompts, completions, **columns):\n"
    "    return [1.0 / (1 + len(text)) for text in completions]\n"
)

columns = "question=problem,solution=rationale,answer=result"
spec = Spec(
    method=Call("grpo", {"n": 4, "length": 8}),
    task=Call("from_file", {"path": str(data), "columns": columns}),
    rewards=f"{rewards}:brief",
    run=Run(steps=2, rows=8, lr=1e-4, eval_points=1, eval_samples=2),
)
directory = execute(spec, folder / "run")

print("written:", sorted(path.name for path in directory.iterdir()))
print("the first metrics:", (directory / "metrics.jsonl").read_text().splitlines()[0][:200])
