// Groups, tasks, untracked tasks and threads; chains and stacks from a dump that is taken when it is asked for.

const PAGE = 50;
// The server ends a connection after ten seconds.
const DUMP_PATIENCE = 11000;
let shownTasks = PAGE;
// Chains by the id of a task, chains by kind, and threads by tid, of the last dump; null before it.
let dumped = null;

const GROUPS = [
  { title: "group and task", read: (row) => row.title, mark: (row) => (row.isGroup ? "group" : "name") },
  { title: "live", kind: "count", read: (row) => row.live },
  { title: "started", kind: "count", wide: true, read: (row) => row.started },
  { title: "completed", kind: "count", wide: true, read: (row) => row.completed },
  { title: "failed", kind: "count", read: (row) => row.failed, mark: (row) => (row.failed ? "bad" : "") },
  { title: "panicked", kind: "count", read: (row) => row.panicked, mark: (row) => (row.panicked ? "bad" : "") },
  { title: "cancelled", kind: "count", wide: true, read: (row) => row.cancelled },
  { title: "state", read: (row) => (row.draining ? "draining" : ""), mark: () => "warn" },
];

const TASKS = [
  { title: "name", read: (row) => (row.group ? row.group + "/" : "") + row.name + (row.required ? " (required)" : "") + (row.daemon ? " (daemon)" : "") },
  { title: "id", kind: "number", wide: true, read: (row) => String(row.id) },
  { title: "kind", wide: true, read: (row) => row.kind },
  { title: "state", read: (row) => row.state, mark: (row) => (row.state === "running" ? "" : "warn") },
  { title: "age", kind: "number", read: (row) => wholeSeconds(row.age_seconds) },
  { title: "on thread", kind: "number", wide: true, read: (row) => (row.on_thread === null ? "" : String(row.on_thread)) },
  { title: "spawned", kind: "place", wide: true, read: (row) => row.spawned },
  { title: "waits for", kind: "wrap", wide: true, read: (row) => (chainOf(row) || { summary: "" }).summary },
];

const UNTRACKED = [
  { title: "spawned, or type of the future", kind: "place wrap", read: (row) => row.spawned || row.future || "not known" },
  { title: "live", kind: "count", read: (row) => row.live, mark: (row) => (row.live ? "warn" : "") },
  { title: "can never wake", kind: "count", read: (row) => row.unwakeable, mark: (row) => (row.unwakeable ? "bad" : "") },
];

const THREADS = [
  { title: "name", read: (row) => row.name },
  { title: "tid", kind: "number", wide: true, read: (row) => String(row.tid) },
  { title: "class", read: (row) => row.class, mark: (row) => (row.class === "unknown" ? "warn" : "") },
  { title: "state", read: (row) => row.state },
  { title: "CPU time", kind: "number", wide: true, read: (row) => seconds(row.cpu_seconds) },
  { title: "age", kind: "number", wide: true, read: (row) => wholeSeconds(row.age_seconds) },
  { title: "started", kind: "place", wide: true, read: (row) => row.started || "" },
  { title: "waits for", kind: "wrap", wide: true, read: (row) => (threadOf(row) || { waits: "" }).waits || "" },
];

function rowsOfGroups(groups) {
  return groups.flatMap((row) => {
    const title = group(row.group) + (row.count > 1 ? " ×" + row.count : "");
    const names = row.names.map((name, at) => ({ ...name, title: name.name, key: row.group + " " + name.name + " " + (name.spawned || at) }));
    return [{ ...row, title, isGroup: true, key: row.group }, ...names];
  });
}

// === dump

function place(frame) {
  return frame.function + (frame.file ? "  (" + frame.file + (frame.line ? ":" + frame.line : "") + ")" : "") + (frame.waits_for ? "  waiting for " + frame.waits_for : "");
}

// Describes the chains of a task: the innermost frame in short, and all of them.
function described(awaits) {
  if (!awaits || awaits.length === 0) return null;
  const chains = awaits.filter((chain) => chain.length > 0);
  if (chains.length === 0) return null;
  const first = chains[0][0];
  const summary = (first.waits_for || first.function) + (chains.length > 1 ? ", and " + (chains.length - 1) + " more" : "");
  const text = chains.map((chain) => chain.map((frame, at) => "  ".repeat(at) + (at ? "← " : "") + place(frame)).join("\n")).join("\n\n");
  return { summary, text };
}

