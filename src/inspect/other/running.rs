//! The threads of another process with their stacks, and which task each is polling.
//!
//! A task that runs cannot be read, but the stack of its thread can, if the thread waits: in a system
//! call, for a lock, or for a processor that it was taken from. A thread polls a task if the function
//! that polls tasks of this kind is on its stack. A pointer to the task on the stack is no proof: it may
//! be left over.

use super::{Process, Thread};
use crate::inspect::header::{Tables, Task};
use crate::inspect::program::{Place, Types};
use crate::stacks::reader::foreign::ForeignReader;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

/// The most calls of a stack that are shown.
const CALLS: usize = 64;
/// The number of times that a thread on a processor is read again, and the time before each.
const AGAIN: u32 = 4;
const PAUSE: Duration = Duration::from_millis(5);
/// The functions of the standard library in which the main thread and others begin.
const STARTS: [&str; 2] = ["__rust_begin_short_backtrace", "std::rt::lang_start"];

/// A thread with its stack.
#[derive(Debug)]
pub(super) struct Stacked {
    pub(super) thread: Thread,
    /// The innermost first; `None` for a thread on a processor.
    pub(super) calls: Option<Vec<Call>>,
}

/// A call on a stack.
#[derive(Debug)]
pub(super) struct Call {
    /// The beginning of the function, in memory.
    function: Option<u64>,
    /// The function in words.
    pub(super) name: String,
    pub(super) place: Option<Place>,
}

/// A task that runs, with its thread and the calls between its poll and the innermost function.
#[derive(Debug)]
pub(super) struct Running<'a> {
    pub(super) thread: &'a Thread,
    pub(super) calls: &'a [Call],
}

/// Reads the stacks of all threads.
pub(super) fn stacks(process: &Process, types: &Types<'_>) -> Vec<Stacked> {
    let Ok(mut reader) = ForeignReader::open(process.pid) else {
        return Vec::new();
    };
    let read = |reader: &mut ForeignReader, tid| {
        let stack = reader.stack(tid)?;
        let addresses = stack.addresses.iter().take(CALLS).enumerate();
        let calls = addresses.map(|(level, address)| {
            // A return address is behind its call, which may be the last of a function.
            let at = (*address as u64).saturating_sub(u64::from(level > 0));
            call(process, types, reader, at)
        });
        Some(calls.collect())
    };
    let threads = process.threads.iter().map(|thread| Stacked {
        thread: thread.clone(),
        calls: read(&mut reader, thread.tid),
    });
    let mut threads: Vec<Stacked> = threads.collect();
    for _ in 0..AGAIN {
        let mut unread = threads
            .iter_mut()
            .filter(|stacked| stacked.calls.is_none())
            .peekable();
        if unread.peek().is_none() {
            break;
        }
        std::thread::sleep(PAUSE);
        for stacked in unread {
            stacked.calls = read(&mut reader, stacked.thread.tid);
        }
    }
    threads
}

fn call(process: &Process, types: &Types<'_>, reader: &ForeignReader, at: u64) -> Call {
    let in_file = process.program.in_file(at);
    let is_own = process.program.code().contains(&at);
    let symbol = || process.program.symbols().function(in_file);
    let name = is_own.then(symbol).flatten();
    let module = || {
        let mapping = process.memory.mapping(at);
        let path = mapping.map(|mapping| mapping.path).unwrap_or_default();
        match path.rsplit('/').next() {
            Some(file) if !file.is_empty() => format!("{at:#x} in {file}"),
            _ => format!("{at:#x}"),
        }
    };
    Call {
        function: reader.function(at),
        name: name.unwrap_or_else(module),
        place: is_own.then(|| types.line(in_file)).flatten(),
    }
}

