//! The symbolizer: turns addresses into function names, files and lines, on a thread of its own.
//!
//! It is the only place where the crate reads debug information. That takes about 0.1 s, seconds in
//! a debug build, and it hangs while a thread holds the dynamic loader's lock. Callers therefore
//! wait within a budget, and continue with what was symbolized by then.
//!
//! The thread starts with the first request and ends when a caller says that it was the last one for
//! now ([`Symbolizer::end`]). A request that finds the thread busy gets a second one, so that one
//! that hangs does not make later requests fail; there are at most two at a time. When no thread is
//! left, the memory of the debug information is freed.
//!
//! ```text
//! idle                       the request goes to the thread
//! no thread                  one starts
//! busy, fewer than two       a second starts and takes over; the first ends after its queue
//! busy, two                  the request waits behind those of the newer thread
//! no thread can be started   the request waits behind the current thread's, or is dropped
//! ```
//!
//! Results are sent one by one, so a caller that runs out of time keeps what was done. A caller
//! that is gone is noticed at the next result.

use crate::audit::ThreadKey;
use crate::registry::kind;
use crate::registry::query::await_query::Answers;
use crate::registry::tracked::holds_task;
use crate::stacks::awaits::{self, Awaited};
use crate::stacks::places::Places;
use crate::stacks::trace::Trace;
use crate::stacks::{self, Naming, Stack};
use crate::task::TaskId;
use crate::threads;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout_at;

/// The name of the threads. Dumps leave them out.
pub(super) const THREAD_NAME: &str = "headcount-symbols";
/// The most threads of one symbolizer. Two, because one may hang for ever. It bounds the threads of
/// a process in which every symbolizer hangs.
const THREADS: usize = 2;
/// The number of outermost frames of a thread that are looked up for rules. It bounds the cost of a
/// deep recursion: rules look at the outermost functions.
const ROOT: usize = 64;

/// The awaits of tasks. Tasks without an answer, or without symbols in time, are missing.
pub(crate) type Awaits = HashMap<TaskId, Awaited>;

/// Addresses to symbolize. Chains come first: without symbols they say nothing, while a stack still
/// has its facts and addresses. Then come the functions of the program in all stacks, then those of
/// libraries.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    /// The answers of tasks, with the return addresses that were recorded.
    pub(crate) answers: Answers,
    /// In the order in which they are symbolized. The caller puts those first that matter most.
    pub(crate) stacks: Vec<Stack>,
}

/// The symbolized addresses. Incomplete if the budget was too short.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By the index in [`Nameless::stacks`].
    pub(crate) stacks: HashMap<usize, Trace>,
    /// By task. Empty although there were answers means that not one was done in time.
    pub(crate) awaits: Awaits,
}

/// The results of one request, as they come. Dropping it ends the request at its next result. Empty
/// by default.
#[derive(Debug, Default)]
pub(crate) struct Coming(Option<UnboundedReceiver<Named>>);

/// The outermost calls of a thread, innermost first.
#[derive(Debug)]
pub(crate) struct RootCalls {
    /// The thread, told from a later one with its id by the start time.
    pub(crate) thread: ThreadKey,
    /// At most [`ROOT`] frames of the machine; inlined calls add to them.
    pub(crate) calls: Vec<String>,
    /// True if the thread did not move while its stack was read.
    pub(crate) is_exact: bool,
}

/// A handle to the symbolizer of one root. Clones share its threads.
#[derive(Debug, Clone)]
pub(crate) struct Symbolizer {
    /// The root that the threads are registered with.
    root: u64,
    /// The thread that takes new requests. The lock is held while a thread starts, never while
    /// addresses are looked up.
    worker: Arc<Mutex<Option<Worker>>>,
    /// The number of threads, those that no longer take requests included. At most [`THREADS`],
    /// apart from attempts that are just refused.
    threads: Arc<AtomicUsize>,
}

/// A thread that takes requests. It ends when this is dropped and its queue is empty.
#[derive(Debug)]
struct Worker {
    /// The queue. It is unbounded; each caller waits for its own request, so it stays short.
    jobs: Sender<Job>,
    /// The number of requests in the queue or in progress. Above 0 for ever if a job panicked,
    /// which ended the thread; it counts as busy and is replaced.
    pending: Arc<AtomicUsize>,
}

/// It contains the addresses and the sender of the results.
type Job = Box<dyn FnOnce() + Send>;

/// One result.
#[derive(Debug)]
enum Named {
    /// The awaits of one task.
    Awaits(TaskId, Awaited),
    /// A stack, by its index in the request. It replaces an earlier result of the same stack.
    Stack(usize, Trace),
}

