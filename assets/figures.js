"use strict";
// Live figures and tables of pages: of reports, and of the dashboard.
const tip = document.getElementById("tip");

function el(parent, name, attributes = {}, text) {
  const svg = ["svg", "path", "line", "text", "circle", "polygon", "rect", "g", "title"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}
const dark = matchMedia("(prefers-color-scheme: dark)");
// Dark colours vanish on a dark page: they are mixed with white there.
function shade(hex) {
  const rgb = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
  const light = 0.3 * rgb[0] + 0.6 * rgb[1] + 0.1 * rgb[2];
  return dark.matches && light < 80 ? `rgb(${rgb.map(c => Math.round(c + 0.6 * (255 - c))).join(" ")})` : hex;
}
const show = x => x === null ? "not finite" : Math.abs(x) >= 1e-3 && Math.abs(x) < 1e5 ? String(+x.toPrecision(4)) : x.toExponential(2);

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); }
  return [low, high];
}
// Ticks as in the printed figures: multiples of 1, 2 or 5 times a power of ten, three at least unless they
// would not be whole any more.
function multiples(low, high, whole) {
  const step = n => [1, 2, 5][(n % 3 + 3) % 3] * 10 ** Math.floor(n / 3);
  const all = n => { const list = []; for (let i = Math.ceil(low / step(n)); i * step(n) <= high; i++) list.push(i * step(n)); return list; };
  const rough = (high - low) / 6, least = whole ? 0 : -Infinity;
  let n = Math.floor(3 * Math.log10(rough)) - 1;
  while (step(n) < rough * 0.999) n++;
  n = Math.max(n, least);
  while (n > least && all(n).length < 3) n--;
  return all(n);
}
function logarithmic(low, high) {
  let ticks = multiples(low, high, true).map(d => 10 ** d);
  if (ticks.length < 3)
    for (let d = Math.floor(low); d <= high; d++) for (const m of [2, 5]) if (d + Math.log10(m) > low && d + Math.log10(m) < high) ticks.push(m * 10 ** d);
  return ticks.length < 3 ? multiples(10 ** low, 10 ** high, false) : ticks;
}
// An axis from a to b: where a value lies, and the labelled ones. What is not above zero stands at the lower
// edge of a logarithmic axis, at a label of its own.
function axis(values, kind, a, b, margin) {
  const log = kind === "log", under = log ? values.filter(v => v <= 0) : [];
  let [low, high] = extent(log ? values.filter(v => v > 0).map(Math.log10) : values);
  const empty = !(low <= high);
  if (empty) [low, high] = [0, 1];
  const pad = high > low ? (high - low) * margin : kind === "linear" && low !== 0 ? Math.abs(low) / 10 : 0.5;
  const zero = under.length ? low - (high > low ? 0.12 * (high - low) : 1) : null, lowest = zero === null ? low - pad : low;
  low = (zero ?? low) - pad; high += pad;
  const at = v => { const u = !log ? v : v > 0 ? Math.log10(v) : zero ?? low; return a + (b - a) * (Math.min(Math.max(u, low), high) - low) / (high - low); };
  const label = v => v !== 0 && (Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3) ? (+v.toPrecision(10)).toExponential() : String(+v.toPrecision(10));
  const ticks = empty ? [] : (log ? logarithmic(lowest, high) : multiples(lowest, high, kind === "whole")).map(v => [at(v), label(v)]);
  if (zero !== null) ticks.push([at(0), under.some(v => v < 0) ? "≤ 0" : "0"]);
  const value = px => { const u = low + (px - a) / (b - a) * (high - low); return log ? 10 ** u : u; };
  return {at, value, ticks};
}
// Of many points in one column of the screen, those that shape the line and its band.
function thin(points, column) {
  const kept = new Set();
  for (let start = 0, end; start < points.length; start = end) {
    const here = column(points[start]);
    for (end = start + 1; end < points.length && column(points[end]) === here; end++);
    kept.add(start).add(end - 1);
    for (const k of [1, 2, 3]) {
      let low = start, high = start;
      for (let i = start; i < end; i++) {
        if (points[i][k] < points[low][k]) low = i;
        if (points[i][k] > points[high][k]) high = i;
      }
      kept.add(low).add(high);
    }
  }
  return [...kept].sort((a, b) => a - b).map(i => points[i]);
}

