//! Which threads should be gone: by class, by owner, and by the rules for expected unknown threads.
//!
//! Rules may match on the outermost stack frames of a thread, which show the function that it was
//! started with. Those are looked up while the close layer waits, so that it does not wait for a
//! thread that a rule expects.
//!
//! ```text
//! registered, of another root                        stays: not ours
//! registered as worker, blocking or tracked          lingers
//! registered otherwise                               stays
//! may be a control thread that is just starting      stays, undecided
//! unknown, and not the service's (UnknownThreads)    stays
//! a rule expects it only while it is idle            lingers while it is blocked, otherwise stays
//! in the baseline                                    stays
//! unknown, and a rule expects it                     stays, excused with the rule's reason
//! unknown, and its stack was not symbolized in time  undecided
//! unknown otherwise                                  lingers
//! ```
//!
//! The rows are tried from the top. No name decides about a registered thread, so a tracked thread
//! cannot hide behind a rule.

use crate::audit::ownership::{UnknownThreads, may_be_ours};
use crate::audit::waits::{self, Wait};
use crate::audit::{self, Audited, Baseline, ThreadKey};
use crate::control::plan::Plan;
use crate::dump::symbols::{RootCalls, Symbolizer};
use crate::stacks::trace::{Named, Trace};
use crate::threads::{self, ThreadClass, ThreadRule};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

/// The time before the first look. Threads that end within it cost nothing; symbolizing costs more
/// than everything else in the layer.
const SETTLE: Duration = Duration::from_millis(10);

/// The rules of one shutdown, and what is known of the threads that they are applied to.
#[derive(Debug)]
pub(super) struct ThreadRules {
    /// The number of the root.
    ///
    /// Threads that are registered with another root belong to another runtime of the process.
    root: u64,
    /// The treatment of unknown threads, from the plan.
    unknown: UnknownThreads,
    /// The service's own rules, which come before the shipped ones.
    expected: Vec<ThreadRule>,
    /// The outermost calls of unknown threads, as far as they were looked up. By the key, not the
    /// id alone: ids are reused. The innermost call is first.
    calls: HashMap<ThreadKey, Vec<String>>,
    /// The threads of which only the calls of the program are known, not those of libraries.
    partly: HashSet<ThreadKey>,
    /// The schedule of the looks.
    looks: RootLooks,
}

/// Returns whether the thread is blocked in a call in which the rule does not expect it.
fn is_blocked(thread: &Audited, rule: &ThreadRule) -> bool {
    let wait = waits::read(thread.os.key.tid).wait;
    wait.is_blocked(rule.idle_calls())
}

/// The threads that were looked at. Each is looked at once, and again after twice the time if it
/// was running and could not be read exactly.
#[derive(Debug)]
struct RootLooks {
    /// The beginning of the layer's audits.
    begun: Instant,
    /// The threads that were looked at. It only grows; the layer is short.
    asked: HashSet<ThreadKey>,
    /// The threads that were read exactly, and are not looked at again.
    read: HashSet<ThreadKey>,
    /// The time since `begun` from which unread threads are looked at again. It doubles each time.
    /// Doubling bounds the looks in a layer of any length, and the CPU time that they take.
    again: Duration,
    /// The results of the look in progress. At most one look is in progress, so a symbolizer that
    /// hangs is not asked again.
    coming: Option<UnboundedReceiver<RootCalls>>,
}

// === impl ThreadRules ===

impl ThreadRules {
    /// Creates the rules at the beginning of the layer's audits. Copies the service's rules from
    /// the plan.
    pub(super) fn new(root: u64, plan: &Plan) -> Self {
        Self {
            root,
            unknown: plan.unknown_threads.clone(),
            expected: plan.expected.clone(),
            calls: HashMap::new(),
            partly: HashSet::new(),
            looks: RootLooks::new(),
        }
    }

    /// Splits threads into those that should be gone and the others. The order within each part is
    /// that of the audit.
    pub(super) fn split(&self, threads: Vec<Audited>) -> (Vec<Audited>, Vec<Audited>) {
        threads.into_iter().partition(|thread| self.lingers(thread))
    }

    /// Returns whether the thread should be gone.
    ///
    /// The rules come last, because they compare names and stacks. Costs a read of the thread's
    /// signal mask if threads are told apart by a tag.
    fn lingers(&self, thread: &Audited) -> bool {
        match &thread.known {
            // It belongs to another runtime, for example of another test.
            Some(known) if known.root != self.root => false,
            Some(known) => matches!(
                known.class,
                ThreadClass::Worker | ThreadClass::Blocking | ThreadClass::Tracked
            ),
            None if may_be_ours(thread) => false,
            None => {
                self.unknown.lingers(thread)
                    && match self.rule_of(thread) {
                        Some(rule) => rule.is_only_while_idle() && is_blocked(thread, rule),
                        None => !thread.in_baseline,
                    }
            }
        }
    }