function collect(groups, path, found) {
  for (const one of groups) {
    const own = path === null ? "" : path === "" ? one.name : path + "/" + one.name;
    for (const kind of one.kinds) {
      for (const row of kind.rows) {
        const chain = described(row.awaits);
        if (!chain) continue;
        found.tasks.set(row.id, chain);
        const name = own + " " + kind.name;
        if (!found.kinds.has(name)) found.kinds.set(name, chain);
      }
    }
    collect(one.groups, own, found);
  }
}

function chainOf(task) {
  if (!dumped) return null;
  const own = dumped.tasks.get(task.id);
  if (own) return own;
  const like = dumped.kinds.get(task.group + " " + task.name);
  return like ? { summary: "as others: " + like.summary, text: "Of another task of this kind:\n" + like.text } : null;
}

const threadOf = (thread) => (dumped ? dumped.threads.get(thread.tid) : null);

function stackOf(thread) {
  const seen = threadOf(thread);
  if (!seen) return null;
  const frames = seen.stack.map((frame, at) => String(at).padStart(2) + "  " + place(frame));
  if (frames.length === 0) frames.push("no stack" + (seen.no_stack ? ": " + seen.no_stack : ""));
  if (seen.waits) frames.unshift(seen.waits);
  if (seen.task) frames.unshift("runs " + seen.task);
  if (seen.stack_note) frames.push(seen.stack_note);
  return frames.join("\n");
}

async function takeDump() {
  const buttons = document.querySelectorAll("button.dump");
  const say = (text) => document.querySelectorAll(".dump-note").forEach((note) => setText(note, text));
  buttons.forEach((button) => (button.disabled = true));
  say("looking…");
  try {
    const dump = await get("/api/dump", DUMP_PATIENCE);
    dumped = { tasks: new Map(), kinds: new Map(), threads: new Map() };
    collect([dump.root], null, dumped);
    for (const thread of dump.threads || []) dumped.threads.set(thread.tid, thread);
    const hints = dump.hints.length > 0 ? " " + dump.hints.join(" ") : "";
    say("as of " + new Date().toLocaleTimeString() + "; press a name for all of it." + hints);
    await updateLists();
  } catch (error) {
    say("The dump failed: " + error.message);
  }
  buttons.forEach((button) => (button.disabled = false));
}

// === lists

function query() {
  const asked = new URLSearchParams({ limit: String(shownTasks) });
  for (const [key, value] of new FormData(find("filter"))) {
    if (value) asked.set(key, value);
  }
  return asked;
}

function showTasks(tasks) {
  setText(find("tasks-count"), "showing " + number(tasks.tasks.length) + " of " + number(tasks.live) + ", oldest first");
  const detail = (row) => (chainOf(row) || { text: null }).text;
  table("tasks", TASKS, tasks.tasks, { key: (row) => row.id, empty: "no tasks", detail });
  find("more").hidden = tasks.next === null || shownTasks >= 1000;
}

function showLists([groups, tasks, untracked, threads]) {
  table("groups", GROUPS, rowsOfGroups(groups.groups), { key: (row) => row.key, empty: "no groups" });
  showTasks(tasks);
  find("untracked-section").hidden = untracked.live === null || untracked.sites.length === 0;
  setText(find("untracked-count"), number(untracked.live) + " live");
  table("untracked", UNTRACKED, untracked.sites.map((row, at) => ({ ...row, key: row.spawned || row.future || at })), { key: (row) => row.key, empty: "none so far" });
  setText(find("threads-count"), number(threads.live) + " live");
  table("threads", THREADS, threads.threads, { key: (row) => row.tid, empty: "threads cannot be listed on this system", detail: stackOf });
}

async function updateLists() {
  showLists(await Promise.all([get("/api/groups"), get("/api/tasks?" + query()), get("/api/untracked"), get("/api/threads")]));
}
