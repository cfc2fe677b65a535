"""DPO: TRL's trainer makes updates; at its weights, on its pairs, ours has the same gradient.

Everything of TRL is its own: templates, tokens, masks, the reference, gradient accumulation. Where
the two differ by design:

- TRL's loss type "sigmoid" ignores `label_smoothing`. The smoothed loss of ours (cDPO) is its
  "aot" for a single pair: that type sorts the margins of a micro-batch, and one needs no sorting.
  With several pairs in a micro-batch "aot" is another method.
- Ours is a value for each row, both rows of a pair with the loss of the pair: the mean over rows
  is TRL's mean over pairs.
"""

from __future__ import annotations

import pytest
import torch

from against.trl_peer import DEPRECATED, FLOAT32, REASON, Tape, answer, largest_gap, settings
from autodidact.methods.dpo import dpo
from autodidact.model import load
from toys import toy_task

pytest.importorskip("trl", reason=REASON)
pytestmark = DEPRECATED

PAIRS, UPDATES = 4, 3
TASK = toy_task(PAIRS)
SMOOTHED = {"loss_type": ["aot"], "label_smoothing": 0.2}
ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": PAIRS}
CASES = {
    "sigmoid": ({"beta": 0.1}, dpo(0.1, given=True)),
    "accumulated": ({"beta": 0.5, **ONE}, dpo(0.5, given=True)),
    "smoothed": ({"beta": 0.5, **SMOOTHED, **ONE}, dpo(0.5, 0.2, given=True)),
}


def record(model, folder, **options):
    """Updates of TRL, each on all pairs: the tape, and the tokens it read."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    lm = load(model, device="cpu")
    tape, read = Tape(), []

    class Recorded(DPOTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            accumulated = self.args.gradient_accumulation_steps
            tape.losses[-1] += float(loss.detach()) / accumulated
            read.append({name: inputs[name] for name in ("input_ids", "completion_mask")})
            return loss

    def said(problem, name):
        return [{"role": "assistant", "content": problem.meta[name]}]

    rows = [
        {"prompt": TASK.prompt(p), "chosen": said(p, "chosen"), "rejected": said(p, "rejected")}
        for p in TASK.train
    ]
    given = {"max_steps": UPDATES, "per_device_train_batch_size": PAIRS, **options}
    trainer = Recorded(
        lm.model, None, DPOConfig(**settings(folder, **given)),
        train_dataset=Dataset.from_list(rows), processing_class=lm.tokenizer, callbacks=[tape],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return tape, read


def completions(ids, own):
    """The rows as (tokens up to the end of the completion, how many of them are the completion's)."""
    last = [int(row.nonzero().max()) for row in own]
    return [
        (row[: end + 1].tolist(), int(mask.sum()))
        for row, mask, end in zip(ids, own, last, strict=True)
    ]


@pytest.mark.parametrize("case", CASES)
def test_updates_have_the_loss_and_gradient_of_trl(case, blurred, models, tmp_path):
    options, method = CASES[case]
    tape, read = record(blurred, tmp_path, **options)
    batch = method.rollout(TASK.train, models, TASK, 0)
    theirs = [
        row for each in read for row in completions(each["input_ids"], each["completion_mask"])
    ]
    assert sorted(theirs) == sorted(UPDATES * completions(batch.ids, batch.own))
    assert len(tape.gradients) == UPDATES
    for update, weights in enumerate(tape.weights):
        loss, gradient = answer(method, batch, models, weights, micro_rows=2)
        gap = largest_gap(gradient, tape.gradients[update])
        print(f"{case}, update {update + 1}: loss {loss:.6f}, gradients {gap:.1e} apart")
        assert loss == pytest.approx(tape.losses[update], rel=1e-5)
        assert gap < FLOAT32
    assert tape.losses[0] == pytest.approx(float(torch.tensor(2.0).log())), (
        "the policy is the reference"
    )
    assert abs(tape.losses[-1] - tape.losses[0]) > 1e-3, "and then is not"