    /// Returns whether the thread runs, while its rule expects it only while it is idle. It is not
    /// accused of that, since it may be idle a moment later.
    pub(super) fn is_at_work(&self, thread: &Audited) -> bool {
        thread.known.is_none()
            && self
                .rule_of(thread)
                .is_some_and(ThreadRule::is_only_while_idle)
            && waits::read(thread.os.key.tid).wait == Wait::OnCpu
    }

    /// Returns the calls in which an unknown thread of the service waits for work. `None` for other
    /// threads.
    pub(super) fn idle_calls(&self, thread: &Audited) -> Option<&'static [&'static str]> {
        let is_judged =
            thread.known.is_none() && !may_be_ours(thread) && self.unknown.lingers(thread);
        is_judged.then(|| {
            let rule = self.rule_of(thread);
            rule.map_or(threads::IDLE, ThreadRule::idle_calls)
        })
    }

    /// Returns whether the thread may turn out to linger a moment later.
    ///
    /// That is the case while it has not registered, or its tag cannot be read, because it is just
    /// starting.
    pub(super) fn is_undecided(&self, thread: &Audited) -> bool {
        thread.known.is_none()
            && !thread.in_baseline
            && (may_be_ours(thread) || self.unknown.is_undecided(thread))
    }

    /// Returns the calls of a thread, as far as they were looked up.
    pub(super) fn calls(&self, thread: &Audited) -> Option<&[String]> {
        self.calls.get(&thread.os.key).map(Vec::as_slice)
    }

    /// Returns the rule that expects an unregistered thread. The service's own rules come first,
    /// because their reasons are more specific. A rule about stacks does not match before the
    /// thread was looked at.
    fn rule_of(&self, thread: &Audited) -> Option<&ThreadRule> {
        let mut rules = self.expected.iter().chain(threads::shipped());
        let calls = self.calls.get(&thread.os.key);
        rules.find(|rule| rule.matches(&thread.os.comm, calls.map(Vec::as_slice)))
    }

    /// Returns the number of threads that would linger if no rule expected them, by the reason of
    /// the rule. At most as many reasons as there are rules.
    pub(super) fn excused(&self, threads: &[Audited]) -> BTreeMap<String, u64> {
        let mut excused = BTreeMap::new();
        let unknown = threads
            .iter()
            .filter(|thread| thread.known.is_none() && !thread.in_baseline)
            .filter(|thread| self.unknown.lingers(thread));
        for rule in unknown.filter_map(|thread| self.rule_of(thread)) {
            *excused.entry(rule.reason().to_owned()).or_default() += 1;
        }
        excused
    }

    /// Records the calls of a thread, as its whole stack shows them. It replaces what the looks
    /// found, which is cut to the outermost frames. A stack without the names of libraries replaces
    /// nothing.
    pub(super) fn learn(&mut self, thread: ThreadKey, trace: &Trace) {
        match trace.named {
            Named::Nothing => {}
            Named::Program if self.calls.contains_key(&thread) => {}
            named => {
                self.calls.insert(thread, trace.calls.clone());
                if named == Named::Program {
                    self.partly.insert(thread);
                }
            }
        }
    }

    /// Returns whether a rule about stacks could not be applied to an unknown thread, because not
    /// all of its calls are known. False if another rule applies, which decides about the thread.
    pub(super) fn lacks_calls(&self, thread: &Audited) -> bool {
        let key = &thread.os.key;
        let is_partly_known = !self.calls.contains_key(key) || self.partly.contains(key);
        thread.known.is_none() && is_partly_known && self.rule_of(thread).is_none()
    }

    /// Has the outermost calls of unknown threads symbolized in advance, as far as no rule about
    /// names expects them, so that their later looks are fast. It goes on until the result is
    /// dropped.
    pub(super) fn warm(
        &self,
        baseline: &Baseline,
        symbolizer: &Symbolizer,
    ) -> Option<UnboundedReceiver<RootCalls>> {
        if !cfg!(feature = "stacks") {
            return None;
        }
        let (lingering, _) = self.split(audit::threads(baseline));
        let unknown = lingering.iter().filter(|thread| thread.known.is_none());
        let keys: Vec<ThreadKey> = unknown.map(|thread| thread.os.key).collect();
        (!keys.is_empty()).then(|| symbolizer.root_calls(keys))
    }

    /// Starts to look at those of the threads that are unknown, unless it is too early or a look is
    /// in progress.
    pub(super) fn look(&mut self, lingering: &[Audited], symbolizer: &Symbolizer) {
        self.looks.ask(lingering, symbolizer);
    }

    /// Waits for at most `pause`, and records what was found meanwhile. Returns early with the
    /// first result, so that a rule may end the layer at once.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped: results are taken off the channel and recorded
    /// within one poll.
    pub(super) async fn wait(&mut self, pause: Duration) {
        let found = self.looks.wait(pause).await;
        self.calls
            .extend(found.into_iter().map(|root| (root.thread, root.calls)));
    }
}

