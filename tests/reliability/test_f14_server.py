"""F14: a rollout server that dies, hangs, answers garbage, slowly, or something else than asked: a
clear error after some patience, no half batch is trained on, and the run can be resumed.

`tests/test_server.py` has the faults of a single draw: refused connections, statuses, truncated
JSON, NaN and wrong tokens, silence, drops, another model, another law. Here are the rest of them,
and whole runs.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_f04_disk import limit
from twins import At, assert_same, measured, small

from autodidact import checkpoint
from autodidact.calls import Call
from autodidact.cli import main
from autodidact.engine import Request
from autodidact.engines import http
from autodidact.engines.local import Local
from autodidact.law import Law
from autodidact.model import load
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.session import execute
from autodidact.train import Training
from test_server import ASKED, SEED, Fake, choice, engine, told
from test_server import start as start
from toys import perturb, toy_task

# ------------------------------------------------------------------ one answer


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (choice(token_ids={"0": 5}), "sent no token ids"),
        (choice(token_ids=5), "sent no token ids"),
        (choice(token_ids=[None]), r"1 tokens and \d+ log-probabilities"),
        (lambda a: (choice(token_ids=[True])(a), told(-1.0)(a)), "token True"),
        (lambda a: (choice(token_ids=[[5]])(a), told(-1.0)(a)), r"token \[5\]"),
        (lambda a: (choice(token_ids=[10**40])(a), told(-1.0)(a)), "token 1000"),
        (lambda a: (choice(token_ids=[5])(a), told(-(10**400))(a)), "log-probability -1000"),
        (lambda a: (choice(token_ids=[5])(a), told("-1")(a)), "log-probability '-1'"),
        (choice(prompt_token_ids=7), "read something else than the 3"),
        (choice(token_ids=None, logprobs={"tokens": "ab", "token_logprobs": []}), "no token ids"),
        (
            choice(token_ids=None, logprobs={"tokens": ["token_id:x"], "token_logprobs": [-1.0]}),
            "no token ids",
        ),
        (lambda a: a.update(choices=[7]), "sent no completion"),
        (lambda a: a.update(choices=[a["choices"][0]] * 2), "sent no completion"),
    ],
)
def test_answers_of_other_types_are_refused(qwen, start, change, reason):
    fake = start()
    fake.change = change
    with pytest.raises(ValueError, match=reason):
        engine(fake, model="m").draw(qwen, ASKED[:1], Law(), SEED)
    assert len(fake.seen) == 1, "not tried again"


@pytest.mark.parametrize("count", [-5, 10**9])
def test_a_cache_that_cannot_be_is_not_counted(qwen, start, count):
    fake = start()
    fake.change = lambda a: a["usage"].update(prompt_tokens_details={"cached_tokens": count})
    read = engine(fake, model="m").draw(qwen, ASKED[:1], Law(), SEED).read
    assert read == (3 if count < 0 else 0)


def test_deep_brackets_and_endless_answers_are_faults(qwen, start, monkeypatch):
    monkeypatch.setattr(http, "LARGEST", 10**6)
    fake = start()
    for text, said in (("[" * 200_000, "broken JSON"), (" " * 2_000_000, "more than 1000000")):
        fake.faults = [lambda handler, text=text: handler.send(200, text)] * 2
        with pytest.raises(ValueError, match=rf"{said}.*tried 2 times"):
            engine(fake, retries=1, model="m").draw(qwen, ASKED[:1], Law(), SEED)


def test_time_is_up_for_a_header_that_drips(qwen, start):
    """Every byte comes within the limit of a single wait, and the whole never."""
    stop, over = threading.Event(), threading.Event()

    def drip(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        for _ in range(400):
            if stop.wait(0.02):
                return
            handler.wfile.write(b"X")
        over.set()

    fake = start()
    fake.faults = [drip]
    try:
        with pytest.raises(ValueError, match=r"no whole answer .* within 0\.3 s"):
            engine(fake, retries=0, timeout=0.3, model="m").draw(qwen, ASKED[:1], Law(), SEED)
        assert not over.is_set(), "it is not waited for"
    finally:
        stop.set()


def test_a_slow_answer_is_an_answer(qwen, start):
    def slowly(handler):
        body = handler.server.seen[-1][1]
        text = json.dumps(handler.server.completion(body)).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        for first in range(0, len(text), 100):
            handler.wfile.write(text[first : first + 100])
            time.sleep(0.01)

    fake = start()
    fake.faults = [slowly]
    found = engine(fake, model="m").draw(qwen, ASKED[:1], Law(), SEED).completions
    assert found == Local().draw(qwen, ASKED[:1], Law(), SEED).completions


@pytest.mark.parametrize("listed", [{"data": 5}, {"data": "abc"}, {"data": [{"id": 3}]}, {}])
def test_a_list_of_models_that_is_none(qwen, start, monkeypatch, listed):
    fake = start()
    monkeypatch.setattr(
        "test_server.Handler.do_GET", lambda handler: handler.send(200, json.dumps(listed))
    )
    with pytest.raises(ValueError, match="lists no model: name it with model="):
        engine(fake).draw(qwen, ASKED[:1], Law(), SEED)


# ------------------------------------------------------------------ a run


class Mortal(Fake):
    """Draws whatever is asked, with the shipped model until it gets weights. It may die.

    Attributes:
        lives: completions that it still makes; `None` for any number.
    """

    def __init__(self, port: int = 0, lives: int | None = None):
        super().__init__(load("tiny"), [], Law(), port)
        self.lives = lives
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def completion(self, body) -> dict:
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                self.stop()
                raise ConnectionAbortedError("dead")
        request = Request(tuple(body["prompt"]), 0, body["max_tokens"])
        [drawn] = Local().draw(self.lm, [request], Law(), body["seed"]).completions
        own = {"token_ids": drawn.ids, "logprobs": {"token_logprobs": drawn.logp}}
        answer = {"choices": [own]}
        self.change(answer)
        return answer

    def reload(self, folder: str) -> None:
        checkpoint.restore_weights(self.lm.model, Path(folder))

    def stop(self) -> None:
        """The end of the server: nobody listens at its address."""
        self.shutdown()
        self.server_close()


@pytest.fixture
def mortal():
    """Starts servers, at a given port if need be."""
    running = []

    def begin(port: int = 0, lives: int | None = None) -> Mortal:
        running.append(Mortal(port, lives))
        return running[-1]

    yield begin
    for server in running:
        server.stop()
        server.thread.join()


def over(server: Mortal):
    """The small run over a server."""
    patience = {"retries": 1, "pause": 0.01, "timeout": 30.0, "update": "vllm"}
    spec = small(save_every=1, eval_points=0)
    return replace(spec, engine=Call("server", {"url": server.url, **patience}))


def test_a_draw_that_fails_teaches_nothing(qwen, start):
    """The last of a batch's answers is garbage: weights, optimizer and ledger stay as they are."""
    task, count = toy_task(3), [0]

    def change(answer):
        count[0] += 1
        if count[0] == 6:
            choice(logprobs=None)(answer)

    asked = [
        Request(tuple(qwen.render(task.prompt(problem))), number, 6)
        for problem in task.train
        for number in range(2)
    ]
    fake = start(requests=asked)
    fake.change = change
    from autodidact import calls

    method = calls.make(calls.method, Call("grpo", {"n": 2, "length": 6}))
    training = Training(method, Models(qwen, engine=engine(fake)), task, small(rows=6).run)
    training.method = replace(method, rollout=Seeded(2, 6))
    before = {name: value.clone() for name, value in qwen.model.state_dict().items()}
    with pytest.raises(ValueError, match="sent no log-probabilities"):
        training.advance()
    assert count[0] == 6, "all but one were fine"
    assert all((value == before[name]).all() for name, value in qwen.model.state_dict().items())
    assert not training.optimizer.state
    assert (training.step, training.position) == (0, 0)
    assert training.models.ledger.counts()["generated"] == 0
    assert training.models.ledger.optimizer_steps == 0