function plot(host, chart) {
  host.querySelector("svg")?.remove();
  host.chart = chart;
  const again = zoom => { host.zoom = zoom; plot(host, host.chart); };
  if (host.zoom) {
    const within = p => p[0] >= host.zoom[0] && p[0] <= host.zoom[1];
    chart = {...chart, series: chart.series.map(s => ({...s, points: s.points.filter(within), crosses: (s.crosses || []).filter(within)}))};
  }
  const W = 520, H = 340, L = 64, R = 14, T = 12, B = 44, PITCH = 11;
  const svg = el(host, "svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": chart.y});
  const ok = v => v !== null && Number.isFinite(v);
  const points = chart.series.flatMap(s => s.points), seen = points.filter(p => ok(p[1]));
  const crosses = chart.series.flatMap(s => s.crosses || []);
  const x = axis([...points, ...crosses].map(p => p[0]), chart.xkind, L, W - R, 0.03);
  const heights = seen.map(p => p[1]);
  if (!chart.ylog && heights.length) {
    // Bands are shown too, if they are not much wider than what the means span.
    const [low, high] = extent(heights), room = (high - low) / 4;
    for (const p of seen) for (const v of [p[2], p[3]]) if (ok(v)) heights.push(Math.min(Math.max(v, low - room), high + room));
  }
  // What diverged is outside of the scale: in a strip at the bad end of the y axis, one above the other.
  const under = (nth, vx) => chart.series.slice(0, nth).filter(s => s.crosses?.some(c => c[0] === vx)).length;
  const rows = Math.max(0, ...chart.series.map((s, nth) => (s.crosses || []).reduce((most, c) => Math.max(most, 1 + under(nth, c[0])), 0)));
  const strip = rows && PITCH * rows + 6;
  const [top, bottom] = chart.top ? [T + strip, H - B] : [T, H - B - strip];
  const y = axis(heights, chart.ylog ? "log" : "linear", bottom, top, 0.06);
  if (rows) {
    const edge = chart.top ? top : bottom;
    el(svg, "line", {class: "grid", x1: L, x2: W - R, y1: edge, y2: edge});
    el(svg, "text", {x: L - 6, y: edge + (chart.top ? -strip : strip) / 2 + 4, "text-anchor": "end"}, "diverged");
  }
  for (const [at, label] of x.ticks) {
    el(svg, "line", {class: "grid", x1: at, x2: at, y1: T, y2: H - B});
    el(svg, "text", {x: at, y: H - B + 16, "text-anchor": "middle"}, label);
  }
  for (const [at, label] of y.ticks) {
    el(svg, "line", {class: "grid", x1: L, x2: W - R, y1: at, y2: at});
    el(svg, "text", {x: L - 6, y: at + 4, "text-anchor": "end"}, label);
  }
  el(svg, "text", {x: (L + W - R) / 2, y: H - 8, "text-anchor": "middle"}, chart.x);
  el(svg, "text", {transform: `translate(14 ${(T + H - B) / 2}) rotate(-90)`, "text-anchor": "middle"}, chart.y);
  if (!seen.length) el(svg, "text", {x: (L + W - R) / 2, y: (top + bottom) / 2, "text-anchor": "middle"}, "no finite value");
  const spots = [], marked = [];
  chart.series.forEach((s, nth) => {
    const parts = [[]];
    for (const p of s.points) ok(p[1]) ? parts.at(-1).push(p) : parts.push([]);
    const drawn = parts.filter(part => part.length).map(part => thin(part, p => Math.round(x.at(p[0]))));
    for (const part of drawn) {
      const line = (list, k) => list.map(p => `${x.at(p[0])} ${y.at(p[k] ?? p[1])}`).join("L");
      if (part.some(p => p[2] !== null && p[3] !== null && p[2] < p[3]))
        el(svg, "path", {d: `M${line(part, 3)}L${line([...part].reverse(), 2)}Z`, fill: s.colour, opacity: 0.16});
      el(svg, "path", {d: `M${line(part, 1)}`, fill: "none", stroke: s.colour, "stroke-width": 1.8, ...(s.dashed ? {"stroke-dasharray": "5 4"} : {})});
    }
    const shown = drawn.flat();
    const every = shown.length > 16 ? Math.ceil(shown.length / 8) : 1;
    let turn = 0;
    shown.forEach((p, i) => {
      spots.push([x.at(p[0]), y.at(p[1]), `${s.name}\n${chart.x}: ${show(p[0])}\n${chart.y}: ${show(p[1])}` + (p[3] > p[2] ? `\n[${show(p[2])}, ${show(p[3])}]` : "")]);
      if (s.dashed || (i - nth) % every) return;
      // Where lines coincide, their markers take turns.
      const place = [x.at(p[0]), y.at(p[1])], near = marked.filter(m => Math.hypot(m[0] - place[0], m[1] - place[1]) < 1.5).length;
      marked.push(place);
      if (turn++ % (1 + near)) return;
      const outline = scale => s.marker.map(([dx, dy]) => `${place[0] + 4.4 * scale * dx},${place[1] + 4.4 * scale * dy}`).join(" ");
      el(svg, "polygon", {points: outline(1), fill: s.colour, class: "halo"});
      if (s.hollow) el(svg, "polygon", {points: outline(s.hollow), class: "hole"});
    });
    const lost = (s.crosses || []).map(([vx]) => {
      const into = 8 + PITCH * under(nth, vx);
      return [x.at(vx), chart.top ? T + into : H - B - into, vx];
    });
    // Dotted lines join it to what is beside it.
    const all = [...s.points.filter(p => ok(p[1])).map(p => [x.at(p[0]), y.at(p[1])]), ...lost].sort((a, b) => a[0] - b[0]);
    all.slice(1).forEach((to, i) => {
      if (to.length === 3 || all[i].length === 3)
        el(svg, "path", {class: "joint", d: `M${all[i][0]} ${all[i][1]}L${to[0]} ${to[1]}`, stroke: s.colour, "stroke-width": 1.2, "stroke-dasharray": "1 4", "stroke-linecap": "round"});
    });
    for (const [px, py, vx] of lost) {
      el(svg, "path", {class: "cross", d: `M${px - 4} ${py - 4}l8 8m0 -8l-8 8`, stroke: s.colour, "stroke-width": 2});
      spots.push([px, py, `${s.name}\n${chart.x}: ${show(vx)}\ndiverged`]);
    }
  });
  const place = event => { const box = svg.getBoundingClientRect(); return [(event.clientX - box.left) * W / box.width, (event.clientY - box.top) * H / box.height]; };
  // Dragging over a part of the x axis shows that part alone, a double click all of it.
  let from = null, zone = null;
  svg.addEventListener("mousedown", event => { if (event.button === 0) { from = place(event)[0]; event.preventDefault(); } });
  svg.addEventListener("dblclick", () => again(null));
  const released = event => {
    if (from === null) return;
    const [low, high] = [from, place(event)[0]].sort((a, b) => a - b);
    from = null; zone?.remove(); zone = null;
    if (high - low > 8) again([x.value(Math.max(low, L)), x.value(Math.min(high, W - R))]);
  };
  svg.addEventListener("mouseup", released);
  svg.addEventListener("mousemove", event => {
    const [mx, my] = place(event);
    if (from !== null) {
      zone ??= el(svg, "rect", {class: "zone", y: T, height: H - B - T});
      zone.setAttribute("x", Math.min(from, mx)); zone.setAttribute("width", Math.abs(mx - from));
    }
    let best = null, distance = 24;
    for (const spot of spots) { const d = Math.hypot(spot[0] - mx, spot[1] - my); if (d < distance) [best, distance] = [spot, d]; }
    tip.style.display = best ? "block" : "none";
    if (best) { tip.textContent = best[2]; tip.style.left = `${Math.min(event.clientX + 14, innerWidth - 220)}px`; tip.style.top = `${event.clientY + 14}px`; }
  });
  svg.addEventListener("mouseleave", event => { tip.style.display = "none"; released(event); });
}

