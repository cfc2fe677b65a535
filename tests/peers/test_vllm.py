"""The engines against the real vLLM, and the server engine against real servers on this machine.

vLLM lives in an environment of its own: `.venv-vllm`, or the folder that AUTODIDACT_VLLM_ENV
names. `make test-vllm` makes it. Its CPU build serves no heads of 24, so that the model is a small
random Qwen3 and not the shipped one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from scipy import stats

from autodidact.engine import Request
from autodidact.engines.local import Local
from autodidact.engines.rescore import rescored
from autodidact.engines.server import Server
from autodidact.law import Law
from autodidact.model import LM, load
from toys import WORDS, perturb

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("AUTODIDACT_VLLM_ENV") or ROOT / ".venv-vllm") / "bin"
pytestmark = pytest.mark.vllm
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_SERVER_DEV_MODE": "1", "VLLM_LOGGING_LEVEL": "WARNING",
}  # fmt: skip
PATIENCE = 240
"""Seconds that a start may take."""
ASKED = [Request(tuple(range(7, 7 + 5 * n)), k, 16) for n in (1, 4, 9) for k in range(4)]
EXACT = 2e-4
"""Nats between two libraries that compute in float32."""


def saved(folder: Path, tokenizer, tied: bool, **sampling) -> str:
    """A small random Qwen3 with heads that vLLM serves, and sampling defaults of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=512,
        initializer_range=0.15, tie_word_embeddings=tied, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = list(range(4, WORDS, 20))
    model.generation_config.update(**sampling)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    """vLLM's own environment, built where there is none yet."""
    if not (HOME / "vllm").exists():
        built = subprocess.run(
            ["make", ".venv-vllm/done"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if built.returncode:
            pytest.skip(f"no vLLM at {HOME}, and none could be built: {built.stderr[-500:]}")


@contextmanager
def serving(*command: str, log: Path):
    """A server on a free port of this machine; its address, once it says that it is well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + PATIENCE
            while not well(url):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[
                    -3000:
                ]
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def well(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


# ------------------------------------------------------------------ in this process


@pytest.fixture(scope="session")
def report(tmp_path_factory, tokenizer) -> dict:
    """What `vllm_worker` saw; a model with tied embeddings, whose head is the harder one to update."""
    folder = tmp_path_factory.mktemp("vllm")
    model = saved(folder / "model", tokenizer, tied=True)
    other = saved(folder / "other", tokenizer, tied=False)
    worker = Path(__file__).with_name("vllm_worker.py")
    done = subprocess.run(
        [HOME / "python", worker, model, other, folder / "report.json"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "report.json").read_text())


def test_log_probabilities_are_the_trainers_under_every_law(report):
    assert len(report["laws"]) == 7
    for law in report["laws"]:
        assert law["logp"] < EXACT and law["raw"] < EXACT, law["law"]
        assert law["right"] and law["support"], law["law"]
    assert {True, False} <= {over for law in report["laws"] for over in law["ended"]}


def test_the_first_tokens_have_the_law(report):
    """Chi-square over 2000 draws; fails for a right engine with chance 1e-4."""
    for each in report["frequencies"]:
        pairs = list(zip(each["counts"], each["expected"], strict=True))
        assert all(count == 0 for count, wanted in pairs if wanted == 0), "cut off"
        common = [pair for pair in pairs if pair[1] >= 5]
        rest = [sum(column) for column in zip(*(p for p in pairs if p[1] < 5), strict=True)]
        cells = common + ([tuple(rest)] if rest and rest[1] > 1e-3 else [])
        assert len(cells) > 5
        observed, wanted = zip(*cells, strict=True)
        scale = sum(observed) / sum(wanted)
        assert stats.chisquare(observed, [x * scale for x in wanted]).pvalue > 1e-4


def test_greedy_is_the_local_engines(report):
    greedy = next(law for law in report["laws"] if "temperature=0.0" in law["law"])
    assert greedy["ids"] == report["greedy"]


def test_a_draw_is_named_by_seed_prompt_and_number(report):
    assert report["again"] == report["laws"][0]["ids"] != report["other_seed"]
    one_prompt = report["other_seed"][:8]
    assert len({tuple(ids) for ids in one_prompt}) == 8


def test_prompts_are_read_once_and_only_needed_tokens_again(report):
    plain, tempered, *_ = report["laws"]
    assert plain["read"] == sum(5 * n * 8 for n in (1, 4, 9)), "shorter than what vLLM keeps"
    assert report["read"][1] == 4 * (190 - 128), "the second time all but the last of two blocks"
    assert plain["verified"] > 0 < tempered["verified"], "the first completions of each draw"


def test_continuations_are_read_after_what_is_there(report):
    assert report["begun"]["logp"] < EXACT and report["begun"]["right"]


def test_more_prompts_than_are_read_at_a_time(report):
    assert report["many"]["logp"] < EXACT and report["many"]["right"]


def test_prompt_log_probabilities_are_the_trainers(report):
    assert report["prompts"] < EXACT


@pytest.mark.parametrize("kind", ["updated", "lora"])
def test_new_weights_are_noticed(report, kind):
    """No word was said to the engine; greedy tokens are those of the new weights."""
    found = report[kind]
    assert found["changed"] and found["same"] and found["raw"] < 5 * EXACT
    assert found["prompts"] < 5 * EXACT


def test_what_it_cannot_do_is_said(report):
    found = report["refusals"]
    assert "a row of 404 tokens does not fit Vllm(context=384)" in found["long"]
    assert "another model" in found["other"]
    assert "vLLM cannot sleep on cpu" in found["sleeps"]
    assert "a row of 1 tokens cannot be scored" in found["short"]


# ------------------------------------------------------------------ over HTTP


@pytest.fixture(scope="session")
def served(tmp_path_factory, tokenizer):
    """vLLM's server, on a model whose own sampling defaults would change every law."""
    folder = tmp_path_factory.mktemp("served")
    model = saved(
        folder / "model", tokenizer, tied=False, do_sample=True, top_k=2, repetition_penalty=1.8
    )
    command = [
        str(HOME / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", "float32", "--max-model-len", "384",
        "--enforce-eager", "--kv-cache-memory-bytes", str(2**26), "--max-num-seqs", "16",
        "--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details",
    ]  # fmt: skip
    with serving(*command, log=folder / "log") as url:
        yield url, model


@pytest.fixture
def policy(served) -> LM:
    return load(served[1])


def test_its_server_draws_from_the_law(served, policy):
    engine = Server(served[0], tolerance=1e-3)
    for law in (Law(), Law(0.7), Law(1.2, top_k=6), Law(0.0)):
        drawn = engine.draw(policy, ASKED, law, 2)
        judged = rescored(policy, ASKED, [c.ids for c in drawn.completions], law)
        for own, ours in zip(drawn.completions, judged, strict=True):
            assert own.logp == pytest.approx(ours.logp, abs=EXACT)
            assert own.raw == pytest.approx(ours.raw, abs=EXACT)
    assert engine.draw(policy, ASKED, Law(), 2).completions == [
        engine.draw(policy, [request], Law(), 2).completions[0] for request in ASKED
    ]
    local = Local().draw(policy, ASKED, Law(0.0), 2).completions
    assert [c.ids for c in drawn.completions] == [c.ids for c in local]
    shared = [Request(tuple(range(7, 197)), number, 2) for number in range(4)]
    engine.draw(policy, shared, Law(), 0)
    assert engine.draw(policy, shared, Law(), 1).read == 4 * (190 - 128), (
        "the rest was in its cache"
    )


def test_its_server_takes_new_weights(served, policy):
    engine = Server(served[0], update="vllm", tolerance=1e-3)
    before = engine.draw(policy, ASKED, Law(0.0), 2).completions
    stored = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    perturb(policy, 0.1)
    after = engine.draw(policy, ASKED, Law(0.0), 2).completions
    local = Local().draw(policy, ASKED, Law(0.0), 2).completions
    assert [c.ids for c in after] == [c.ids for c in local] != [c.ids for c in before]
    with pytest.raises(ValueError, match="or other weights"):
        Server(served[0]).draw(load(served[1]), ASKED, Law(), 2)
    policy.model.load_state_dict(stored)
    again = engine.draw(policy, ASKED, Law(0.0), 2).completions
    assert [c.ids for c in again] == [c.ids for c in before]


def test_its_refusal_is_shown(served, policy):
    with pytest.raises(ValueError, match=r"answered 404: .*does not exist"):
        Server(served[0], model="nobody").draw(policy, ASKED[:1], Law(), 0)


def test_the_server_of_transformers_is_refused_with_the_reason(tmp_path, tokenizer):
    model = saved(tmp_path / "model", tokenizer, tied=True)
    command = [str(HOME / "transformers"), "serve", "--device", "cpu"]
    with (
        serving(*command, log=tmp_path / "log") as url,
        pytest.raises(ValueError, match=r"answered 4\d\d: .*transformers serve` does not"),
    ):
        Server(url, model=model).draw(load(model), ASKED[:1], Law(), 0)
