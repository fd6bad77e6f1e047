// The machines of a run over time, and under them what each one cost an hour.
const ROW = 26, PRICES = 84, MOST_ROWS = 16, FOOT = 22;

function axisTimes(from, to, most) {
  const steps = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];
  const step = steps.find((one) => (to - from) / one <= most) || (to - from) / most, found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return { step, found };
}
const timeWords = (at, step, span_) => step >= 86400 ? moment(at).slice(5, 10) : span_ > 86400 ? moment(at).slice(5, 16).replace("T", " ") : moment(at).slice(11, step < 60 ? 19 : 16);

// The longest name of a machine that has room, its place, and whether it is in the bar or ends before it.
function labelOf(one, { x1, first, x2, width }) {
  const type = one.nodes > 1 ? `${one.nodes} x ${one.type}` : one.type, dot = one.nodes > 1 ? ":" : "";
  for (const label of [`${one.number}${dot}  ${type} ${one.zone}`, `${one.number}${dot}  ${type}`, `${one.number}`]) {
    const room = 6.6 * label.length + 12;
    if (x2 - first > room) return [label, first + 7, "in"];
    if (x2 + room <= width) return [label, x2 + 8, ""];
    if (x1 >= room) return [label, x1, "end"];
    if (first - x1 > room) return [label, x1 + 7, ""];
  }
  return ["", x2, ""];
}

class Timeline {
  constructor(place) {
    this.place = place;
    this.svg = shape("svg", { role: "img", "aria-label": "machines over time" });
    this.grid = shape("g"); this.bars = shape("g"); this.prices = shape("g");
    this.svg.append(this.grid, this.bars, this.prices);
    place.append(this.svg);
    this.attempts = [];
    new ResizeObserver(() => this.draw()).observe(place);
  }
  update(attempts, now) { this.attempts = attempts; this.now = now; this.draw(); }

  draw() {
    const shown = this.attempts.slice(-MOST_ROWS);
    set(this.svg, "visibility", shown.length ? null : "hidden");
    if (!shown.length) { set(this.svg, "height", 0); return; }
    const width = Math.max(260, Math.floor(this.place.clientWidth)), left = 48, right = 10;
    const end = (one) => one.ended_at ?? Math.max(this.now, one.started_at);
    const from = Math.min(...shown.map((one) => one.started_at)), to = Math.max(...shown.map(end), from + 1);
    const x = (at) => left + (width - left - right) * (Math.min(Math.max(at, from), to) - from) / (to - from);
    const middle = shown.length * ROW + 10, height = middle + PRICES + FOOT;
    set(this.svg, "viewBox", `0 0 ${width} ${height}`); set(this.svg, "width", width); set(this.svg, "height", height);
    const top = Math.max(...shown.flatMap((one) => one.prices.map(([, usd]) => usd)), 1e-9) * 1.15;
    const y = (usd) => middle + 12 + (PRICES - 12) * (1 - usd / top);
    const parts = [], { step, found } = axisTimes(from, to, Math.max(2, Math.floor(width / (to - from > 86400 ? 120 : 80))));
    for (const usd of ticks(0, top, 4)) {
      parts.push(shape("line", { class: "grid", x1: left, x2: width - right, y1: y(usd).toFixed(1), y2: y(usd).toFixed(1) }));
      parts.push(shape("text", { x: left - 7, y: (y(usd) + 3.5).toFixed(1), "text-anchor": "end" }, `$${short(usd)}`));
    }
    const apart = (width - left - right) * step / (to - from);
    for (const at of found) {
      parts.push(shape("line", { class: "grid", x1: x(at).toFixed(1), x2: x(at).toFixed(1), y1: 0, y2: height - FOOT }));
      const words = timeWords(at, step, to - from), isLast = x(at) > width - 40;
      if (isLast && apart < 9 * words.length + 8) continue; // it would cover the one before
      parts.push(shape("text", { x: x(at).toFixed(1), y: height - 6, "text-anchor": isLast ? "end" : "middle" }, words));
    }
    parts.push(shape("text", { x: width - right, y: middle + 9, "text-anchor": "end", class: "unit" }, "$ an hour"));
    this.grid.replaceChildren(...parts);
    keyed(this.bars, shown, (one) => one.number, () => this.bar(), (node, one) => {
      const at = shown.indexOf(one) * ROW + 4, x1 = x(one.started_at), x2 = Math.max(x1 + 3, x(end(one))), first = one.first_step_at === null ? x2 : Math.min(x2, Math.max(x1, x(one.first_step_at)));
      const [title, boot, work, stop, words] = node.children;
      put(title, `attempt ${one.number}: ${one.nodes > 1 ? `${one.nodes} x ` : ""}${one.type} ${one.market} in ${one.zone}, ${span(one.seconds)}, ${money(one.usd)}${one.why ? `, ${one.why}` : ""}`);
      const box = (rect, a, b) => { set(rect, "x", a.toFixed(1)); set(rect, "width", Math.max(0, b - a).toFixed(1)); set(rect, "y", at); set(rect, "height", ROW - 8); };
      box(boot, x1, first);
      box(work, first, x2);
      set(node, "class", `bar c${1 + (one.number - 1) % 6}`);
      set(stop, "d", one.is_interrupted ? `M${(x2 - 1).toFixed(1)} ${at - 3}v${ROW - 2}m-5 ${2 - ROW}h10l-5 7z` : null);
      const [label, place, how] = labelOf(one, { x1, first, x2, width });
      set(words, "x", (how === "end" ? x1 - 6 : place).toFixed(1));
      set(words, "y", at + 13);
      set(words, "text-anchor", how === "end" ? "end" : "start");
      set(words, "class", how === "in" ? "label in" : "label");
      put(words, label);
    });
    keyed(this.prices, shown, (one) => one.number, () => shape("path"), (path, one) => {
      let text = "";
      one.prices.forEach(([at, usd], i) => { text += i ? `H${x(at).toFixed(1)}V${y(usd).toFixed(1)}` : `M${x(at).toFixed(1)} ${y(usd).toFixed(1)}`; });
      set(path, "d", `${text}H${Math.max(x(end(one)), x(one.started_at) + 3).toFixed(1)}`);
      set(path, "class", `line c${1 + (one.number - 1) % 6}`);
    });
    set(this.svg, "aria-label", `${count(shown.length, "attempt")} over time, the table below has the same: ${shown.map((one) => `${one.number} ${one.type} ${span(one.seconds)}`).join(", ")}`.slice(0, 500));
  }
  bar() {
    const node = shape("g");
    node.append(shape("title"), shape("rect", { class: "boot", rx: 3 }), shape("rect", { class: "work", rx: 3 }), shape("path", { class: "stop" }), shape("text"));
    return node;
  }
}
