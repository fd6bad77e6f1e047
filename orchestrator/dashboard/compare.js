// Compares runs: each has its colour, and a chart has the lines of all of them.
const names = asked.getAll("run").slice(0, 12), held = new Map(), versions = new Map();
const CURVES_EVERY_MS = 2000;
let isAsking = false, newest = {};

function draw() {
  const keys = new Map();
  for (const name of names) for (const key of Object.keys(held.get(name)?.curves ?? {})) keys.set(key, 1 + (keys.get(key) ?? 0));
  const inOrder = [...keys.keys()].sort((a, b) => keys.get(b) - keys.get(a)); // what more runs have comes first
  drawCharts(inOrder, (group) => names.flatMap((run, number) => group.filter((key) => held.has(run) && Object.hasOwn(held.get(run).curves, key)).map((key) => ({
    label: group.length > 1 ? `${run} ${key}` : run, color: 1 + number % 6, dash: isValidation(key) && group.length > 1 || number >= 6,
    steps: held.get(run).curves[key][0], values: held.get(run).curves[key][1],
  }))), [], [...held.values()].every((one) => one.unit === "epoch") ? "epoch" : "step");
}
async function refresh(wanted) {
  newest = wanted;
  if (isAsking) return;
  const late = Object.keys(wanted).filter((run) => versions.get(run) !== wanted[run]);
  if (!late.length) return;
  isAsking = true;
  for (const run of late) {
    try { const found = await get(address(["run", run, "curves"])); held.set(run, found); versions.set(run, found.version); } catch { /* the stream says so */ }
  }
  draw();
  setTimeout(() => { isAsking = false; refresh(newest); }, CURVES_EVERY_MS);
}
for (const id of ["keys", "log-scale"]) find(id).addEventListener("input", draw);
const rows = new Map();
follow(address(["compare", "events"], names.map((name) => ["run", name])), (seen, changed) => {
  for (const run of changed.runs || []) rows.set(run.run, run);
  keyed(find("heads").tBodies[0], names.filter((name) => rows.has(name)), (name) => name, (name) => {
    const row = make("tr", `c${1 + names.indexOf(name) % 6} part`), head = make("th"), link = make("a", "", name);
    head.scope = "row";
    link.href = address(["run", name]);
    head.append(link);
    row.append(head, make("td"), ...["n", "n", "n", "n", ""].map((how) => make("td", how, "")));
    row.cells[1].append(make("span", "state"));
    return row;
  }, (row, name) => {
    const run = rows.get(name);
    put(row.cells[1].firstChild, run.state);
    kind(row.cells[1].firstChild, `state ${run.state}`);
    [run.steps ? `${whole(run.step)} / ${whole(run.steps)}` : run.step ? whole(run.step) : "-", speed(run), cost(run), span(run.seconds), run.where || "-"]
      .forEach((text, at) => put(row.cells[at + 2], text));
  });
  refresh(seen.versions);
});
