"use strict";
(() => {
  const page = document.getElementById("page");
  let facts = null, at = 0, said = new Map(), audio = null, stopAt = null, url = null;

  async function ask(path, body) {
    const options = body === undefined ? {} :
      {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json"}};
    let answer;
    try { answer = await fetch(path, options); }
    catch (error) { throw new Error("psl review has ended; start it again. Decisions are kept."); }
    if (!answer.ok) {
      let text = answer.statusText;
      try { text = (await answer.json()).error; } catch (error) { /* no JSON */ }
      throw new Error(text);
    }
    return answer;
  }
  const problem = el("p", {class: "problem", role: "alert", id: "problem"});
  const count = el("span", {class: "soft", id: "count"});
  const view = el("section", {id: "item"});
  function tell(error) { problem.textContent = error.message; }

  function item() { return facts.items[at]; }
  function isDone(one) { return one.said !== null && one.said !== undefined; }
  function next() {
    for (let step = 1; step <= facts.items.length; step++) {
      const n = (at + step) % facts.items.length;
      if (!isDone(facts.items[n])) { show(n); return; }
    }
    show(null);
  }

  function show(number) {
    stop();
    problem.textContent = "";
    const done = facts.items.filter(isDone).length;
    count.textContent = `${done} of ${facts.items.length} looked at; ${facts.num_held} in ${facts.file}`;
    view.replaceChildren();
    if (number === null) {
      view.append(el("h2", {}, "All are looked at."), el("p", {},
        "Train with data.corrections=" + facts.file + ", or start psl review again for more."), tools(false));
      return;
    }
    at = number;
    const one = item();
    said = new Map(one.classes.map((c) => [c.mid, c.present]));
    if (isDone(one) && one.said !== "skipped")
      for (const [mid, value] of Object.entries(one.said)) said.set(mid, value);
    const [from, to] = one.window, length = to - from;
    const canvas = el("canvas", {"aria-label": "spectrogram"});
    const cursor = el("div", {class: "cursor", hidden: true});
    const share = (t) => `${100 * Math.min(1, Math.max(0, (t - from) / length))}%`;
    const left = el("div", {class: "shade"}), right = el("div", {class: "shade"});
    left.style.left = 0; left.style.right = `calc(100% - ${share(one.start)})`;
    right.style.left = share(one.end); right.style.right = 0;
    const list = el("ol", {class: "classes", id: "classes"});
    view.append(
      el("p", {class: "soft"}, `Clip `, el("bdi", {}, one.key),
        `, ${one.start.toFixed(2)} to ${one.end.toFixed(2)} s. Which of these sound in it?`),
      el("div", {class: "picture"}, canvas, left, right, cursor),
      el("div", {class: "times soft"}, el("span", {}, `${from.toFixed(1)} s`), el("span", {}, `${to.toFixed(1)} s`)),
      list, adder(), tools(true));
    drawList(list);
    draw(canvas, number);
    load(number, cursor, share);
  }

  function drawList(list) {
    const known = new Map(item().classes.map((c) => [c.mid, c]));
    list.replaceChildren(...[...said].map(([mid, value], n) => {
      const c = known.get(mid);
      const name = facts.names[facts.mids.indexOf(mid)];
      const bar = el("span", {});
      bar.style.width = `${100 * (c ? c.label : 0)}%`;
      const toggle = el("button", {class: `said ${value ? "yes" : "no"}`, type: "button",
        "aria-pressed": String(value)}, value ? "there" : "not there");
      toggle.addEventListener("click", () => { said.set(mid, !said.get(mid)); drawList(list); });
      return el("li", {}, n < 9 ? el("kbd", {}, String(n + 1)) : el("span", {}),
        el("span", {}, el("bdi", {}, name), " ", c && c.weak ? el("span", {class: "weak"}, "weak label") : null),
        el("div", {class: "bar", title: `teacher ${c ? c.label : "not asked"}`}, bar), toggle);
    }));
  }

  function adder() {
    const choices = el("datalist", {id: "names"}, facts.names.map((name) => el("option", {value: name})));
    const input = el("input", {id: "add", placeholder: "another class", "aria-label": "another class",
      autocomplete: "off"});
    input.setAttribute("list", "names");
    const add = () => {
      const index = facts.names.indexOf(input.value);
      if (index < 0) return;
      said.set(facts.mids[index], true);
      input.value = ""; input.blur();
      drawList(document.getElementById("classes"));
    };
    input.addEventListener("change", add);
    return el("p", {class: "tools"}, el("label", {class: "soft", for: "add"}, el("kbd", {}, "A"), " also there:"), input, choices);
  }

  const key = (name, text, id, action, extra) => {
    const made = el("button", {type: "button", id, class: extra || ""}, text, " ", el("kbd", {}, name));
    made.addEventListener("click", action);
    return made;
  };
  function tools(isItem) {
    return el("div", {class: "tools"},
      isItem ? [key("Enter", "Save", "save", save, "main"), key("S", "Skip", "skip", skip)] : null,
      key("U", "Undo", "undo", undo),
      isItem ? [key("Space", "Play chunk", "play", () => play(true)), key("W", "Whole clip", "whole", () => play(false)),
        key("←", "Back", "back", () => move(-1)), key("→", "On", "on", () => move(1))] : null);
  }
  function move(step) { show((at + step + facts.items.length) % facts.items.length); }

  let busy = false;
  async function post(path, body, then) {
    if (busy) return;
    busy = true;
    try { then(await (await ask(path, body)).json()); }
    catch (error) { tell(error); }
    finally { busy = false; }
  }
  function save() {
    const number = at, decided = Object.fromEntries(said);
    post("decide", {item: number, classes: decided}, (answer) => {
      facts.num_held = answer.num_held; facts.items[number].said = decided; next();
    });
  }
  function skip() {
    const number = at;
    post("skip", {item: number}, (answer) => {
      facts.num_held = answer.num_held; facts.items[number].said = "skipped"; next();
    });
  }
  function undo() {
    post("undo", {}, async (answer) => {
      if (answer.item === null) { tell(new Error("There is nothing to undo.")); return; }
      try { facts = await (await ask("items")).json(); show(answer.item); }
      catch (error) { tell(error); }
    });
  }

  async function draw(canvas, number) {
    try {
      const found = await (await ask(`spectrogram?item=${number}`)).json();
      if (number !== at) return;
      paint(canvas, found);
      canvas.dataset.drawn = number;
    } catch (error) { tell(error); }
  }

  async function load(number, cursor, share) {
    try {
      const sound = await (await ask(`sound?item=${number}`)).blob();
      if (number !== at) return;
      if (url) URL.revokeObjectURL(url);
      url = URL.createObjectURL(sound);
      audio = new Audio(url);
      const from = item().window[0];
      const follow = () => {
        if (!audio || number !== at) return;
        cursor.hidden = audio.paused;
        cursor.style.left = share(from + audio.currentTime);
        if (stopAt !== null && audio.currentTime >= stopAt) audio.pause();
        if (!audio.paused) requestAnimationFrame(follow);
      };
      audio.addEventListener("play", follow);
      audio.addEventListener("pause", follow);
      audio.addEventListener("loadeddata", () => { view.dataset.loaded = number; });
    } catch (error) { tell(error); }
  }
  function play(isChunk) {
    if (!audio) return;
    if (!audio.paused) { audio.pause(); return; }
    const one = item();
    audio.currentTime = isChunk ? one.start - one.window[0] : 0;
    stopAt = isChunk ? one.end - one.window[0] : null;
    audio.play().catch(tell);
  }
  function stop() { if (audio) audio.pause(); audio = null; }

  document.addEventListener("keydown", (event) => {
    if (!facts || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLInputElement) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const isItem = document.getElementById("save") !== null;
    const actions = {u: undo, U: undo};
    if (isItem) Object.assign(actions, {Enter: save, s: skip, S: skip, " ": () => play(true),
      w: () => play(false), W: () => play(false), ArrowLeft: () => move(-1), ArrowRight: () => move(1),
      a: () => document.getElementById("add").focus(), A: () => document.getElementById("add").focus()});
    if (isItem && /^[1-9]$/.test(event.key)) {
      const mid = [...said.keys()][Number(event.key) - 1];
      if (mid === undefined) return;
      said.set(mid, !said.get(mid));
      drawList(document.getElementById("classes"));
      event.preventDefault();
    } else if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });

  (async () => {
    page.append(el("header", {}, el("h1", {}, "Review of labels"), count), problem, view);
    try {
      facts = await (await ask("items")).json();
      const first = facts.items.findIndex((one) => !isDone(one));
      show(first < 0 ? null : first);
    } catch (error) { tell(error); }
  })();
})();
