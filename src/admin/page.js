// Polls the JSON of /api and shows it. Values are inserted with `textContent` only, so that the name of a task cannot
// inject markup.
"use strict";

const EVERY = 2000;
const PATIENCE = 5000;
let last = null;
let failedSince = null;

const find = (id) => document.getElementById(id);

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return Math.round(value * 1e6) + " µs";
  if (value < 1) return Math.round(value * 1000) + " ms";
  if (value < 60) return value.toFixed(1) + " s";
  if (value < 3600) return Math.floor(value / 60) + " min " + Math.floor(value % 60) + " s";
  if (value < 86400) return Math.floor(value / 3600) + " h " + Math.floor((value % 3600) / 60) + " min";
  return Math.floor(value / 86400) + " d " + Math.floor((value % 86400) / 3600) + " h";
}

function bytes(value) {
  if (value === null) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) {
    if (value >= size) return (value / size).toFixed(1) + " " + unit;
  }
  return value + " B";
}

const number = (value) => (value === null ? "–" : value.toLocaleString("en"));
const group = (path) => (path === "" ? "/" : path);

// `columns` are [heading, row => value, kind, row => class name]; the last two are optional. The kind is a class name, too:
// "number" is aligned to the right, and so is "count", in which 0 is dimmed.
function table(id, columns, rows, empty) {
  const made = find(id);
  const head = element("tr");
  for (const [title, , kind] of columns) {
    head.append(element("th", title, kind === "number" || kind === "count" ? "number" : ""));
  }
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    for (const [, read, kind, mark] of columns) {
      const value = read(row);
      const names = [kind === "count" ? "number" : kind || ""];
      if (kind === "count" && value === 0) names.push("zero");
      if (mark) names.push(mark(row));
      const name = names.join(" ").trim();
      line.append(element("td", kind === "count" ? number(value) : value, name));
    }
    body.append(line);
  }
  if (rows.length === 0) {
    const cell = element("td", empty, "quiet");
    cell.colSpan = columns.length;
    const line = element("tr");
    line.append(cell);
    body.append(line);
  }
  const top = element("thead");
  top.append(head);
  made.replaceChildren(top, body);
}

function card(title, value, detail, name) {
  const made = element("div", undefined, "card");
  made.append(element("span", title, "quiet"), element("b", value, name), element("span", detail || "", "quiet"));
  return made;
}

function badge(id, text, name) {
  const made = find(id);
  made.textContent = text;
  made.className = "badge " + name;
}

function cpu(now, at) {
  const before = last;
  last = { cpu: now.process.cpu_seconds, at };
  if (!before || before.cpu === null) return "–";
  return ((100 * (last.cpu - before.cpu)) / ((at - before.at) / 1000)).toFixed(0) + " %";
}

function showRuntime(now, at) {
  document.title = now.service + " · headcount";
  find("service").textContent = now.service;
  const running = now.phase === "running";
  badge("phase", now.shutdown.outcome || now.phase, running ? "good" : now.shutdown.outcome === "clean" ? "good" : "warn");
  badge("ready", now.ready ? "ready" : "not ready", now.ready ? "good" : "warn");
  find("ready").title = now.not_ready.join("; ");
  find("about").textContent = "pid " + now.pid + " · up " + seconds(now.uptime_seconds);
  find("build").textContent = "headcount " + now.build.version + " · rustc " + now.build.rustc;
  find("updated").textContent = "as of " + new Date(at).toLocaleTimeString();
  const stuck = now.runtime.heartbeat_age_seconds > 5;
  const threads = Object.entries(now.threads).filter(([, live]) => live > 0);
  const all = threads.reduce((sum, [, live]) => sum + live, 0);
  const warnings = Object.entries(now.warnings).filter(([, count]) => count > 0);
  const warned = warnings.reduce((sum, [, count]) => sum + count, 0);
  find("cards").replaceChildren(
    card("tasks", number(now.tasks_live), "tracked, live"),
    card("untracked", number(now.untracked_live), now.not_observed[0] || "bypassing headcount", now.untracked_live ? "warn" : ""),
    card("threads", number(all), threads.map(([name, live]) => live + " " + name).join(", "), now.threads.unknown ? "warn" : ""),
    card("workers", stuck ? "not responding" : number(now.runtime.workers), stuck ? "for " + seconds(now.runtime.heartbeat_age_seconds) : number(now.runtime.global_queue_depth) + " tasks queued", stuck ? "bad" : ""),
    card("memory", bytes(now.process.resident_bytes), "resident"),
    card("CPU", cpu(now, at), number(now.process.open_files) + " open files"),
    card("warnings", number(warned), warnings.map(([name, count]) => count + " " + name).join(", ") || "none", warned ? "warn" : "good"),
  );
  showShutdown(now);
}

