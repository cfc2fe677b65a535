"""S8: a report escapes every string and loads nothing; a terminal is steered by no text of a model."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as Terminal

import report_fixture as made
from autodidact.cli import main
from autodidact.commands.live import comparison
from autodidact.console import Console
from autodidact.preflight import Example
from autodidact.redact import printable
from autodidact.report import report, tables
from autodidact.report.summary import summarise
from autodidact.run import Directory

MARK = "hostile"
EVIL = (
    f"</script></pre></style>-->{MARK}<script>alert(1)</script><img src=x onerror=alert(1)>"
    "\"'&`{0}%s{data}"
)
STEER = "\x1b]0;own\x07\x1b[2J\x1b[31mred\x9b2J\r\b\x00\u202e"
STATED = {
    "kind", "started", "finished", "level", "column", "signal", "unit", "schedule", "checkpoint",
}  # fmt: skip
"""Fields that only the program writes, from words of its own."""
FILES = ("run.json", "metrics.jsonl", "samples.jsonl", "tokens.json", "diagnoses.json")


def poisoned(value: Any, text: str, key: str = "") -> Any:
    """The same value with hostile text at the end of every text that a user or a model could choose,
    and beside every name of an option."""
    if isinstance(value, dict):
        found = {name: poisoned(inside, text, name) for name, inside in value.items()}
        more = {f"{text}option": text} if key in ("arguments", "run", "versions") else {}
        more |= {f"{text}column": 1.0} if key == "ledger" else {}
        return found | more
    if isinstance(value, list):
        return [poisoned(inside, text, key) for inside in value]
    return f"{value}{text}" if isinstance(value, str) and key not in STATED else value


def rewrite(folder: Path, text: str, arms: bool = True) -> None:
    """Poison every file of a run directory; names of arms, which are folders, perhaps not."""
    for path in [path for name in FILES for path in folder.rglob(name)]:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            made.write_lines(path, [poisoned(row, text) for row in rows])
            continue
        found, before = poisoned(json.loads(path.read_text()), text), json.loads(path.read_text())
        if path.name == "run.json" and not arms:
            for arm, kept in zip(found["arms"], before["arms"], strict=True):
                arm["name"] = kept["name"]
        made.write(path, found)


class Page(HTMLParser):
    """The elements of a page with their attributes; its text; the text inside scripts."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.code = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem:
            self.code += data
        else:
            self.text += data


@pytest.fixture(scope="module", params=["train", "compare"])
def pages(request, tmp_path_factory) -> tuple[Page, Page, str]:
    """A report, the same of a run in which every text is hostile, and its source."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "train":
        made.train(folder, problems=2)
    else:
        made.compare(folder, arms=("opsd", "sft"), seeds=(0, 1), problems=8, k=2, points=3)
    before = Page(report(folder).read_text(encoding="utf-8"))
    rewrite(folder, EVIL, arms=request.param == "train")
    text = report(folder).read_text(encoding="utf-8")
    return before, Page(text), text


def test_hostile_text_adds_no_element_and_no_attribute(pages):
    before, after, _ = pages
    new = {tag for tag, _ in after.elements} - {tag for tag, _ in before.elements}
    assert not new
    count = {tag: [name for name, _ in after.elements].count(tag) for tag in ("script", "style")}
    assert count == {"script": 2, "style": 1}
    for tag, attributes in after.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert not {"src", "srcset", "action", "background", "formaction"} & attributes.keys()
    assert "alert" not in after.code


def test_hostile_text_is_shown_as_it_is(pages):
    """It is there, in several places: the test above is about something."""
    _, after, text = pages
    assert after.text.count(EVIL) > 10
    assert EVIL not in text
    found = re.search(r'id="token-data">([\w+/=]*)</script>', text)
    assert EVIL in json.dumps(json.loads(zlib.decompress(base64.b64decode(found[1]))), indent=0).replace('\\"', '"')  # fmt: skip


def test_the_policy_allows_what_the_page_needs_and_no_more(pages):
    _, after, text = pages
    policies = [a["content"] for tag, a in after.elements if a.get("http-equiv")]
    assert len(policies) == 1
    rules = dict(rule.split(" ", 1) for rule in policies[0].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert set(rules) == {"default-src", "base-uri", "form-action", "style-src", "script-src"}
    for name in ("style-src", "script-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", rules[name])
    head = text[: text.index("Content-Security-Policy")]
    assert "<script" not in head and "<style" not in head, "it comes before what it rules"


@pytest.mark.parametrize("text", [STEER, "\x1b[2J", "\x9b31m", "a\rb", "\u202egnp", "\x00", "\x07"])
def test_control_characters_are_spelled_out(text):
    shown = printable(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert printable(plain := "plain, π, 数\u3000\xa0\n\t") == plain


def calm(text: str) -> None:
    """Nothing in it but what rich itself may write: no other control character."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "own" in plain, "the hostile text was shown"
    assert not [c for c in plain if not (c.isprintable() or c in "\n\t")]


def test_what_a_run_prints_steers_no_terminal(tmp_path):
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=False, width=200)
    made.train(tmp_path)
    rewrite(tmp_path, STEER)
    directory = Directory(tmp_path, resume=True)
    call = directory.read("run.json")
    call["model"] |= {"trained": 1}
    examples = [Example("policy", ((STEER, False), (f"own[red]{STEER}", True)))]
    watcher = Console(terminal)
    watcher.start(directory, call, examples)
    watcher.diagnosis(STEER_DIAGNOSIS)
    watcher.end(directory)
    for table in tables(summarise(tmp_path)):
        terminal.print(table)
    calm(file.getvalue())


class Said(str):
    """A diagnosis, as far as a console looks at it."""

    level = "error"


STEER_DIAGNOSIS = Said(f"own {STEER}")


def test_what_a_comparison_prints_steers_no_terminal(tmp_path):
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=False, width=200)
    call = poisoned(made.call("compare", ["opsd", "sft"], [0]), STEER)
    with comparison(tmp_path, 2, terminal) as (begin, _):
        begin(call, [Example("policy", ((f"own{STEER}", True),))])
    calm(file.getvalue())


@pytest.mark.parametrize("command", ["show", "doctor", "report"])
def test_commands_that_look_at_a_run_steer_no_terminal(command, tmp_path, capsys):
    made.train(tmp_path)
    rewrite(tmp_path, STEER)
    call = json.loads((tmp_path / "run.json").read_text())
    call["spec"] = {}
    made.write(tmp_path / "run.json", call)
    with contextlib.suppress(SystemExit):
        main([command, str(tmp_path)])
    said = "".join(capsys.readouterr())
    assert said
    assert not [c for c in said if not (c.isprintable() or c in "\n\t")]


@pytest.mark.parametrize("option", ["--task", "--engine", "--model", "--track"])
def test_errors_that_quote_what_was_given_steer_no_terminal(option, capsys):
    with pytest.raises(SystemExit):
        main(["train", "sft", option, f"x{STEER}".replace("\0", "")])
    said = capsys.readouterr().err
    assert said.startswith("autodidact: ")
    assert not [c for c in said if not (c.isprintable() or c in "\n\t")]
