// The list of all runs: it sorts and filters here, and the server sends the rows that change.
const table = find("runs"), body = table.tBodies[0], chosen = new Set(), rows = new Map();
const STATES = ["RUNNING", "RECOVERING", "PROVISIONING", "PENDING", "FAILED", "STOPPED", "CANCELLED", "SUCCEEDED", "UNREADABLE"];
const values = {
  run: (run) => run.run, state: (run) => STATES.indexOf(run.state), share: (run) => share(run) ?? -1,
  speed: (run) => run.images_per_s ?? run.steps_per_s ?? -1, usd: (run) => run.usd, seconds: (run) => run.seconds,
  created_at: (run) => run.created_at, where: (run) => run.where,
};
const kept = new URLSearchParams(location.hash.slice(1));
let sort = Object.hasOwn(values, kept.get("sort")) ? kept.get("sort") : "", down = kept.get("down") === "1";
find("words").value = kept.get("words") || "";
find("state").value = kept.get("state") || "";
find("state").value ||= "";

function wanted() {
  const words = find("words").value.trim().toLowerCase().split(/\s+/).filter(Boolean), state = find("state").value;
  const fits = (run) => (!state || (state === "open" ? !run.is_final : run.state === state)) &&
    words.every((word) => `${run.run} ${run.state} ${run.where} ${run.device} ${run.cloud} ${run.reason}`.toLowerCase().includes(word));
  const found = [...rows.values()].filter(fits);
  const newest = (a, b) => a.created_at < b.created_at ? 1 : a.created_at > b.created_at ? -1 : a.run < b.run ? -1 : 1;
  if (!sort) return found.sort((a, b) => a.is_final - b.is_final || newest(a, b));
  const value = values[sort], way = down ? -1 : 1;
  return found.sort((a, b) => { const x = value(a), y = value(b); return x < y ? -way : x > y ? way : newest(a, b); });
}

const cell = (kindOf, ...inner) => { const node = make("td", kindOf); set(node, "role", "cell"); node.append(...inner); return node; };
function create(run) {
  const row = make("tr"), part = row.part_ = {};
  set(row, "role", "row");
  part.pick = make("input");
  part.pick.type = "checkbox";
  set(part.pick, "aria-label", `Compare ${run.run}`);
  part.pick.addEventListener("change", () => { if (part.pick.checked) chosen.add(run.run); else chosen.delete(run.run); offer(); });
  part.name = make(NAME.test(run.run) ? "a" : "span", "name", run.run);
  if (NAME.test(run.run)) part.name.href = address(["run", run.run]);
  part.reason = make("span", "reason");
  part.state = make("span", "state");
  part.bar = make("progress");
  part.bar.max = 1;
  part.step = make("span", "step");
  for (const name of ["speed", "time", "start", "type", "zone"]) part[name] = make("span");
  part.usd = make("span");
  part.budget = make("span", "of");
  row.append(cell("pick", part.pick), cell("run", part.name, part.reason), cell("st", part.state), cell("share", part.bar, part.step),
    cell("n speed", part.speed), cell("n usd", part.usd, part.budget), cell("n time", part.time), cell("start", part.start), cell("where", part.type, part.zone));
  return row;
}
function update(row, run) {
  if (row.shown === run) return;
  row.shown = run;
  const part = row.part_, done = share(run), isBroken = run.state === "UNREADABLE";
  part.pick.disabled = isBroken;
  put(part.state, run.state);
  kind(part.state, `state ${run.state}`);
  const notice = run.notice_ends_at ? `interruption notice: AWS ends ${run.notice_node === null ? "the machine" : `node ${run.notice_node}`} at ${clock(run.notice_ends_at)} UTC` : "";
  const unled = run.is_led ? "" : `no process leads it: pixel-orch attach ${run.run}`;
  const why = notice || unled || run.reason;
  put(part.reason, why);
  kind(part.reason, notice || unled || isBroken ? "reason bad" : "reason");
  part.reason.hidden = !why;
  part.bar.hidden = done === null;
  if (done !== null) part.bar.value = done;
  set(part.bar, "aria-label", `progress of ${run.run}`);
  put(part.step, run.steps ? `${whole(run.step)} / ${whole(run.steps)}` : run.step ? `${run.unit} ${whole(run.step)}` : "-");
  put(part.speed, speed(run));
  put(part.usd, isBroken ? "-" : cost(run));
  put(part.budget, run.budget_usd === null ? "" : ` / ${dollars(run.budget_usd)}`);
  put(part.time, isBroken ? "-" : span(run.seconds));
  put(part.start, day(run.created_at));
  const [type, zone] = run.where.split(" in ");
  put(part.type, type || "-");
  put(part.zone, [zone, run.device].filter(Boolean).join(" · "));
}