function save(name, type, text) {
  const link = el(document.body, "a", {href: URL.createObjectURL(new Blob([text], {type})), download: name});
  link.click(); link.remove();
}
// A figure by itself: colours that the page's style names become plain ones.
function image(svg) {
  const copy = svg.cloneNode(true), style = getComputedStyle(document.documentElement), part = name => style.getPropertyValue(name).trim();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  el(copy, "title", {}, svg.getAttribute("aria-label"));
  copy.style.cssText = `background:${part("--paper")};font-family:sans-serif`;
  for (const node of copy.querySelectorAll("text")) node.setAttribute("style", `fill:${part("--ink")};font-size:12px`);
  for (const node of copy.querySelectorAll(".grid")) node.setAttribute("stroke", part("--line"));
  for (const node of copy.querySelectorAll(".hole")) node.setAttribute("fill", part("--paper"));
  for (const node of copy.querySelectorAll("[stroke='var(--soft)']")) node.setAttribute("stroke", part("--soft"));
  return new XMLSerializer().serializeToString(copy);
}
function table(chart) {
  const field = v => v === null || v === undefined ? "" : /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v);
  const rows = chart.series.flatMap(s => s.points.map(p => [s.name, ...p.slice(0, 4)]));
  return [["series", chart.x, chart.y, "low", "high"], ...rows].map(row => row.map(field).join(",") + "\n").join("");
}

