//! Dumps: what is alive at this moment, taken while the process runs.
//!
//! A dump has two sources. The registry answers at once. The kernel may not: to read the command
//! line of a child can block for as long as the child's memory is locked (proc_pid_cmdline(5) reads
//! it). A separate thread therefore asks the kernel, and the dump waits for it within a budget.
//! Answers that arrive later are reported as not observed.
//!
//! A dump never waits for a task or a worker, so it works when every worker is blocked.

pub(crate) mod last_words;
pub(crate) mod os_threads;
pub(crate) mod symbols;
pub(crate) mod untracked;

mod at_most;
mod awaits;
mod tasks;

use crate::audit::{self, Baseline};
use crate::control::output::{Output, Stream};
use crate::control::part::DumpSource;
use crate::control::plan::Print;
use crate::control::progress::Progress;
use crate::registry::kind::Kind;
use crate::registry::root::Root;
use crate::report::dump::{Dump, SCHEMA};
use crate::report::not_observed::{NO_PROC, NOT_ALL};
use crate::report::{UntrackedTasks, brief, path, times};
use crate::task::TaskId;
use crate::threads::{self};
use at_most::AtMost;
use os_threads::{Taken, Told};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use symbols::Symbolizer;
use tokio::runtime::Handle;
use untracked::Describing;

/// The longest wait for the kernel.
const LOOK_BUDGET: Duration = Duration::from_secs(2);
/// The longest wait for symbols. They take about 0.1 s, but seconds in a debug build.
const NAMES_BUDGET: Duration = Duration::from_secs(5);
/// The longest wait for the types of untracked tasks. They take about 0.1 s.
const TYPES_BUDGET: Duration = Duration::from_secs(2);
/// The longest wait for earlier output to be written, before a dump is taken.
const WRITE_BUDGET: Duration = Duration::from_secs(5);
/// The most threads of the process that wait for the kernel at once.
const LOOKS: usize = 16;
/// The most entries of each list in a dump.
const LISTED: usize = 1000;
/// The most tasks that a sentence names.
const NAMED: usize = 5;
/// The name of the threads that take dumps. Dumps leave them out.
const THREAD_NAME: &str = "headcount-dump";

/// The threads that wait for the kernel, in the whole process.
static LOOKING: AtMost = AtMost::new(LOOKS);

/// A handle that takes dumps of one runtime. Clones refer to the same runtime.
///
/// Use it in a service that shows its own state. It works as long as it is kept, from any thread,
/// even when every worker is blocked and after the shutdown.
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

/// The sources of a dump.
#[derive(Debug)]
struct Source {
    service: String,
    root: Arc<Root>,
    /// The threads and children that existed before.
    baseline: Baseline,
    progress: Arc<Progress>,
    /// The runtime's handle.
    work: Handle,
    owns_runtime: bool,
    symbolizer: Symbolizer,
}

/// The dumps that SIGQUIT requests: one at a time.
pub(crate) struct Dumps {
    dumper: Dumper,
    output: Output,
    print: Print,
    /// True while a dump is in progress.
    under_way: Arc<AtomicBool>,
}

/// A guard that marks a dump as in progress until it is dropped.
struct UnderWay(Arc<AtomicBool>);

// === impl Dumper ===

impl Dumper {
    pub(crate) fn new(
        service: &str,
        root: &Arc<Root>,
        baseline: &Baseline,
        progress: &Arc<Progress>,
        (work, owns_runtime): (&Handle, bool),
        symbolizer: &Symbolizer,
    ) -> Self {
        Self(Arc::new(Source {
            service: service.to_owned(),
            root: Arc::clone(root),
            baseline: baseline.clone(),
            progress: Arc::clone(progress),
            work: work.clone(),
            owns_runtime,
            symbolizer: symbolizer.clone(),
        }))
    }

    /// Takes a dump of everything that is alive at this moment.
    ///
    /// Blocks the calling thread, usually for milliseconds. It waits at most 2 s for the kernel,
    /// at most 2 s for the types of untracked
    /// tasks, and at most 5 s for symbols. Stacks that are not symbolized by then are shown as addresses.
    /// Other threads keep running, except that a signal interrupts those on a CPU while their
    /// stacks are read.
    ///
    /// With the feature `stacks`, up to 100 of the listed tasks are also asked what they await, by
    /// one extra poll each. They have 100 ms to answer. A task in a poll does not answer in time. If
    /// the caller is itself a task on a current-thread runtime, no task is asked, because none could
    /// be polled meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().print(false).build()?;
    /// let idler = runtime.tasks().spawn("idler", std::future::pending::<()>());
    /// let dump = runtime.dumper().dump();
    /// assert_eq!(dump.tasks, 1);
    /// assert!(dump.to_text().contains("idler"));
    /// # idler.cancel();
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[must_use]
    pub fn dump(&self) -> Dump {
        let (mut dump, held) = self.registered(Some(Instant::now() + TYPES_BUDGET));
        // First, because tasks have little time to answer and nothing else competes for the CPU
        // yet.
        let answers = awaits::ask(&self.0.root, &mut dump);
        let mut taken = self.see(dump, held, LOOK_BUDGET);
        taken.name(&self.0.symbolizer, answers, Instant::now() + NAMES_BUDGET);
        self.0.symbolizer.end();
        taken.into_dump()
    }

    /// Takes a dump without symbols or await chains, and waits at most `budget` for the kernel.
    fn take(&self, budget: Duration) -> Taken {
        let (dump, held) = self.registered(None);
        self.see(dump, held, budget)
    }

    fn symbolizer(&self) -> &Symbolizer {
        &self.0.symbolizer
    }