/** Show the rows. While something in the table is held, rows keep their order, and new ones come first. */
function draw(isAsked) {
  let shown = wanted();
  if (!isAsked && body.keyed && isHeld(body)) {
    const place = new Map([...body.keyed.keys()].map((key) => [key, [...body.children].indexOf(body.keyed.get(key))]));
    shown = shown.sort((a, b) => (place.get(a.run) ?? -1) - (place.get(b.run) ?? -1));
  }
  keyed(body, shown, (run) => run.run, create, update);
  put(find("count"), shown.length === rows.size ? "" : `${whole(shown.length)} of ${whole(rows.size)}`);
  find("none").hidden = shown.length > 0;
  put(find("none"), rows.size ? "No run fits." : "No runs yet: pixel-orch launch, or make demo, starts one.");
  for (const head of table.tHead.querySelectorAll("[data-sort]")) {
    set(head, "aria-sort", head.dataset.sort === sort ? (down ? "descending" : "ascending") : null);
  }
  find("sort").value = sort;
}
function offer() {
  const link = find("compare"), names = [...chosen].filter((name) => rows.has(name)).slice(0, 12);
  put(link, names.length < 2 ? "Compare: select two runs" : `Compare ${names.length} runs`);
  if (names.length < 2) { link.removeAttribute("href"); set(link, "aria-disabled", "true"); return; }
  link.href = address(["compare"], names.map((name) => ["run", name]));
  link.removeAttribute("aria-disabled");
}
function ask() {
  const kept = new URLSearchParams();
  for (const [name, value] of [["words", find("words").value], ["state", find("state").value], ["sort", sort], ["down", down ? "1" : ""]]) {
    if (value) kept.set(name, value);
  }
  history.replaceState(null, "", `${location.pathname}${location.search}${kept.size ? `#${kept}` : ""}`);
  draw(true);
}
find("tools").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["words", "state"]) find(id).addEventListener("input", ask);
find("sort").addEventListener("change", () => { sort = find("sort").value; down = ["share", "speed", "usd", "seconds", "created_at"].includes(sort); ask(); });
for (const head of table.tHead.querySelectorAll("[data-sort]")) {
  head.querySelector("button").addEventListener("click", () => {
    const isNumber = ["share", "speed", "usd", "seconds", "created_at"].includes(head.dataset.sort);
    if (sort !== head.dataset.sort) { sort = head.dataset.sort; down = isNumber; } else if (down === isNumber) down = !down; else sort = "";
    ask();
  });
}
follow(address(["events"]), (seen, changed) => {
  if (changed.whole) rows.clear();
  for (const name of changed.gone || []) rows.delete(name);
  for (const run of changed.runs || []) rows.set(run.run, run);
  put(find("sum"), `${count(rows.size, "run")} · ${seen.going} open${seen.machines > seen.going ? ` on ${count(seen.machines, "machine")}` : ""} · ${money(seen.usd)} in all${seen.is_reading ? " · reading more" : ""}`);
  draw(false);
});