// Columns of numbers by their first number, others by their letters.
function sortable(whole) {
  whole.classList.add("sortable");
  const body = whole.tBodies[0], heads = [...whole.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = row => row.cells[column].textContent.trim(), number = row => parseFloat(text(row));
      const words = row => !Number.isFinite(number(row));
      const order = (a, b) => words(a) - words(b) || (words(a) ? text(a).localeCompare(text(b)) : number(a) - number(b));
      body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}

// The figures of an experiment, in its section; what `rankBy` says is best.
function figures(section, e, rankBy) {
  const live = section.querySelector(".live");
  const off = new Set(), picked = new Set();
  const last = (s, m) => s.curves[m].mean.at(-1);
  const rises = m => e.accuracy && m.endsWith("score");
  const bar = el(live, "div", {class: "bar"});
  const pick = el(el(bar, "label", {}, "Metric "), "select", {class: "metric"});
  e.metrics.forEach(m => el(pick, "option", {value: m.name}, m.label));
  const metric = name => e.metrics.find(m => m.name === name), rank = metric(rankBy);
  pick.value = metric("val_score") ? "val_score" : e.metrics[0].name;
  const log = el(el(bar, "label"), "input", {type: "checkbox", class: "log"});
  log.after(" log y");
  for (const m of e.methods) {
    const label = el(bar, "label");
    const box = el(label, "input", {type: "checkbox", class: "method", value: m.name});
    box.checked = true;
    el(label, "span", {class: "dot", style: `background:${shade(m.colour)}`});
    label.append(m.label);
    const best = ranked(m)[0];
    if (best) el(label, "span", {class: "soft"}, ` ${best.label}`);
    box.addEventListener("change", () => { box.checked ? off.delete(m) : off.add(m); draw(); });
  }
  const choice = el(live, "details", {class: "choice"});
  el(choice, "summary", {}, "Curves of more settings");
  e.settings.forEach(s => {
    const label = el(choice, "label"), box = el(label, "input", {type: "checkbox", class: "setting", value: s.id});
    label.append(` ${e.methods.find(m => m.name === s.method).label}, ${s.label}${s.diverged ? " (diverged)" : ""}`);
    box.addEventListener("change", () => { box.checked ? picked.add(s) : picked.delete(s); draw(); });
  });
  const plots = el(live, "div", {class: "plots"});
  const figure = text => {
    const f = el(plots, "figure"), caption = el(f, "figcaption"), name = `${e.name}-${plots.children.length}`.replace(/[^\p{L}\p{N}_-]+/gu, "_");
    el(caption, "span", {}, text);
    el(caption, "button", {type: "button", class: "svg"}, "SVG").addEventListener("click", () => save(`${name}.svg`, "image/svg+xml", image(f.querySelector("svg"))));
    el(caption, "button", {type: "button", class: "csv"}, "CSV").addEventListener("click", () => save(`${name}.csv`, "text/csv", table(f.chart)));
    return f;
  };
  const curves = figure(`Best setting of every method by ${rank.label}`);
  const stability = figure("Last epoch over the learning rate; × diverged");
  const steps = e.settings.some(s => s.steps) ? figure("Adaptive step sizes: median, 10th to 90th percentile; dashed: the learning rate that caps them") : null;
  const logged = e.logged.length ? figure("Logged steps of the best settings ") : null;
  const quantity = logged && el(logged.querySelector("figcaption span"), "select", {class: "logged", "aria-label": "What was logged"});
  e.logged.forEach(name => el(quantity, "option", {value: name}, name));
  // What was trained for less is not ranked; what diverged comes last.
  function ranked(x) {
    const m = rank.name, up = rises(m), worse = up ? -Infinity : Infinity, value = s => last(s, m) ?? worse;
    const better = (a, b) => up ? value(b) - value(a) : value(a) - value(b);
    return e.settings.filter(s => s.method === x.name && s.whole && s.curves[m].mean.length).sort((a, b) => a.diverged - b.diverged || better(a, b) || 0);
  }
  function draw() {
    const {name: m, label: y, factor} = metric(pick.value), up = rises(m);
    const shown = e.methods.filter(x => !off.has(x)).map(x => ({...x, name: x.label, method: x, colour: shade(x.colour)}));
    const scaled = p => [p[0], ...p.slice(1).map(v => v === null ? v : v * factor)];
    const band = (v, s) => v === null ? [null, null] : [v - (s ?? 0), v + (s ?? 0)];
    const best = x => ranked(x.method).slice(0, 1);
    const chosen = x => [...best(x), ...e.settings.filter(s => s.method === x.method.name && picked.has(s) && !best(x).includes(s))];
    plot(curves, {x: "Epoch", xkind: "whole", y, ylog: log.checked, series: shown.flatMap(x => chosen(x).map((s, nth) => {
      const c = s.curves[m];
      return {...x, name: `${x.name}, ${s.label}${s.diverged ? " (diverged)" : ""}`, dashed: nth > 0, points: s.epochs.slice(0, c.mean.length).map((n, i) => scaled([n, c.mean[i], ...band(c.mean[i], c.std[i])]))};
    }))});
    if (logged) {
      const name = quantity.value;
      plot(logged, {x: "Step", xkind: "whole", y: name, ylog: name === "loss", series: shown.flatMap(x => best(x).map(s => ({
        ...x, name: `${x.name}, ${s.label}`, points: (s.logged[name] || []).map(([n, mean, std]) => [n, mean, ...band(mean, std)])})))});
    }
    // A line's settings differ in the learning rate alone.
    const lines = x => {
      const found = new Map();
      for (const s of ranked(x.method)) if (s.lr !== null) found.set(s.line, [...(found.get(s.line) || []), s]);
      return [...found].map(([line, all], nth) => ({...x, name: line ? `${x.name}, ${line}` : x.name, dashed: nth > 0, all: all.sort((a, b) => a.lr - b.lr)}));
    };
    const has = s => s.curves[m].mean.length, lost = s => s.diverged || last(s, m) === null;
    plot(stability, {x: "Learning rate", y, xkind: "log", ylog: log.checked, top: !up, series: shown.flatMap(lines).map(({all, ...line}) => {
      return {...line,
        points: all.filter(s => has(s) && !lost(s)).map(s => scaled([s.lr, last(s, m), ...band(last(s, m), s.curves[m].std.at(-1))])),
        crosses: all.filter(s => has(s) && lost(s)).map(s => [s.lr])};
    })});
    if (steps) {
      const series = shown.flatMap(lines).map(({all, ...line}) => ({...line, points: all.filter(s => s.steps).map(s => [s.lr, ...s.steps])})).filter(s => s.points.length);
      const rates = series.flatMap(s => s.points.map(p => p[0]));
      if (rates.length) series.push({name: "learning rate", colour: "var(--soft)", dashed: true, points: extent(rates).map(r => [r, r, r, r])});
      plot(steps, {x: "Learning rate", y: "Adaptive step size", xkind: "log", ylog: true, series});
    }
  }
  const logByDefault = () => pick.value.endsWith("loss") || (pick.value.endsWith("score") && !e.accuracy);
  log.checked = logByDefault();
  pick.addEventListener("change", () => { log.checked = logByDefault(); draw(); });
  quantity?.addEventListener("change", draw);
  log.addEventListener("change", draw);
  section.draw = draw;
  draw();
}
dark.addEventListener("change", () => document.querySelectorAll("section").forEach(section => section.draw?.()));