/// Finds the threads that poll tasks, by the addresses of the tasks. With several running tasks of one
/// kind, or a thread without a stack, which thread has which is not known, and none is named. The same one
/// has to run before the stacks were read and after.
pub(super) fn running<'a>(process: &Process, stacked: &'a [Stacked]) -> HashMap<u64, Running<'a>> {
    let is_unread = |stacked: &Stacked| {
        let folder = format!("/proc/{}/task/{}", process.pid, stacked.thread.tid);
        stacked.calls.is_none() && Path::new(&folder).exists()
    };
    if stacked.iter().any(is_unread) {
        return HashMap::new();
    }
    let running = process.tasks().filter(|task| task.state.is_running());
    let kinds: HashSet<u64> = running.map(|task| task.table).collect();
    let tables = Tables::new(process.kinds.has_spawn_place);
    let runs_now = |task: &Task| {
        let now = tables.task(&process.memory, task.header);
        now.is_some_and(|now| now.id == task.id && now.state.is_running())
    };
    // Those that ran before or run now, with whether they did both.
    let mut by_poll: HashMap<u64, Vec<(&Task, bool)>> = HashMap::new();
    process.memory.keep(true);
    for task in process.tasks().filter(|task| kinds.contains(&task.table)) {
        let (before, now) = (task.state.is_running(), runs_now(task));
        let table = process.kinds.tables.get(&task.table);
        if let Some(table) = table.filter(|_| before || now) {
            let tasks = by_poll.entry(table.functions[0]).or_default();
            tasks.push((task, before && now));
        }
    }
    process.memory.keep(false);
    let mut found: HashMap<u64, Vec<Running<'a>>> = HashMap::new();
    for stacked in stacked {
        let calls = stacked.calls.as_deref().unwrap_or_default();
        let polls = |call: &Call| call.function.filter(|at| by_poll.contains_key(at));
        let level = calls.iter().position(|call| polls(call).is_some());
        if let Some((level, poll)) = level.and_then(|level| Some((level, polls(&calls[level])?))) {
            found.entry(poll).or_default().push(Running {
                thread: &stacked.thread,
                calls: without_machinery(&calls[..level]),
            });
        }
    }
    let pairs = by_poll.into_iter().filter_map(|(poll, tasks)| {
        let mut threads = found.remove(&poll)?;
        let [(task, true)] = tasks[..] else {
            return None;
        };
        let thread = threads.pop().filter(|_| threads.is_empty())?;
        Some((task.header, thread))
    });
    pairs.collect()
}

/// Removes the calls of tokio around those of the program's own code.
fn without_machinery(calls: &[Call]) -> &[Call] {
    let outermost = calls.iter().rposition(Call::is_own);
    &calls[..outermost.map_or(calls.len(), |outermost| outermost + 1)]
}

// === impl Running ===

impl Running<'_> {
    /// Describes the thread and the innermost call of the program's own code.
    pub(super) fn summary(&self) -> String {
        let own = self.calls.iter().find(|call| call.is_own());
        let own = own.or(self.calls.first());
        let call = own.map_or_else(String::new, |call| format!(", in {}", call.shown()));
        let Thread { name, tid, .. } = self.thread;
        format!("running on thread \"{name}\" (tid {tid}){call}")
    }
}

// === impl Call ===

impl Call {
    /// Returns the function with its place.
    pub(super) fn shown(&self) -> String {
        let name = self.name.trim_end_matches("::{{closure}}");
        match &self.place {
            Some(place) => format!("{name} ({place})"),
            None => name.to_owned(),
        }
    }

    /// Returns whether it is of the program's own code.
    pub(super) fn is_own(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_own)
    }
}

// === impl Stacked ===

impl Stacked {
    /// Returns the calls without those that every thread has at its outer end.
    pub(super) fn shown(&self) -> &[Call] {
        let calls = self.calls.as_deref().unwrap_or_default();
        let is_start = |call: &Call| STARTS.iter().any(|start| call.name.contains(start));
        let end = calls.iter().position(is_start).unwrap_or(calls.len());
        match end {
            0 => calls,
            end => &calls[..end],
        }
    }
}
