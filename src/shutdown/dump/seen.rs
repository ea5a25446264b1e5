//! What the kernel knows of threads and children, and the stacks: facts first, addresses second, names last.

use super::super::close::other_runtimes;
use super::super::traces::hints;
use super::{LISTED, Source, THREAD_NAME};
use crate::audit::facts::{self, Facts};
use crate::audit::places::Places;
use crate::audit::stack::{self, Means, Naming, Stack};
use crate::audit::trace::Trace;
use crate::audit::{self, Audited, lock};
use crate::report::ChildFinding;
use crate::report::dump::{Dump, Thread};
use crate::threads::ThreadClass;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

/// The most dumps that look for names at once: with the loader's lock they do for ever.
static NAMING: AtMost = AtMost::new(2);

/// What a dump hears of the thread that asks the kernel, in this order.
pub(super) enum Told {
    Seen(Seen),
    /// A stack a thread, by addresses.
    Stacks(Vec<Trace>),
    /// The same by names, one after the other.
    Named(usize, Trace),
}

/// What the kernel knows.
pub(super) struct Seen {
    threads: Vec<Thread>,
    facts: Vec<Facts>,
    unlisted_threads: u64,
    children: Vec<ChildFinding>,
    unlisted_children: u64,
    not_observed: Option<String>,
}

/// A dump that still hears.
pub(in super::super) struct Taken {
    dump: Dump,
    facts: Vec<Facts>,
    traces: Vec<Trace>,
    told: Option<Receiver<Told>>,
}

/// So many of something at once.
pub(super) struct AtMost {
    limit: usize,
    begun: AtomicUsize,
}

