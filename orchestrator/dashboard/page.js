// Draws the state that the server sends. All content of a run is set as text, never as markup.
"use strict";
const token = new URLSearchParams(location.search).get("token");
const place = document.getElementById("runs"), live = document.getElementById("live");

const make = (name, text, kind) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const figure = (value) => value === null ? "-" : value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
const dollars = (value) => value >= 1 ? value.toFixed(2) : value === 0 ? "0" : Number(value.toPrecision(3)).toString();
const span = (s) => s < 60 ? `${Math.round(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;

function line(speeds) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const most = Math.max(...speeds.map(([, v]) => v)) || 1, last = Math.max(1, speeds.length - 1);
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "images per second so far");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  path.setAttribute("points", speeds.map(([, v], i) => `${(100 * i / last).toFixed(1)},${(23 - 22 * v / most).toFixed(1)}`).join(" "));
  path.setAttribute("vector-effect", "non-scaling-stroke");
  svg.append(path);
  return svg;
}

function card(run) {
  const article = make("article"), left = make("div"), head = make("h2", run.run);
  head.append(make("span", run.state, `state ${run.state}`));
  left.append(head, make("p", [run.where, run.device, run.cloud].filter(Boolean).join(" · "), "where"));
  if (run.notice_ends_at) left.append(make("p", `interruption notice: AWS ends the instance at ${run.notice_ends_at.slice(11, 19)} UTC`, "notice"));
  if (run.reason) left.append(make("p", run.reason, "reason"));
  if (!run.is_led) left.append(make("p", `no process leads this run: pixel-orch attach ${run.run}`, "notice"));
  if (run.steps) {
    const bar = make("progress");
    bar.max = run.steps;
    bar.value = Math.min(run.step, run.steps);
    bar.setAttribute("aria-label", `step ${run.step} of ${run.steps}`);
    left.append(bar);
  }
  const list = make("dl");
  const say = (name, value) => { const group = make("div"); group.append(make("dt", name), make("dd", value)); list.append(group); };
  say("step", run.steps ? `${run.step.toLocaleString("en")} / ${run.steps.toLocaleString("en")}` : run.step ? run.step.toLocaleString("en") : "-");
  say("images/s", figure(run.images_per_s));
  say(run.budget_usd === null ? "$ so far" : "$ of budget", (run.usd_is_estimate ? "~" : "") + dollars(run.usd) +
    (run.budget_usd === null ? "" : ` / ${dollars(run.budget_usd)}`));
  say("time", span(run.seconds));
  say("attempts", `${run.attempts}` + (run.interruptions ? ` (${run.interruptions} interrupted)` : ""));
  left.append(list);
  if (run.speeds.length > 1) left.append(line(run.speeds));
  article.append(left);
  if (run.samples) {
    const box = make("figure"), image = make("img");
    image.src = `/samples/${encodeURIComponent(run.run)}/${encodeURIComponent(run.samples)}?token=${encodeURIComponent(token)}`;
    image.alt = `newest sample images of ${run.run}`;
    box.append(image, make("figcaption", run.samples.replace(/^samples-(\d+)\.png$/, "step $1")));
    article.append(box);
  }
  const events = make("ul");
  for (const event of run.events) {
    const item = make("li");
    item.append(make("time", event.at.slice(11, 19)), event.words);
    events.append(item);
  }
  article.append(events);
  return article;
}

const source = new EventSource(`/events?token=${encodeURIComponent(token)}`);
source.onmessage = (message) => {
  const seen = JSON.parse(message.data);
  place.replaceChildren(...seen.runs.map(card));
  if (!seen.runs.length) place.append(make("p", "No runs yet.", "none"));
  if (seen.others) place.append(make("p", `${seen.others} older run${seen.others === 1 ? "" : "s"}: pixel-orch report`, "none"));
  live.textContent = `${seen.going} open, $${dollars(seen.usd)} for the runs shown, as of ${seen.now.slice(11, 19)} UTC`;
};
source.onerror = () => { live.textContent = "disconnected: the dashboard has stopped, or the page is reconnecting"; };