class Seeded(Sample):
    """Asks for what the fake server knows."""

    def __call__(self, problems, models, task, seed):
        return super().__call__(problems, models, task, SEED)


@pytest.mark.slow
def test_a_server_that_dies_in_a_batch(mortal, tmp_path):
    """After 2 of the 4 completions of the third step. Resumed over another one at the address,
    with weights of another time, the run is the undisturbed one."""
    server = mortal()
    spec, port = over(server), server.server_port
    whole = execute(spec, tmp_path / "whole")
    server.stop()
    server = mortal(port)

    def doom():
        server.lives = 2

    with pytest.raises(ValueError, match=r"no answer from .* \(tried 2 times\)"):
        execute(spec, tmp_path / "run", watcher=At(2, doom))
    assert server.lives < 0
    assert [line["step"] for line in measured(tmp_path / "run")] == [1, 2]
    assert checkpoint.complete(tmp_path / "run" / "checkpoints")[-1].name == "step-000002"
    perturb(mortal(port).lm, 0.5)
    execute(spec, tmp_path / "run", resume=True)
    assert_same(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_goes_on_where_it_was_evaluated_reads_as_many_answers_again(mortal, tmp_path):
    """The evaluation has seen that the server's answers are the policy's; a run that is resumed
    after it has seen nothing. The soak found this: 174 tokens more in the ledger."""
    spec = over(mortal())
    spec = replace(spec, run=replace(spec.run, eval_points=2, save_every=2))
    whole, run = execute(spec, tmp_path / "whole"), tmp_path / "run"
    assert [(line["kind"], line["step"]) for line in measured(whole)][3:5] == [
        ("eval", 2),
        ("step", 3),
    ]
    shutil.copytree(whole, run)
    shutil.rmtree(checkpoint.complete(run / "checkpoints")[-1])
    call = json.loads((run / "run.json").read_text()) | {"finished": None}
    (run / "run.json").write_text(json.dumps(call))
    execute(spec, run, resume=True)
    assert_same(whole, run)


@pytest.mark.slow
def test_weights_that_cannot_be_handed_over(mortal, tmp_path, capsys):
    """F4: they go through a folder, whose disk is full: a line, and nothing is trained on."""
    server = mortal()
    call = f"server(url='{server.url}', update='vllm', folder='{tmp_path}', retries=0)"
    line = ["train", "grpo", "--n", "2", "--length", "8", "--steps", "1", "--rows", "4", "--quiet"]
    line += ["--eval-points", "0", "--eval-problems", "2", "--engine", call]
    with limit(150_000), pytest.raises(SystemExit) as stop:
        main([*line, "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert "File too large" in said and str(tmp_path) in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == [], "nothing of it is left"
