"""The report: its numbers, its safety as a file, and what it does in a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import report_fixture as made
from autodidact.report import report, summarise, tables, words
from autodidact.report.charts import apart
from autodidact.report.tokens import encode

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")


class Page(HTMLParser):
    """Every element of a page with its attributes, and the text of scripts and styles."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem:
            self.code.append((self.cdata_elem, data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    folder = made.compare(tmp_path_factory.mktemp("compare"))
    report(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = made.train(tmp_path_factory.mktemp("train"), count=400)
    report(folder)
    return folder


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


# The numbers


def small(folder: Path, curves: dict[str, list[list[list[int]]]], **run) -> Path:
    """A comparison of arms by hand: `curves[arm][seed][point]` is what each problem got (of 4)."""
    seeds = list(range(len(next(iter(curves.values())))))
    call = made.call("compare", list(curves), seeds)
    call["run"] |= run
    made.write(folder / "run.json", call)
    for name, by_seed in curves.items():
        for seed, points in enumerate(by_seed):
            rows = []
            for at, right in enumerate(points):
                sampled = [[1] * c + [0] * (4 - c) for c in right]
                fraction = at / (len(points) - 1)
                spent = 0 if name == "sft" else 100 * at
                rows.append(
                    {
                        "kind": "eval",
                        "step": at,
                        "fraction": fraction,
                        "ledger": {"generated": spent, "optimizer_steps": at},
                        "metrics": {"length": 10.0 + at + seed},
                        "problems": {"sampled": sampled},
                    }
                )
            made.write_lines(folder / "arms" / name / f"seed-{seed}" / "metrics.jsonl", rows)
    return folder


CURVES = {
    "opsd": [[[0, 4], [4, 4], [4, 4]], [[0, 2], [2, 2], [4, 4]]],
    "grpo": [[[0, 4], [0, 4], [4, 4]], [[0, 2], [0, 2], [1, 3]]],
    "sft": [[[0, 4], [0, 4], [0, 4]], [[0, 2], [0, 2], [0, 2]]],
}


def test_summary_of_a_small_case(tmp_path):
    found = summarise(small(tmp_path, CURVES, target=0.75))
    opsd, grpo, sft = found["arms"]
    assert (found["problems"], found["samples"], found["reference"]) == (2, 4, "grpo")
    assert found["base"]["sampled"]["value"] == pytest.approx((0 + 1 + 0 + 0.5) / 4)
    assert opsd["final"]["sampled"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert grpo["final"]["sampled"]["value"] == pytest.approx((1 + 1 + 0.25 + 0.75) / 4)
    # pass@2 of 4 samples with 0, 1, 3 and 4 right is 0, 1/2, 1 and 1.
    assert grpo["final"]["pass@k"]["value"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert opsd["gain"]["sampled"]["value"] == pytest.approx(1 - 0.375)
    assert sft["gain"]["sampled"] == {"value": 0, "low": 0, "high": 0}
    assert opsd["final"]["length"]["value"] == pytest.approx(12.5)
    pairs = {(d["arm"], d["other"]): d["metrics"]["sampled"] for d in found["differences"]}
    assert pairs["opsd", "grpo"]["value"] == pytest.approx(0.25)
    back = pairs["grpo", "opsd"]
    assert back["low"] == pytest.approx(-pairs["opsd", "grpo"]["high"])
    # opsd's mean curve is .375, .75, 1 and grpo's .375, .375, .75, at 0, 100 and 200 tokens.
    assert opsd["reach"]["generated"]["value"] == pytest.approx(100)
    assert grpo["reach"]["generated"]["value"] == pytest.approx(200)
    assert opsd["reach"]["generated"]["ratio"]["value"] == pytest.approx(2)
    assert "ratio" not in grpo["reach"]["generated"]
    assert sft["reach"]["generated"] is None  # it generates nothing
    assert sft["reach"]["optimizer_steps"]["value"] is None
    assert sft["reach"]["optimizer_steps"]["ratio"]["case"] == "not reached"
    json.dumps(found, allow_nan=False)


def test_a_reference_that_never_arrives_gives_a_bound(tmp_path):
    found = summarise(small(tmp_path, CURVES, target=0.9))
    opsd, grpo, sft = (arm["reach"]["optimizer_steps"] for arm in found["arms"])
    assert grpo["value"] is None
    assert opsd["value"] == pytest.approx(1 + (0.9 - 0.75) / 0.25)
    assert opsd["ratio"]["case"] == "reference not reached"
    assert opsd["ratio"]["value"] is None
    assert opsd["ratio"]["at_least"] == pytest.approx(2 / 1.6)
    assert sft["ratio"]["case"] == "neither reached"
    said = text_of(report(tmp_path, found).parent)
    assert "Within 200 generated tokens grpo did not reach 90.0%; opsd " in said
    assert "over 1.2×" in said


def test_the_default_target_is_half_way_and_drawn_with_the_data(tmp_path):
    found = summarise(small(tmp_path, CURVES))
    assert found["target"]["value"] == pytest.approx((0.375 + 1) / 2)
    assert "half of the way" in found["target"]["rule"]
    level = {"opsd": CURVES["sft"], "grpo": CURVES["sft"]}
    assert summarise(small(tmp_path / "level", level))["target"] is None


def test_intervals_do_not_depend_on_what_else_is_there(tmp_path):
    whole = summarise(small(tmp_path / "all", CURVES, target=0.7))
    part = summarise(small(tmp_path / "two", {n: CURVES[n] for n in ("grpo", "opsd")}, target=0.7))
    by_name = [{arm["name"]: arm for arm in found["arms"]} for found in (whole, part)]
    for name in ("grpo", "opsd"):
        assert by_name[0][name] == by_name[1][name]


def test_a_single_number_has_no_interval(tmp_path):
    one = {name: by_seed[:1] for name, by_seed in CURVES.items()}
    found = summarise(small(tmp_path, one))
    assert found["arms"][0]["final"]["length"] == {"value": 12.0, "low": None, "high": None}
    assert found["arms"][0]["gain"]["length"]["low"] is None
    assert "There is one seed" in text_of(report(tmp_path, found).parent)


def test_seeds_that_are_missing_are_paired_by_what_is_there(tmp_path):
    folder = small(tmp_path, CURVES, target=0.6)
    shutil.rmtree(folder / "arms" / "grpo" / "seed-1")
    (folder / "arms" / "sft" / "seed-0" / "metrics.jsonl").write_text("")
    shutil.rmtree(folder / "arms" / "sft" / "seed-1")
    found = summarise(folder)
    assert [arm["seeds"] for arm in found["arms"]] == [[0, 1], [0]]
    assert found["waiting"] == ["sft"]
    pair = next(d for d in found["differences"] if d["arm"] == "opsd")
    assert pair["metrics"]["sampled"]["value"] == 0  # both end at 1 with seed 0
    assert "Not evaluated yet: sft" in text_of(report(folder, found).parent)


def test_bad_directories_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no run\.json"):
        summarise(tmp_path)
    folder = small(tmp_path / "run", CURVES)
    with pytest.raises(ValueError, match="did you mean 'grpo'"):
        summarise(folder, reference="gpro")
    with pytest.raises(ValueError, match="metric 'length' is unknown"):
        summarise(folder, metric="length")
    place = folder / "arms" / "sft" / "seed-0" / "metrics.jsonl"
    whole = place.read_text()
    place.write_text(whole + '{"kind": "ev')  # killed while writing
    assert summarise(folder)["arms"][2]["name"] == "sft"
    place.write_text("{oops\n" + whole)
    with pytest.raises(ValueError, match=r"sft/seed-0/metrics\.jsonl, line 1: not JSON"):
        summarise(folder)
    place.write_text(whole.replace("[1, 1, 1, 1]]", "[1, 1, 1, 1], [0, 0, 0, 0]]"))
    with pytest.raises(ValueError, match="different problems"):
        summarise(folder)
    made.write(folder / "run.json", {"kind": "other"})
    with pytest.raises(ValueError, match="kind 'other' is unknown; allowed: train, compare"):
        report(folder)
    made.write(folder / "run.json", made.call("compare", ["none"], [0]))
    with pytest.raises(ValueError, match="nothing has been evaluated yet"):
        report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("low", "high", "undefined", "expected"),
    [
        (1.2, 3.0, 0, 1),
        (0.9, 3.0, 0, 0),
        (0.2, 0.8, 0, -1),
        (2.0, None, 0, 1),  # the reference never arrives in some draws
        (None, None, 0, 1),  # nor in nearly all of them
        (1.2, 3.0, 0.2, 0),  # in a fifth of the draws neither does
    ],
)
def test_only_an_interval_without_one_is_sure(low, high, undefined, expected):
    assert words.surely({"low": low, "high": high, "undefined": undefined}) == expected


# The file


def test_the_report_is_written_whole(compared, monkeypatch):
    path = compared / "report.html"
    before = path.read_bytes()
    assert report(compared) == path
    assert path.read_bytes() == before  # the same run gives the same file
    assert [found.name for found in compared.iterdir() if "report" in found.name] == ["report.html"]

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        report(compared)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["compared", "trained"])
def test_nothing_is_loaded_and_only_known_code_runs(kind, request):
    text = text_of(request.getfixturevalue(kind))
    page = Page(text)
    assert [found.get("type") for found in page.all("script")] == ["text/plain", None]
    assert len(page.all("style")) == 1
    policy = next(
        found["content"]
        for found in page.all("meta")
        if found.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    code = [(tag, body) for tag, body in page.code if tag == "style" or "use strict" in body]
    assert len(code) == 2
    for tag, body in code:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "src" not in attributes, tag
        for name in ("href", "clip-path"):
            if attributes.get(name):
                target = re.fullmatch(r"(?:url\()?#([\w-]+)\)?", attributes[name])
                assert target, attributes
                assert target[1] in ids
    assert "url(" not in next(body for tag, body in code if tag == "style")
    assert not re.search(r"@import|innerHTML|\beval\b|https?://(?!www\.w3\.org/2000/svg)", text)


def test_model_text_is_text(tmp_path):
    folder = made.train(tmp_path)
    call = json.loads((folder / "run.json").read_text())
    call["task"]["name"] = call["method"]["name"] = made.EVIL
    made.write(folder / "run.json", call)
    made.write(folder / "diagnoses.json", [{**made.DIAGNOSIS, "what": made.EVIL}])
    seen = json.loads((folder / "tokens.json").read_text())
    problem = seen["problems"][0]
    problem |= {"question": made.EVIL, "solution": made.EVIL, "completion": made.EVIL}
    problem["tokens"][0] |= {"text": made.EVIL, "student": [[made.EVIL, 1.0]]}
    made.write(folder / "tokens.json", seen)
    page = Page(text_of(report(folder).parent))
    assert len(page.all("script")) == 2
    assert not page.all("img")
    assert "hacked" not in "".join(body for _, body in page.code)


def unpacked(text: str) -> dict:
    found = re.search(r'id="token-data">([\w+/=]*)</script>', text)
    return json.loads(zlib.decompress(base64.b64decode(found[1])))


def test_the_token_view_carries_every_token(compared):
    data = unpacked(text_of(compared))
    assert [arm["name"] for arm in data["arms"]] == list(made.ARMS)
    assert [arm["signed"] for arm in data["arms"]] == [False, True, False, True]
    for arm in data["arms"]:
        seen = json.loads((compared / "arms" / arm["name"] / "seed-0" / "tokens.json").read_text())
        for problem, shown in zip(seen["problems"], arm["problems"], strict=True):
            words = [data["words"][word] for word in shown["text"]]
            assert "".join(words) == problem["completion"]
            for at, token in enumerate(problem["tokens"]):
                assert shown["signal"][at] == pytest.approx(token["signal"], rel=0.006)
                flat = shown["student"][at]
                first, p = token["student"][0]
                assert (data["words"][flat[0]], flat[1]) == (first, round(1000 * p))
                assert (shown["teacher"][at] is None) == (token["teacher"] is None)
    sizes = [t["signal"] for name in ("opsd", "sft") for t in tokens_of(compared, name)]
    assert data["arms"][0]["scale"] == pytest.approx(np.quantile(sizes, 0.99), rel=0.2)


def tokens_of(folder: Path, arm: str) -> list[dict]:
    seen = json.loads((folder / "arms" / arm / "seed-0" / "tokens.json").read_text())
    return [token for problem in seen["problems"] for token in problem["tokens"]]


def test_200_samples_of_256_tokens_fit_in_3_megabytes(tmp_path):
    folder = made.train(tmp_path, problems=200, length=256)
    path = report(folder)
    assert path.stat().st_size <= 3_000_000
    data = unpacked(path.read_text())
    assert len(data["arms"][0]["problems"]) == 200
    assert all(len(problem["text"]) == 256 for problem in data["arms"][0]["problems"])


def test_a_token_view_without_room_says_what_it_left_out():
    seen = made.tokens("opsd", 12, length=100, words=9)
    whole, notes = encode([(0, "opsd", seen)])
    assert notes == []
    fewer, notes = encode([(0, "opsd", seen)], space=len(whole) * 2 // 3)
    assert len(fewer) <= len(whole) * 2 // 3
    assert re.fullmatch(r"Of 9 top words \d are kept, so that this file stays small\.", notes[0])
    little, notes = encode([(0, "opsd", seen)], space=4000)
    assert len(little) <= 4000
    assert re.search(r"The first \d of 12 problems are shown\.", notes[1])


def test_a_token_view_of_methods_without_teacher_grade_or_problems(tmp_path):
    folder = made.train(tmp_path)
    seen = made.tokens("grpo", 2)
    for problem in seen["problems"]:
        problem["correct"] = None
        for token in problem["tokens"]:
            del token["teacher"], token["teacher_logp"]
            token["signal"] = 0.0
    seen["problems"][0]["tokens"][0]["signal"] = float("nan")
    made.write(folder / "tokens.json", seen)
    arm = unpacked(text_of(report(folder).parent))["arms"][0]
    assert arm["scale"] == 0
    assert arm["problems"][0]["signal"][:2] == ["nan", 0]
    assert arm["problems"][0]["correct"] is None
    made.write(folder / "tokens.json", {**seen, "problems": []})
    assert "token-data" not in text_of(report(folder).parent).replace('"token-data")', "")


def test_every_part_is_there(compared):
    text = text_of(compared)
    page = Page(text)
    sections = [found["id"] for found in page.all("section")]
    expected = ["result", "reach", "accuracy", "tokens", "side", "training", "ledger"]
    assert sections == [*expected, "samples", "call"]
    charts = [found for found in page.all("svg") if found.get("class") == "chart"]
    labels = " ".join(found["aria-label"] for found in charts)
    for column in ("generated", "student backward", "forward and backward"):
        assert f"mean of 8 against {column} tokens: " in labels
    for column in ("optimizer steps", "seconds", "generated tokens"):
        assert f"against {column}" in labels
    assert all(found["role"] == "img" for found in charts)
    # Once for the text, once as sample: the same arm has the same colour in tables and charts.
    for hue, name in enumerate(made.ARMS):
        assert f'<span class="dot h{hue}"></span>{name}</th>' in text
        if name != "sft":
            assert re.search(rf'fill="var\(--arm-{hue}\)"[^>]*>{name} +[\d.]+%</text>', text)
    assert "A quarter of the groups had no spread." in text
    assert "grpo, seed 0, first at step 12" in text
    assert "sft spends no generated tokens: its budget is the student_backward tokens" in text
    assert "&quot;lr&quot;: 0.001" in text


def test_the_same_diagnosis_of_several_seeds_is_said_once(tmp_path):
    folder = made.compare(tmp_path, arms=("opsd", "grpo"), problems=10, points=3)
    for seed in (0, 2):
        place = folder / "arms" / "grpo" / f"seed-{seed}" / "diagnoses.json"
        made.write(place, [{**made.DIAGNOSIS, "step": 20 - seed}])
    text = text_of(report(folder).parent)
    assert text.count("A quarter of the groups") == 1
    assert "grpo, seeds 0, 2, first at step 18" in text


def test_steps_that_are_not_finite_are_told(tmp_path):
    folder = made.train(tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    for at in (6, 9):
        lines[at] = json.dumps({**json.loads(lines[at]), "loss": float("nan")})
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "2 steps not finite, the first is 7" in text_of(report(folder).parent)


def test_a_run_without_answers_still_has_a_report(tmp_path):
    folder = made.train(tmp_path)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "eval":
            line["problems"] = {}
            line["metrics"] = {"length": 4.0 + line["step"], "entropy": 0.2}
    made.write_lines(folder / "metrics.jsonl", lines)
    text = text_of(report(folder).parent)
    assert "there is no accuracy to report" in text
    assert 'id="side-length-' in text or "length of a completion" in text


def test_labels_are_moved_apart_and_no_more():
    assert apart([0, 100, 200], 15) == [0, 100, 200]
    assert apart([10, 10, 90], 20) == pytest.approx([0, 20, 90])
    for seed in range(50):
        places = np.sort(np.random.default_rng(seed).uniform(0, 100, 7)).tolist()
        moved = apart(places, 12)
        assert np.diff(moved).min() >= 12 - 1e-9
        assert sum(moved) == pytest.approx(sum(places))  # blocks keep their centre


# The terminal


def printed(folder: Path, **options) -> list[str]:
    file = io.StringIO()
    for table in tables(summarise(folder, **options)):
        Console(file=file, width=80).print(table)
    return file.getvalue().splitlines()


def test_terminal_tables_fit_80_columns_whole(compared):
    lines = printed(compared)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    found = summarise(compared)
    grpo = next(arm for arm in found["arms"] if arm["name"] == "grpo")
    row = next(line for line in lines if line.strip().startswith("grpo"))
    assert f"{100 * grpo['final']['sampled']['value']:.1f}" in row
    assert f"{100 * grpo['gain']['sampled']['value']:+.1f}" in row
    assert "sft: its budget is the student_backward tokens of opsd" in text
    assert "Spent to reach" in text


def test_terminal_tables_fit_with_long_names(tmp_path):
    names = {"opsd-divergence-reverse-lr-0.0005": "opsd", "grpo": "grpo", "sft": "sft"}
    folder = small(tmp_path, {long: CURVES[name] for long, name in names.items()}, target=0.7)
    lines = printed(folder)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert any(line.startswith(" opsd-divergence-re  ") for line in lines)


def test_terminal_says_what_was_not_reached(compared):
    text = "\n".join(printed(compared, target=0.99))
    assert "Spent to reach 99.0% (stated)" in text
    assert re.search(r"grpo +>121k", text)
    assert "never" in text


# The browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM.is_file() and DRIVER.is_file()):
        pytest.skip(f"needs {CHROMIUM} and {DRIVER} (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        "--window-size=1200,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def opened(browser, folder: Path):
    browser.get((folder / "report.html").as_uri())
    view = browser.find_element(By.ID, "token-view")
    WebDriverWait(browser, 20).until(lambda _: view.is_displayed())
    return browser.find_elements(By.CSS_SELECTOR, "#token-view article")


def panel(browser):
    return browser.find_element(By.ID, "token-panel")


def test_it_opens_without_errors_and_with_its_charts(browser, compared):
    cards = opened(browser, compared)
    assert [log for log in browser.get_log("browser") if log["level"] != "INFO"] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert len(cards) == 4
    shown = [
        chart.size
        for chart in browser.find_elements(By.CSS_SELECTOR, "#accuracy svg, #side svg")
        if chart.is_displayed()
    ]
    assert len(shown) == 5 + 4
    assert all(size["width"] > 200 and size["height"] > 100 for size in shown)
    # The page's colours reach the charts, and differ between light and dark.
    line = browser.find_element(By.CSS_SELECTOR, '#accuracy path[stroke="var(--arm-0)"]')
    colours = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.append(line.value_of_css_property("stroke"))
    assert colours == ["rgb(44, 95, 209)", "rgb(126, 166, 255)"]


def test_a_token_shows_its_words_to_mouse_and_keyboard(browser, compared):
    first = opened(browser, compared)[0]
    index = int(browser.find_element(By.CSS_SELECTOR, "#token-view select").get_property("value"))
    seen = json.loads((compared / "arms" / "opsd" / "seed-0" / "tokens.json").read_text())
    tokens = first.find_elements(By.CSS_SELECTOR, ".t")
    known = seen["problems"][index]["tokens"]
    assert len(tokens) == len(known)
    assert not panel(browser).is_displayed()
    at = next(i for i, token in enumerate(known) if token["text"].isdigit())
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", tokens[at])
    ActionChains(browser).move_to_element(tokens[at]).perform()
    said = panel(browser).text
    assert f"token {at + 1} of {len(known)}" in said
    assert "student" in said
    assert "teacher" in said
    for side in ("student", "teacher"):
        for word, _ in known[at][side][:2]:
            assert word.replace(" ", "␣").replace("\n", "↵") in said
    top = known[at]["student"][0][1]
    assert (f"{100 * top:.0f}%" if top > 0.0995 else f"{100 * top:.1f}%") in said
    bar = panel(browser).find_element(By.CSS_SELECTOR, ".side .track i")
    track = panel(browser).find_element(By.CSS_SELECTOR, ".side .track")
    assert bar.size["width"] / track.size["width"] == pytest.approx(top, abs=0.05)
    heading = browser.find_element(By.CSS_SELECTOR, "#tokens h2")
    ActionChains(browser).move_to_element(heading).perform()
    assert not panel(browser).is_displayed()
    # A click keeps it open; Escape closes it.
    tokens[at].click()
    ActionChains(browser).move_to_element(heading).perform()
    assert panel(browser).is_displayed()
    assert tokens[at].get_attribute("aria-pressed") == "true"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not panel(browser).is_displayed()
    # One stop of the tab key for each completion; arrows move inside it.
    assert sum(token.get_attribute("tabindex") == "0" for token in tokens) == 1
    browser.execute_script("arguments[0].focus()", tokens[0])
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    assert f"token 3 of {len(known)}" in panel(browser).text
    ActionChains(browser).send_keys(Keys.END, Keys.ENTER).perform()
    assert f"token {len(known)} of {len(known)}" in panel(browser).text
    assert tokens[-1].get_attribute("aria-pressed") == "true"


def test_a_method_without_teacher_says_so(browser, compared):
    token = opened(browser, compared)[1].find_element(By.CSS_SELECTOR, ".t")
    token.click()
    assert "asks no teacher" in panel(browser).text


def test_problems_are_chosen(browser, compared):
    opened(browser, compared)
    choice = browser.find_element(By.CSS_SELECTOR, "#token-view select")
    browser.execute_script(
        "arguments[0].value = 0; arguments[0].dispatchEvent(new Event('change'))", choice
    )
    question = browser.find_element(By.CSS_SELECTOR, "#token-view .question")
    before = question.text
    browser.find_element(By.CSS_SELECTOR, "[data-step='1']").click()
    assert question.text != before
    assert choice.get_property("value") == "1"


def test_a_narrow_screen_is_tapped_and_nothing_sticks_out(browser, compared):
    touch = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", touch)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        token = opened(browser, compared)[0].find_elements(By.CSS_SELECTOR, ".t")[4]
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 390
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
        spot = browser.execute_script(
            "const r = arguments[0].getBoundingClientRect();"
            "return {x: r.x + r.width / 2, y: r.y + r.height / 2}",
            token,
        )
        for kind, points in (("touchStart", [spot]), ("touchEnd", [])):
            browser.execute_cdp_cmd(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
            )
        WebDriverWait(browser, 10).until(lambda _: panel(browser).is_displayed())
        assert "token 5 of" in panel(browser).text
        box = panel(browser).rect
        assert box["width"] == pytest.approx(390, abs=1)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_a_completion_that_is_markup_does_nothing(browser, tmp_path):
    folder = made.train(tmp_path)
    seen = json.loads((folder / "tokens.json").read_text())
    for problem in seen["problems"]:
        problem |= {"question": made.EVIL, "solution": made.EVIL}
        problem["tokens"][0] |= {"text": made.EVIL, "student": [[made.EVIL, 1.0]]}
    made.write(folder / "tokens.json", seen)
    report(folder)
    card = opened(browser, folder)[0]
    token = card.find_element(By.CSS_SELECTOR, ".t")
    assert token.text == made.EVIL
    token.click()
    assert made.EVIL.replace(" ", "␣") in panel(browser).text
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert made.EVIL in browser.find_element(By.ID, "samples").text
    assert browser.execute_script("return window.hacked === undefined")
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert [log for log in browser.get_log("browser") if log["level"] != "INFO"] == []
