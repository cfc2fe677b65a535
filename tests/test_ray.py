"""Comparisons, rollouts and training on a Ray cluster of this machine, and workers that are killed.

One cluster of four worker processes serves all tests: Ray takes seconds to start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile

import pytest

from autodidact import api
from autodidact.calls import Call
from autodidact.cluster import Cluster, Shared
from autodidact.engine import Request
from autodidact.engines import actors
from autodidact.engines.actors import Actors, packed, shared_out, unpack
from autodidact.engines.local import Local
from autodidact.law import Law
from autodidact.model import load
from autodidact.session import execute
from autodidact.spec import Spec
from kills import Kill, lines
from toys import perturb

OPTIONS = {
    "task": "tiny_calculation(train=16,test=2)", "rows": 8, "save_every": 1, "eval_points": 1,
    "eval_problems": 2, "eval_samples": 1, "eval_length": 12, "lr": 3e-4,
}  # fmt: skip


VARIABLES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_worker_niceness": "0",  # 15 by default: starved beside other tests
}


@pytest.fixture(scope="module")
def cluster():
    """Room for four processes of one thread each."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", **VARIABLES}
    import ray

    # A socket's path has at most 107 characters.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    ray.init(
        "local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False,
        log_to_driver=False, logging_level="error", _temp_dir=folder,
    )  # fmt: skip
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def alone(out, arm):
    """The same run in this process."""
    return execute(Spec.of(json.loads((arm / "run.json").read_text())["spec"]), out)


@pytest.mark.slow
def test_an_arm_that_is_killed_is_retried_from_its_checkpoint(cluster, tmp_path):
    """F1: a comparison on the cluster, one worker of which is killed: the numbers of one process."""
    kill, out = Kill(tmp_path / "reward", after=2), tmp_path / "run"
    arms = [out / "arms" / name / "seed-0" for name in ("grpo-n-4-length-12", "sft")]
    thread = kill.in_background(arms[0])
    api.compare(
        ["grpo(n=4,length=12)", "sft"], seeds=(0,), ray="local", out=out, rewards=kill.rewards,
        budget=4, column="optimizer_steps", **OPTIONS,
    )  # fmt: skip
    thread.join()
    # Two steps were made before the kill and not again: even their seconds are those of before.
    assert kill.before.count('"step": 2,') == 1
    first = kill.before.splitlines()[:3]
    assert (arms[0] / "metrics.jsonl").read_text().splitlines()[:3] == first
    for arm in arms:
        whole = alone(tmp_path / arm.parent.name, arm)
        assert lines(arm) == lines(whole)
        assert lines(arm, "samples.jsonl") == lines(whole, "samples.jsonl")
    assert {arm["name"] for arm in json.loads((out / "compare.json").read_text())["arms"]} == {
        "grpo-n-4-length-12",
        "sft",
    }
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_actors_draw_what_one_process_draws_and_are_replaced(cluster, fresh):
    """F14 for actors: one that is killed is replaced, has the newest weights, and no draw is lost."""
    engine, law = Actors(workers=2), Law(temperature=1.0)
    prompts = [tuple(fresh.render([{"role": "user", "content": f"{i}+7*{i}="}])) for i in range(4)]
    asked = [Request(prompt, k, 12) for prompt in prompts for k in range(3)]

    def alike(seed: int) -> None:
        # Bit for bit against one process that draws the same parts, and for any parts but for the
        # rounding of products.
        found, whole = engine.draw(fresh, asked, law, seed), Local().draw(fresh, asked, law, seed)
        parts = [
            Local().draw(fresh, [asked[i] for i in part], law, seed)
            for part in shared_out(asked, 2)
        ]
        one = {i: c for part, d in zip(shared_out(asked, 2), parts, strict=True)
               for i, c in zip(part, d.completions, strict=True)}  # fmt: skip
        assert found.completions == [one[i] for i in range(len(asked))]
        assert [c.ids for c in found.completions] == [c.ids for c in whole.completions]
        for mine, theirs in zip(found.completions, whole.completions, strict=True):
            assert mine.logp == pytest.approx(theirs.logp, abs=1e-4)
        assert found.read == sum(part.read for part in parts)

    alike(seed=0)
    alike(seed=1)
    assert engine._version == 1, "weights are sent when they change, and only then"
    perturb(fresh, 0.05)
    pids = cluster.get([each.pid.remote() for each in engine._actors])
    os.kill(pids[1], signal.SIGKILL)
    alike(seed=0)
    assert engine._version == 2
    now = cluster.get([each.pid.remote() for each in engine._actors])
    assert now[0] == pids[0]
    assert now[1] != pids[1]
    with pytest.raises(ValueError, match="do not fit the context"):
        engine.draw(fresh, [Request(prompts[0], 0, 10**6)], law, 0)
    with pytest.raises(ValueError, match="100 CPUs are asked for at once"):
        Actors(workers=100).draw(fresh, asked, law, 0)


