// The page of one run. The server sends what changes; curves and parts of the log are asked for when they have grown.
const run = find("main").dataset.run, timeline = new Timeline(find("timeline"));
const CURVES_EVERY_MS = 2000, MOST_LOG = 600000;
let page = {}, curves = { curves: {} };

// -- head

function head(seen) {
  const row = seen.run, isBroken = row.state === "UNREADABLE";
  find("main").classList.toggle("broken", isBroken);
  document.title = `${row.state === "RUNNING" && share(row) !== null ? `${Math.floor(100 * share(row))} % ` : ""}${run} - pixel-orch`;
  put(find("state"), row.state);
  kind(find("state"), `state ${row.state}`);
  put(find("where"), [seen.work, row.where, row.device, row.cloud].filter(Boolean).join(" · "));
  const notice = row.notice_ends_at ? `Interruption notice: AWS ends ${nodeWords(row)} at ${clock(row.notice_ends_at)} UTC.`
    : row.is_led ? "" : `No process leads this run: pixel-orch attach ${run}`;
  find("notice").hidden = !notice;
  put(find("notice"), notice);
  find("reason").hidden = !row.reason;
  put(find("reason"), row.reason);
  kind(find("reason"), isBroken || row.state === "FAILED" ? "callout bad" : "callout");
  const done = share(row), facts = [];
  const step = row.steps ? `${whole(row.step)} / ${whole(row.steps)}` : row.step ? whole(row.step) : "-";
  facts.push({ name: `${row.unit}s`, value: step, share: done, more: done === null ? "" : `${Math.floor(100 * done)} %${seen.eta_s ? `, ${span(seen.eta_s)} left` : ""}` });
  facts.push({ name: row.budget_usd === null ? "cost" : "cost of the budget", value: cost(row) + (row.budget_usd === null ? "" : ` / ${dollars(row.budget_usd)}`),
    share: row.budget_usd ? Math.min(1, row.usd / row.budget_usd) : null, more: row.budget_usd ? `${Math.round(100 * row.usd / row.budget_usd)} %` : "no budget" });
  facts.push({ name: "speed", value: speed(row), more: row.images_per_s !== null && row.steps_per_s ? `${figure(row.steps_per_s)} ${row.unit}s/s` : "" });
  facts.push({ name: "time", value: span(row.seconds), more: row.created_at ? `since ${day(row.created_at)} UTC` : "" });
  const inAll = row.nodes > 1 ? `${whole(row.machines)} in all, ` : "";
  facts.push({ name: "machines", value: row.nodes > 1 ? `${whole(row.nodes)} at once` : whole(row.machines), more: inAll + count(row.interruptions, "interruption") });
  if (seen.gpu && seen.gpu.use_percent !== null) {
    const memory = seen.gpu.memory_mib === null ? "" : `${figure(seen.gpu.memory_mib / 1024)}${seen.gpu.memory_total_mib === null ? "" : ` / ${figure(seen.gpu.memory_total_mib / 1024)}`} GiB`;
    facts.push({ name: "GPU", value: `${Math.round(seen.gpu.use_percent)} % busy`, more: [memory, seen.gpu.temperature_c === null ? "" : `${Math.round(seen.gpu.temperature_c)} °C`].filter(Boolean).join(", ") });
  }
  keyed(find("facts"), isBroken ? [] : facts, (one) => one.name.split(" ")[0], (one) => {
    const group = make("div"), value = make("dd");
    value.append(make("b"), make("progress"), make("small"));
    group.append(make("dt"), value);
    group.querySelector("progress").max = 1;
    return group;
  }, (group, one) => {
    const bar = group.querySelector("progress");
    put(group.firstChild, one.name);
    put(group.querySelector("b"), one.value);
    put(group.querySelector("small"), one.more);
    bar.hidden = one.share === undefined || one.share === null;
    if (!bar.hidden) bar.value = one.share;
    set(bar, "aria-label", one.name);
  });
}

// -- metrics

