//! The part of a dump that comes from the kernel: threads, children and stacks.
//!
//! A separate thread collects it and sends it in the order of its cost: facts, then stacks. The dump
//! takes what has arrived when its budget ends, and has the stacks symbolized afterwards.

use super::symbols::{self, Nameless, Symbolizer};
use super::{LISTED, Source, THREAD_NAME, awaits, untracked};
use crate::audit::waits::{self, ThreadWait};
use crate::audit::{self, Audited};
use crate::registry::query::await_query::Answers;
use crate::report::dump::Dump;
use crate::report::not_observed::{AWAITS_LATE, other_runtimes};
use crate::report::{ChildRow, ThreadRow};
use crate::stacks::locks;
use crate::stacks::places::Places;
use crate::stacks::trace::{Trace, hints};
use crate::stacks::{self, Means, Stack};
use crate::threads::ThreadClass;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

/// A message to the dump, sent in this order.
pub(super) enum Told {
    /// Threads and children.
    Seen(Seen),
    /// The stacks, one for each thread; the error says why there is none.
    Stacks(Vec<Result<Stack, String>>, Places),
}

/// Threads and children as the kernel knows them.
pub(super) struct Seen {
    threads: Vec<ThreadRow>,
    /// In the order of `threads`.
    facts: Vec<ThreadWait>,
    unlisted_threads: u64,
    children: Vec<ChildRow>,
    unlisted_children: u64,
    owns_runtime: bool,
}

/// A dump to which stacks and symbols may still be added.
pub(crate) struct Taken {
    dump: Dump,
    facts: Vec<ThreadWait>,
    /// The stacks in the order of the dump's threads.
    stacks: Vec<Result<Stack, String>>,
    /// The stacks as they are shown, in the same order.
    traces: Vec<Trace>,
    /// `None` if the kernel is not asked, or has not answered in time.
    told: Option<Receiver<Told>>,
    /// False until the threads are known.
    owns_runtime: bool,
}

// === impl Taken ===

impl Taken {
    /// Creates a dump from what the registry knows. `told` receives the rest, or says why the
    /// kernel is not asked.
    pub(super) fn new(mut dump: Dump, told: Result<Receiver<Told>, String>) -> Self {
        let told = told.map_err(|why| dump.not_observed.push(why)).ok();
        Self {
            dump,
            facts: Vec::new(),
            stacks: Vec::new(),
            traces: Vec::new(),
            told,
            owns_runtime: false,
        }
    }

    /// Waits for threads, children and the stacks as addresses.
    ///
    /// If the first message does not arrive by `until`, the dump says so, and later messages are
    /// ignored. `budget`: the time that was given, as text.
    pub(super) fn see(&mut self, until: Instant, budget: &str) {
        match self.hear(until) {
            Some(Told::Seen(seen)) => self.put(seen),
            _ if self.told.take().is_some() => {
                let why = format!(
                    "threads and children: not observed, the kernel did not answer within {budget}"
                );
                self.dump.not_observed.push(why);
            }
            _ => return,
        }
        if let Some(Told::Stacks(stacks, places)) = self.hear(until) {
            let trace = |stack: &Result<Stack, String>| match stack {
                Ok(stack) => Trace::by_address(stack, &places),
                Err(why) => Trace::absent(why),
            };
            self.traces = stacks.iter().map(trace).collect();
            self.stacks = stacks;
        }
    }

    /// Has answers and stacks symbolized, and waits for that until `until`. Returns whether a stack
    /// was.
    pub(super) fn name(
        &mut self,
        symbolizer: &Symbolizer,
        answers: Answers,
        until: Instant,
    ) -> bool {
        let mut order: Vec<usize> = (0..self.stacks.len()).collect();
        let threads = self.dump.threads.as_deref().unwrap_or_default();
        order.sort_by_key(|at| threads.get(*at).map_or(u8::MAX, rank));
        order.retain(|at| self.stacks[*at].is_ok());
        let stacks = order.iter().filter_map(|at| self.stacks[*at].clone().ok());
        let has_answers = !answers.is_empty();
        let nameless = Nameless {
            answers,
            stacks: stacks.collect(),
        };
        let names = symbolizer.name_blocking(nameless, until);
        if has_answers && names.awaits.is_empty() {
            self.dump.not_observed.push(AWAITS_LATE.to_owned());
        }
        awaits::fill(&mut self.dump, names.awaits);
        let named = !names.stacks.is_empty();
        for (at, trace) in names.stacks {
            self.traces[order[at]] = trace;
        }
        named
    }

