// The shutdown as a timeline: its layers within their budgets, and what is late.

const LATE = 20;
let lateTasks = [];

// Returns the layers with their start, relative to that of the shutdown, in seconds.
function layersOf(shutdown) {
  let from = 0;
  return shutdown.layers.map((layer) => {
    const own = { ...layer, from };
    from += layer.took_seconds > 0 ? layer.took_seconds : layer.budget_seconds;
    return own;
  });
}

// Puts a bar on a lane. Places are in seconds; `scale` is the length of the lane.
function bar(lane, name, from, length, scale) {
  const made = element("span", undefined, name);
  made.style.left = (100 * from) / scale + "%";
  made.style.width = Math.min(100, (100 * length) / scale) + "%";
  lane.append(made);
}

function track(label, text, name) {
  const made = element("div", undefined, "track");
  made.setAttribute("role", "listitem");
  const lane = element("div", undefined, "lane");
  lane.setAttribute("aria-hidden", "true");
  const shown = element("span", label, "label " + (name || ""));
  shown.title = label;
  made.append(shown, lane, element("span", text, "quiet"));
  return { made, lane };
}

function showLayers(shutdown) {
  const layers = layersOf(shutdown);
  const scale = Math.max(...layers.map((layer) => layer.from + Math.max(layer.took_seconds, layer.budget_seconds)), 0.001);
  find("timeline").replaceChildren(
    ...layers.map((layer) => {
      const isOver = layer.took_seconds > layer.budget_seconds;
      const budget = seconds(layer.budget_seconds);
      const text = layer.took_seconds > 0 ? seconds(layer.took_seconds) + " of " + budget : "not begun, budget " + budget;
      const { made, lane } = track(layer.layer, text, isOver ? "bad" : "");
      bar(lane, "budget", layer.from, layer.budget_seconds, scale);
      if (layer.took_seconds > 0) bar(lane, isOver ? "took over" : "took", layer.from, layer.took_seconds, scale);
      return made;
    }),
  );
  return scale;
}

// What has not ended: processes that were told to stop, or wait for others, and tasks. Each with the time for which it is late.
function lateRows(state, passed) {
  const processes = state.children.children.filter((child) => child.live).map((child) => {
    const waits = child.told_to_stop === null && child.waits_for.length > 0;
    const told = child.told_to_stop;
    const since = told ? told.seconds_ago : passed;
    const text = waits ? "stops after " + child.waits_for.join(", ") : told ? seconds(since) + " after " + told.what : "not told to stop yet";
    return { label: child.name + " (pid " + child.pid + ")", since, text, waits };
  });
  const supervised = new Set(state.children.children.map((child) => child.name));
  const tasks = lateTasks.map((task) => ({ ...task, path: (task.group ? task.group + "/" : "") + task.name })).filter((task) => !supervised.has(task.path));
  const rows = tasks.map((task) => ({ label: task.path, since: Math.min(task.age_seconds, passed), text: task.state + ", " + wholeSeconds(task.age_seconds) + " old", waits: false }));
  return [...processes, ...rows].sort((one, other) => other.since - one.since).slice(0, LATE);
}

function showLate(state, passed, scale) {
  const isOver = state.runtime.shutdown.outcome !== null;
  const rows = isOver ? [] : lateRows(state, passed);
  find("late").hidden = rows.length === 0;
  find("late-none").hidden = isOver || rows.length > 0;
  const length = Math.max(scale, passed);
  const isLate = state.runtime.shutdown.layers.some((layer) => layer.took_seconds > layer.budget_seconds) || state.runtime.phase !== "draining";
  find("late-rows").replaceChildren(
    ...rows.map((row) => {
      const { made, lane } = track(row.label, row.text, row.waits ? "" : isLate ? "bad" : "warn");
      bar(lane, isLate && !row.waits ? "took over" : "took wait", Math.max(0, passed - row.since), row.since, length);
      return made;
    }),
  );
}

function showShutdown(state) {
  const shutdown = state.runtime.shutdown;
  const wasHidden = find("stopping").hidden;
  find("stopping").hidden = shutdown.reason === null;
  if (shutdown.reason === null) return;
  const passed = Math.max(0, state.timestamp_seconds - shutdown.begun_timestamp_seconds);
  const end = shutdown.outcome ? " Outcome: " + shutdown.outcome + "." : "";
  setText(find("reason"), "Reason: " + shutdown.reason + "." + end);
  showLate(state, passed, showLayers(shutdown));
  if (wasHidden || !shutdown.outcome) updateLate();
  if (shutdown.outcome && find("verdict").hidden) showVerdict();
}

// Reads the tasks that were told to end, the oldest first.
async function updateLate() {
  try {
    const states = ["draining", "cancelling"].map((state) => get("/api/tasks?state=" + state + "&limit=" + LATE));
    lateTasks = (await Promise.all(states)).flatMap((answer) => answer.tasks).filter((task) => !task.daemon);
  } catch {
    // The next state tries again, or says that the connection is lost.
  }
}

async function showVerdict() {
  find("verdict").hidden = false;
  try {
    const { report } = await get("/api/report");
    setText(find("verdict"), report ? report.verdict || "Everything has ended." : "");
  } catch {
    find("verdict").hidden = true;
  }
}