@pytest.mark.slow
@pytest.mark.long
# Ray sets what Ray has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_training_on_workers_that_are_killed(cluster, tmp_path):
    """F1: a training worker is killed, the group starts anew and goes on from its checkpoint."""
    kill, out = Kill(tmp_path / "reward", after=4), tmp_path / "run"
    options = {**OPTIONS, "rewards": kill.rewards, "steps": 4}
    spread = {"parallel": "fsdp", "gather": "layers"}
    seen: list[tuple[str, int]] = []

    class Watching(api.Watcher):
        def step(self, line, fraction):
            seen.append(("step", line["step"]))

        def point(self, line):
            seen.append(("point", line["step"]))

        def end(self, directory):
            seen.append(("end", 0))

    thread = kill.in_background(out)
    api.train(
        "grpo(n=4,length=12)", out=out, ray="local", workers=2, rollout_workers=2, watcher=Watching(),
        **options, **spread,
    )  # fmt: skip
    thread.join()
    assert (out / "metrics.jsonl").read_text().splitlines()[:3] == kill.before.splitlines()[:3]
    assert seen == [("point", 0), *(("step", i) for i in (1, 2, 3, 4)), ("point", 4), ("end", 0)]
    spec = Spec.of(json.loads((out / "run.json").read_text())["spec"])
    assert spec.engine == Call("actors", {"workers": 1, "inner": "local()", "address": "local"})
    whole = api.train("grpo(n=4,length=12)", out=tmp_path / "whole", **options)
    # The first worker writes the rows that it drew: those of the first of two problems.
    first = [line for number, line in enumerate(lines(whole, "samples.jsonl")) if number % 8 < 4]
    assert lines(out, "samples.jsonl") == first
    close(lines(out), lines(whole))
    assert (out / "report.html").is_file()
    assert not list(tmp_path.glob(".run-*")), "nothing of Ray's is left beside the run"


def close(found, whole) -> None:
    """The same numbers but for rounding, and for prompts that two processes read."""
    assert len(found) == len(whole)
    for one, other in zip(found, whole, strict=True):
        assert one.keys() == other.keys()
        one["ledger"].pop("prefilled"), other["ledger"].pop("prefilled")
        for key in one:
            assert one[key] == approximately(other[key]), key


def approximately(value):
    if isinstance(value, dict):
        return {key: approximately(each) for key, each in value.items()}
    return pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value


def test_requests_are_shared_out_with_their_prompts():
    asked = [Request((word,), k, 10) for word in (1, 2, 3) for k in range(2)]
    assert shared_out(asked, 2) == [[0, 1, 4, 5], [2, 3]]
    assert shared_out(asked, 9) == [[0, 1], [2, 3], [4, 5]]
    assert shared_out(asked[::-1], 1) == [[0, 1, 2, 3, 4, 5]]


def test_weights_are_sent_merged_and_only_to_the_same_model(tiny, tokenizer):
    from toys import random_qwen

    other, lora = load("tiny"), load("tiny", lora=2, seed=3)
    for name, weight in lora.model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1
    unpack(other, packed(lora))
    differing = [
        name
        for (name, one), two in zip(
            other.model.named_parameters(), tiny.model.parameters(), strict=True
        )
        if not one.equal(two)
    ]
    assert any("q_proj" in name for name in differing)
    unpack(other, packed(tiny))
    assert all(
        one.equal(two)
        for one, two in zip(other.model.parameters(), tiny.model.parameters(), strict=True)
    )
    with pytest.raises(ValueError, match="not those of"):
        unpack(other, packed(random_qwen(tokenizer)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cluster("ray://somewhere:1"), "no address of a Ray cluster"),
        (lambda: Cluster("local", cpus=0), "above 0"),
        (lambda: Cluster("local", gpus=-1), "at least 0"),
        (lambda: Actors(workers=0), "at least 1"),
        (lambda: Actors(inner="actors"), "inner engine"),
        (lambda: Actors(inner="local(slot=3)"), "did you mean 'slots'"),
        (lambda: Actors(address="nowhere"), "no address"),
        (lambda: api.train("sft", workers=2), "belongs to a cluster"),
        (lambda: api.train("grpo", ray="local", workers=2, rollout_workers=3), "multiple of it"),
        (lambda: api.compare(["sft"], budget=1, ray="auto", workers=2), "as it has room for"),
    ],
)
def test_what_no_cluster_can_do_is_refused_before_one_starts(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_storage_that_a_node_does_not_share_is_named(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    file.write_text("mine")
    monkeypatch.chdir(tmp_path)
    shared = Shared.of(file)
    shared.enter()
    file.write_text("another's")
    with pytest.raises(ValueError, match=r"run\.json of the driver is not what the node .* sees"):
        shared.enter()
    file.unlink()
    with pytest.raises(ValueError, match="storage that all nodes of the cluster share"):
        shared.enter()


def test_a_model_is_sent_by_a_name_that_other_machines_know(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert actors.findable("model") == str(tmp_path / "model")
    assert actors.findable("tiny") == "tiny"
    assert actors.findable("owner/name") == "owner/name"
