//! Takes dumps: of the registry, which answers at once, and of what the kernel knows, which may not.
//!
//! To read the command line of a child can block for as long as the child's memory is locked (proc_pid_cmdline(5) reads
//! it), so a thread of its own asks the kernel, and is waited for so long. What it has not answered is not observed.

mod awaits;
mod tasks;

use super::close::{NO_PROC, NOT_OURS, other_runtimes};
use super::voice::{Stream, Voice};
use super::{Print, Standing};
use crate::audit::{self, Audited, Baseline, facts};
use crate::registry;
use crate::registry::root::Root;
use crate::report::dump::{Dump, SCHEMA, Thread, UntrackedSite};
use crate::report::{ChildFinding, brief};
use crate::threads::{self, ThreadClass};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use tasks::Tasks;

/// How long what the kernel knows is waited for.
const LOOK_BUDGET: Duration = Duration::from_secs(2);
/// How long what was said before may take to be written.
const WRITE_BUDGET: Duration = Duration::from_secs(5);
/// The most threads of the process that wait for the kernel at once.
const LOOKS: usize = 16;
/// The most entries of a list.
const LISTED: usize = 1000;
/// The threads that take dumps, and are left out of them.
const THREAD_NAME: &str = "headcount-dump";

static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// Takes dumps of one runtime. Clones take them of the same.
///
/// For a service that shows its own state: it works as long as it is kept, from any thread, also when every worker is
/// stuck and after the shutdown.
///
/// # Examples
///
/// ```
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let dumper = runtime.dumper();
/// runtime.run(async move |tasks| {
///     tasks.spawn("idler", std::future::pending::<()>());
///     let dump = dumper.dump();
///     assert!(dump.to_text().contains("idler"));
/// });
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Dumper(Arc<Source>);

#[derive(Debug)]
struct Source {
    service: String,
    root: Arc<Root>,
    baseline: Baseline,
    phase: Arc<Standing>,
    owns_runtime: bool,
}

/// What the kernel knows.
struct Seen {
    threads: Vec<Thread>,
    unlisted_threads: u64,
    children: Vec<ChildFinding>,
    unlisted_children: u64,
    not_observed: Option<String>,
}

/// While it lives, one more thread waits for the kernel.
struct Looking;

/// The dumps that a signal asks for: one at a time.
pub(super) struct Dumps {
    dumper: Dumper,
    voice: Voice,
    print: Print,
    under_way: Arc<AtomicBool>,
}

/// While it lives, a dump is under way.
struct UnderWay(Arc<AtomicBool>);

// === impl Dumper ===

impl Dumper {
    pub(super) fn new(
        service: &str,
        root: &Arc<Root>,
        baseline: &Baseline,
        phase: &Arc<Standing>,
        owns_runtime: bool,
    ) -> Self {
        Self(Arc::new(Source {
            service: service.to_owned(),
            root: Arc::clone(root),
            baseline: baseline.clone(),
            phase: Arc::clone(phase),
            owns_runtime,
        }))
    }

    /// What lives at this moment.
    ///
    /// It blocks the calling thread, for milliseconds most often, and for 2 s and a walk over the tasks at most. It stops
    /// nobody else. With the feature `stacks` up to 100 of the listed tasks are asked what they await, by a poll out of
    /// turn: they have 100 ms, and the names of what they answer 5 s. A task on the only thread of a runtime that calls
    /// this keeps the others from answering, and does not ask them.
    #[must_use]
    pub fn dump(&self) -> Dump {
        let mut dump = self.within(LOOK_BUDGET);
        awaits::fill(&self.0.root, &mut dump);
        dump
    }

    /// The same without what tasks await, and waits so long for the kernel.
    pub(super) fn within(&self, budget: Duration) -> Dump {
        let source = &*self.0;
        let tasks = Tasks::of(&source.root);
        let mut dump = Dump {
            schema: SCHEMA,
            service: source.service.clone(),
            pid: std::process::id(),
            phase: source.phase.phase(),
            tasks: tasks.count(),
            untracked: source.untracked(),
            threads: None,
            unlisted_threads: 0,
            children: None,
            unlisted_children: 0,
            not_observed: source.not_observed(),
            unlisted_tasks: 0,
            root: crate::report::dump::Group::default(),
        };
        let held;
        (dump.root, dump.unlisted_tasks, held) = tasks.into_groups(LISTED);
        match self.look(held, budget) {
            Ok(seen) => {
                dump.threads = Some(seen.threads);
                dump.unlisted_threads = seen.unlisted_threads;
                dump.children = Some(seen.children);
                dump.unlisted_children = seen.unlisted_children;
                dump.not_observed.extend(seen.not_observed);
            }
            Err(why) => dump.not_observed.push(why),
        }
        dump
    }