function draw() {
  drawCharts(Object.keys(curves.curves), (group) => group.map((key, number) => ({
    label: key, color: 1 + number % 6, dash: isValidation(key) && group.length > 1, steps: curves.curves[key][0], values: curves.curves[key][1],
  })), page.marks || [], curves.unit || "step");
  const reading = find("reading");
  reading.hidden = !(page.share_read < 1 && page.is_reading);
  put(reading, `The metrics are long: ${Math.floor(100 * (page.share_read || 0))} % of them are read so far.`);
}
let isAsking = false, isWanted = false, had = -1;
async function refresh() {
  if (isAsking) { isWanted = true; return; }
  isAsking = true;
  try { curves = await get(address(["run", run, "curves"])); had = curves.version; draw(); } catch { /* the stream says that the server is gone */ }
  setTimeout(() => { isAsking = false; if (isWanted) { isWanted = false; refresh(); } }, CURVES_EVERY_MS);
}
for (const id of ["keys", "log-scale"]) find(id).addEventListener("input", draw);

// -- log

const log = find("log");
let attempt = null, place = -1, rest = null, isFetching = false, isChosen = false;
const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
async function readLog() {
  if (isFetching || attempt === null) return;
  isFetching = true;
  const mine = attempt;
  try {
    for (let parts = 0; parts < 64; parts += 1) {
      const part = await get(`${address(["run", run, "log", mine])}&start=${place}`);
      if (mine !== attempt) break;
      if (place < 0 || part.start !== place) { log.replaceChildren(); if (part.start) log.append(make("span", "cut", `(${bytes(part.start)} before this are not shown)\n`)); rest = null; }
      if (part.text) { rest?.remove(); rest = null; log.append(make("span", "", part.text)); }
      if (part.rest) { if (!rest) { rest = make("span", "rest"); log.append(rest); } put(rest, part.rest); } else { rest?.remove(); rest = null; }
      const isDone = part.next === place || part.next + part.rest.length >= part.size;
      place = part.next;
      if (isDone) break;
    }
    let length = 0;
    for (const node of [...log.childNodes].reverse()) { length += node.textContent.length; if (length > MOST_LOG && !isHeld(log)) node.remove(); }
    log.hidden = !log.childNodes.length;
    find("log-note").hidden = !log.hidden;
    put(find("log-note"), "The log is empty.");
    if (find("follow").checked) log.scrollTop = log.scrollHeight;
  } catch { /* the stream says that the server is gone */ }
  isFetching = false;
  if (mine !== attempt) readLog();
}
log.addEventListener("scroll", () => { if (!isAtEnd()) find("follow").checked = false; });
find("follow").addEventListener("change", () => { if (find("follow").checked) log.scrollTop = log.scrollHeight; });
// The logs by attempt; of a group the first machine comes last, as it is the one to read.
function order(numbers, names) {
  const [attemptOf, nodeOf] = [(one) => parseInt(names[one], 10), (one) => Number(names[one].split("node ")[1] ?? 0)];
  return numbers.sort((a, b) => attemptOf(a) - attemptOf(b) || nodeOf(b) - nodeOf(a));
}
function logs(sizes, names) {
  const known = Object.keys(names).filter((one) => one in sizes), numbers = order(known, names), pick = find("attempt");
  keyed(pick, numbers, (one) => one, (one) => { const option = make("option"); option.value = one; return option; }, (option, one) => put(option, names[one]));
  find("pick-log").hidden = numbers.length < 2;
  const wanted = isChosen && numbers.includes(pick.value) ? pick.value : numbers[numbers.length - 1] ?? null;
  if (wanted !== attempt) { attempt = wanted; place = -1; if (wanted !== null) pick.value = wanted; }
  readLog();
}
find("attempt").addEventListener("change", () => { isChosen = true; logs(page.log, page.log_names); });

// -- samples

const slider = find("slider");
let steps = [];
function showSample() {
  const step = steps[slider.value], image = find("sample"), source = address(["samples", run, `samples-${step}.png`]);
  if (image.getAttribute("src") !== source) image.src = source;
  image.alt = `samples at step ${step}`;
  put(find("sample-step"), `step ${whole(step)}`);
  set(slider, "aria-valuetext", `step ${whole(step)}`);
  put(find("sample-note"), steps.length > 1 ? `${Number(slider.value) + 1} of ${steps.length}` : "");
}
function samples(now) {
  const isNewest = Number(slider.value) >= steps.length - 1, kept = steps[slider.value];
  steps = now;
  find("samples").hidden = !steps.length;
  find("samples").parentNode.classList.toggle("alone", !steps.length);
  if (!steps.length) return;
  slider.max = steps.length - 1;
  slider.hidden = steps.length < 2;
  slider.value = isNewest || kept === undefined ? steps.length - 1 : Math.max(0, steps.indexOf(kept));
  showSample();
}
slider.addEventListener("input", showSample);

