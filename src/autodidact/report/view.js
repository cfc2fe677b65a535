"use strict";
// The token view. Model text reaches the page through textContent only.
(async () => {
  const holder = document.getElementById("token-data");
  if (!holder) return;
  const packed = Uint8Array.from(atob(holder.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = JSON.parse(await new Response(stream).text());
  const LEVELS = 8;
  const MINUS = "\u2212";
  const MARKS = {
    true: ["right", "\u2713", "\u2713 right"],
    false: ["wrong", "\u2717", "\u2717 wrong"],
    null: ["quiet", "\u2013", "not graded"],
  };

  const make = (tag, options = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(options)) {
      if (key === "text") node.textContent = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const vector = (tag, options) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(options)) node.setAttribute(key, value);
    return node;
  };
  const visible = (text) => text.replaceAll("\n", "\u21b5\n") || "\u2205";
  const named = (text) =>
    text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5").replaceAll(" ", "\u2423") || "\u2205";
  const number = (value) => {
    if (value === null) return "\u2013";
    if (typeof value === "string") return value;
    const size = Math.abs(value);
    const text = size && size < 0.001 ? size.toExponential(0) : String(+size.toPrecision(3));
    return (value < 0 ? MINUS : "") + text;
  };
  const percent = (p) => {
    if (p < 0.001) return "<0.1%";
    return p >= 0.9995 ? "100%" : (100 * p).toFixed(p >= 0.0995 ? 0 : 1) + "%";
  };
  // Colour grows with the square root, so that small signals can be told from none.
  const level = (arm, value, least = 0) => {
    if (typeof value !== "number" || !arm.scale) return "z";
    const share = Math.min(1, Math.abs(value) / arm.scale);
    const step = Math.max(least, Math.floor(LEVELS * Math.sqrt(share)));
    return step ? (arm.signed ? (value < 0 ? "n" : "s") : "p") + step : "z";
  };

  const view = document.getElementById("token-view");
  const panel = document.getElementById("token-panel");
  const choice = view.querySelector("select");
  const stage = view.querySelector(".stage");
  let shown = null; // the token that the panel is about
  let pinned = false;

  data.problems.forEach((problem, index) => {
    const marks = data.arms
      .map((arm) => arm.problems[index])
      .map((one) => MARKS[String(one?.correct ?? null)][1]);
    const line = problem.question.replace(/\s+/g, " ");
    const text = line.length > 60 ? line.slice(0, 60) + "\u2026" : line;
    choice.append(make("option", { value: index, text: `${index + 1}. ${text}  ${marks.join("")}` }));
  });

  const legend = (arm) => {
    const row = make("div", { class: "legend" });
    if (!arm.scale) return make("div", { class: "legend", text: "no token received a signal" });
    const swatches = make("span", { class: "swatches", "aria-hidden": "true" });
    const steps = [];
    if (arm.signed) for (let i = LEVELS; i > 0; i--) steps.push("n" + i);
    steps.push("z");
    for (let i = 1; i <= LEVELS; i++) steps.push((arm.signed ? "s" : "p") + i);
    for (const step of steps) swatches.append(make("i", { class: step }));
    const low = arm.signed ? MINUS + number(arm.scale) : "0";
    row.append(make("span", { text: low }), swatches);
    row.append(make("span", { text: `${number(arm.scale)} ${arm.unit}` }));
    return row;
  };

  const strip = (arm, one) => {
    const count = one.signal.length;
    const half = arm.signed ? 16 : 32;
    const box = vector("svg", { class: "strip", viewBox: `0 0 ${count} 32`, "aria-hidden": "true" });
    box.setAttribute("preserveAspectRatio", "none");
    box.append(vector("rect", { class: "floor", x: 0, y: half - 0.5, width: count, height: 0.5 }));
    one.signal.forEach((value, at) => {
      if (typeof value !== "number" || !value || !arm.scale) return;
      const tall = Math.max(1, half * Math.min(1, Math.abs(value) / arm.scale));
      const y = value < 0 ? half : half - tall;
      const bar = { class: level(arm, value, 4), x: at + 0.08, y, width: 0.84, height: tall };
      box.append(vector("rect", { ...bar, "data-at": at }));
    });
    return box;
  };

  const card = (arm, index, problem) => {
    const one = arm.problems[problem];
    const head = make("header", {}, make("span", { class: `dot h${arm.hue % 8}` }));
    head.append(make("strong", { text: arm.name }));
    const article = make("article", { class: "card", "aria-label": arm.name }, head);
    if (!one) {
      article.append(make("p", { class: "quiet", text: "No completion was recorded here." }));
      return article;
    }
    const verdict = MARKS[String(one.correct)];
    head.append(make("span", { class: `mark ${verdict[0]}`, text: verdict[2] }));
    head.append(make("span", { class: "quiet", text: arm.signal }), legend(arm));
    const text = make("div", { class: "completion", role: "group" });
    text.setAttribute("aria-label", `completion of ${arm.name}, arrow keys move between tokens`);
    one.text.forEach((word, at) => {
      const token = make("span", { class: `t ${level(arm, one.signal[at])}`, role: "button" });
      token.textContent = visible(data.words[word]);
      token.tabIndex = at ? -1 : 0;
      token.dataset.at = at;
      token.dataset.arm = index;
      token.setAttribute("aria-pressed", "false");
      const signal = `${arm.signal} ${number(one.signal[at])}`;
      token.setAttribute("aria-label", `${named(data.words[word])}, ${signal}`);
      text.append(token);
    });
    article.append(text, strip(arm, one));
    return article;
  };

  const render = () => {
    hide();
    const at = Number(choice.value);
    const problem = data.problems[at];
    view.querySelector(".question").textContent = problem.question;
    const solution = view.querySelector(".solution");
    solution.hidden = problem.solution === null;
    solution.querySelector("pre").textContent = problem.solution ?? "";
    view.querySelector(".answer").textContent = problem.answer ?? "unknown";
    stage.replaceChildren(...data.arms.map((arm, index) => card(arm, index, at)));
    view.querySelector("[data-step='-1']").disabled = at === 0;
    view.querySelector("[data-step='1']").disabled = at === data.problems.length - 1;
  };

  const bars = (title, words, own, ownP) => {
    const column = make("div", { class: "side" }, make("h4", { text: title }));
    const rows = [];
    for (let i = 0; i < words.length; i += 2) rows.push([words[i], words[i + 1] / 1000]);
    const listed = rows.some(([word]) => word === own);
    if (!listed && ownP !== null) rows.push([own, ownP]);
    const list = make("ol");
    rows.forEach(([word, p]) => {
      const bar = make("i");
      bar.style.width = `${Math.max(0.8, 100 * p)}%`;
      const row = make("li", word === own ? { class: "own" } : {});
      row.append(make("code", { text: named(data.words[word]) }));
      row.append(make("span", { class: "track" }, bar), make("b", { text: percent(p) }));
      list.append(row);
    });
    column.append(list);
    return column;
  };

  const show = (token) => {
    if (shown) leave(shown);
    shown = token;
    const at = Number(token.dataset.at);
    const arm = data.arms[token.dataset.arm];
    const one = arm.problems[Number(choice.value)];
    token.classList.add("on");
    mark(token, true);
    const own = one.text[at];
    const p = (value) => (typeof value === "number" ? Math.exp(value) : null);
    const head = make("header");
    head.append(make("code", { class: level(arm, one.signal[at]), text: named(data.words[own]) }));
    head.append(make("span", { class: "quiet", text: `token ${at + 1} of ${one.text.length}` }));
    const facts = make("dl");
    const fact = (name, value) =>
      facts.append(make("div", {}, make("dt", { text: name }), make("dd", { text: value })));
    const unit = one.signal[at] === null ? "" : ` ${arm.unit}`;
    fact("signal", number(one.signal[at]) + unit);
    fact("log p, student", number(one.logp[at]));
    if (one.teacher_logp[at] !== null) fact(`log p, ${arm.reader}`, number(one.teacher_logp[at]));
    const sides = make("div", { class: "sides" });
    sides.append(bars("student", one.student[at] ?? [], own, p(one.logp[at])));
    if (one.teacher[at]) {
      sides.append(bars(arm.reader, one.teacher[at], own, p(one.teacher_logp[at])));
    } else {
      sides.append(make("p", { class: "quiet", text: "This method asks no teacher about words." }));
    }
    panel.replaceChildren(head, facts, sides);
    panel.className = `panel h${arm.hue % 8}`;
    panel.hidden = false;
    place(token);
  };
  const place = (token) => {
    panel.style.left = panel.style.top = "";
    if (window.matchMedia("(max-width: 640px)").matches) return; // a sheet at the lower edge
    const spot = token.getClientRects()[0];
    const wide = document.documentElement.clientWidth;
    const left = Math.min(Math.max(12, spot.left - 24), wide - panel.offsetWidth - 12);
    const below = spot.bottom + 10;
    const above = spot.top - panel.offsetHeight - 10;
    const top = below + panel.offsetHeight > window.innerHeight && above > 0 ? above : below;
    panel.style.left = `${left + window.scrollX}px`;
    panel.style.top = `${top + window.scrollY}px`;
  };
  const mark = (token, on) => {
    const bar = token.closest("article").querySelector(`rect[data-at="${token.dataset.at}"]`);
    if (bar) bar.classList.toggle("on", on);
  };
  const leave = (token) => {
    token.classList.remove("on");
    token.setAttribute("aria-pressed", "false");
    mark(token, false);
  };
  const hide = () => {
    if (shown) leave(shown);
    shown = null;
    pinned = false;
    panel.hidden = true;
  };
  const tokenOf = (event) => event.target.closest?.(".t") ?? null;

  stage.addEventListener("pointerover", (event) => {
    const token = tokenOf(event);
    if (event.pointerType !== "mouse" || pinned) return;
    if (token) show(token);
    else if (shown !== document.activeElement) hide();
  });
  stage.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && !pinned) hide();
  });
  stage.addEventListener("focusin", (event) => {
    const token = tokenOf(event);
    if (token && !pinned && token.matches(":focus-visible")) show(token);
  });
  stage.addEventListener("focusout", () => {
    if (!pinned) hide();
  });
  const pin = (token) => {
    if (pinned && token === shown) return hide();
    show(token);
    pinned = true;
    token.setAttribute("aria-pressed", "true");
  };
  document.addEventListener("click", (event) => {
    const token = tokenOf(event);
    if (token) pin(token);
    else if (!panel.contains(event.target)) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const token = tokenOf(event);
    if (!token) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return pin(token);
    }
    const all = [...token.parentElement.children];
    const at = all.indexOf(token);
    const goal = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (goal === undefined || !all[goal]) return;
    event.preventDefault();
    pinned = false;
    token.tabIndex = -1;
    all[goal].tabIndex = 0;
    all[goal].focus();
  });
  window.addEventListener("resize", hide);
  choice.addEventListener("change", render);
  for (const button of view.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => {
      choice.value = Number(choice.value) + Number(button.dataset.step);
      render();
    });
  }
  const missed = (at) => data.arms.some((arm) => arm.problems[at]?.correct === false);
  choice.value = Math.max(0, data.problems.findIndex((_, at) => missed(at)));
  render();
  view.hidden = false;
})();