/// One of them, until it is dropped.
pub(super) struct One(&'static AtMost);

// === impl Taken ===

impl Taken {
    /// What is known without the kernel, and whoever will tell the rest; `Err` says why nobody will.
    pub(super) fn new(mut dump: Dump, told: Result<Receiver<Told>, String>) -> Self {
        let told = told.map_err(|why| dump.not_observed.push(why)).ok();
        Self {
            dump,
            facts: Vec::new(),
            traces: Vec::new(),
            told,
        }
    }

    /// Waits until threads and children are known, and the stacks by addresses.
    pub(super) fn see(&mut self, until: Instant, budget: &str) {
        match self.hear(until) {
            Some(Told::Seen(seen)) => self.put(seen),
            _ if self.told.take().is_some() => {
                let why = format!("threads and children: not observed within {budget}");
                self.dump.not_observed.push(why);
            }
            _ => return,
        }
        if let Some(Told::Stacks(traces)) = self.hear(until) {
            self.traces = traces;
        }
    }

    /// Waits for the names. Whether there are any.
    pub(in super::super) fn name(&mut self, until: Instant) -> bool {
        let mut named = false;
        while let Some(told) = self.hear(until) {
            match told {
                Told::Seen(_) => {}
                Told::Stacks(traces) => self.traces = traces,
                Told::Named(at, trace) => {
                    named = true;
                    self.traces[at] = trace;
                }
            }
        }
        named
    }

    /// With what was heard so far.
    pub(in super::super) fn dump(&mut self) -> &Dump {
        let threads = self.dump.threads.iter_mut().flatten();
        let locks: Vec<_> = self.traces.iter().map(|trace| trace.lock).collect();
        let facts: Vec<&Facts> = self.facts.iter().collect();
        let waits = lock::sentences(&facts, &locks);
        let late = Trace::absent("not read in time");
        for (at, (thread, waits)) in threads.zip(waits).enumerate() {
            let trace = self.traces.get(at).unwrap_or(&late);
            thread.waits = Some(waits);
            thread.stack.clone_from(&trace.frames);
            thread.stack_note.clone_from(&trace.note);
            thread.no_stack.clone_from(&trace.none);
        }
        let threads = self.dump.threads.iter().flatten();
        let names = threads.map(|thread| (thread.tid, thread.name.as_str()));
        let traces = (0..facts.len()).map(|at| self.traces.get(at));
        self.dump.hints = hints(&facts, traces, &names.collect());
        &self.dump
    }

    /// What is known without the kernel.
    pub(super) fn registered(&mut self) -> &mut Dump {
        &mut self.dump
    }

    pub(super) fn into_dump(mut self) -> Dump {
        self.dump();
        self.dump
    }

    fn put(&mut self, seen: Seen) {
        self.dump.threads = Some(seen.threads);
        self.dump.unlisted_threads = seen.unlisted_threads;
        self.dump.children = Some(seen.children);
        self.dump.unlisted_children = seen.unlisted_children;
        self.dump.not_observed.extend(seen.not_observed);
        self.facts = seen.facts;
    }

    fn hear(&self, until: Instant) -> Option<Told> {
        let left = until.saturating_duration_since(Instant::now());
        self.told.as_ref()?.recv_timeout(left).ok()
    }
}

/// Asks, and tells what it finds as soon as it does. `seen` is called when the kernel has answered.
pub(super) fn tell(
    source: &Source,
    held: &HashMap<u32, String>,
    tell: &Sender<Told>,
    seen: impl FnOnce(),
) {
    // Nobody may be waiting any more.
    let tell = |told| tell.send(told).is_ok();
    let found = source.look(held);
    let tids: Vec<u32> = found.facts.iter().map(|thread| thread.tid).collect();
    let mut order: Vec<usize> = (0..tids.len()).collect();
    order.sort_by_key(|at| rank(&found.threads[*at]));
    tell(Told::Seen(found));
    let (stacks, places) = (stack::read(&tids, Means::Quiet), Places::read());
    let trace = |stack: &Result<Stack, String>| match stack {
        Ok(stack) => Trace::by_address(stack, &places),
        Err(why) => Trace::absent(why),
    };
    let is_heard = tell(Told::Stacks(stacks.iter().map(trace).collect()));
    seen();
    let Some(_one) = NAMING.begin().filter(|_| is_heard) else {
        return;
    };
    let _naming = Naming::begin();
    for at in order {
        let Ok(stack) = &stacks[at] else { continue };
        if !tell(Told::Named(at, Trace::by_name(stack))) {
            break;
        }
    }
}

/// Whose names come first, if there is no time for all: those who may be to blame.
fn rank(thread: &Thread) -> u8 {
    match thread.class {
        _ if thread.task.is_some() => 0,
        ThreadClass::Main | ThreadClass::Tracked | ThreadClass::Unknown => 1,
        ThreadClass::Control => 3,
        _ => 2,
    }
}

// === impl Source ===

impl Source {
    pub(super) fn look(&self, held: &HashMap<u32, String>) -> Seen {
        let mut all = audit::threads(&self.baseline);
        all.retain(|thread| !takes_dumps(thread));
        let other_runtimes = other_runtimes(all.iter());
        let unlisted_threads = all.len().saturating_sub(LISTED) as u64;
        if unlisted_threads > 0 {
            // Those that hold a task come first, because the tasks name them.
            all.sort_by_key(|thread| !held.contains_key(&thread.os.key.tid));
            all.truncate(LISTED);
        }
        let mut children = audit::children(&self.baseline);
        let unlisted_children = children.len().saturating_sub(LISTED) as u64;
        children.truncate(LISTED);
        let read = |thread: &Audited| facts::read(thread.os.key.tid);
        Seen {
            facts: all.iter().map(read).collect(),
            threads: all.iter().map(|thread| describe(thread, held)).collect(),
            unlisted_threads,
            children: children
                .into_iter()
                .map(|child| ChildFinding {
                    pid: child.pid,
                    command: child.command,
                })
                .collect(),
            unlisted_children,
            not_observed: other_runtimes.filter(|_| self.owns_runtime),
        }
    }
}

fn takes_dumps(thread: &Audited) -> bool {
    thread
        .known
        .as_ref()
        .is_some_and(|known| known.class == ThreadClass::Control && known.name == THREAD_NAME)
}

/// All but what it waits for, and its stack.
fn describe(thread: &Audited, held: &HashMap<u32, String>) -> Thread {
    let started = thread.known.as_ref().and_then(|known| known.started);
    Thread {
        name: thread.name().to_owned(),
        tid: thread.os.key.tid,
        class: thread.class(),
        there_before: thread.in_baseline,
        spawned: started.map(ToString::to_string),
        age: thread.age,
        cpu: thread.os.cpu,
        state: thread.os.state_name().to_owned(),
        waits: None,
        stack: Vec::new(),
        stack_note: None,
        no_stack: None,
        task: held.get(&thread.os.key.tid).cloned(),
    }
}

// === impl AtMost ===

impl AtMost {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            begun: AtomicUsize::new(0),
        }
    }

    /// `None` when so many have begun.
    pub(super) fn begin(&'static self) -> Option<One> {
        let one = One(self);
        (self.begun.fetch_add(1, Ordering::AcqRel) < self.limit).then_some(one)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.begun.fetch_sub(1, Ordering::AcqRel);
    }
}
