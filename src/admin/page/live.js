// The connection: a stream of events, or requests at an interval where a stream is refused.

const PATIENCE = 5000;
const POLL = 2000;
// The time without an event after which the data is called stale.
const SILENCE = 5000;
let source = null;
let isPolling = false;
// True after a time without a stream, until the history has filled the gap.
let isBehind = false;
let lastState = 0;
let failedSince = null;
let lists = null;

async function get(path, patience = PATIENCE) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(patience) });
  if (!answer.ok) throw new Error(path + ": " + answer.status);
  return answer.json();
}

function sampleOf(runtime) {
  return {
    tasks_live: runtime.tasks_live,
    alive_tasks: runtime.runtime.alive_tasks,
    worker_busy_seconds: runtime.runtime.worker_busy_seconds,
    cpu_seconds: runtime.process.cpu_seconds,
    resident_bytes: runtime.process.resident_bytes,
  };
}

function show(state) {
  lastState = Date.now();
  note(state.timestamp_seconds, sampleOf(state.runtime));
  noteSupervised(state.timestamp_seconds, state.children, state.endpoints);
  showHead(state.runtime);
  showShutdown(state);
  showOverview(state.runtime);
  showSupervised(state.children, state.endpoints);
  setText(find("connection"), source ? "live" : "every " + POLL / 1000 + " s");
  isWell();
}

function isWell() {
  failedSince = null;
  find("problem").hidden = true;
  document.body.classList.remove("stale");
}

function isLost(why) {
  failedSince = failedSince || new Date();
  const isEnd = find("stopping").hidden ? "" : " It was stopping, so it has probably ended.";
  setText(find("problem"), "No answer from the service since " + failedSince.toLocaleTimeString() + "." + isEnd + " The data below is stale. (" + why + ")");
  find("problem").hidden = false;
  setText(find("connection"), "disconnected");
  document.body.classList.add("stale");
}

function listen() {
  if (source || document.hidden) return;
  const stream = new EventSource("/api/events");
  source = stream;
  stream.addEventListener("history", (event) => {
    if (series.size > 0 && !isBehind) return;
    series.clear();
    isBehind = false;
    for (const sample of JSON.parse(event.data)) note(sample.timestamp_seconds, sample);
  });
  stream.addEventListener("state", (event) => show(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    // A refused stream is closed for good; a lost one connects again by itself.
    if (stream !== source || stream.readyState !== EventSource.CLOSED) return;
    source = null;
    setTimeout(listen, 10000);
    poll();
  });
}

// Asks for what the stream would bring, until there is a stream. There is at most one such loop.
async function poll() {
  if (isPolling) return;
  isPolling = true;
  await pollOnce();
}

async function pollOnce() {
  isPolling = !(source && source.readyState === EventSource.OPEN);
  if (!isPolling) return;
  try {
    if (!document.hidden) await readState();
  } catch (error) {
    isLost(error.message);
  }
  setTimeout(pollOnce, POLL);
}

async function readState() {
  const [runtime, children, endpoints] = await Promise.all([get("/api/runtime"), get("/api/children"), get("/api/endpoints")]);
  show({ timestamp_seconds: Date.now() / 1000, runtime, children, endpoints });
}

// Reads the lists every two seconds while the page is visible.
async function readLists() {
  clearTimeout(lists);
  if (!document.hidden) {
    try {
      await updateLists();
      if (Date.now() - lastState < SILENCE) isWell();
    } catch (error) {
      isLost(error.message);
    }
  }
  lists = setTimeout(readLists, POLL);
}

setInterval(() => {
  if (lastState && !document.hidden && Date.now() - lastState > SILENCE) isLost("no event for " + SILENCE / 1000 + " s");
}, 1000);
find("filter").addEventListener("input", () => {
  shownTasks = PAGE;
  readLists();
});
find("filter").addEventListener("submit", (event) => event.preventDefault());
find("more").addEventListener("click", () => {
  shownTasks = Math.min(1000, shownTasks * 4);
  readLists();
});
document.querySelectorAll("button.dump").forEach((button) => button.addEventListener("click", takeDump));
document.addEventListener("keydown", (event) => {
  // As on many pages, a slash goes to the filter.
  if (event.key !== "/" || event.target.closest("input, select")) return;
  event.preventDefault();
  find("filter").elements.group.focus();
});
// The service has few streams, so a hidden page gives its own back. The history then fills the gap.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    if (source) source.close();
    source = null;
    return;
  }
  isBehind = true;
  lastState = Date.now();
  listen();
  readLists();
});
listen();
readLists();
get("/api/report").then(({ previous }) => showPrevious(previous), () => {});
