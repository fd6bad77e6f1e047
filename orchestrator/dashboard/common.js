// What all pages use. Whatever a run says is set as text, never as markup; nodes are changed in place, so that a
// selection, a focus and a scroll position survive an update.
"use strict";
const asked = new URLSearchParams(location.search);
const token = asked.get("token") || "";
const find = (id) => document.getElementById(id);
const address = (words, more = []) =>
  `/${words.map(encodeURIComponent).join("/")}?${new URLSearchParams([...more, ["token", token]])}`;
const NAME = /^[a-z0-9][a-z0-9-]{0,39}$/;

const make = (name, kind, text) => {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  if (text !== undefined) node.append(text);
  return node;
};
/** Set the text of a node that holds nothing else; the text node stays, and so does a selection in it. */
const put = (node, text) => {
  const said = String(text);
  if (node.childNodes.length !== 1 || node.firstChild.nodeType !== Node.TEXT_NODE) node.replaceChildren(said);
  else if (node.firstChild.data !== said) node.firstChild.data = said;
};
const set = (node, name, value) => {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
};
const kind = (node, words) => { if (node.className !== words) node.className = words; };

/** Make the children of a node those of the items; a child is kept as long as its key is there. */
function keyed(parent, items, keyOf, create, update) {
  const had = parent.keyed || new Map(), now = new Map();
  for (const item of items) now.set(keyOf(item), item);
  for (const [key, node] of had) if (!now.has(key)) { node.remove(); had.delete(key); }
  let at = parent.firstChild;
  for (const [key, item] of now) {
    let node = had.get(key);
    if (!node) { node = create(item); had.set(key, node); }
    update(node, item);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  parent.keyed = had;
}
/** Whether something in a node is selected or has the focus: then nothing in it is moved. */
const isHeld = (node) => {
  const chosen = getSelection();
  return (!chosen.isCollapsed && node.contains(chosen.anchorNode)) || (document.activeElement !== node && node.contains(document.activeElement));
};

const whole = (value) => value.toLocaleString("en");
const figure = (value) => {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (value !== 0 && (size >= 1e7 || size < 1e-4)) return value.toExponential(2).replace("e+", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(4)).toString();
};
const dollars = (value) => value >= 0.1 ? value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })
  : value === 0 ? "0" : Number(Math.max(value, 1e-4).toPrecision(2)).toString();
const money = (value) => `${value > 0 && value < 1e-4 ? "<" : ""}$${dollars(value)}`;
const span = (s) => s < 60 ? `${Math.round(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 172800 ? `${(s / 3600).toFixed(1)} h`
  : `${(s / 86400).toFixed(1)} d`;
const bytes = (count) => count < 1000 ? `${count} B` : count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : count < 1e9 ? `${(count / 1e6).toFixed(1)} MB`
  : `${(count / 1e9).toFixed(2)} GB`;
const moment = (unix) => new Date(1000 * unix).toISOString();
const clock = (text) => text.slice(11, 19);
const day = (text) => text && !text.startsWith("1970") ? `${text.slice(0, 10)} ${text.slice(11, 16)}` : "-";
const speed = (run) => run.images_per_s !== null ? `${figure(run.images_per_s)} images/s`
  : run.steps_per_s === null ? "-" : run.steps_per_s >= 1 ? `${figure(run.steps_per_s)} ${run.unit}s/s` : `${figure(1 / run.steps_per_s)} s/${run.unit}`;
const cost = (run) => (run.usd_is_estimate && run.state !== "UNREADABLE" ? "~" : "") + money(run.usd);
const share = (run) => run.steps ? Math.min(1, run.step / run.steps) : null;
const count = (number, what) => `${whole(number)} ${what}${number === 1 ? "" : "s"}`;

/** Follow a stream of changes. A page that is not seen gives its connection back: a browser has six of them. */
function follow(url, use) {
  const live = find("live"), now = find("now");
  let source = null, seen = {};
  const open = () => {
    source = new EventSource(url);
    source.onmessage = (message) => {
      const changed = JSON.parse(message.data);
      seen = changed.whole ? changed : { ...seen, ...changed };
      put(live, "live");
      kind(live, "on");
      put(now, `${clock(seen.now)} UTC`);
      use(seen, changed);
    };
    source.onerror = () => { put(live, "disconnected: the dashboard has ended, or the page is reconnecting"); kind(live, "off"); };
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && source) { source.close(); source = null; } else if (!document.hidden && !source) open();
  });
  open();
}
async function get(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}
const all = find("all");
if (all) all.href = address([""]);