    /// Asks the kernel, on a thread of its own. `held`: the task that a thread holds.
    fn look(&self, held: HashMap<u32, String>, budget: Duration) -> Result<Seen, String> {
        if !audit::is_observed() {
            return Err(NO_PROC.to_owned());
        }
        let looking = Looking::begin().ok_or_else(|| {
            format!("threads and children: not observed, {LOOKS} earlier dumps still wait for them")
        })?;
        let (tell, told) = sync_channel(1);
        let (source, held) = (Arc::clone(&self.0), Arc::new(held));
        let on_thread = Arc::clone(&held);
        let started = start(self.0.root.number, move || {
            let seen = source.look(&on_thread);
            drop(looking);
            // Nobody may be waiting any more.
            tell.send(seen).ok();
        });
        match started {
            Ok(()) => told.recv_timeout(budget).map_err(|_| {
                let budget = brief(budget);
                format!("threads and children: not observed within {budget}")
            }),
            // The system has no thread left: the more reason to say which there are.
            Err(_) => Ok(self.0.look(&held)),
        }
    }
}

fn start(root: u64, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let site = Location::caller();
    threads::start(root, THREAD_NAME, ThreadClass::Control, site, work).map(drop)
}

// === impl Source ===

impl Source {
    fn untracked(&self) -> Option<Vec<UntrackedSite>> {
        if !self.root.sees_untracked() {
            return None;
        }
        let mut sites: Vec<UntrackedSite> = registry::untracked_sites(&self.root)
            .into_iter()
            .filter(|(_, live, _)| *live > 0)
            .map(|(kind, live, _)| UntrackedSite {
                spawned: kind.site.to_string(),
                live,
            })
            .collect();
        sites.sort_by(|a, b| (Reverse(a.live), &a.spawned).cmp(&(Reverse(b.live), &b.spawned)));
        sites.truncate(LISTED);
        Some(sites)
    }

    fn not_observed(&self) -> Vec<String> {
        let why = if !self.owns_runtime {
            NOT_OURS
        } else if !self.root.sees_untracked() {
            "untracked tasks: not observed, built without tokio_unstable"
        } else {
            return Vec::new();
        };
        vec![why.to_owned()]
    }

    fn look(&self, held: &HashMap<u32, String>) -> Seen {
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
        Seen {
            threads: describe_threads(&all, held),
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

/// All that is said of threads.
fn describe_threads(threads: &[Audited], held: &HashMap<u32, String>) -> Vec<Thread> {
    let facts: Vec<_> = threads
        .iter()
        .map(|thread| facts::read(thread.os.key.tid))
        .collect();
    let describe = |(thread, waits): (&Audited, String)| Thread {
        name: thread.name().to_owned(),
        tid: thread.os.key.tid,
        class: thread.class(),
        there_before: thread.in_baseline,
        spawned: thread
            .known
            .as_ref()
            .and_then(|known| known.started)
            .map(ToString::to_string),
        age: thread.age,
        cpu: thread.os.cpu,
        state: thread.os.state_name().to_owned(),
        waits: Some(waits),
        stack: Vec::new(),
        no_stack: None,
        task: held.get(&thread.os.key.tid).cloned(),
    };
    let described = threads.iter().zip(facts::sentences(&facts));
    described.map(describe).collect()
}

// === impl Looking ===

impl Looking {
    /// `None` when too many wait already.
    fn begin() -> Option<Self> {
        let looking = Self;
        (LOOKING.fetch_add(1, Ordering::AcqRel) < LOOKS).then_some(looking)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Dumps ===

impl Dumps {
    pub(super) fn new(dumper: Dumper, voice: Voice, print: Print) -> Self {
        Self {
            dumper,
            voice,
            print,
            under_way: Arc::default(),
        }
    }

    /// Begins a dump, on a thread of its own: whoever asks must go on answering signals.
    pub(super) fn begin(&self) {
        let Some(under_way) = UnderWay::begin(&self.under_way) else {
            let text = format!("headcount {}: a dump is under way\n", self.dumper.0.service);
            return self.voice.text(Stream::Stderr, text);
        };
        let root = self.dumper.0.root.number;
        let (dumper, voice, print) = (self.dumper.clone(), self.voice.clone(), self.print);
        let started = start(root, move || {
            say(&dumper, &voice, print, Some(under_way));
        });
        if started.is_err() {
            // The system has no thread left. The signals that come meanwhile are answered a moment later.
            say(&self.dumper, &self.voice, self.print, None);
        }
    }
}

fn say(dumper: &Dumper, voice: &Voice, print: Print, under_way: Option<UnderWay>) {
    if !voice.flush_text(WRITE_BUDGET) {
        // Nobody reads what we write, and dumps would fill the memory.
        return;
    }
    let dump = dumper.dump();
    let text = match print {
        #[cfg(feature = "json")]
        Print::Json => dump.to_json() + "\n",
        Print::Nowhere | Print::Text => dump.to_text_after("dump (SIGQUIT)"),
    };
    // Before it is said: whoever has read it may ask for the next.
    drop(under_way);
    voice.text(print.stream(), text);
}

// === impl UnderWay ===

impl UnderWay {
    /// `None` when one is.
    fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        let begun = !flag.swap(true, Ordering::AcqRel);
        begun.then(|| Self(Arc::clone(flag)))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