// === impl Nameless ===

impl Nameless {
    /// Returns whether there is nothing to do, in which case no thread is started.
    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.stacks.is_empty()
    }

    /// Symbolizes everything, until `tell` returns false because the wait is over. A single look-up
    /// is not interrupted, however long it takes.
    fn name(self, tell: impl Fn(Named) -> bool) {
        let threads = threads::all();
        let started = threads.iter().filter_map(|thread| thread.started);
        for site in started.chain(kind::all().map(|kind| kind.site)) {
            stacks::know_site(site.file());
        }
        for (task, answer) in self.answers {
            let awaits = awaits::of_answer(&answer.awaits, answer.polls, holds_task);
            if !tell(Named::Awaits(task, awaits)) {
                return;
            }
        }
        let places = Places::read();
        let of_program = |stack| Trace::of_program(stack, &places);
        let traces = self.stacks.iter().map(of_program).enumerate();
        let traces = traces.chain(self.stacks.iter().map(Trace::by_name).enumerate());
        for (at, trace) in traces {
            if !tell(Named::Stack(at, trace)) {
                return;
            }
        }
    }
}

// === impl Names ===

impl Names {
    /// Adds one result. Each task comes once, and each stack up to twice.
    fn add(&mut self, named: Named) {
        match named {
            Named::Awaits(task, awaits) => drop(self.awaits.insert(task, awaits)),
            Named::Stack(at, trace) => drop(self.stacks.insert(at, trace)),
        }
    }
}

// === impl Symbolizer ===

impl Symbolizer {
    /// Creates the handle. No thread starts before the first request.
    pub(crate) fn new(root: u64) -> Self {
        Self {
            root,
            worker: Arc::default(),
            threads: Arc::default(),
        }
    }

    /// Begins to symbolize, and returns at once. Used by the shutdown, on the control runtime.
    ///
    /// A request whose results nothing reads still loads the debug information for later ones.
    pub(crate) fn begin(&self, nameless: Nameless) -> Coming {
        if nameless.is_empty() {
            return Coming::default();
        }
        let (tell, told) = unbounded_channel();
        self.run(move || nameless.name(|named| tell.send(named).is_ok()));
        Coming(Some(told))
    }

    /// Symbolizes, and returns what is done by `until`. Blocks the calling thread until then. Used
    /// by dumps and by the last words.
    pub(crate) fn name_blocking(&self, nameless: Nameless, until: Instant) -> Names {
        let mut names = Names::default();
        if nameless.is_empty() {
            return names;
        }
        let (tell, told) = channel();
        self.run(move || nameless.name(|named| tell.send(named).is_ok()));
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match told.recv_timeout(left) {
                Ok(named) => names.add(named),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break names,
            }
        }
    }

    /// Looks up the outermost calls of threads. Reads them without disturbing a thread in a system
    /// call, so there may be no result for some. The channel closes after the last result.
    ///
    /// Reads and symbolizes on the thread, in the order of `threads`. A thread that has ended has
    /// no result; if its id was reused, a stack of another thread is recorded under a key that no
    /// later audit has.
    pub(crate) fn root_calls(&self, threads: Vec<ThreadKey>) -> UnboundedReceiver<RootCalls> {
        let (tell, told) = unbounded_channel();
        self.run(move || {
            let tids: Vec<u32> = threads.iter().map(|key| key.tid).collect();
            let stacks = stacks::read(&tids, stacks::Means::Quiet);
            for (thread, stack) in threads.into_iter().zip(stacks) {
                let Ok(mut stack) = stack else { continue };
                let inner = stack.addresses.len().saturating_sub(ROOT);
                stack.addresses.drain(..inner);
                let frames = stacks::frames(&stack).into_iter();
                let found = RootCalls {
                    thread,
                    calls: frames.map(|frame| frame.to_string()).collect(),
                    is_exact: stack.is_exact,
                };
                if tell.send(found).is_err() {
                    return;
                }
            }
        });
        told
    }

    /// Lets the thread end after the requests that it has. The next request starts another one. The
    /// thread's end frees the debug information, tens of megabytes, if no other one symbolizes.
    pub(crate) fn end(&self) {
        let worker = self.worker.lock();
        *worker.unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Queues a job on an idle thread: the current one, or a new one. If none can be started it
    /// waits behind the current one's, and if there is none it is dropped, and with it the sender
    /// of its results. Never blocks on a look-up. The count is raised before the job is sent, so
    /// that two requests in a row see the first.
    fn run(&self, job: impl FnOnce() + Send + 'static) {
        let worker = self.worker.lock();
        let mut worker = worker.unwrap_or_else(PoisonError::into_inner);
        let is_busy = |worker: &Worker| worker.pending.load(Ordering::Acquire) > 0;
        if worker.as_ref().is_none_or(is_busy)
            && let Some(new) = self.start()
        {
            *worker = Some(new);
        }
        if let Some(worker) = &*worker {
            worker.pending.fetch_add(1, Ordering::AcqRel);
            // The thread receives until this sender is dropped.
            worker.jobs.send(Box::new(job)).ok();
        }
    }

    /// Starts a thread. Returns `None` if there are too many, or the system refuses it.
    ///
    /// The guard for the memory is held for the life of the thread, not for a job: between two jobs
    /// the debug information stays.
    fn start(&self) -> Option<Worker> {
        let one = One::begin(&self.threads)?;
        let (jobs, to_do) = channel::<Job>();
        let pending = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&pending);
        let work = move || {
            let (_one, _naming) = (one, Naming::begin());
            for job in to_do {
                job();
                left.fetch_sub(1, Ordering::AcqRel);
            }
        };
        threads::start_own(self.root, THREAD_NAME, work).ok()?;
        Some(Worker { jobs, pending })
    }
}