// -- machines, bill, files, events

const MOST_MEMBERS = 120;
const nodeWords = (row) => row.notice_node === null || row.notice_node === undefined ? "the machine" : `node ${row.notice_node}`;
const billed = (one) => `${one.is_estimate ? "~" : ""}${dollars(one.usd)}${one.is_free ? " *" : ""}`;
function attemptCells(one) {
  const last = one.prices[one.prices.length - 1][1];
  const ended = one.ended_at === null ? "runs" : one.is_interrupted ? "interrupted by AWS" : one.ended_by === "instance" ? "by itself" : one.ended_by === "kept" ? "went on" : `by ${one.ended_by || "?"}`;
  return [whole(one.number), `${one.nodes > 1 ? `${one.nodes} x ` : ""}${one.type} ${one.market}`, one.zone, figure(last), day(moment(one.started_at)), span(one.seconds),
    one.last_step >= one.first_step ? `${whole(one.first_step)}-${whole(one.last_step)}` : "-", ended, billed(one)];
}
const memberCells = (one) => ["", `${one.rank === null ? "joins" : `node ${one.rank}`}  ${one.instance_id}`, one.zone, figure(one.price_usd_h),
  day(moment(one.started_at)), span(one.seconds), "", one.state, billed(one)];
function machines(attempts, leftOut, now) {
  timeline.update(attempts, now);
  find("no-machines").hidden = attempts.length > 0;
  find("attempts-box").hidden = !attempts.length;
  // A group has a row for each of its machines below that of the attempt; of older attempts the rows are left out.
  let room = MOST_MEMBERS;
  const rows = [...attempts].reverse().flatMap((one) => {
    const members = one.nodes > 1 || one.members.length > 1 ? one.members : [];
    room -= members.length;
    return [one, ...(room >= 0 ? members.map((member, at) => ({ ...member, of: one.number, key: `${one.number}/${at}` })) : [])];
  });
  keyed(find("attempts").tBodies[0], rows, (one) => one.key ?? one.number, (one) => {
    const row = make("tr", one.key ? "member" : `c${1 + (one.number - 1) % 6}`);
    for (const how of ["n", "", "", "n", "", "n", "n", "why", "n"]) row.append(make("td", how, ""));
    return row;
  }, (row, one) => {
    const texts = one.key ? memberCells(one) : attemptCells(one);
    texts.forEach((text, at) => put(row.cells[at], text));
    row.cells[7].title = one.why || "";
  });
  const notes = [leftOut ? `${count(leftOut, "older attempt")} not shown.` : "", ...(page.slow_nodes || []).map((words) => `${words[0].toUpperCase()}${words.slice(1)}.`), attempts.some((one) => one.is_free) ? "* AWS does not bill an instance that it interrupts in its first hour; its disk and address it does." : ""];
  find("attempts-note").hidden = !notes.some(Boolean);
  put(find("attempts-note"), notes.filter(Boolean).join(" "));
}
function bill(seen) {
  const parts = [["Instance", seen.instance_usd, 1], ["Disk", seen.volume_usd, 2], ["IPv4 address", seen.address_usd, 3], ["Data out, at list price", seen.data_out_usd, 4]];
  put(find("total"), `${seen.is_estimate ? "~" : ""}${money(seen.usd)}`);
  const most = Math.max(seen.usd, seen.on_demand_usd ?? 0) || 1, bars = [{ name: "this run", parts }];
  if (seen.on_demand_usd !== null) bars.push({ name: "on-demand", parts: [["the same time on-demand", seen.on_demand_usd, 0]] });
  keyed(find("bars"), bars, (bar) => bar.name, (bar) => {
    const line = make("div", "bill-bar"), track = make("span", "track");
    line.append(make("span", "what", bar.name), track, make("b"));
    return line;
  }, (line, bar) => {
    keyed(line.children[1], bar.parts.filter(([, usd]) => usd > 0), ([name]) => name, ([name, , color]) => { const piece = make("i", `c${color}`); piece.title = name; return piece; },
      (piece, [, usd]) => { piece.style.width = `${(100 * usd / most).toFixed(2)}%`; });
    put(line.lastChild, money(bar.parts.reduce((sum, [, usd]) => sum + usd, 0)));
  });
  const rows = [...parts.map(([name, usd, color]) => ({ name, color, usd: money(usd), share: seen.usd ? `${Math.round(100 * usd / seen.usd)} %` : "" })),
    { name: "Total", color: 0, usd: `${seen.is_estimate ? "~" : ""}${money(seen.usd)}`, share: "" }];
  if (seen.group_wait_usd > 0) rows.push({ name: "Of it: waiting for the group", color: 0, usd: money(seen.group_wait_usd), share: seen.usd ? `${Math.round(100 * seen.group_wait_usd / seen.usd)} %` : "" });
  if (seen.on_demand_usd !== null) rows.push({ name: "Less than on-demand", color: 0, usd: money(Math.max(0, seen.on_demand_usd - seen.usd)), share: seen.on_demand_usd ? `${Math.max(0, Math.round(100 * (1 - seen.usd / seen.on_demand_usd)))} %` : "" });
  if (seen.budget_usd !== null) rows.push({ name: "Left of the budget", color: 0, usd: money(Math.max(0, seen.budget_usd - seen.usd)), share: seen.budget_usd ? `${Math.max(0, Math.round(100 * (1 - seen.usd / seen.budget_usd)))} %` : "" });
  keyed(find("bill").tBodies[0], rows, (row) => row.name, (row) => {
    const line = make("tr", row.color ? `c${row.color} part` : row.name === "Total" ? "sum" : ""), head = make("th", "", row.name);
    head.scope = "row";
    line.append(head, make("td", "n", ""), make("td", "n of", ""));
    return line;
  }, (line, row) => { put(line.cells[1], row.usd); put(line.cells[2], row.share); });
}
function files(seen) {
  keyed(find("files"), seen.shown, (file) => file.path, (file) => {
    const item = make("li"), link = make("a", "", file.name);
    link.href = `/run/${run}/file/${file.path.split("/").map(encodeURIComponent).join("/")}?${new URLSearchParams({ token })}`;
    link.setAttribute("download", "");
    item.append(link, make("small"));
    return item;
  }, (item, file) => put(item.lastChild, bytes(file.size)));
  find("files").hidden = !seen.shown.length;
  put(find("files-note"), seen.shown.length ? (seen.more ? `${whole(seen.more)} more in the run's folder.` : "") : "No checkpoint and no output is downloaded yet.");
}
const events = (seen) => keyed(find("events"), seen, (event) => event.number, (event) => {
  const item = make("li", /notice|lost|refused|not used/i.test(event.words) ? "bad" : "");
  item.append(make("time", "", `${event.at.slice(5, 10)} ${clock(event.at)}`), event.words);
  return item;
}, () => {});

follow(address(["run", run, "events"]), (seen, changed) => {
  page = seen;
  if (changed.run || changed.work !== undefined || changed.eta_s !== undefined || changed.gpu) head(seen);
  if (!seen.attempts) return;
  if (changed.attempts || changed.slow_nodes) machines(seen.attempts, seen.attempts_left_out, Date.parse(seen.now) / 1000);
  if (changed.bill) bill(seen.bill);
  if (changed.files) files(seen.files);
  if (changed.events) events(seen.events);
  if (changed.samples) samples(seen.samples);
  if (changed.log || changed.log_names) logs(seen.log, seen.log_names);
  if (changed.marks) {
    keyed(find("marks"), seen.marks, (mark) => mark.words, (mark) => make("li", "", ""), (item, mark) => put(item, `step ${whole(mark.step)}, ${mark.words}`));
    draw();
  }
  if (seen.version !== had) refresh(); else if (changed.share_read !== undefined) draw();
});
