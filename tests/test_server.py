"""The server engine draws what the local one draws, and no fault of a server goes unnoticed."""

from __future__ import annotations

import json
import math
import socket
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autodidact.adapter import effective_weights
from autodidact.engine import Request
from autodidact.engines.local import Local
from autodidact.engines.outside import checkpoint, request_seed, signature, write
from autodidact.engines.server import Server
from autodidact.law import Law
from autodidact.model import load
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from toys import perturb, random_qwen, toy_task

PROMPTS = [(7, 8, 9), (10, 11, 12, 13, 14, 15, 16, 17), (20,)]
ASKED = [Request(prompt, number, 9) for prompt in PROMPTS for number in range(3)]
SEED = 5
LAWS = [Law(), Law(0.7), Law(0.0), Law(top_k=5), Law(1.3, top_p=0.8), Law(min_p=0.1)]


class Fake(ThreadingHTTPServer):
    """A server of completions behind which the local engine draws.

    Attributes:
        faults: what happens to the next requests instead of an answer.
        change: what is done to each answer.
        behind: whether /collective_rpc is served.
        seen: path, body and headers of each request.
    """

    def __init__(self, lm, requests, law, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.lm, self.law, self.known = lm, law, {request_seed(SEED, r): r for r in requests}
        self.faults, self.seen, self.lock = [], [], threading.Lock()
        self.change, self.behind = lambda answer: None, True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.seen]

    def handle_error(self, request, address):
        """A client that hangs up is expected here."""

    def completion(self, body) -> dict:
        request = self.known[body["seed"]]
        assert tuple(body["prompt"]) == request.read and body["max_tokens"] == request.length
        [drawn] = Local().draw(self.lm, [request], self.law, SEED).completions
        logps = drawn.raw if self.law.greedy else drawn.logp
        choice = {
            "index": 0, "text": "", "finish_reason": "stop" if drawn.finished else "length",
            "token_ids": drawn.ids, "prompt_token_ids": body["prompt"],
            "logprobs": {"tokens": [f"token_id:{i}" for i in drawn.ids], "token_logprobs": logps},
        }  # fmt: skip
        answer = {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}}
        self.change(answer)
        return answer

    def reload(self, folder: str) -> None:
        weights = load_file(Path(folder) / "model.safetensors")
        self.lm.model.load_state_dict(weights)


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, None, dict(self.headers)))
        self.send(200, json.dumps({"data": [{"id": "the model"}]}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake = self.server
        fake.seen.append((self.path, body, dict(self.headers)))
        if fake.faults:
            return fake.faults.pop(0)(self)
        if self.path == "/v1/completions":
            with fake.lock:
                return self.send(200, json.dumps(fake.completion(body)))
        if not fake.behind:
            return self.send(404, json.dumps({"detail": "Not Found"}))
        if self.path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            fake.reload(body["kwargs"]["weights_path"])
            return self.send(200, json.dumps({"results": [None]}))
        assert self.path == "/reset_prefix_cache"
        return self.send(200, json.dumps({"success": True}))

    def send(self, status: int, text: str, announced: int | None = None):
        self.send_response(status)
        self.send_header("Content-Length", str(announced or len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def says(status: int, text: str = "no"):
    return lambda handler: handler.send(status, text)


def half_the_bytes(handler):
    handler.send(200, '{"choices": [', announced=1000)


def hang_up(handler):
    handler.wfile.close()


def silence(handler):
    time.sleep(0.6)


def drip(handler):
    handler.send(200, "{", announced=10**6)
    for _ in range(30):
        time.sleep(0.02)
        handler.wfile.write(b" ")


@pytest.fixture
def start(qwen):
    """Starts a server; its model is the policy's copy unless given."""
    running = []

    def begin(lm=None, law=None, requests=ASKED):
        fake = Fake(lm or qwen, requests, law or Law())
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
        thread.start()
        running.append((fake, thread))
        return fake

    yield begin
    for fake, thread in running:
        fake.shutdown()
        thread.join()
        fake.server_close()


def engine(fake, **options) -> Server:
    return Server(fake.url, **{"pause": 0.001, "workers": 4, "timeout": 20.0, **options})


# ------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_same_comes_back_as_from_the_local_engine(qwen, start, law):
    found = engine(start(law=law)).draw(qwen, ASKED, law, SEED)
    expected = Local().draw(qwen, ASKED, law, SEED)
    for one, two in zip(found.completions, expected.completions, strict=True):
        assert (one.ids, one.finished, one.support) == (two.ids, two.finished, two.support)
        assert one.logp == pytest.approx(two.logp, abs=1e-6)
        assert one.raw == pytest.approx(two.raw, abs=1e-5)
    whole = [len(r.read) + len(c.ids) for r, c in zip(ASKED, found.completions, strict=True)]
    assert found.read == sum(len(r.read) for r in ASKED)
    assert found.verified == sum(whole[:8]) + law.truncates * sum(whole), "the first are confirmed"


def test_the_request_says_everything_that_makes_the_law(qwen, start):
    law = Law(0.7, top_k=5, top_p=0.9)
    fake = start(law=law)
    engine(fake).draw(qwen, ASKED[:1], law, SEED)
    [(_, body, _)] = [each for each in fake.seen if each[0] == "/v1/completions"]
    wanted = {
        "model": "the model", "prompt": [7, 8, 9], "max_tokens": 9, "temperature": 0.7, "top_k": 5,
        "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": sorted(qwen.ends),
        "ignore_eos": True, "return_token_ids": True, "seed": request_seed(SEED, ASKED[0]),
    }  # fmt: skip
    assert {name: body[name] for name in wanted} == wanted


def test_seeds_are_one_for_each_draw():
    base = ASKED[0]
    others = [replace(base, sample=1), replace(base, begun=(30,)), replace(base, prompt=(7, 8))]
    seeds = [request_seed(SEED, r) for r in (base, *others)] + [request_seed(6, base)]
    assert len(set(seeds)) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(SEED, replace(base, length=2)) == seeds[0]


def test_a_continuation_reads_what_is_there(qwen, start):
    asked = [replace(request, begun=(30, 31), length=4) for request in ASKED]
    found = engine(start(requests=asked)).draw(qwen, asked, Law(), SEED).completions
    assert found == Local().draw(qwen, asked, Law(), SEED).completions


def test_a_batch_is_what_the_trainer_scores(qwen, start):
    task = toy_task(3)
    prompts = [tuple(qwen.render(task.prompt(problem))) for problem in task.train]
    asked = [Request(prompt, k, 6) for prompt in prompts for k in range(2)]
    models = Models(qwen, engine=engine(start(requests=asked)))
    batch = Sample(2, 6)(task.train, models, task, SEED)
    local = Sample(2, 6)(task.train, Models(qwen), task, SEED)
    assert torch.equal(batch.ids, local.ids)
    assert torch.allclose(batch.take("logp"), local.take("logp"), atol=1e-6)
    assert models.ledger.generated == int(batch.own.sum())
    assert models.ledger.prefilled == sum(len(r.read) for r in asked)


def test_what_the_server_had_in_its_cache_was_not_read(qwen, start):
    fake = start()
    fake.change = lambda a: a["usage"].update(prompt_tokens_details={"cached_tokens": 1})
    assert engine(fake).draw(qwen, ASKED, Law(), SEED).read == sum(len(r.read) - 1 for r in ASKED)


def test_token_ids_may_come_as_names(qwen, start):
    fake = start()
    fake.change = lambda answer: answer["choices"][0].pop("token_ids")
    found = engine(fake).draw(qwen, ASKED, Law(), SEED).completions
    assert found == Local().draw(qwen, ASKED, Law(), SEED).completions


# ------------------------------------------------------------------ faults


def test_faults_that_pass_are_tried_again(qwen, start):
    fake = start()
    faults = [says(500), says(429), says(503), half_the_bytes, hang_up, says(200, '{"choices": ')]
    for fault in faults:
        fake.faults = [fault]
        fake.seen.clear()
        found = engine(fake, retries=1, model="m").draw(qwen, ASKED[:2], Law(), SEED).completions
        assert found == Local().draw(qwen, ASKED[:2], Law(), SEED).completions
        assert len(fake.seen) == 3


def test_patience_ends(qwen, start):
    fake = start()
    fake.faults = [says(500, "out of memory")] * 9
    with pytest.raises(ValueError, match=r"answered 500: out of memory \(tried 3 times\)"):
        engine(fake, retries=2, model="m").draw(qwen, ASKED[:1], Law(), SEED)
    assert len(fake.seen) == 3


@pytest.mark.parametrize("fault", [silence, drip])
def test_time_is_up_for_silence_and_for_drops(qwen, start, fault):
    fake = start()
    fake.faults = [fault] * 2
    with pytest.raises(ValueError, match=r"no whole answer .* within 0\.2 s \(tried 2 times\)"):
        engine(fake, retries=1, timeout=0.2, model="m").draw(qwen, ASKED[:1], Law(), SEED)


def test_nobody_there(qwen):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ValueError, match=r"no answer from .*refused.*tried 2 times"):
        Server(url, retries=1, pause=0.001).draw(qwen, ASKED, Law(), SEED)


def test_a_refusal_is_shown_and_final_and_tells_no_secret(qwen, start, monkeypatch):
    monkeypatch.setenv("FAKE_KEY", "s3cret")
    fake = start()
    fake.faults = [says(400, "s3cret: max_tokens is too large")]
    with pytest.raises(ValueError, match=r"answered 400: \*\*\*: max_tokens is too large") as error:
        engine(fake, key="FAKE_KEY", model="m").draw(qwen, ASKED[:1], Law(), SEED)
    assert "s3cret" not in str(error.value) and "s3cret" not in repr(engine(fake, key="FAKE_KEY"))
    [(_, _, headers)] = fake.seen
    assert headers["Authorization"] == "Bearer s3cret"


def choice(**changes):
    return lambda answer: answer["choices"][0].update(changes)


def told(*logps):
    return lambda answer: answer["choices"][0]["logprobs"].update(token_logprobs=list(logps))


NAMES = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (choice(token_ids=[5, 6]), r"2 tokens and \d+ log-probabilities"),
        (lambda a: (choice(token_ids=[261])(a), told(-1.0)(a)), "token 261, .* 261 words lack"),
        (lambda a: (choice(token_ids=[-1])(a), told(-1.0)(a)), "token -1"),
        (lambda a: (choice(token_ids=[5.0])(a), told(-1.0)(a)), r"token 5\.0"),
        (lambda a: (choice(token_ids=[5])(a), told(math.nan)(a)), "log-probability nan"),
        (lambda a: (choice(token_ids=[5])(a), told(-math.inf)(a)), "log-probability -inf"),
        (lambda a: (choice(token_ids=[5])(a), told(0.5)(a)), r"log-probability 0\.5"),
        (lambda a: (choice(token_ids=[5])(a), told(None)(a)), "log-probability None"),
        (lambda a: (choice(token_ids=[5])(a), told(-1.0)(a)), "stopped after 1 of 9 .* no end"),
        (
            lambda a: (choice(token_ids=[4, 5])(a), told(-1.0, -1.0)(a)),
            "went on after the end token 4",
        ),
        (
            lambda a: (choice(token_ids=[5] * 10)(a), told(*[-1.0] * 10)(a)),
            "10 tokens .* 1 to 9 of each",
        ),
        (choice(token_ids=None, logprobs=NAMES), "sent no token ids; .*vllm serve"),
        (choice(logprobs=None), "sent no log-probabilities; .*processed_logprobs"),
        (choice(prompt_token_ids=[1, 7, 8, 9]), "read 4 other tokens than the 3"),
        (lambda answer: answer.update(choices=[]), "sent no completion"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(qwen, start, change, reason):
    fake = start()
    fake.change = change
    with pytest.raises(ValueError, match=reason):
        engine(fake, model="m").draw(qwen, ASKED[:1], Law(), SEED)
    assert len(fake.seen) == 1, "not tried again"


def test_a_server_of_texts_is_refused_with_the_reason(qwen, start):
    """As transformers' own server answers: unknown fields first, then no log-probabilities."""
    fake = start()
    fake.faults = [says(422, '{"detail":"Unexpected fields in the request: {\'seed\'}"}')]
    with pytest.raises(ValueError, match=r"answered 422.*Unexpected fields.*must take token ids"):
        engine(fake, model="m").draw(qwen, ASKED[:1], Law(), SEED)
    fake.faults = [says(200, '{"choices": [{"text": "4", "index": 0, "finish_reason": "stop"}]}')]
    with pytest.raises(ValueError, match="sent no log-probabilities; the server must take"):
        engine(fake, model="m").draw(qwen, ASKED[:1], Law(), SEED)


# ------------------------------------------------------------------ whose log-probabilities


def test_another_model_behind_the_address_is_found_out(qwen, tokenizer, start):
    fake = start(random_qwen(tokenizer, seed=1))
    with pytest.raises(ValueError, match="another model than the policy, or other weights"):
        engine(fake).draw(qwen, ASKED, Law(), SEED)


@pytest.mark.parametrize("law", [Law(0.5), Law(top_k=3)], ids=str)
def test_log_probabilities_of_another_law_are_found_out(qwen, start, law):
    """A server that draws from the law but tells what the model says at temperature 1."""
    fake = start(law=law)

    def raw(answer):
        [own] = answer["choices"]
        row = torch.tensor([own["prompt_token_ids"] + own["token_ids"]])
        with torch.no_grad():
            said = Law().log_probs(qwen.model(row).logits[0])[0]
        first = len(own["prompt_token_ids"]) - 1
        places = range(first, first + len(own["token_ids"]))
        told(*said[list(places), own["token_ids"]].tolist())(answer)

    fake.change = raw
    with pytest.raises(ValueError, match="start it with --logprobs-mode processed_logprobs"):
        engine(fake).draw(qwen, ASKED, law, SEED)


# ------------------------------------------------------------------ weights that change


def test_a_draw_after_an_update_is_an_error_without_a_way_to_update(qwen, start):
    fake = start()
    server = engine(fake)
    server.draw(qwen, ASKED, Law(), SEED)
    perturb(qwen)
    with pytest.raises(ValueError, match=r"was updated.*Server\(update='vllm'\)"):
        server.draw(qwen, ASKED, Law(), SEED)


def test_weights_are_handed_over_at_the_start_and_after_each_change(tokenizer, start):
    """At the start too: a run that is resumed has other weights than a server started anew."""
    policy, behind = random_qwen(tokenizer), random_qwen(tokenizer, seed=1)
    fake = start(behind)
    server = engine(fake, update="vllm")
    before = server.draw(policy, ASKED, Law(), SEED).completions
    assert before == Local().draw(policy, ASKED, Law(), SEED).completions
    perturb(policy, 0.2)
    after = server.draw(policy, ASKED, Law(), SEED).completions
    assert after == Local().draw(policy, ASKED, Law(), SEED).completions != before
    assert server.draw(policy, ASKED, Law(), SEED).completions == after
    assert [p for p in fake.paths() if p not in ("/v1/models", "/v1/completions")] == [
        "/collective_rpc", "/reset_prefix_cache",
    ] * 2  # fmt: skip


def test_weights_that_did_not_arrive_are_found_out(tokenizer, start):
    policy = random_qwen(tokenizer)
    fake = start(random_qwen(tokenizer))
    fake.reload = lambda folder: None
    server = engine(fake, update="vllm")
    server.draw(policy, ASKED, Law(), SEED)
    perturb(policy, 0.2)
    with pytest.raises(ValueError, match="or other weights"):
        server.draw(policy, ASKED, Law(), SEED)


def test_a_server_outside_of_development_mode_takes_no_weights(qwen, start):
    fake = start()
    fake.behind = False
    with pytest.raises(ValueError, match=r"answered 404.*VLLM_SERVER_DEV_MODE=1"):
        engine(fake, update="vllm").draw(qwen, ASKED, Law(), SEED)


@torch.no_grad()
def test_a_write_to_any_weight_is_noticed(qwen):
    known = [signature(qwen)]
    for weight in list(qwen.model.parameters())[::5]:
        weight[..., 0] += 1
        known.append(signature(qwen))
    weight.data = weight.data.clone()
    known.append(signature(qwen))
    assert len(set(known)) == len(known) and signature(qwen) == known[-1]


@pytest.mark.parametrize("lora", [0, 2])
def test_what_is_handed_over_is_what_the_policy_computes_with(tmp_path, lora):
    lm = load("tiny", lora=lora)
    perturb(lm, 0.05)
    write(lm, str(tmp_path), effective_weights(lm.model))
    copy = load(str(tmp_path))
    row, real = torch.tensor([[5, 60, 61, 62, 63]]), torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        one, two = (each.hidden(row, real).last_hidden_state for each in (lm, copy))
    assert torch.allclose(one, two, atol=1e-5)
    assert torch.equal(lm.head().weight, copy.head().weight)
    stored, handed = load_file(tmp_path / "model.safetensors"), checkpoint(lm)
    assert stored.keys() == handed.keys()
    assert all(torch.equal(stored[name], handed[name]) for name in stored)


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"url": "localhost:8000"}, "must look like http://host:8000"),
        ({"url": "http://h", "update": "vlm"}, "update 'vlm' is unknown.*did you mean 'vllm'"),
        ({"url": "http://h", "workers": 0}, "workers=0 must be at least 1"),
        ({"url": "http://h", "key": "NO_SUCH_KEY_HERE"}, "environment variable that is set"),
    ],
)
def test_impossible_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Server(**options)


@pytest.mark.parametrize(
    ("law", "reason"),
    [
        (Law(min_p=0.1, top_p=0.9), "vLLM cuts by min-p before top-p"),
        (Law(0.001), "temperature=0.001 is not served"),
    ],
)
def test_laws_that_vllm_would_change_are_refused(qwen, law, reason):
    with pytest.raises(ValueError, match=reason):
        Server("http://127.0.0.1:9").draw(qwen, ASKED, law, SEED)


def test_a_missing_vllm_is_named(qwen, monkeypatch):
    from autodidact.engines.vllm import Vllm

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match=r"autodidact\[vllm\]"):
        Vllm().draw(qwen, ASKED, Law(), SEED)


def test_an_engine_that_may_not_sleep_says_so():
    from autodidact.engines.vllm import Vllm

    with pytest.raises(ValueError, match=r"Vllm\(sleeps=True\)"):
        Vllm().sleep()
