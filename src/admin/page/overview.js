// The head of the page and the overview.

const cards = new Map();
let lastRuntime = null;

function badge(id, text, name) {
  setText(find(id), text);
  setClass(find(id), "badge " + name);
}

// A card keeps its elements. `chart` is the name of its series, if it has one.
function card(title, value, detail, name, chart) {
  let made = cards.get(title);
  if (!made) {
    made = { all: element("div", undefined, "card"), value: element("b"), detail: element("span", "", "quiet detail") };
    made.all.append(element("span", title, "quiet"), made.value, made.detail);
    find("cards").append(made.all);
    cards.set(title, made);
  }
  setText(made.value, value);
  setClass(made.value, name || "");
  setText(made.detail, detail || "");
  made.detail.title = detail || "";
  if (chart) draw(made.all, ...chart);
}

// Adds what the state of a moment says to the charts. Counters that only grow become rates.
function note(at, sample) {
  addPoint("tasks", at, sample.tasks_live, sample.alive_tasks);
  addPoint("memory", at, sample.resident_bytes);
  const before = lastRuntime;
  lastRuntime = { at, ...sample };
  if (!before || at - before.at < 0.2) return;
  const passed = at - before.at;
  addPoint("busy", at, Math.max(0, (sample.worker_busy_seconds - before.worker_busy_seconds) / passed));
  if (before.cpu_seconds !== null && sample.cpu_seconds !== null) {
    addPoint("cpu", at, Math.max(0, (sample.cpu_seconds - before.cpu_seconds) / passed));
  }
}

function latest(name) {
  const points = series.get(name);
  return points && points.length > 0 ? points[points.length - 1][1] : null;
}

function showHead(now) {
  const title = now.service + " · headcount";
  if (document.title !== title) document.title = title;
  setText(find("service"), now.service);
  const isWell = now.phase === "running" || now.shutdown.outcome === "clean";
  badge("phase", now.shutdown.outcome || now.phase, isWell ? "good" : "warn");
  badge("ready", now.ready ? "ready" : "not ready", now.ready ? "good" : "warn");
  const why = find("not-ready");
  why.hidden = now.ready || now.shutdown.reason !== null;
  setText(why, "Not ready: " + now.not_ready.join("; "));
  setText(find("about"), "pid " + now.pid + " · up " + wholeSeconds(now.uptime_seconds));
  setText(find("build"), "headcount " + now.build.version + " · rustc " + now.build.rustc);
}

function showOverview(now) {
  const isStuck = now.runtime.heartbeat_age_seconds > 5;
  const threads = Object.entries(now.threads).filter(([, live]) => live > 0);
  const all = threads.reduce((sum, [, live]) => sum + live, 0);
  const warnings = Object.entries(now.warnings).filter(([, count]) => count > 0);
  const warned = warnings.reduce((sum, [, count]) => sum + count, 0);
  const untracked = now.not_observed[0] ? "not observed" : "by tokio::spawn";
  const queued = "of " + now.runtime.workers + ", " + number(now.runtime.global_queue_depth) + " queued";
  card("tracked tasks", number(now.tasks_live), number(now.runtime.alive_tasks) + " in the runtime", "", ["tasks", "Live tasks", number, 1]);
  card("workers busy", isStuck ? "stuck" : share(latest("busy")), isStuck ? "for " + seconds(now.runtime.heartbeat_age_seconds) : queued, isStuck ? "bad" : "", ["busy", "Busy workers", share, 0.1]);
  card("CPU", share(latest("cpu")), number(now.process.open_files) + " open files", "", ["cpu", "CPU", share, 0.1]);
  card("memory", bytes(now.process.resident_bytes), "resident", "", ["memory", "Resident memory", bytes, 1]);
  card("untracked tasks", number(now.untracked_live), untracked, now.untracked_live ? "warn" : "");
  card("threads", number(all), threads.map(([name, live]) => live + " " + name).join(", "), now.threads.unknown ? "warn" : "");
  card("warnings", number(warned), warnings.map(([name, count]) => count + " " + name).join(", ") || "none", warned ? "warn" : "good");
}

function showPrevious(previous) {
  find("previous").hidden = previous === null;
  if (previous === null) return;
  const report = previous.report;
  const outcome = (report && report.outcome) || (previous.cause ? "unclean" : "not known");
  const text = ["Pid " + previous.pid + " ended " + (outcome === "unclean" ? "without a report" : outcome) + "."];
  if (report && report.verdict) text.push(report.verdict);
  if (previous.panic) text.push("Panic: " + previous.panic);
  setText(find("previous-text"), text.join(" "));
}
