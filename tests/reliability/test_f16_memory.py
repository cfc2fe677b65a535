"""F16: out of memory in the loss chunk: halved and tried once more; elsewhere a clear stop. And
nothing that grows with the steps of a run."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from twins import small

from autodidact import chat, sweep
from autodidact.cli import main
from autodidact.divergence import Divergence
from autodidact.guards import Diverged, Halted
from autodidact.head import Head
from autodidact.memory import MEMORY, exhausted, halved
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.run import Run
from autodidact.scores import Scores
from autodidact.session import Watcher, execute
from autodidact.train import Training
from toys import random_logits, toy_task

CPU = "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory: you tried ..."
ERRORS = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU)]
TOKENS, WORDS = 300, 11


@pytest.fixture(autouse=True)
def fresh_memory(monkeypatch):
    monkeypatch.setattr(MEMORY, "parts", 1)
    monkeypatch.setattr(MEMORY, "said", [])


def failing(monkeypatch, error: Exception, times: int) -> list[int]:
    """Products with the head fail so often. Returns the rows that were asked of each."""
    project, sizes = Head.project, []

    def short(head, hidden, out):
        sizes.append(len(hidden))
        if len(sizes) <= times:
            raise error
        return project(head, hidden, out)

    monkeypatch.setattr(Head, "project", short)
    return sizes


def compared(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A divergence over many tokens, and its gradient in the hidden states."""
    hidden = random_logits(TOKENS, 5)
    asked, targets = torch.ones(1, TOKENS, dtype=torch.bool), torch.arange(TOKENS) % WORDS
    student = Scores(hidden, Head(weight), asked, targets)
    teacher = Scores(random_logits(TOKENS, 5, seed=1).detach(), Head(weight), asked, targets)
    value = student.divergence(teacher, Divergence("forward"))
    [gradient] = torch.autograd.grad((value * torch.linspace(0, 1, TOKENS)).sum(), [hidden])
    return value.detach(), gradient


@pytest.mark.parametrize("error", ERRORS)
def test_a_chunk_is_halved_once_and_the_numbers_are_the_same(monkeypatch, error):
    weight = random_logits(WORDS, 5, seed=2).detach()
    value, gradient = compared(weight)
    before = sweep.sizes(TOKENS, Head(weight))[0]
    sizes = failing(monkeypatch, error, 1)
    again, slope = compared(weight)
    assert torch.allclose(value, again, rtol=1e-12) and torch.allclose(gradient, slope, rtol=1e-12)
    assert sweep.sizes(TOKENS, Head(weight))[0] == before // 2
    assert sizes[0] == 2 * sizes[1], "student and teacher in one product"
    [said] = MEMORY.tell()
    assert f"out of memory over chunks of {before} tokens" in said and "last bits" in said
    compared(weight)
    assert MEMORY.tell() == [], "said once"


@pytest.mark.parametrize("error", ERRORS)
def test_a_second_failure_is_an_error(monkeypatch, error):
    failing(monkeypatch, error, 2)
    with pytest.raises(RuntimeError) as found:
        compared(random_logits(WORDS, 5, seed=2).detach())
    assert found.value is error and len(MEMORY.said) == 1


def test_other_errors_are_left_alone(monkeypatch):
    sizes = failing(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 1)
    with pytest.raises(RuntimeError, match="mat1"):
        compared(random_logits(WORDS, 5, seed=2).detach())
    assert len(sizes) == 1 and MEMORY.parts == 1
    with pytest.raises(torch.OutOfMemoryError):
        halved(lambda: (_ for _ in ()).throw(ERRORS[0]), chunk=1)
    assert MEMORY.parts == 1, "a chunk of one token has no half"


def test_what_torch_says_when_memory_is_used_up_is_known():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60, dtype=torch.uint8)
    assert exhausted(found.value)


def test_half_chunks_hold_for_every_sweep_of_a_run(qwen, monkeypatch):
    """A step whose loss chunk fails is made all the same, and the next one too."""
    method, run = opsd(length=6), Run(steps=2, rows=4, lr=1e-4)
    training = Training(method, Models(qwen), toy_task(), run)
    make, calls = sweep.Walk._made, []

    def once(walk, pull, trains):
        calls.append(MEMORY.parts)
        if len(calls) == 1:
            raise ERRORS[1]
        return make(walk, pull, trains)

    monkeypatch.setattr(sweep.Walk, "_made", once)
    lines = [training.advance()[1] for _ in range(2)]
    assert [line["skipped"] for line in lines] == [0, 0]
    assert calls[0] == 1 and set(calls[1:]) == {2}


@pytest.mark.parametrize("error", ERRORS)
def test_elsewhere_a_run_stops_with_a_remedy(qwen, monkeypatch, error):
    """In a backward pass: weights and optimizer are as they were, and no checkpoint is begun."""
    training = Training(opsd(length=6), Models(qwen), toy_task(), Run(steps=2, rows=4))
    before = [p.detach().clone() for p in training.parameters()]

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(torch.Tensor, "backward", fail)
    with pytest.raises(Halted, match=r"out of memory while learning, 4 rows .* Lower micro_rows"):
        training.advance()
    assert training.step == 0 and not training.optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(before, training.parameters(), strict=True))
    monkeypatch.undo()
    monkeypatch.setattr(Training, "drawn", fail)
    with pytest.raises(Halted, match=r"out of memory while drawing, .* Lower rows"):
        training.advance()
    assert not issubclass(Halted, Diverged), "its state is not saved"


def test_the_command_line_says_so_in_a_line(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise Halted("out of memory while learning, 8 rows in a pass. Lower micro_rows")

    monkeypatch.setattr("autodidact.api.execute", fail)
    with pytest.raises(SystemExit) as stop:
        main(["train", "opsd", "--steps", "1"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "autodidact: out of memory while learning, 8 rows in a pass. Lower micro_rows\n"
    )


class Held(Watcher):
    """Counts the lines of its run's steps that are held in memory after some step."""

    def __init__(self, at: int):
        self.at, self.lines = at, -1
        self.others = _lines()

    def step(self, line, fraction):
        if line["step"] == self.at:
            others = {id(each) for each in self.others}
            self.lines = sum(id(each) not in others for each in _lines())


def _lines():
    """All lines of steps in memory, those of other runs of this process as well."""
    gc.collect()
    known = [each for each in gc.get_objects() if type(each) is dict]
    return [each for each in known if each.get("kind") == "step" and "ledger" in each]


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 18])
def test_a_run_keeps_no_line_of_its_steps_in_memory(tmp_path, before):
    """But the first, which guards compare with, and the last ones; whatever others hold."""
    kept = [{"kind": "step", "ledger": {}} for _ in range(before)]
    held = Held(20)
    execute(small(steps=20, save_every=10, eval_points=0), tmp_path / "run", watcher=held)
    assert 1 <= held.lines <= 4 and len(kept) == before


def test_prompts_are_not_remembered_without_end(tiny, monkeypatch):
    """Those that quote what was drawn are never the same."""
    monkeypatch.setattr(chat, "RENDERED", 3)
    lm = replace(tiny, _rendered={})
    asked = [[{"role": "user", "content": f"{number}+1"}] for number in range(8)]
    found = [lm.render(messages) for messages in asked]
    assert len(lm._rendered) <= 3 and lm.render(asked[7]) is found[7]
    assert [lm.render(messages) for messages in asked] == found
