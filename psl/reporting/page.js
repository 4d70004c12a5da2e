"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const page = document.getElementById("report");
  const NUM_COLOURS = 8;
  const metrics = {mAP: 100, AUC: 1, d_prime: 1, lwlrap: 100};
  const titles = {mAP: "mAP %", AUC: "AUC", d_prime: "d′", lwlrap: "lwlrap %"};

  const named = (text) => el("bdi", {}, text);
  function svg(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const colour = (run) => `var(--c${run % NUM_COLOURS})`;
  const dash = (run) => ["", "7 4", "2 3"][Math.floor(run / NUM_COLOURS) % 3];
  function key(run) {
    const made = el("span", {class: "key"});
    made.style.background = colour(run);
    return made;
  }
  const shown = (value, scale, digits) =>
    value === null || value === undefined ? "–" : (scale * value).toFixed(digits);
  const percent = (value) => shown(value, 100, 1);

  function section(id, title, about, ...children) {
    const made = el("section", {id}, el("h2", {}, title),
      about ? el("p", {class: "soft small"}, about) : null, ...children);
    page.append(made);
    links.append(el("a", {href: `#${id}`}, title));
    return made;
  }
  function table(heads, rows) {
    return el("div", {class: "wide"}, el("table", {},
      el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
  }
  const evaluationTitle = (e) =>
    el("span", {}, key(e.run), " ", named(e.title));
  function chooser(label, evaluations, draw) {
    const select = el("select", {"aria-label": label},
      evaluations.map((e, i) => el("option", {value: i}, e.title)));
    select.addEventListener("change", () => draw(evaluations[select.value]));
    draw(evaluations[0]);
    return evaluations.length > 1 ? el("label", {class: "tools"}, label, select) : null;
  }

  function header() {
    const states = facts.runs.map((run, i) => el("li", {}, key(i), " ",
      el("b", {}, named(run.name)), run.state ? ` ${run.state[0]}` : "",
      run.last_step === null ? "" : `, step ${run.last_step}`));
    const list = el("ul", {class: "runs"}, states);
    list.style.listStyle = "none";
    list.style.padding = "0";
    page.append(el("header", {},
      el("h1", {}, facts.runs.length > 1 ? `${facts.runs.length} runs` : "A run"),
      el("p", {class: "soft small"}, `psl ${facts.psl}, ${facts.made}`), list, links));
  }

  function results() {
    const all = facts.evaluations;
    if (!all.length) return;
    const columns = Object.keys(metrics).filter(
      (k) => all.some((e) => e.values[k] !== null));
    const segments = all.some((e) => e.segment_mAP !== null);
    const groups = new Set(all.map((e) => e.same_clips + e.clips));
    const labels = new Set(all.map((e) => e.labels));
    const top = {};
    if (groups.size === 1 && all.length > 1)
      for (const k of columns) top[k] = Math.max(...all.map((e) => e.values[k] ?? -9e9));
    const heads = [el("th", {class: "name"}, "Evaluation"),
      ...columns.map((k) => el("th", {class: "number"}, titles[k])),
      segments ? el("th", {class: "number"}, "Segment mAP %") : null,
      el("th", {class: "number"}, "Clips"), el("th", {class: "number"}, "Classes")];
    const rows = all.map((e) => el("tr", {},
      el("td", {class: "name"}, evaluationTitle(e), labels.size > 1 ?
        el("span", {class: "span"}, "labels: ", named(e.labels)) : null),
      columns.map((k) => {
        const digits = metrics[k] === 100 ? 2 : 3, span = e.intervals[k];
        const best = top[k] !== undefined && e.values[k] === top[k];
        return el("td", {class: best ? "number best" : "number"},
          shown(e.values[k], metrics[k], digits),
          span ? el("span", {class: "span"},
            span.map((x) => shown(x, metrics[k], digits)).join(" to ")) : null);
      }),
      segments ? el("td", {class: "number"}, shown(e.segment_mAP, 100, 2)) : null,
      el("td", {class: "number"}, e.clips ?? "–"),
      el("td", {class: "number"}, e.classes ?? "–")));
    let about = "Below a value, its 95 % interval over clips. Intervals that overlap " +
      "decide nothing: psl compare says whether a difference is more than noise.";
    if (groups.size > 1)
      about += " Not all were evaluated on the same clips: compare only those that were.";
    section("results", "Results", about, labels.size === 1 ?
      el("p", {class: "soft small"}, "labels: ", named(all[0].labels)) : null,
      table(heads, rows));
  }

  function events() {
    if (!facts.events.length) return;
    const number = (text) => el("th", {class: "number"}, text);
    section("events", "Events in time", "From psl events: PSDS 1 asks for exact times, " +
      "PSDS 2 for the right classes; F1 is the mean over classes.", table(
      [el("th", {class: "name"}, "Events"), ...["PSDS 1", "PSDS 2", "Event F1 %",
        "Segment F1 %", "Clips"].map(number)],
      facts.events.map((e) => el("tr", {}, el("td", {class: "name"}, evaluationTitle(e)),
        e.values.map((v, i) => el("td", {class: "number"},
          i < 2 ? shown(v, 1, 3) : shown(v, 100, 1))),
        el("td", {class: "number"}, e.clips ?? "–")))));
  }

  function missing() {
    if (!facts.missing.length) return;
    section("missing", "Not in this report", null, el("ul", {class: "notes small"},
      facts.missing.map((line) => el("li", {}, named(line)))));
  }

  function ticks(low, high, most) {
    const raw = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
      found.push(Number((k * step).toPrecision(12)));
    return found;
  }
  function chart(curves, scale, hidden) {
    const W = 520, H = 280, L = 52, R = 12, T = 10, B = 30;
    const made = svg("svg", {viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img"});
    const visible = curves.filter((c) => !hidden.has(c.run));
    const xs = visible.flatMap((c) => c.x), ys = visible.flatMap((c) => c.y);
    if (!xs.length) return [made, () => null];
    const x0 = Math.min(0, ...xs), x1 = Math.max(...xs, x0 + 1);
    let y0 = scale * Math.min(...ys), y1 = scale * Math.max(...ys);
    const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
    y0 -= pad; y1 += pad;
    if (y0 < 0 && Math.min(...ys) >= 0) y0 = 0;
    const px = (x) => L + (x - x0) / (x1 - x0) * (W - L - R);
    const py = (y) => H - B - (scale * y - y0) / (y1 - y0) * (H - T - B);
    for (const y of ticks(y0, y1, 5)) {
      made.append(svg("line", {x1: L, x2: W - R, y1: py(y / scale), y2: py(y / scale), class: "grid"}));
      made.append(svg("text", {x: L - 6, y: py(y / scale) + 4, "text-anchor": "end"}, String(y)));
    }
    for (const x of ticks(x0, x1, 5))
      made.append(svg("text", {x: px(x), y: H - 8, "text-anchor": "middle"},
        x >= 10000 ? `${x / 1000}k` : String(x)));
    for (const c of visible) {
      const line = svg("polyline", {class: "curve", "stroke-dasharray": dash(c.run),
        points: c.x.map((x, i) => `${px(x).toFixed(1)},${py(c.y[i]).toFixed(1)}`).join(" ")});
      line.style.stroke = colour(c.run);
      made.append(line);
      if (c.x.length <= 25) c.x.forEach((x, i) => {
        const dot = svg("circle", {cx: px(x), cy: py(c.y[i]), r: 2.6});
        dot.style.fill = colour(c.run);
        made.append(dot);
      });
    }
    const cursor = svg("line", {class: "cursor", y1: T, y2: H - B, visibility: "hidden"});
    made.append(cursor);
    const at = (event) => {
      const box = made.getBoundingClientRect();
      const x = x0 + ((event.clientX - box.left) / box.width * W - L) / (W - L - R) * (x1 - x0);
      if (x < x0 || x > x1) return null;
      cursor.setAttribute("x1", px(x)); cursor.setAttribute("x2", px(x));
      cursor.setAttribute("visibility", "visible");
      return visible.map((c) => {
        let near = 0;
        c.x.forEach((v, i) => { if (Math.abs(v - x) < Math.abs(c.x[near] - x)) near = i; });
        return [c.run, c.x[near], scale * c.y[near]];
      });
    };
    return [made, at];
  }
  function curves() {
    const panels = [["loss", "Training loss", 1], ["valid_mAP", "Validation mAP, %", 100]]
      .filter(([name]) => facts.curves[name].length);
    if (!panels.length) return;
    const hidden = new Set(), grid = el("div", {class: "panels"});
    const runs = [...new Set(panels.flatMap(([n]) => facts.curves[n].map((c) => c.run)))];
    const draw = () => grid.replaceChildren(...panels.map(([name, title, scale]) => {
      const [drawn, at] = chart(facts.curves[name], scale, hidden);
      drawn.setAttribute("aria-label", title);
      const readout = el("div", {class: "readout"}, "by step");
      drawn.addEventListener("pointermove", (event) => {
        const found = at(event);
        if (found) readout.replaceChildren(...found.map(([run, step, value]) =>
          el("span", {class: "tag"}, key(run), ` ${Math.round(step)}: ${value.toPrecision(4)}`)));
      });
      return el("div", {}, el("h3", {}, title), drawn, readout);
    }));
    const legend = el("div", {class: "legend"}, runs.map((run) => {
      const button = el("button", {type: "button", "aria-pressed": "true"},
        key(run), named(facts.runs[run].name));
      button.addEventListener("click", () => {
        hidden.has(run) ? hidden.delete(run) : hidden.add(run);
        button.setAttribute("aria-pressed", String(!hidden.has(run)));
        draw();
      });
      return button;
    }));
    draw();
    section("curves", "Curves", "The loss is on each run's own targets: weak and pseudo " +
      "labels have different ones. Compare validation mAP.",
      runs.length > 1 ? legend : null, grid);
  }

  function bar(value, run) {
    const inner = el("i");
    inner.style.width = `${100 * value}%`;
    inner.style.background = colour(run);
    return el("div", {class: "bar"}, inner);
  }
  function classes() {
    const used = facts.evaluations.map((e, i) => i).filter(
      (i) => facts.per_class.some((row) => row.ap[i]));
    if (!used.length) return;
    const two = used.length === 2;
    const ap = (row, i) => row.ap[i] ? row.ap[i][0] : null;
    const gain = (row) => {
      const [a, b] = used.map((i) => ap(row, i));
      return a === null || b === null ? null : b - a;
    };
    const columns = [
      {title: "Class", of: (row) => row.name.toLowerCase(), text: true},
      {title: "Clips", of: (row) => row.clips},
      ...used.map((i) => ({title: facts.evaluations[i].title, of: (row) => ap(row, i),
        run: facts.evaluations[i].run, index: i})),
      ...(two ? [{title: "Gain", of: gain}] : []),
    ];
    let by = columns[2], down = true;
    const body = el("tbody"), count = el("span", {class: "soft small"});
    const search = el("input", {type: "search", placeholder: "Search classes",
      "aria-label": "Search classes", id: "search"});
    function cell(column, row) {
      if (column.text)
        return el("td", {class: "name"}, named(row.name),
          el("span", {class: "span"}, named(row.mid)));
      const value = column.of(row);
      if (column.title === "Gain" && column.index === undefined)
        return el("td", {class: "number " + (value > 0 ? "up" : value < 0 ? "down" : "")},
          value === null ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") +
            (100 * Math.abs(value)).toFixed(1));
      if (column.index === undefined) return el("td", {class: "number"}, String(value));
      const span = row.ap[column.index];
      return el("td", {class: "number"}, percent(value),
        span && span[1] !== null ? el("span", {class: "span"},
          `${percent(span[1])} to ${percent(span[2])}`) : null,
        value === null ? null : bar(value, column.run));
    }
    function draw() {
      const wanted = search.value.trim().toLowerCase();
      const rows = facts.per_class.filter((row) =>
        row.name.toLowerCase().includes(wanted) || row.mid.toLowerCase().includes(wanted));
      const value = (row) => by.of(row);
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
      });
      body.replaceChildren(...rows.map((row) =>
        el("tr", {}, columns.map((column) => cell(column, row)))));
      count.textContent = `${rows.length} of ${facts.per_class.length} classes`;
      columns.forEach((column, i) => {
        const arrow = column === by ? (down ? " ▼" : " ▲") : "";
        heads[i].firstChild.lastChild.textContent = arrow;
        heads[i].setAttribute("aria-sort",
          column === by ? (down ? "descending" : "ascending") : "none");
      });
    }
    const heads = columns.map((column) => {
      const button = el("button", {type: "button"},
        column.run === undefined ? null : key(column.run),
        column.run === undefined ? null : " ", named(column.title), el("span", {}, ""));
      button.addEventListener("click", () => {
        down = column === by ? !down : !column.text;
        by = column;
        draw();
      });
      return el("th", {class: column.text ? "name" : "number", scope: "col"}, button);
    });
    search.addEventListener("input", draw);
    draw();
    const extremes = el("div", {class: "panels"});
    const choose = chooser("Evaluation", used.map((i) => facts.evaluations[i]), (e) => {
      const i = facts.evaluations.indexOf(e);
      const rows = facts.per_class.filter((row) => row.ap[i])
        .sort((a, b) => ap(b, i) - ap(a, i));
      const half = Math.min(5, Math.ceil(rows.length / 2));
      const list = (title, these) => el("div", {}, el("h3", {}, title), table([], these.map(
        (row) => el("tr", {}, el("td", {class: "name"}, named(row.name), bar(ap(row, i), e.run)),
          el("td", {class: "number"}, percent(ap(row, i)),
            el("span", {class: "span"}, `${row.clips} clips`))))));
      extremes.replaceChildren(list("Best classes", rows.slice(0, half)),
        list("Worst classes", rows.slice(half).slice(-half).reverse()));
    });
    section("extremes", "Best and worst classes", "AP in %, and clips that have the class. " +
      "The AP of a class with few clips is uncertain.", choose, extremes);
    section("classes", "Every class", "AP in % with its 95 % interval. A click on a head sorts.",
      el("div", {class: "tools"}, search, count),
      el("div", {class: "wide"}, el("table", {id: "per-class"},
        el("thead", {}, el("tr", {}, heads)), body)));
  }

  function confused() {
    const scored = facts.evaluations.filter((e) => e.confused);
    if (!scored.length) return;
    const place = el("div");
    const choose = chooser("Evaluation", scored, (e) => {
      place.replaceChildren(e.confused.length ? table(
        ["Labelled", "Taken for"].map((t) => el("th", {class: "name"}, t)).concat(
          ["Score there", "Elsewhere", "Clips"].map((t) => el("th", {class: "number"}, t))),
        e.confused.map(([a, b, there, elsewhere, clips]) => el("tr", {},
          el("td", {class: "name"}, named(a)), el("td", {class: "name"}, named(b)),
          el("td", {class: "number"}, percent(there), bar(there, e.run)),
          el("td", {class: "number"}, percent(elsewhere)),
          el("td", {class: "number"}, String(clips))))) :
        el("p", {}, "No pair of classes is confused in three clips or more."));
    });
    section("confused", "Classes taken for others", "Mean score, in %, of the second class " +
      "on clips that have the first and not the second, and on the clips with neither. Where " +
      "labels are incomplete, the second may truly be heard.", choose, place);
  }

  // A sound and its spectrogram, which is as wide as its share of ``end`` seconds.
  function player(found, end) {
    if (!found) return [];
    const audio = el("audio", {controls: true, preload: "metadata", src: found.uri});
    const canvas = el("canvas", {"aria-label": "spectrogram"});
    const cursor = el("div", {class: "cursor", hidden: true});
    const picture = el("div", {class: "picture"}, canvas, cursor);
    paint(canvas, found.spectrogram);
    picture.style.width = `${100 * Math.min(1, found.seconds / (end || found.seconds))}%`;
    seekable(picture, cursor, audio, found.seconds);
    return [el("div", {}, audio, found.whole ? null : el("div", {class: "soft small"},
      `the first ${found.seconds.toFixed(0)} s`)), picture];
  }
  function timelines() {
    if (!facts.timelines.length) return;
    const clips = facts.timelines.map((clip) => {
      const end = Math.max(...clip.sets.flatMap((set) => set.stops));
      const axis = el("div", {class: "axis"}, [0, 1, 2].map((k) => {
        const mark = el("span", {}, `${Number((end * k / 2).toFixed(2))} s`);
        mark.style.left = `${50 * k}%`;
        return mark;
      }));
      const sets = clip.sets.map((set) => el("div", {class: "set"}, el("h3", {}, named(set.name)),
        clip.classes.map((name, c) => el("div", {class: "lane"},
          el("span", {title: name}, named(name)),
          el("div", {class: "strip"}, set.probs[c].map((p, k) => {
            const cell = el("i", {title: `${set.starts[k]} to ${set.stops[k]} s: ${p}`});
            cell.style.left = `${100 * set.starts[k] / end}%`;
            cell.style.width = `${100 * (set.stops[k] - set.starts[k]) / end}%`;
            cell.style.background = `rgba(var(--cell), ${p})`;
            return cell;
          }))))));
      const [sound, picture] = player(clip.sound, end);
      return el("div", {class: "clip"}, el("h3", {}, named(clip.key)),
        clip.weak ? el("p", {class: "small soft"}, "weak labels: ",
          clip.weak.map((name) => el("span", {class: "tag"}, named(name)))) : null,
        sound, picture ? el("div", {class: "lane"}, el("span"), picture) : null,
        sets, el("div", {class: "lane"}, el("span"), axis));
    });
    section("timelines", "Labels over time", "What the teacher gave each chunk of a few clips " +
      "whose labels change most: the stronger the colour, the more probable.", clips);
  }
  function samples() {
    if (!facts.samples.length) return;
    const clips = facts.samples.map((clip) => el("div", {class: "clip"},
      el("h3", {}, named(clip.key)),
      el("p", {class: "small"}, "labels: ", clip.labels.map((n) => el("span", {class: "tag true"}, named(n)))),
      player(clip.sound),
      clip.heard.map((said) => el("p", {class: "small"}, named(said.title), ": ",
        said.tags.map(([name, score, isTrue]) => el("span", {class: isTrue ? "tag true" : "tag"},
          named(name), ` ${(100 * score).toFixed(0)} %`))))));
    section("samples", "Clips to play", "Clear mistakes first, then clear successes of the first " +
      "evaluation. Outlined: classes that the clip is labelled with.", clips);
  }

  function config() {
    const found = facts.config;
    if (!found.runs.length) return;
    const names = found.runs.map((run) => el("th", {}, key(run), " ", named(facts.runs[run].name)));
    const rows = (lines) => lines.map(([name, ...values]) => el("tr", {},
      el("td", {class: "name"}, el("code", {}, named(name))), values.map((v) => el("td", {}, named(v)))));
    const one = found.runs.length === 1;
    const heads = [el("th", {class: "name"}, "Key"), one ? el("th", {}, "Default") : null, ...names];
    section("config", "Configuration", one ? "What differs from the defaults." : "What differs between the runs.",
      found.differing.length ? table(heads, rows(found.differing)) : el("p", {}, "No key differs."),
      el("details", {}, el("summary", {}, `Every key (${found.all.length})`),
        table([el("th", {class: "name"}, "Key"), ...names.map((n) => n.cloneNode(true))], rows(found.all))));
  }
  function commands() {
    section("commands", "Commands", null, facts.runs.map((run, i) => el("div", {},
      el("h3", {}, key(i), " ", named(run.name)),
      el("p", {class: "small soft"}, named(run.folder), run.about.map(([k, v]) => `, ${k} ${v}`).join(""),
        run.state ? `; ${run.state[0]}: ${run.state[1]}` : ""),
      run.command ? el("pre", {}, run.command) : el("p", {class: "small"}, "Its command is not recorded."),
      run.changes.length ? el("ul", {class: "small"}, run.changes.map((c) => el("li", {}, named(c)))) : null)),
    el("h3", {}, "This report"), el("pre", {}, facts.command));
  }

  const links = el("nav", {"aria-label": "Sections"});
  page.replaceChildren();
  header();
  for (const draw of [results, events, curves, classes, confused, timelines, samples, config, commands, missing]) draw();
})();