// === impl RootLooks ===

impl RootLooks {
    /// Starts the clock of the schedule.
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            asked: HashSet::new(),
            read: HashSet::new(),
            again: SETTLE * 2,
            coming: None,
        }
    }

    /// Starts to look at those of the threads that are unknown, unless a look is in progress or it
    /// is too early.
    ///
    /// The first look is 10 ms after the beginning. Threads that could not be read exactly are
    /// looked at again after 20 ms and then at doubling times.
    fn ask(&mut self, lingering: &[Audited], symbolizer: &Symbolizer) {
        let now = self.begun.elapsed();
        let is_busy = self.coming.is_some() || now < SETTLE;
        if is_busy || !cfg!(feature = "stacks") {
            return;
        }
        let is_again = now >= self.again;
        let unknown = lingering.iter().filter(|thread| thread.known.is_none());
        let keys: Vec<ThreadKey> = unknown
            .map(|thread| thread.os.key)
            .filter(|key| self.asked.insert(*key) || (is_again && !self.read.contains(key)))
            .collect();
        if is_again {
            self.again = now * 2;
        }
        if !keys.is_empty() {
            self.coming = Some(symbolizer.root_calls(keys));
        }
    }

    /// Waits for results, for at most `pause`, and returns the calls on the stack of each thread.
    /// When the channel is closed the look is over, and the next call of [`RootLooks::ask`] may
    /// start another.
    async fn wait(&mut self, pause: Duration) -> Vec<RootCalls> {
        let Some(coming) = &mut self.coming else {
            sleep(pause).await;
            return Vec::new();
        };
        let mut found = Vec::new();
        match timeout(pause, coming.recv()).await {
            Ok(Some(first)) => {
                found.push(first);
                while let Ok(next) = coming.try_recv() {
                    found.push(next);
                }
            }
            Ok(None) => self.coming = None,
            // No result yet.
            Err(_) => {}
        }
        let exact = found.iter().filter(|root| root.is_exact);
        self.read.extend(exact.map(|root| root.thread));
        found
    }
}

#[cfg(all(test, feature = "stacks", target_os = "linux"))]
mod tests {
    use super::*;
    use crate::threads;
    use std::sync::mpsc::channel;
    use tokio::sync::mpsc::unbounded_channel;

    /// A running thread that is not read at the first attempt must not be waited for until the end
    /// of the layer if a rule expects it.
    #[tokio::test]
    async fn a_thread_that_was_not_read_is_asked_about_again_and_then_no_more() {
        let baseline = Baseline::take();
        let (tell, told) = channel();
        let (_hold, held) = channel::<()>();
        let thread = std::thread::Builder::new().spawn(move || {
            tell.send(threads::own_tid()).expect("the test waits");
            // Until the test is over.
            held.recv().ok();
        });
        thread.expect("a thread");
        let tid = told.recv().expect("it begins");
        let threads = || -> Vec<Audited> {
            let threads = audit::threads(&baseline).into_iter();
            threads.filter(|thread| thread.os.key.tid == tid).collect()
        };
        let (mut roots, symbols) = (RootLooks::new(), Symbolizer::new(0));
        while roots.coming.is_none() {
            tokio::task::yield_now().await;
            roots.ask(&threads(), &symbols);
        }
        // The answer is none.
        roots.coming = Some(unbounded_channel().1);
        assert!(roots.wait(SETTLE).await.is_empty());
        let late = Instant::now() + Duration::from_secs(60);
        while roots.read.is_empty() {
            assert!(Instant::now() < late, "it is not asked about again");
            roots.ask(&threads(), &symbols);
            roots.wait(Duration::from_millis(1)).await;
        }
        while roots.coming.is_some() {
            roots.wait(SETTLE).await;
        }
        roots.again = Duration::ZERO;
        roots.ask(&threads(), &symbols);
        assert!(roots.coming.is_none(), "it was read");
    }
}