// === impl Coming ===

impl Coming {
    /// Returns the results that have come by `until`. Returns early when everything is done, or when
    /// the request was dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future discards the results.
    pub(crate) async fn until(self, until: tokio::time::Instant) -> Names {
        let mut names = Names::default();
        let Some(mut told) = self.0 else {
            return names;
        };
        while let Ok(Some(named)) = timeout_at(until, told.recv()).await {
            names.add(named);
        }
        names
    }
}

/// One of the threads of a symbolizer, counted until it is dropped. A start that fails drops it
/// too, since the closure owns it.
struct One(Arc<AtomicUsize>);

// === impl One ===

impl One {
    /// Counts one more thread. Returns `None`, and counts nothing, at the limit.
    fn begin(threads: &Arc<AtomicUsize>) -> Option<Self> {
        let one = Self(Arc::clone(threads));
        (threads.fetch_add(1, Ordering::AcqRel) < THREADS).then_some(one)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, feature = "stacks", target_os = "linux"))]
mod tests {
    use super::{Instant, Nameless, Symbolizer};
    use crate::stacks::{self, Means, Stack};
    use crate::threads;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Returns the stack of a thread that waits for `held`.
    fn waiting(held: std::sync::mpsc::Receiver<()>) -> Stack {
        let (tell, told) = channel();
        let thread = std::thread::Builder::new().spawn(move || {
            tell.send(threads::own_tid()).expect("the test waits");
            // Until the test is over.
            held.recv().ok();
        });
        thread.expect("a thread");
        let tid = told.recv().expect("it begins");
        let mut stacks = stacks::read(&[tid], Means::Any);
        stacks.remove(0).expect("it is readable")
    }

    fn nameless(stack: &Stack) -> Nameless {
        Nameless {
            stacks: vec![stack.clone()],
            ..Nameless::default()
        }
    }

    #[test]
    fn a_lookup_that_hangs_makes_no_later_one_fail() {
        let (_hold, held) = channel();
        let stack = waiting(held);
        let symbolizer = Symbolizer::new(0);
        let (_hang, hangs) = channel::<()>();
        symbolizer.run(move || hangs.recv().unwrap_or_default());
        let soon = Instant::now() + Duration::from_secs(60);
        let named = symbolizer.name_blocking(nameless(&stack), soon);
        let trace = &named.stacks[&0];
        assert!(
            !trace.frames.is_empty() && trace.none.is_none(),
            "{trace:?}"
        );
    }

    #[tokio::test]
    async fn two_lookups_that_hang_delay_no_caller_and_later_ones_succeed() {
        let (_hold, held) = channel();
        let stack = waiting(held);
        let symbolizer = Symbolizer::new(0);
        let mut hangs = Vec::new();
        for _ in 0..2 {
            let (hang, hung) = channel::<()>();
            symbolizer.run(move || hung.recv().unwrap_or_default());
            hangs.push(hang);
        }
        let now = tokio::time::Instant::now();
        let late = symbolizer.begin(nameless(&stack)).until(now).await;
        assert_eq!((late.stacks.len(), late.awaits.len()), (0, 0));
        hangs.clear();
        let soon = now + Duration::from_secs(60);
        let named = symbolizer.begin(nameless(&stack)).until(soon).await;
        assert!(!named.stacks[&0].frames.is_empty());
    }
}
