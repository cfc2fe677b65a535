"""F7: whatever a model writes, every verifier says wrong or right in time linear in the text."""

from __future__ import annotations

import os
import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autodidact.problem import Problem
from autodidact.tasks import d1_rewards, mathworker
from autodidact.tasks.arithmetic import DEPTH, LENGTH, LIMIT, parse, value
from autodidact.tasks.verifiers import mathematics
from toys import no_hang
from verdicts import checked, graders

SIZE = 4000
HOSTILE = [
    "9**9**9**9",
    "(" * SIZE,
    "(" * SIZE + "1" + ")" * SIZE,
    "(" * (DEPTH + 2) + "17" + ")" * (DEPTH + 2),
    "__import__('os').system('touch pwned')",
    "(lambda: 2**13 - 1)()",
    "f'{8192-1}'",
    "８１９１",  # digits of another script are no digits
    "٨١٩١",
    "1e999",
    "-1e999",
    "nan",
    "Infinity",
    "1" * SIZE,
    "8\x00191",
    "\x1b[31m81 91\x1b[0m",
    "</script><script>alert(81)</script>",
    "\\boxed{9^{9^{9^9}}}",
    "100000000!",
    "\\sum_{i=1}^{1000000000} i",
    "+".join("1" * SIZE),
    "1/0",
    "1/(2-2)",
    "\\frac{1}{0}",
    "\\frac{" * (SIZE // 5),
    "\\boxed{" * (SIZE // 5),
    "<answer>" * (SIZE // 5),
    "</answer>" + "<answer>" * (SIZE // 5),
    "<reasoning>\n" + "a\n</reasoning>\n<answer>\n" * (SIZE // 25),
    "answer is" * (SIZE // 5),
    "=" * SIZE,
    "- " * SIZE,
    " " * SIZE + "x",
    "\n" * SIZE,
    "\ud800",
    "",
]
PIECES = [
    "\\boxed{", "}", "{", "(", ")", "<answer>", "</answer>", "<reasoning>", "</reasoning>", "\n", " ",
    "####", "A:", "the answer is", "\\frac", "\\sqrt", "\\text{ ", "^", "**", "*", "/", "+", "-", "=", ".",
    ",", "$", "%", "1", "20", "7", "1e9", "0", "8191", "3102200002100320", "1 2 3 4", "\u0663", "\u00b2",
    "\uff11", "\u2212", "\u00d7", "\x00", "\x1b[", "\ud800", "</think>", "<|end|>", "!", "_", "e", "x", "'",
    "\\", "::", ";", "|", "[", "]",
]  # fmt: skip


@pytest.fixture(scope="module")
def all_graders(tmp_path_factory):
    return graders(tmp_path_factory.mktemp("data"))


def test_hostile_text_is_wrong(all_graders, tmp_path, monkeypatch):
    """No verifier raises, none says right, none runs what it reads."""
    monkeypatch.chdir(tmp_path)
    for name, grade in all_graders.items():
        for text in HOSTILE:
            found = grade(text)
            checked(name, found)
            assert found is not True, f"{name} takes {text[:40]!r} for right"
    assert os.listdir(tmp_path) == []


def test_the_graders_can_say_right(all_graders):
    right = {
        "numeric": "\\boxed{8191}", "exact": "8191", "d1_math": "\\boxed{8191}",
        "d1_gsm8k": "<answer>8191</answer>", "puzzle": "<answer>20+7*3</answer>",
        "grid": "3142243142131324", "expression": "20+7*3", "hendrycks": "8191",
    }  # fmt: skip
    for name, text in right.items():
        assert all_graders[f"correct:{name}"](text) is True, name


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(text=st.lists(st.sampled_from(PIECES), max_size=24).map("".join) | st.text(max_size=40))
def test_every_grader_says_what_it_may(all_graders, text):
    for name, grade in all_graders.items():
        checked(name, grade(text))


@pytest.mark.parametrize(
    "text", ["<answer>", "\\boxed{", "</answer><answer>", "a\n</reasoning>\n<answer>\n"]
)
def test_long_text_is_read_in_one_pass(all_graders, text):
    """Half a megabyte, some hundredths of a second each; with squares it was hours."""
    long = "<reasoning>\n" + text * (500_000 // len(text))
    with no_hang():
        for name in (
            "correct:d1_gsm8k",
            "reward:d1_gsm8k_lines",
            "reward:d1_math",
            "final:d1_math",
            "text:spoken",
        ):
            checked(name, all_graders[name](long))


def test_arithmetic_is_bounded():
    """Characters, nesting, sizes, exponents, zero divisors, and signs of no calculation."""
    assert (LENGTH, DEPTH, LIMIT) == (512, 64, 10**12)
    assert value("(" * DEPTH + "1" + ")" * DEPTH) == 1
    assert value("1" + "+1" * 255) == 256
    assert value(str(LIMIT)) == LIMIT
    for text in (
        "(" * (DEPTH + 1) + "1" + ")" * (DEPTH + 1),
        "1" + "+1" * 256,
        str(LIMIT + 1),
        f"1/{LIMIT}/10",
        f"{LIMIT}*10/10",
        "2^65",
        "9^9^9^9",
        "0^-1",
        "1/(1-1)",
        "2**3",
        "1e3",
        "1_0",
        "0x10",
        "\uff11+1",
        "7//2",
        "7%2",
        "a",
        "1;2",
    ):
        with pytest.raises(ValueError, match=r"."):
            value(text)
    with pytest.raises(ValueError, match="nested deeper"):
        parse("^".join("1" * 100))


def test_d1_reads_as_its_own_patterns_do():
    """The published patterns, whose work is the square of the text, on short random ones."""
    strict = r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$"
    soft = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"
    rng, counts = random.Random(0), [0, 0, 0]
    valid = [
        "<reasoning>",
        "\n",
        "a",
        "\n",
        "</reasoning>",
        "\n",
        "<answer>",
        "\n",
        "1",
        "\n",
        "</answer>",
        "\n",
    ]
    for _ in range(4000):
        parts = list(valid)
        for _ in range(rng.randint(0, 4)):
            at = rng.randint(0, len(parts))
            parts[at : at + rng.randint(0, 1)] = rng.choices(
                [*valid, "\\boxed{", "}"], k=rng.randint(0, 2)
            )
        text = "".join(parts)
        for multiline in (False, True):
            flags = re.DOTALL if multiline else re.NOFLAG
            forms = [re.match(form, text, flags) is not None for form in (strict, soft)]
            plain = d1_rewards.tags(text) + 0.5 * (
                text.rpartition("<answer>")[2].partition("</answer>")[0].strip().isdigit()
            )
            assert d1_rewards.gsm8k_reward(text, "-", multiline) == pytest.approx(
                plain + 0.5 * sum(forms)
            ), text
            counts[0] += forms[0]
            counts[1] += forms[1]
        assert list(d1_rewards._boxes(text)) == re.findall(r"\\boxed{(.*?)}", text), text
        tag = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        assert d1_rewards._first_tag(text) == (tag[1] if tag else None), text
        counts[2] += tag is not None
    assert min(counts) > 500, counts


@pytest.mark.slow
def test_what_hangs_a_computer_algebra_system_is_wrong(monkeypatch):
    """A sum of 1e9 terms, towers of powers, factorials: refused unread, or stopped at the wall."""
    monkeypatch.setattr(mathworker, "WALL", 1.0)
    mathworker.equal.cache_clear()
    problem = Problem("q", answer="8191")
    for text in ("\\sum_{i=1}^{999999999} i", "9^{9^{9^9}}", "100000000!", "((x+1)^{999}+y)^{99}"):
        assert mathematics(problem, f"\\boxed{{{text}}}") is False, text
    assert mathematics(problem, "\\boxed{8190+1}")


def test_the_process_of_math_verify_has_nothing_to_harm():
    """Rule S2: an empty folder, no secrets, no standard input, limits, and a group of its own."""
    assert mathematics(Problem("q", answer="k+1"), "\\boxed{1+k}")
    process = mathworker.WORKER.process
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    place = f"/proc/{process.pid}"
    if not os.path.isdir(place):
        pytest.skip("no /proc to look at another process")
    assert os.listdir(os.readlink(f"{place}/cwd")) == []
    assert os.readlink(f"{place}/fd/0") == os.devnull
    with open(f"{place}/environ") as file:
        names = {each.partition("=")[0] for each in file.read().split("\0") if each}
    assert not {name for name in names if re.search("TOKEN|KEY|SECRET|PASS|HOME|USER", name)}
    with open(f"{place}/limits") as file:
        limits = {line[:26].strip(): line[26:].split()[0] for line in file}
    assert int(limits["Max address space"]) == mathworker.MEMORY
    assert (limits["Max file size"], limits["Max processes"]) == ("0", "0")
    assert (limits["Max open files"], limits["Max core file size"]) == ("64", "0")
    assert limits["Max cpu time"] != "unlimited"
