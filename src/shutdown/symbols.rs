//! Names for addresses, looked up on a thread of its own: it may take long, and with the lock of the loader for ever.
//!
//! Whoever asks waits on a budget, and goes on with what was named by then.

use crate::audit::ThreadKey;
use crate::audit::asking::Chain;
use crate::audit::frame::{self, Frame};
use crate::audit::stack::{self, Naming, Stack};
use crate::audit::trace::Trace;
use crate::task::TaskId;
use crate::threads::{self, ThreadClass};
use std::collections::HashMap;
use std::panic::Location;
use std::sync::mpsc::{Sender, channel};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

/// The outermost frames: they tell what a thread was started with, and whether a worker has something to do.
const ROOT: usize = 64;

/// Chains by the first task of a finding.
pub(super) type Chains = HashMap<TaskId, Vec<Chain>>;

/// What names are asked for.
#[derive(Debug, Default)]
pub(super) struct Nameless {
    pub(super) stacks: Vec<Stack>,
    pub(super) chains: Chains,
}

/// What was named.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By the place in [`Nameless::stacks`].
    pub(super) stacks: HashMap<usize, Trace>,
    pub(super) awaits: HashMap<TaskId, Vec<Vec<Frame>>>,
}

/// The thread, which begins with the first job, does one after the other, and ends when this is gone.
#[derive(Debug)]
pub(super) struct Symbols {
    root: u64,
    jobs: Option<Sender<Job>>,
}

type Job = Box<dyn FnOnce() + Send>;
/// The calls of a thread's stack, and whether it did not move while it was read.
pub(super) type Root = (ThreadKey, Vec<String>, bool);

enum Named {
    Stack(usize, Trace),
    Awaits(TaskId, Vec<Vec<Frame>>),
}

// === impl Symbols ===

impl Symbols {
    pub(super) fn new(root: u64) -> Self {
        Self { root, jobs: None }
    }

    /// No more jobs: the thread ends when it has done with those that it has.
    pub(super) fn end(&mut self) {
        self.jobs = None;
    }

    /// Looks the names up, and returns those that were found in time.
    pub(super) async fn name(&mut self, nameless: Nameless, until: Instant) -> Names {
        let mut names = Names::default();
        if nameless.stacks.is_empty() && nameless.chains.is_empty() {
            return names;
        }
        let (tell, mut told) = unbounded_channel();
        self.run(move || {
            // Nobody may be waiting any more.
            let tell = |named| tell.send(named).is_ok();
            // First what nothing else tells: without names a stack has its facts and addresses.
            for (task, chains) in nameless.chains {
                let awaits = chains.iter().map(frame::awaits).collect();
                if !tell(Named::Awaits(task, awaits)) {
                    return;
                }
            }
            for (at, stack) in nameless.stacks.iter().enumerate() {
                if !tell(Named::Stack(at, Trace::by_name(stack))) {
                    return;
                }
            }
        });
        while let Ok(Some(named)) = timeout_at(until, told.recv()).await {
            match named {
                Named::Stack(at, trace) => drop(names.stacks.insert(at, trace)),
                Named::Awaits(task, awaits) => drop(names.awaits.insert(task, awaits)),
            }
        }
        names
    }

    /// Looks up what those threads were started with. None of them is disturbed, so of one that runs nothing may be told.
    pub(super) fn roots(&mut self, threads: Vec<ThreadKey>) -> UnboundedReceiver<Root> {
        let (tell, told) = unbounded_channel();
        self.run(move || {
            let tids: Vec<u32> = threads.iter().map(|key| key.tid).collect();
            let stacks = stack::read(&tids, stack::Means::Quiet);
            for (key, stack) in threads.into_iter().zip(stacks) {
                let Ok(mut stack) = stack else { continue };
                let inner = stack.addresses.len().saturating_sub(ROOT);
                stack.addresses.drain(..inner);
                let frames = stack::frames(&stack).into_iter();
                let calls = frames.map(|frame| frame.to_string()).collect();
                if tell.send((key, calls, stack.is_exact)).is_err() {
                    return;
                }
            }
        });
        told
    }

    /// Without a thread to be had the job is dropped, and whoever waits for it hears that nobody will tell.
    fn run(&mut self, job: impl FnOnce() + Send + 'static) {
        if self.jobs.is_none() {
            self.jobs = start(self.root);
        }
        if let Some(jobs) = &self.jobs {
            // The thread lives as long as this.
            jobs.send(Box::new(job)).ok();
        }
    }
}

fn start(root: u64) -> Option<Sender<Job>> {
    let (jobs, to_do) = channel::<Job>();
    let work = move || {
        let _naming = Naming::begin();
        to_do.into_iter().for_each(|job| job());
    };
    let site = Location::caller();
    let class = ThreadClass::Control;
    let started = threads::start(root, "headcount-symbols", class, site, work);
    started.is_ok().then_some(jobs)
}

#[cfg(all(test, feature = "stacks", target_os = "linux"))]
mod tests {
    use super::{Instant, Nameless, Symbols, stack};
    use crate::threads;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// The stack of a thread that waits for `held`.
    fn waiting(held: std::sync::mpsc::Receiver<()>) -> stack::Stack {
        let (tell, told) = channel();
        let thread = std::thread::Builder::new().spawn(move || {
            tell.send(threads::own_tid()).expect("the test waits");
            // Until the test is over.
            held.recv().ok();
        });
        thread.expect("a thread");
        let tid = told.recv().expect("it begins");
        let mut stacks = stack::read(&[tid], stack::Means::Any);
        stacks.remove(0).expect("it is readable")
    }

    #[tokio::test]
    async fn who_looks_for_names_for_ever_holds_up_nobody_and_others_are_named_afterwards() {
        let (_hold, held) = channel();
        let stack = waiting(held);
        let nameless = || Nameless {
            stacks: vec![stack.clone()],
            ..Nameless::default()
        };
        let mut symbols = Symbols::new(0);
        let (release, stuck) = channel::<()>();
        symbols.run(move || stuck.recv().unwrap_or_default());
        let late = symbols.name(nameless(), Instant::now()).await;
        assert_eq!((late.stacks.len(), late.awaits.len()), (0, 0));
        drop(release);
        let soon = Instant::now() + Duration::from_secs(60);
        let named = symbols.name(nameless(), soon).await;
        let trace = &named.stacks[&0];
        assert!(
            !trace.frames.is_empty() && trace.none.is_none(),
            "{trace:?}"
        );
    }
}
