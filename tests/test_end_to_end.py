"""The command line from data to checkpoint, on real data and on real architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from autodidact.calls import Call
from autodidact.model import load
from autodidact.run import Run
from autodidact.session import execute
from autodidact.spec import Spec

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
KINDS = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gemma": (Gemma2Config, Gemma2ForCausalLM),
}


def folder_of(kind: str, where: Path) -> Path:
    """A randomly initialised model of that architecture with the tiny model's tokenizer."""
    make, model = KINDS[kind]
    tokenizer = load("tiny").tokenizer
    torch.manual_seed(0)
    config = make(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, **SMALL,
    )  # fmt: skip
    model(config).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def problems_file(where: Path) -> Path:
    rows = [
        {"question": f"{a}+{a}", "solution": f"{a}+{a}={2 * a}", "answer": str(2 * a)}
        for a in range(20)
    ]
    path = where / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run_of(**options) -> Run:
    return Run(
        steps=2, rows=4, lr=1e-4, eval_points=1, eval_problems=4, eval_samples=2,
        eval_length=12, **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_local_folder_of_each_architecture_trains(kind, lora, precision, tmp_path):
    spec = Spec(
        Call("opsd", {"length": 12}),
        Call("from_file", {"path": str(problems_file(tmp_path))}),
        run_of(),
        model=str(folder_of(kind, tmp_path / "model")),
        lora=lora,
        precision=precision,
    )
    out = execute(spec, tmp_path / "run")
    steps = [
        line
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "step"
    ]
    assert len(steps) == 2
    assert all(line["skipped"] == 0 and line["grad_norm"] > 0 for line in steps)
    checkpoint = out / "checkpoints" / "step-000002"
    AutoTokenizer.from_pretrained(checkpoint)
    if lora:
        from peft import PeftModel

        base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        PeftModel.from_pretrained(base, checkpoint)
    else:
        AutoModelForCausalLM.from_pretrained(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["opsd", "grpo", "sft"])
def test_the_file_of_gsm8k_trains_as_it_is(method, tmp_path):
    if not GSM8K.is_dir():
        pytest.skip(f"no GSM8K beside the checkout ({GSM8K})")
    arguments = {} if method == "sft" else {"length": 16}
    if method == "grpo":
        arguments["n"] = 4
    spec = Spec(
        Call(method, arguments), Call("from_file", {"path": str(GSM8K / "train.jsonl")}), run_of()
    )
    out = execute(spec, tmp_path / "run")
    run = json.loads((out / "run.json").read_text())
    assert run["finished"] is not None
    assert len((out / "samples.jsonl").read_text().splitlines()) == 8


def test_a_problem_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "long.jsonl"
    row = {"question": "1+1 " * 1500, "solution": "1+1=2", "answer": "2"}
    fine = {"question": "2+3", "solution": "2+3=5", "answer": "5"}
    path.write_text("\n".join(map(json.dumps, [fine, row])))
    spec = Spec(
        Call("opsd", {"length": 12}),
        Call("from_file", {"path": str(path), "test_file": str(problems_file(tmp_path))}),
        run_of(),
    )
    with pytest.raises(ValueError, match="context of 4096"):
        execute(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_best_checkpoint_is_chosen_on_problems_that_are_not_reported(tmp_path):
    spec = Spec(
        Call("sft"),
        Call("tiny_calculation", {"train": 64, "test": 16}),
        Run(
            steps=3, rows=8, lr=1e-2, eval_points=3, eval_problems=16, eval_samples=2,
            eval_length=40, keep="best",
        ),
    )  # fmt: skip
    out = execute(spec, tmp_path / "run")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    looked = [line for line in lines if line["kind"] == "eval"]
    *points, last = looked
    assert [len(line["problems"]["greedy"]) for line in looked] == [8] * 5
    best = max(points, key=lambda line: line["validation"])
    # A learning rate this high ruins the model, so the start is the best checkpoint.
    assert best["step"] == 0
    assert last["checkpoint"] == "best-000000"
    assert last["metrics"] == best["metrics"]