    /// Returns the part of the dump that comes from the registry, and the path of the task that
    /// each thread occupies. The types of untracked tasks are read until `describe_until`.
    fn registered(&self, describe_until: Option<Instant>) -> (Dump, HashMap<u32, String>) {
        let source = &*self.0;
        let tasks = tasks::of(&source.root, LISTED);
        let mut dump = Dump {
            schema: SCHEMA,
            service: source.service.clone(),
            pid: std::process::id(),
            phase: source.progress.phase(),
            tasks: tasks.count,
            root: tasks.root,
            unlisted_tasks: tasks.unlisted,
            untracked: None,
            threads: None,
            unlisted_threads: 0,
            hints: Vec::new(),
            children: None,
            unlisted_children: 0,
            not_observed: Vec::new(),
        };
        match UntrackedTasks::look(&source.root, &source.work) {
            Ok(mut seen) => {
                if let Some(until) = describe_until {
                    let reading = Describing::begin(source.root.number, &seen, until);
                    reading.complete_blocking(&mut seen, until);
                }
                dump.hints.extend(never_wake(&seen.unwakeable));
                if !seen.is_whole {
                    dump.not_observed.push(NOT_ALL.to_owned());
                }
                let mut rows = seen.into_rows();
                rows.retain(|row| row.live > 0);
                rows.truncate(LISTED);
                dump.untracked = Some(rows);
            }
            Err(reason) => dump.not_observed.push(reason),
        }
        (dump, tasks.on_threads)
    }

    /// Adds what the kernel answers within the budget.
    fn see(&self, dump: Dump, held: HashMap<u32, String>, budget: Duration) -> Taken {
        let until = Instant::now() + budget;
        let mut taken = Taken::new(dump, self.look(held));
        taken.see(until, &brief(budget));
        taken
    }

    /// Asks the kernel on a separate thread. `held`: the task that each thread occupies. Returns
    /// the reason if the kernel cannot be asked.
    fn look(&self, held: HashMap<u32, String>) -> Result<Receiver<Told>, String> {
        if !audit::is_observed() {
            return Err(NO_PROC.to_owned());
        }
        let looking = LOOKING.begin().ok_or_else(|| {
            format!("threads and children: not observed, {LOOKS} earlier dumps are still waiting for the kernel")
        })?;
        let (tell, told) = channel();
        let (source, held) = (Arc::clone(&self.0), Arc::new(held));
        let (on_thread, telling) = (Arc::clone(&held), tell.clone());
        let started = threads::start_own(self.0.root.number, THREAD_NAME, move || {
            let _looking = looking;
            os_threads::tell(&source, &on_thread, &telling);
        });
        if started.is_err() {
            // The system refuses a thread, which makes it all the more useful to list the existing
            // ones: ask on this thread.
            let seen = self.0.look(&held);
            tell.send(Told::Seen(seen)).expect("the other end is here");
        }
        Ok(told)
    }
}

impl DumpSource for Dumper {
    fn begin(&self, done: Box<dyn FnOnce(Dump) + Send>) -> io::Result<()> {
        let dumper = self.clone();
        threads::start_own(self.0.root.number, THREAD_NAME, move || {
            done(dumper.dump());
        })?;
        Ok(())
    }
}

/// Returns a sentence about the tracked tasks that can never wake.
fn never_wake(tasks: &[(TaskId, &Kind)]) -> Option<String> {
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    for (_, kind) in tasks {
        *names.entry(path(kind.group(), kind.name)).or_default() += 1;
    }
    let mut names: Vec<(String, u64)> = names.into_iter().collect();
    names.sort_by_key(|(_, count)| Reverse(*count));
    let more: u64 = names.iter().skip(NAMED).map(|(_, count)| count).sum();
    let named = names.iter().take(NAMED);
    let mut named: Vec<String> = named
        .map(|(name, count)| format!("{name}{}", times(*count)))
        .collect();
    named.extend((more > 0).then(|| format!("{more} more")));
    let named = named.join(", ");
    (!named.is_empty()).then(|| format!("nothing is left that could wake {named}"))
}

// === impl Dumps ===

impl Dumps {
    pub(crate) fn new(dumper: Dumper, output: Output, print: Print) -> Self {
        Self {
            dumper,
            output,
            print,
            under_way: Arc::default(),
        }
    }

    /// Starts a dump on a separate thread, because the signal thread must keep handling signals.
    /// While another dump is in progress it prints a note instead.
    pub(crate) fn begin(&self) {
        let Some(under_way) = UnderWay::begin(&self.under_way) else {
            let text = format!(
                "headcount {}: a dump is already in progress\n",
                self.dumper.0.service
            );
            return self.output.text(Stream::Stderr, text);
        };
        let root = self.dumper.0.root.number;
        let (dumper, output, print) = (self.dumper.clone(), self.output.clone(), self.print);
        let started = threads::start_own(root, THREAD_NAME, move || {
            say(&dumper, &output, print, Some(under_way));
        });
        if started.is_err() {
            // The system refuses a thread. Take the dump here; signals that arrive meanwhile are
            // handled afterwards.
            say(&self.dumper, &self.output, self.print, None);
        }
    }
}

/// Takes a dump and prints it.
fn say(dumper: &Dumper, output: &Output, print: Print, under_way: Option<UnderWay>) {
    if !output.flush_text(WRITE_BUDGET) {
        // The reader of our output has stopped reading, and queued dumps would fill the memory.
        return;
    }
    let dump = dumper.dump();
    let text = match print {
        Print::Json => dump.to_json() + "\n",
        Print::Nowhere | Print::Text => dump.to_text_after("dump (SIGQUIT)"),
    };
    // Before the dump is printed, because its reader may request the next one at once.
    drop(under_way);
    output.text(print.stream(), text);
}

// === impl UnderWay ===

impl UnderWay {
    /// Marks a dump as in progress. Returns `None` if one already is.
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
