// Line charts as SVG, at the width that there is. A chart is also a slider: arrow keys move its cursor over the steps.
const SVG = "http://www.w3.org/2000/svg";
const shape = (name, attributes = {}, text) => {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.append(text);
  return node;
};
/** Round values from low to high, at most `most` of them. */
function ticks(low, high, most) {
  const raw = (high - low) / Math.max(1, most), size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= raw * 0.999) || raw;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9 && found.length < 20; at += 1) found.push(Number((at * step).toPrecision(12)));
  return found;
}
const short = (value) => {
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(3))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return value !== 0 && size < 1e-4 ? value.toExponential(1) : Number(value.toPrecision(4)).toString();
};
/** The place of the last step that is not after `step`, at least 0. */
function placeOf(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) { const middle = (low + high + 1) >> 1; if (steps[middle] <= step) low = middle; else high = middle - 1; }
  return low;
}
const HEIGHT = 190, LEFT = 48, RIGHT = 12, TOP = 14, BOTTOM = 24;

class Chart {
  constructor(title) {
    this.title = title;
    this.lines = [];
    this.marks = [];
    this.unit = "step";
    this.isLog = false;
    this.cursor = null;
    this.node = make("figure", "chart");
    const caption = make("figcaption");
    this.readout = make("output", "readout");
    caption.append(make("h3", "", title), this.readout);
    this.svg = shape("svg", { tabindex: "0", role: "slider", "aria-label": `${title}, by step`, "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0" });
    this.legend = make("ul", "legend");
    this.node.append(caption, this.svg, this.legend);
    this.grid = shape("g"); this.paths = shape("g"); this.flags = shape("g"); this.dots = shape("g");
    this.hair = shape("line", { class: "hair", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.svg.append(this.grid, this.flags, this.paths, this.hair, this.dots);
    this.svg.addEventListener("pointermove", (event) => this.point(this.stepAt(event.clientX - this.svg.getBoundingClientRect().left)));
    this.svg.addEventListener("pointerleave", () => { if (document.activeElement !== this.svg) this.point(null); });
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  /** Show lines: {label, color (1 to 6), dash, steps, values}; and marks: {step, words}. */
  update(lines, marks, unit, isLog) {
    this.lines = lines;
    this.marks = marks;
    this.unit = unit;
    this.isLog = isLog;
    keyed(this.legend, lines, (line) => line.label, (line) => {
      const item = make("li"), sign = shape("svg", { viewBox: "0 0 18 8", width: 18, height: 8, "aria-hidden": "true" });
      sign.append(shape("line", { x1: 0, x2: 18, y1: 4, y2: 4 }));
      item.append(sign, make("span", "what", line.label), make("b"));
      return item;
    }, (item, line) => {
      kind(item, `c${line.color} ${line.dash ? "dash" : ""}`);
    });
    this.draw();
  }

  scale() {
    let left = Infinity, right = -Infinity, low = Infinity, high = -Infinity;
    for (const { steps, values } of this.lines) for (let i = 0; i < steps.length; i += 1) {
      if (this.isLog && values[i] <= 0) continue;
      left = Math.min(left, steps[i]); right = Math.max(right, steps[i]);
      low = Math.min(low, values[i]); high = Math.max(high, values[i]);
    }
    if (left === Infinity) { left = 0; right = 1; low = this.isLog ? 1 : 0; high = this.isLog ? 10 : 1; }
    for (const mark of this.marks) right = Math.max(right, Math.min(mark.step, right * 1.5));
    if (right === left) { right += 1; left = Math.max(0, left - 1); }
    if (this.isLog) { low = Math.log10(low); high = Math.log10(high); }
    const room = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
    Object.assign(this, { left, right, low: low - room, high: high + room });
  }
  x(step) { return LEFT + (this.width - LEFT - RIGHT) * (step - this.left) / (this.right - this.left); }
  y(value) { return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ((this.isLog ? Math.log10(value) : value) - this.low) / (this.high - this.low); }
  stepAt(x) { return this.left + (this.right - this.left) * (x - LEFT) / (this.width - LEFT - RIGHT); }

  draw() {
    this.width = Math.max(220, Math.floor(this.node.clientWidth) - 24);
    set(this.svg, "viewBox", `0 0 ${this.width} ${HEIGHT}`);
    set(this.svg, "width", this.width);
    set(this.svg, "height", HEIGHT);
    this.scale();
    this.axes();
    keyed(this.paths, this.lines, (line) => line.label, () => shape("path"), (path, line) => {
      set(path, "class", `line c${line.color} ${line.steps.length === 1 ? "one" : line.dash ? "dash" : ""}`);
      let text = "", isOpen = false;
      for (let i = 0; i < line.steps.length; i += 1) {
        if (this.isLog && line.values[i] <= 0) { isOpen = false; continue; }
        text += `${isOpen ? "L" : "M"}${this.x(line.steps[i]).toFixed(1)} ${this.y(line.values[i]).toFixed(1)}`;
        isOpen = true;
      }
      set(path, "d", line.steps.length === 1 && text ? `${text}h.01` : text || null);
    });
    const inside = this.marks.filter((mark) => mark.step >= this.left && mark.step <= this.right);
    keyed(this.flags, inside, (mark) => mark.words, (mark) => {
      const flag = shape("g", { class: "flag" });
      flag.append(shape("title", {}, mark.words), shape("path"), shape("path"));
      return flag;
    }, (flag, mark) => {
      const x = this.x(mark.step).toFixed(1);
      set(flag.children[1], "d", `M${x} ${TOP}V${HEIGHT - BOTTOM}`);
      set(flag.children[2], "d", `M${x - 4} ${TOP - 9}h8l-4 8z`);
      set(flag.children[2], "class", "tip");
    });
    this.point(this.cursor);
  }

  axes() {
    const few = Math.max(2, Math.floor(this.width / 62)), across = ticks(this.left, this.right, few);
    let up = ticks(this.low, this.high, 5);
    if (this.isLog) {
      const decades = up.filter((one) => Number.isInteger(one));
      up = decades.length > 1 ? decades : up;
    }
    const wanted = JSON.stringify([this.width, across, up, this.left, this.right, this.low, this.high, this.isLog]);
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    const parts = [];
    for (const value of up) {
      const y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - this.low) / (this.high - this.low);
      parts.push(shape("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y.toFixed(1), y2: y.toFixed(1) }));
      parts.push(shape("text", { x: LEFT - 7, y: (y + 3.5).toFixed(1), "text-anchor": "end" }, short(this.isLog ? 10 ** value : value)));
    }
    for (const step of across.filter(Number.isInteger)) {
      const x = this.x(step), isLast = x > this.width - 40;
      parts.push(shape("line", { class: "tick", x1: x.toFixed(1), x2: x.toFixed(1), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }));
      parts.push(shape("text", { x: isLast ? this.width - 2 : x.toFixed(1), y: HEIGHT - 7, "text-anchor": isLast ? "end" : "middle" }, short(step)));
    }
    parts.push(shape("line", { class: "axis", x1: LEFT, x2: this.width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    this.grid.replaceChildren(...parts);
  }

  /** Move the cursor to a step; null shows the newest values. */
  point(step) {
    this.cursor = step;
    const first = this.longest(), items = [...this.legend.children], dots = [];
    const at = step === null || !first ? null : first.steps[placeOf(first.steps, step)];
    this.lines.forEach((line, number) => {
      if (!line.steps.length || !items[number]) return;
      const place = step === null ? line.steps.length - 1 : placeOf(line.steps, step);
      put(items[number].lastChild, figure(line.values[place]));
      const isInside = step !== null && line.steps[0] <= step && (!this.isLog || line.values[place] > 0);
      if (isInside) dots.push({ line, x: this.x(line.steps[place]), y: this.y(line.values[place]) });
    });
    keyed(this.dots, dots, (dot) => dot.line.label, () => shape("circle", { r: 3.5 }), (node, dot) => {
      set(node, "class", `dot c${dot.line.color}`);
      set(node, "cx", dot.x.toFixed(1));
      set(node, "cy", dot.y.toFixed(1));
    });
    set(this.hair, "visibility", at === null ? "hidden" : "visible");
    const last = first ? first.steps[first.steps.length - 1] : 0, shown = at ?? last;
    if (at !== null) { const x = Math.min(Math.max(this.x(at), LEFT), this.width - RIGHT).toFixed(1); set(this.hair, "x1", x); set(this.hair, "x2", x); }
    put(this.readout, first ? `${this.unit} ${whole(Math.round(shown))}` : "");
    set(this.svg, "aria-valuemin", first ? first.steps[0] : 0);
    set(this.svg, "aria-valuemax", last);
    set(this.svg, "aria-valuenow", Math.round(shown));
    set(this.svg, "aria-valuetext", `${this.unit} ${whole(Math.round(shown))}: ${items.map((item) => `${item.children[1].textContent} ${item.lastChild.textContent}`).join(", ")}`);
  }
  /** The line that goes furthest: its steps are those of the cursor. */
  longest() {
    return this.lines.filter((line) => line.steps.length).sort((a, b) => b.steps[b.steps.length - 1] - a.steps[a.steps.length - 1])[0];
  }
  key(event) {
    const first = this.longest();
    if (!first) return;
    const last = first.steps.length - 1, here = this.cursor === null ? last : placeOf(first.steps, this.cursor);
    const to = { ArrowLeft: here - 1, ArrowDown: here - 1, ArrowRight: here + 1, ArrowUp: here + 1, PageDown: here - 20, PageUp: here + 20, Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.point(null);
    if (to === undefined) return;
    event.preventDefault();
    this.point(first.steps[Math.min(last, Math.max(0, to))]);
  }
}

/** The name of a number without the word that says on which data it was measured; `loss` and `val_loss` share a chart. */
const baseOf = (key) => key.replace(/^(valid|validation|val|eval|test|train)[/_ -]+/i, "") || key;
const isValidation = (key) => /^(valid|validation|val|eval|test)[/_ -]/i.test(key);

/** Draw a chart for each base name; `linesOf` returns the lines of a key. */
function drawCharts(keys, linesOf, marks, unit) {
  const groups = new Map(), words = find("keys").value.trim().toLowerCase(), isLog = find("log-scale").checked;
  const inOrder = [...keys].sort((a, b) => isValidation(a) - isValidation(b));
  for (const key of keys) groups.set(baseOf(key), []);
  for (const key of inOrder) if (key.toLowerCase().includes(words)) groups.get(baseOf(key)).push(key);
  for (const [base, group] of groups) if (!group.length) groups.delete(base);
  keyed(find("charts"), [...groups], ([base]) => base, ([base]) => {
    const chart = new Chart(base);
    chart.node.chart = chart;
    return chart.node;
  }, (node, [, group]) => node.chart.update(linesOf(group), marks, unit, isLog));
  find("no-metrics").hidden = groups.size > 0;
  put(find("no-metrics"), keys.length ? "No metric has this in its name." : "No metrics yet.");
}