function showShutdown(now) {
  const shutdown = now.shutdown;
  find("stopping").hidden = shutdown.reason === null;
  if (shutdown.reason === null) return;
  find("reason").textContent = "Stopping: " + shutdown.reason + (shutdown.outcome ? ". Outcome: " + shutdown.outcome + "." : ".");
  find("layers").replaceChildren(
    ...shutdown.layers.map((layer) => {
      const line = element("div", undefined, "layer");
      const bar = element("progress");
      bar.max = Math.max(layer.budget_seconds, 0.001);
      bar.value = Math.min(layer.took_seconds, bar.max);
      line.append(element("span", layer.layer), bar, element("span", (layer.took_seconds ? seconds(layer.took_seconds) : "–") + " of " + seconds(layer.budget_seconds), "quiet"));
      return line;
    }),
  );
}

function showLists(groups, tasks, untracked, threads) {
  // Each group is followed by the names of its tasks.
  const rows = groups.groups.flatMap((row) => [row, ...row.names]);
  table("groups", [
    ["group and task", (row) => (row.names === undefined ? row.name : group(row.group) + (row.count > 1 ? " ×" + row.count : "")), "", (row) => (row.names === undefined ? "name" : "group")],
    ["live", (row) => row.live, "count"],
    ["started", (row) => row.started, "count"],
    ["completed", (row) => row.completed, "count"],
    ["failed", (row) => row.failed, "count", (row) => (row.failed ? "bad" : "")],
    ["panicked", (row) => row.panicked, "count", (row) => (row.panicked ? "bad" : "")],
    ["cancelled", (row) => row.cancelled, "count"],
    ["", (row) => (row.draining ? "draining" : ""), "", () => "warn"],
  ], rows, "no groups");
  find("tasks-count").textContent = "showing " + number(tasks.tasks.length) + " of " + number(tasks.live);
  table("tasks", [
    ["id", (row) => String(row.id), "number"],
    ["group", (row) => group(row.group)],
    ["name", (row) => row.name + (row.required ? " (required)" : "") + (row.daemon ? " (daemon)" : "")],
    ["kind", (row) => row.kind],
    ["state", (row) => row.state, "", (row) => (row.state === "running" ? "" : "warn")],
    ["age", (row) => seconds(row.age_seconds), "number"],
    ["on thread", (row) => (row.on_thread === null ? "" : String(row.on_thread)), "number"],
    ["spawned", (row) => row.spawned, "place"],
  ], tasks.tasks, "no tasks");
  find("untracked-section").hidden = untracked.live === null;
  find("untracked-count").textContent = number(untracked.live) + " live";
  table("untracked", [
    ["spawned", (row) => row.spawned, "place"],
    ["live", (row) => row.live, "count", (row) => (row.live ? "warn" : "")],
    ["started", (row) => row.started, "count"],
  ], untracked.sites, "none so far");
  find("threads-count").textContent = number(threads.live) + " live";
  table("threads", [
    ["tid", (row) => String(row.tid), "number"],
    ["name", (row) => row.name],
    ["class", (row) => row.class, "", (row) => (row.class === "unknown" ? "warn" : "")],
    ["state", (row) => row.state],
    ["CPU time", (row) => seconds(row.cpu_seconds), "number"],
    ["age", (row) => seconds(row.age_seconds), "number"],
    ["started", (row) => row.started || "", "place"],
  ], threads.threads, "threads cannot be listed on this system");
}

async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(path + ": " + answer.status);
  return answer.json();
}

function query() {
  const asked = new URLSearchParams({ limit: "25" });
  for (const [key, value] of new FormData(find("filter"))) {
    if (value) asked.set(key, value);
  }
  return asked;
}

async function update() {
  try {
    const [now, groups, tasks, untracked, threads] = await Promise.all([
      get("/api/runtime"), get("/api/groups"), get("/api/tasks?" + query()), get("/api/untracked"), get("/api/threads"),
    ]);
    showRuntime(now, Date.now());
    showLists(groups, tasks, untracked, threads);
    failedSince = null;
    find("problem").hidden = true;
    document.body.classList.remove("stale");
  } catch (error) {
    failedSince = failedSince || new Date();
    find("problem").textContent = "Disconnected since " + failedSince.toLocaleTimeString() + ". The data below is stale. (" + error.message + ")";
    find("problem").hidden = false;
    document.body.classList.add("stale");
  }
}

async function run() {
  await update();
  setTimeout(run, EVERY);
}

find("filter").addEventListener("input", update);
find("filter").addEventListener("submit", (event) => event.preventDefault());
run();