    /// Updates the dump with everything received so far, and returns it.
    pub(super) fn dump(&mut self) -> &Dump {
        let threads = self.dump.threads.iter_mut().flatten();
        let locks: Vec<_> = self.traces.iter().map(|trace| trace.lock).collect();
        let facts: Vec<&ThreadWait> = self.facts.iter().collect();
        let waits = locks::sentences(&facts, &locks);
        let late = Trace::absent("not read in time");
        for (at, (thread, waits)) in threads.zip(waits).enumerate() {
            let trace = self.traces.get(at).unwrap_or(&late);
            thread.waits = Some(waits);
            thread.show(trace);
        }
        let threads = self.dump.threads.iter().flatten();
        let names = threads.map(|thread| (thread.tid, thread.name.as_str()));
        let traces = (0..facts.len()).map(|at| self.traces.get(at));
        let hints = hints(&facts, traces, &names.collect());
        self.dump.hints.extend(hints);
        &self.dump
    }

    /// Returns the final dump.
    pub(super) fn into_dump(mut self) -> Dump {
        self.dump();
        if self.owns_runtime {
            let others = other_runtimes(self.unknown());
            self.dump.not_observed.extend(others);
        }
        self.dump
    }

    /// Returns the names of unknown threads, with the calls of those that were symbolized.
    fn unknown(&self) -> impl Iterator<Item = (&str, Option<&[String]>)> {
        let threads = self.dump.threads.iter().flatten().enumerate();
        let unknown = threads
            .filter(|(_, thread)| thread.class == ThreadClass::Unknown && !thread.there_before);
        unknown.map(|(at, thread)| {
            let calls = self.traces.get(at).map(|trace| trace.calls.as_slice());
            (
                thread.name.as_str(),
                calls.filter(|calls| !calls.is_empty()),
            )
        })
    }

    fn put(&mut self, seen: Seen) {
        self.dump.threads = Some(seen.threads);
        self.dump.unlisted_threads = seen.unlisted_threads;
        self.dump.children = Some(seen.children);
        self.dump.unlisted_children = seen.unlisted_children;
        self.owns_runtime = seen.owns_runtime;
        self.facts = seen.facts;
    }

    /// Waits for the next message. Returns `None` after `until`, or when there are no more.
    fn hear(&self, until: Instant) -> Option<Told> {
        let left = until.saturating_duration_since(Instant::now());
        self.told.as_ref()?.recv_timeout(left).ok()
    }
}

/// Asks the kernel, and sends each result as soon as it is known.
pub(super) fn tell(source: &Source, held: &HashMap<u32, String>, tell: &Sender<Told>) {
    let found = source.look(held);
    let tids: Vec<u32> = found.facts.iter().map(|thread| thread.tid).collect();
    // Fails if the dump is complete.
    if tell.send(Told::Seen(found)).is_ok() {
        let stacks = stacks::read(&tids, Means::Quiet);
        tell.send(Told::Stacks(stacks, Places::read())).ok();
    }
}

/// Returns the order in which stacks are symbolized, lowest first: the threads most likely to be at
/// fault.
fn rank(thread: &ThreadRow) -> u8 {
    match thread.class {
        _ if thread.task.is_some() => 0,
        ThreadClass::Main | ThreadClass::Tracked | ThreadClass::Unknown => 1,
        ThreadClass::Control => 3,
        _ => 2,
    }
}

// === impl Source ===

impl Source {
    /// Reads threads and children. `held`: the task that each thread occupies.
    pub(super) fn look(&self, held: &HashMap<u32, String>) -> Seen {
        let mut all = audit::threads(&self.baseline);
        all.retain(|thread| !takes_dumps(thread));
        let unlisted_threads = all.len().saturating_sub(LISTED) as u64;
        if unlisted_threads > 0 {
            // Threads with a task come first, because the rows of the tasks refer to them.
            all.sort_by_key(|thread| !held.contains_key(&thread.os.key.tid));
            all.truncate(LISTED);
        }
        let mut children = audit::children(&self.baseline);
        let unlisted_children = children.len().saturating_sub(LISTED) as u64;
        children.truncate(LISTED);
        let read = |thread: &Audited| waits::read(thread.os.key.tid);
        let row = |thread: &Audited| ThreadRow {
            task: held.get(&thread.os.key.tid).cloned(),
            ..ThreadRow::new(thread, self.root.number)
        };
        Seen {
            facts: all.iter().map(read).collect(),
            threads: all.iter().map(row).collect(),
            unlisted_threads,
            children: children.into_iter().map(ChildRow::from).collect(),
            unlisted_children,
            owns_runtime: self.owns_runtime,
        }
    }
}

/// Returns whether the thread takes dumps.
fn takes_dumps(thread: &Audited) -> bool {
    thread
        .known
        .as_ref()
        .filter(|known| known.class == ThreadClass::Control)
        .is_some_and(|known| {
            [THREAD_NAME, symbols::THREAD_NAME, untracked::THREAD_NAME]
                .contains(&known.name.as_str())
        })
}
