// Child processes and endpoints.

const RUNS = new Set(["ready", "running", "exited", "stopped"]);
const FAILS = new Set(["failed", "backoff"]);

function stateOf(child) {
  if (FAILS.has(child.state)) return "bad";
  if (RUNS.has(child.state)) return "good";
  return "warn";
}

// Fills a cell with a value and the chart of a child.
function measured(cell, text, chart) {
  if (!cell.firstChild) {
    const made = element("div", undefined, "measured");
    made.append(element("span"));
    cell.append(made);
  }
  const made = cell.firstChild;
  draw(made, ...chart);
  made.append(made.querySelector("span"));
  setText(made.querySelector("span"), text);
}

const CHILDREN = [
  { title: "name", read: (row) => row.name },
  { title: "state", kind: "state", read: (row) => row.state, mark: stateOf },
  { title: "pid", kind: "number", wide: true, read: (row) => (row.pid === null ? "" : String(row.pid)) },
  { title: "up", kind: "number", wide: true, read: (row) => (row.running_seconds === null ? "" : wholeSeconds(row.running_seconds)) },
  { title: "restarts", kind: "count", read: (row) => row.restarts, mark: (row) => (row.restarts ? "warn" : "") },
  { title: "CPU", kind: "number", draw: (cell, row) => measured(cell, share(row.usage.cpu_cores), ["cpu of " + row.name, "CPU of " + row.name, share, 0.05]) },
  { title: "memory", kind: "number", draw: (cell, row) => measured(cell, bytes(row.usage.resident_bytes), ["memory of " + row.name, "Memory of " + row.name, bytes, 1]) },
  { title: "processes", kind: "count", wide: true, read: (row) => row.usage.processes },
  { title: "last exit", kind: "wrap", wide: true, read: (row) => ago(row.last_exit), mark: (row) => (row.last_exit && stateOf(row) === "bad" ? "bad" : "") },
];

const ENDPOINTS = [
  { title: "name", kind: "group", read: (row) => row.name },
  { title: "status", kind: "state", read: (row) => (row.up === null ? "not known" : row.up ? "up" : "down"), mark: (row) => (row.up === null ? "warn" : row.up ? "good" : "bad") },
  { title: "since", kind: "number", read: (row) => wholeSeconds(row.since_seconds) },
  { title: "latency", kind: "number", draw: (cell, row) => measured(cell, row.last_check ? seconds(row.last_check.took_seconds) : "–", ["latency of " + row.name, "Latency of " + row.name, seconds, 0.001]) },
  { title: "checks", kind: "count", wide: true, read: (row) => row.checks },
  { title: "failed", kind: "count", read: (row) => row.failed, mark: (row) => (row.failed ? "warn" : "") },
  { title: "last failure", kind: "wrap", wide: true, read: (row) => ago(row.last_failure) },
];

// The text below a process: what a phone does not show in the row, and the last lines.
function linesOf(child) {
  const parts = [];
  if (child.program) parts.push("program  " + child.program);
  if (child.pid !== null) parts.push("pid  " + child.pid + ", up " + wholeSeconds(child.running_seconds));
  if (child.last_exit) parts.push("last exit  " + ago(child.last_exit));
  if (child.waits_for.length > 0) parts.push("stops after  " + child.waits_for.join(", "));
  if (child.killed.length > 0) parts.push("killed  " + child.killed.join(", "));
  for (const why of child.unstopped) parts.push("does not stop  " + why);
  if (child.usage.cpu_seconds !== null) parts.push("CPU time  " + seconds(child.usage.cpu_seconds));
  const lines = child.lines.length > 0 ? folded(child.lines) : ["no output yet"];
  return parts.join("\n") + (parts.length > 0 ? "\n\n" : "") + lines.join("\n");
}

// Returns the lines, each that is repeated once with its count.
function folded(lines) {
  const found = [];
  for (const line of lines) {
    const last = found[found.length - 1];
    if (last && last.line === line) last.count += 1;
    else found.push({ line, count: 1 });
  }
  return found.map(({ line, count }) => line + (count > 1 ? "  ×" + count : ""));
}

// Two processes may have one name.
function keyed(rows) {
  const seen = new Map();
  return rows.map((row) => {
    const same = seen.get(row.name) || 0;
    seen.set(row.name, same + 1);
    return { ...row, key: row.name + " " + same };
  });
}

function noteSupervised(at, children, endpoints) {
  for (const child of children.children) {
    addPoint("cpu of " + child.name, at, child.usage.cpu_cores);
    addPoint("memory of " + child.name, at, child.usage.resident_bytes);
  }
  for (const endpoint of endpoints.endpoints) {
    if (endpoint.last_check) addPoint("latency of " + endpoint.name, at - endpoint.last_check.seconds_ago, endpoint.last_check.took_seconds);
  }
}

function showSupervised(children, endpoints) {
  const live = children.children.filter((child) => child.live).length;
  find("children-section").hidden = children.children.length === 0;
  setText(find("children-count"), live + " of " + children.children.length + " live" + (children.more ? ", " + children.more + " more not shown" : ""));
  table("children", CHILDREN, keyed(children.children), { key: (row) => row.key, empty: "no processes", detail: linesOf });
  const up = endpoints.endpoints.filter((endpoint) => endpoint.up).length;
  find("endpoints-section").hidden = endpoints.endpoints.length === 0;
  setText(find("endpoints-count"), up + " of " + endpoints.endpoints.length + " up" + (endpoints.more ? ", " + endpoints.more + " more not shown" : ""));
  table("endpoints", ENDPOINTS, keyed(endpoints.endpoints), { key: (row) => row.key, empty: "no endpoints" });
}
