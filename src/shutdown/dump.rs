//! Takes dumps: of the registry, which answers at once, and of what the kernel knows, which may not.
//!
//! To read the command line of a child can block for as long as the child's memory is locked (proc_pid_cmdline(5) reads
//! it), so a thread of its own asks the kernel, and is waited for so long. What it has not answered is not observed.

mod awaits;
mod seen;
mod tasks;

use super::close::{NO_PROC, NOT_OURS};
use super::voice::{Stream, Voice};
use super::{Print, Standing};
use crate::audit::stack::Naming;
use crate::audit::{self, Baseline};
use crate::registry;
use crate::registry::root::Root;
use crate::report::brief;
use crate::report::dump::{Dump, SCHEMA, UntrackedSite};
use crate::threads::{self, ThreadClass};
use seen::{AtMost, Taken, Told};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tasks::Tasks;

/// How long what the kernel knows is waited for.
const LOOK_BUDGET: Duration = Duration::from_secs(2);
/// How long the names of functions are waited for: a tenth of a second, but seconds in a debug build.
const NAMES_BUDGET: Duration = Duration::from_secs(5);
/// How long what was said before may take to be written.
const WRITE_BUDGET: Duration = Duration::from_secs(5);
/// The most threads of the process that wait for the kernel at once.
const LOOKS: usize = 16;
/// The most entries of a list.
const LISTED: usize = 1000;
/// The threads that take dumps, and are left out of them.
const THREAD_NAME: &str = "headcount-dump";

static LOOKING: AtMost = AtMost::new(LOOKS);

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
    /// It blocks the calling thread, for milliseconds most often. The kernel may take 2 s, and the names of functions
    /// 5 s, after which stacks are addresses; that, and a walk over the tasks, is the most. It stops nobody else. With the
    /// feature `stacks` up to 100 of the listed tasks are asked what they await, by a poll out of turn: they have 100 ms,
    /// and the names of what they answer 5 s. A task on the only thread of a runtime that calls this keeps the others from
    /// answering, and does not ask them.
    #[must_use]
    pub fn dump(&self) -> Dump {
        let (mut dump, held) = self.registered();
        // While nothing else is done: they have little time.
        let answers = awaits::ask(&self.0.root, &mut dump);
        let mut taken = self.see(dump, held, LOOK_BUDGET);
        // What is loaded for the stacks serves the awaits.
        let _naming = Naming::begin();
        taken.name(Instant::now() + NAMES_BUDGET);
        awaits::fill(&self.0.root, taken.registered(), answers);
        taken.into_dump()
    }

    /// The same without names, and waits so long for the kernel.
    pub(super) fn take(&self, budget: Duration) -> Taken {
        let (dump, held) = self.registered();
        self.see(dump, held, budget)
    }

    /// What is known without the kernel, and the task that a thread holds.
    fn registered(&self) -> (Dump, HashMap<u32, String>) {
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
            hints: Vec::new(),
            children: None,
            unlisted_children: 0,
            not_observed: source.not_observed(),
            unlisted_tasks: 0,
            root: crate::report::dump::Group::default(),
        };
        let held;
        (dump.root, dump.unlisted_tasks, held) = tasks.into_groups(LISTED);
        (dump, held)
    }

    /// Puts in what the kernel knows.
    fn see(&self, dump: Dump, held: HashMap<u32, String>, budget: Duration) -> Taken {
        let until = Instant::now() + budget;
        let mut taken = Taken::new(dump, self.look(held));
        taken.see(until, &brief(budget));
        taken
    }

    /// Asks the kernel, on a thread of its own. `held`: the task that a thread holds.
    fn look(&self, held: HashMap<u32, String>) -> Result<Receiver<Told>, String> {
        if !audit::is_observed() {
            return Err(NO_PROC.to_owned());
        }
        let looking = LOOKING.begin().ok_or_else(|| {
            format!("threads and children: not observed, {LOOKS} earlier dumps still wait for them")
        })?;
        let (tell, told) = channel();
        let (source, held) = (Arc::clone(&self.0), Arc::new(held));
        let (on_thread, telling) = (Arc::clone(&held), tell.clone());
        let started = start(self.0.root.number, move || {
            seen::tell(&source, &on_thread, &telling, || drop(looking));
        });
        if started.is_err() {
            // The system has no thread left: the more reason to say which there are.
            let seen = self.0.look(&held);
            tell.send(Told::Seen(seen)).expect("the other end is here");
        }
        Ok(told)
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
