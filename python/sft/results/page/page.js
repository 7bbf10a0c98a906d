"use strict";
// The answers of a run: a strip of cells, one per sample, and a dialog with the answer that a cell stands for.
// Texts of models are only ever put into the page as text.
(() => {
  const runs = JSON.parse(document.getElementById("answers").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, kind, text) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  if (!byId("strip")) return;

  // --- what a letter stands for ---------------------------------------------------------------------------------
  const KINDS = {
    R: ["right", "\u2713", "right"], r: ["right", "\u2713", "right, truncated"],
    W: ["wrong", "\u00d7", "wrong"], T: ["cut", "\u2026", "truncated, with a wrong answer"],
    N: ["none", "\u2013", "no answer"], C: ["cut", "\u2026", "truncated, no answer"],
    ".": ["missing", "", "not there"],
  };
  const FILTERS = { all: "RrWTNC.", wrong: "WT", "no answer": "NC", truncated: "rTC" };
  const LEGEND = [["R", "right"], ["W", "wrong"], ["N", "no answer"], ["T", "truncated"]];

  const strip = byId("strip"), space = byId("space"), dialog = byId("answer"), body = byId("a-body");
  let run = runs[0], filter = "all", shown = [], problem = 0, sample = 0;
  let cell = 18, perLine = 1, height = 1, label = 0, single = false;
  const drawn = new Map();

  const letter = (p, s) => run.grid[p * run.samples + s];
  const matches = (p, s) => FILTERS[filter].includes(letter(p, s));

  // --- the strip: only the rows in sight are in the document ------------------------------------------------------
  function choose() {
    shown = [];
    for (let p = 0; p < run.problems.length; p++) {
      for (let s = 0; s < run.samples; s++) {
        if (matches(p, s)) { shown.push(p); break; }
      }
    }
    if (!shown.includes(problem) || !matches(problem, sample)) {
      problem = shown.length ? shown[0] : -1;
      sample = 0;
      if (problem >= 0) while (!matches(problem, sample)) sample++;
    }
    layout();
  }

  function layout() {
    const width = strip.clientWidth - 16, touch = matchMedia("(pointer: coarse)").matches;
    single = run.samples === 1;
    cell = touch ? 26 : run.samples > 40 ? 15 : 20;
    label = !single && width > 640 ? 160 : 0;
    perLine = Math.max(1, Math.floor((width - label) / cell));
    const lines = single ? 1 : Math.ceil(run.samples / perLine);
    height = lines * cell + (single ? 0 : label ? 4 : 24);
    const rows = rowCount();
    space.style.height = `${rows * height}px`;
    strip.style.height = `${Math.max(40, rows * height + 18)}px`;
    strip.setAttribute("aria-rowcount", rows);
    for (const row of drawn.values()) row.remove();
    drawn.clear();
    draw();
  }

  const rowCount = () => single ? Math.ceil(shown.length / perLine) : shown.length;
  const cellsOf = (row) => single
    ? shown.slice(row * perLine, (row + 1) * perLine).map((p) => [p, 0])
    : Array.from({ length: run.samples }, (_, s) => [shown[row], s]);
  const rowOf = (p) => single ? Math.floor(shown.indexOf(p) / perLine) : shown.indexOf(p);
  const nameOf = (p) => run.problems[p].startsWith(run.subsets[p] || "") ? run.problems[p] : `${run.subsets[p]} ${run.problems[p]}`;
  const placeOf = (p, s) => `problem ${clean(nameOf(p))}${single ? "" : `, sample ${s}`}`;
  const clean = (text) => String(text).replace(HIDDEN, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const HIDDEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

  function drawRow(number) {
    const cells = cellsOf(number), row = make("div", label || single ? "row" : "row tall");
    row.setAttribute("role", "row");
    row.setAttribute("aria-rowindex", number + 1);
    row.style.top = `${number * height + 6}px`;
    if (!single) {
      const p = cells[0][0];
      const right = cells.filter(([, s]) => "Rr".includes(letter(p, s))).length;
      const name = make("span", "name", `${right}/${run.samples} ${clean(nameOf(p))}`);
      name.setAttribute("role", "rowheader");
      name.style.width = label ? `${label}px` : `${strip.clientWidth - 16}px`;
      row.append(name);
    }
    const grid = make("span", "cells");
    grid.style.gridTemplateColumns = `repeat(${perLine}, ${cell}px)`;
    for (const [p, s] of cells) {
      const [kind, sign, words] = KINDS[letter(p, s)];
      const one = make("span", `cell ${kind}${matches(p, s) ? "" : " dim"}`, sign);
      one.id = `c-${p}-${s}`;
      one.dataset.p = p;
      one.dataset.s = s;
      one.style.height = one.style.lineHeight = `${cell - 2}px`;
      one.setAttribute("role", "gridcell");
      one.setAttribute("aria-label", `${placeOf(p, s)}: ${words}`);
      one.title = `${placeOf(p, s)}: ${words}`;
      grid.append(one);
    }
    row.append(grid);
    return row;
  }

  function draw() {
    const first = Math.max(0, Math.floor(strip.scrollTop / height) - 4);
    const last = Math.min(rowCount(), Math.ceil((strip.scrollTop + strip.clientHeight) / height) + 4);
    for (const [number, row] of drawn) {
      if (number < first || number >= last) { row.remove(); drawn.delete(number); }
    }
    for (let number = first; number < last; number++) {
      if (!drawn.has(number)) {
        const row = drawRow(number);
        drawn.set(number, row);
        space.append(row);
      }
    }
    mark();
  }

  function mark() {
    for (const old of strip.querySelectorAll(".on")) old.classList.remove("on");
    const here = byId(`c-${problem}-${sample}`);
    if (here) {
      here.classList.add("on");
      strip.setAttribute("aria-activedescendant", here.id);
    } else strip.removeAttribute("aria-activedescendant");
  }

  function go(p, s) {
    problem = p;
    sample = s;
    const top = rowOf(p) * height, inside = single ? 0 : Math.floor(s / perLine) * cell;
    if (top < strip.scrollTop) strip.scrollTop = top;
    else if (top + inside + 2 * cell > strip.scrollTop + strip.clientHeight) {
      strip.scrollTop = top + inside + 2 * cell + 16 - strip.clientHeight;
    }
    draw();
  }

  // step: to the next cell of the filter, or by rows to the same place in another.
  function along(by) {
    let at = shown.indexOf(problem) * run.samples + sample;
    for (at += by; at >= 0 && at < shown.length * run.samples; at += by) {
      const p = shown[Math.floor(at / run.samples)], s = at % run.samples;
      if (matches(p, s)) { go(p, s); return true; }
    }
    return false;
  }

  function across(by) {
    if (single) {
      const at = shown.indexOf(problem) + by * perLine;
      if (at >= 0 && at < shown.length) go(shown[at], 0);
      return;
    }
    const at = shown.indexOf(problem) + by;
    if (at < 0 || at >= shown.length) return;
    const p = shown[at];
    let best = -1;
    for (let s = 0; s < run.samples; s++) {
      if (matches(p, s) && (best < 0 || Math.abs(s - sample) < Math.abs(best - sample))) best = s;
    }
    go(p, best);
  }

  // --- generations: chunks that are loaded when they are needed, of which few are kept ----------------------------
  const KEPT = 3, kept = new Map();
  let arrived = null;
  window.generations = (text) => { arrived = text; };
  let queue = Promise.resolve();

  async function unpack(text) {
    const binary = atob(text), bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new DecompressionStream("deflate"), writer = stream.writable.getWriter();
    writer.write(bytes);
    writer.close();
    return JSON.parse(await new Response(stream.readable).text());
  }

  const fetchChunk = (url) => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const end = (settle) => {
      script.onload = script.onerror = null;
      script.remove();
      const text = arrived;
      arrived = null;
      if (settle && text !== null) resolve(text);
      else reject(new Error(`${url} is not beside this page`));
    };
    script.onload = () => end(true);
    script.onerror = () => end(false);
    script.src = url;
    document.head.append(script);
  });

  async function load(of, row, wanted) {
    let number = of.first.length - 1;
    while (of.first[number] > row) number--;
    const url = `generations/${encodeURIComponent(of.key)}/${number}.js`;
    let rows = kept.get(url);
    kept.delete(url);
    if (!rows) {
      // One after another; what nobody waits for any more is left out.
      const turn = queue.then(() => wanted() && (kept.get(url) || fetchChunk(url).then(unpack)));
      queue = turn.catch(() => undefined);
      rows = await turn;
      if (!rows) return undefined;
      kept.delete(url);
    }
    kept.set(url, rows);
    while (kept.size > KEPT) kept.delete(kept.keys().next().value);
    return rows[row - of.first[number]];
  }

  const rowNumber = (p, s) => run.strides ? p * run.strides[0] + s * run.strides[1] : run.rows[p * run.samples + s];

  // --- an open answer ---------------------------------------------------------------------------------------------
  const OPENS = { "<tool_call>": ["code", "</tool_call>"], "```output\n": ["output", "```"], "```system\n": ["system", "```"] };
  const TITLES = { text: "Answer text", thought: "Thoughts", code: "Code", output: "Output", system: "System" };

  // Text as parts [kind, text]: thoughts, code and what it printed.
  function parts(text) {
    const found = [], close = text.indexOf("</think>"), open = text.indexOf("<think>");
    let base = close >= 0 && (open < 0 || close < open) ? "thought" : "text", from = 0;
    const add = (kind, to) => { if (to > from && text.slice(from, to).trim()) found.push([kind, text.slice(from, to)]); };
    const marks = /<think>|<\/think>|<tool_call>|```output\n|```system\n/g;
    for (let hit = marks.exec(text); hit; hit = marks.exec(text)) {
      add(base, hit.index);
      from = marks.lastIndex;
      if (hit[0] === "<think>") base = "thought";
      else if (hit[0] === "</think>") base = "text";
      else {
        const [kind, end] = OPENS[hit[0]];
        let to = text.indexOf(end, from);
        if (to < 0) to = text.length;
        add(kind, to);
        from = marks.lastIndex = Math.min(text.length, to + end.length);
      }
    }
    add(base, text.length);
    return found;
  }

  function section(kind, title, text, folded) {
    const made = make(folded === undefined ? "section" : "details", `part ${kind}`);
    if (folded === false) made.open = true;
    made.append(make(folded === undefined ? "h3" : "summary", "", title), make("pre", "", clean(text).replace(/^\n+|\s+$/g, "")));
    return made;
  }

  const words = (value) => typeof value === "string" ? value : JSON.stringify(value);

  function fill(row) {
    const sections = [], kind = KINDS[letter(problem, sample)];
    const grade = make("dl");
    const fact = (name, value) => grade.append(make("dt", "", name), make("dd", "", clean(value)));
    fact("grade", `${kind[1]} ${kind[2]}`);
    if (row.answer !== undefined || "NC".includes(letter(problem, sample))) fact("answer", row.answer === undefined ? "none" : words(row.answer));
    if (row.expected !== undefined) fact("expected", words(row.expected));
    if (row.tokens !== undefined) fact("tokens", row.tokens.toLocaleString("en"));
    if (row.calls !== undefined) fact("code calls", `${row.calls}${row.runs ? `: ${row.runs.join(", ")}` : ""}`);
    sections.push(grade);
    if (row.question) sections.push(section("question", "Question", row.question));
    if (row.prompt) sections.push(section("prompt", "Prompt", row.prompt, true));
    let runsSeen = 0;
    for (const [part, text] of parts(row.generation)) {
      let title = TITLES[part];
      if (part === "output" && row.runs && row.runs[runsSeen]) title += `: ${row.runs[runsSeen++]}`;
      sections.push(section(part, title, text, part === "thought" ? false : undefined));
    }
    if (!row.generation) sections.push(make("p", "hint", "The model wrote nothing."));
    if (row.more) {
      const more = make("details", "part");
      const list = make("dl");
      for (const [name, value] of Object.entries(row.more)) list.append(make("dt", "", clean(name)), make("dd", "", clean(value)));
      more.append(make("summary", "", "More of the row"), list);
      sections.push(more);
    }
    body.replaceChildren(...sections);
    body.scrollTop = 0;
  }

  async function open() {
    if (problem < 0 || letter(problem, sample) === ".") return;
    const p = problem, s = sample, of = run;
    const same = () => p === problem && s === sample && of === run;
    byId("a-title").textContent = `${clean(run.set)}, ${run.model}, ${run.mode}: ${placeOf(p, s)}`;
    if (!dialog.open) dialog.showModal();
    dialog.dataset.state = "loading";
    try {
      const row = await load(of, rowNumber(p, s), same);
      if (!same()) return;
      fill(row);
      dialog.dataset.state = "ready";
    } catch (error) {
      if (!same()) return;
      body.replaceChildren(make("p", "hint", `${error.message}; keep generations/ and index.html together.`));
      dialog.dataset.state = "failed";
    }
    remember(`#${encodeURIComponent(of.key)}/${p}/${s}`);
  }

  function remember(hash) {
    try { history.replaceState(null, "", hash || location.pathname); } catch { /* not from a disk everywhere */ }
  }

  // --- controls ---------------------------------------------------------------------------------------------------
  function count(name) {
    let found = 0;
    for (const one of run.grid) if (FILTERS[name].includes(one)) found++;
    return found;
  }

  function show() {
    byId("filters").replaceChildren(...Object.keys(FILTERS).map((name) => {
      const button = make("button", "", `${name} ${count(name).toLocaleString("en")}`);
      button.type = "button";
      button.dataset.filter = name;
      button.setAttribute("aria-pressed", name === filter);
      button.onclick = () => {
        filter = name;
        strip.scrollTop = 0;
        show();
        document.querySelector(`#filters [data-filter="${name}"]`).focus();
      };
      return button;
    }));
    const about = byId("about");
    about.replaceChildren(`${run.problems.length.toLocaleString("en")} problems${run.samples > 1 ? `, ${run.samples} samples of each` : ""}.`);
    for (const [one, text] of LEGEND) {
      const entry = make("span", "entry");
      entry.append(make("span", `key ${KINDS[one][0]}`, KINDS[one][1]), text);
      about.append(" ", entry);
    }
    choose();
  }

  // A part of an address as this page writes it, whoever wrote it.
  function plainly(part) {
    try { return encodeURIComponent(decodeURIComponent(part)); } catch { return ""; }
  }

  function start() {
    byId("s-answers").hidden = false;
    for (const [number, one] of runs.entries()) byId("run").add(new Option(`${one.set}, ${one.model}, ${one.mode}`, number));
    const [key, p, s] = location.hash.slice(1).split("/");
    const linked = runs.findIndex((one) => encodeURIComponent(one.key) === plainly(key));
    const trained = runs.findIndex((one) => one.model === "trained");
    run = runs[linked >= 0 ? linked : Math.max(0, trained)];
    byId("run").selectedIndex = runs.indexOf(run);
    show();
    if (linked >= 0 && Number(p) < run.problems.length && Number(s) < run.samples) { go(Number(p), Number(s)); open(); }
  }

  byId("run").onchange = (event) => {
    run = runs[event.target.selectedIndex];
    problem = sample = strip.scrollTop = 0;
    show();
  };
  strip.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  addEventListener("resize", () => requestAnimationFrame(layout));
  strip.addEventListener("click", (event) => {
    const hit = event.target.closest(".cell");
    if (hit) { go(Number(hit.dataset.p), Number(hit.dataset.s)); open(); }
  });
  const KEYS = {
    ArrowLeft: () => along(-1), ArrowRight: () => along(1), ArrowUp: () => across(-1), ArrowDown: () => across(1), Enter: open,
  };
  strip.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.altKey || event.metaKey || problem < 0) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      if (along(event.key === "ArrowLeft" ? -1 : 1)) open();
    }
  });
  dialog.addEventListener("close", () => { body.replaceChildren(); remember(""); strip.focus(); });
  byId("previous").onclick = () => along(-1) && open();
  byId("next").onclick = () => along(1) && open();
  byId("close").onclick = () => dialog.close();
  if (runs.length) start();
})();
