//! The whereabouts of tasks and threads that did not end: what tasks await, and the stacks of
//! threads.
//!
//! They are read at two moments: when the drain is over, while the tasks that ignored it still
//! exist, and at the end. Both are symbolized at once, on the symbolizer's thread. The results are
//! collected at the end, within what the deadline leaves. In the middle of the drain the same is
//! read and symbolized once in advance, which loads the debug information.
//!
//! ```text
//!                half of the drain, drain over     close layer over
//! tasks          asked what they await  (100 ms)   -
//! threads        stacks, undisturbed    (100 ms)   waits, then stacks by any means
//! symbolizer     begins                            begins; its thread ends when it is done
//! ```
//!
//! Every stack is first shown by addresses, which needs no debug information; names replace them as
//! they arrive. A budget that is too short for names therefore still leaves stacks. Nothing here
//! decides what lingers: the layers do, and hand over ids.

use super::context::Context;
use crate::audit::waits::{self, ThreadWait};
use crate::dump::symbols::{Awaits, Coming, Nameless, Symbolizer};
use crate::registry::query::await_query::{self, Answers};
use crate::registry::query::on_threads;
use crate::registry::root::Root;
use crate::registry::tracked::holds_task;
use crate::report::KindRow;
use crate::report::not_observed::AWAITS_LATE;
use crate::report::stack;
use crate::report::tally::Tally;
use crate::stacks::awaits::always_ready;
use crate::stacks::places::Places;
use crate::stacks::trace::Trace;
use crate::stacks::{self, Means, Stack};
use crate::task::{TaskId, TaskKind};
use crate::threads::{self, ThreadClass};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The time for tasks to answer, and for stacks to be read, between two layers. A task in a poll
/// does not answer. It is spent once on stacks and once on answers.
const ANSWER: Duration = Duration::from_millis(100);
/// The part of the deadline that is reserved for the report. The exit hooks keep the same reserve,
/// so evidence that uses up its time leaves them none.
const RESERVE: Duration = Duration::from_millis(300);
/// The most kinds of which one task is asked, and the thread of one is read. A read of stacks has
/// one budget for all threads together.
const KINDS: usize = 32;

/// The await chains and stacks of tasks that ignored the drain, taken when it was over.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// True if tasks that were asked in the drain or at its end have answered.
    has_answers: bool,
    /// The tasks that are always ready, with their polls, as far as that is known without a name.
    ready: Vec<(TaskId, u64)>,
    /// The stacks of the threads that those tasks occupied.
    stacks: Naming,
}

/// Stacks that are being symbolized, with the answers of tasks.
#[derive(Debug, Default)]
struct Naming {
    /// The stacks by address.
    traces: Traces,
    /// The threads whose stacks are symbolized, in the order of the request.
    tids: Vec<u32>,
    /// The results.
    coming: Coming,
}

/// Everything that is known of what did not end, symbolized as far as there was time.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The kernel's facts about lingering threads, in their order. Read before the stacks, which may
    /// interrupt a system call.
    waits: Vec<ThreadWait>,
    /// The stacks of threads at the end of the drain. Shown with tasks that ignored the drain, even
    /// if they have ended since.
    drained: Traces,
    /// The stacks of threads at the end of the shutdown. Of lingering threads, of threads that
    /// lingering tasks occupy, and of `main`.
    last: Traces,
    /// The symbolized answers by task.
    awaits: Awaits,
    /// The thread of `main`, if it is still in the runtime.
    main: Option<u32>,
    /// True if tasks have answered, and their answers could not be symbolized in time. It becomes a
    /// sentence of the report.
    is_late: bool,
}

/// The stacks of threads, read at one moment.
#[derive(Debug, Default)]
struct Stacks {
    /// By thread id; the error says why there is no stack.
    read: HashMap<u32, Result<Stack, String>>,
    /// The files that were mapped at that moment, to name addresses without symbols.
    places: Places,
}

/// Stacks in the form in which the report shows them, by thread id.
type Traces = HashMap<u32, Trace>;

/// Asks one task of each kind what it awaits, and reads the stacks of the threads that tasks occupy.
/// `answers`: those of tasks that were asked earlier, in the drain.
///
/// Threads in system calls are not interrupted for this, because the service is still running.
///
/// A task that occupies a thread does not answer: for it there is the stack, unless the thread is
/// in another task by then. It takes at most 200 ms, which no budget of a layer covers.
pub(super) async fn after_drain(cx: &Context, ignored: &[KindRow], mut answers: Answers) -> Seen {
    let (answered, stacks) = look(&cx.root, ignored).await;
    answers.extend(answered);
    let ready = answers
        .iter()
        .filter(|(_, answer)| answer.awaits.was_woken)
        .filter_map(|(task, answer)| Some((*task, always_ready(true, answer.polls)?)));
    Seen {
        has_answers: !answers.is_empty(),
        ready: ready.collect(),
        stacks: stacks.named(&cx.symbolizer, answers),
    }
}

/// Has the present whereabouts of all tasks symbolized at `at`, if any are left then. Their results
/// are for nothing but the debug information and the names that stay in memory.
pub(super) async fn warm(root: &Root, symbolizer: &Symbolizer, at: Instant) -> Coming {
    tokio::time::sleep_until(at).await;
    let tasks = Tally::of(root.scope, |task| !task.kind.options.daemon).into_rows();
    let (answers, stacks) = look(root, &tasks).await;
    stacks.named(symbolizer, answers).coming
}

/// Reads the stacks of the threads that the first task of each kind occupies, and asks one task of
/// each kind what it awaits.
async fn look(root: &Root, tasks: &[KindRow]) -> (Answers, Stacks) {
    let until = Instant::now() + ANSWER;
    let held = tasks.iter().filter_map(KindRow::tid).take(KINDS);
    let mut stacks = read(root.number, held.collect(), Means::Quiet, until).await;
    stacks.keep_occupied(root, tasks);
    let first = tasks.iter().filter_map(KindRow::to_ask);
    let tasks: Vec<TaskId> = first.take(KINDS).collect();
    let answers = await_query::ask(root.scope, tasks, Instant::now() + ANSWER).await;
    (answers, stacks)
}

/// Reads what is still alive, has it symbolized, and collects what was seen after the drain.
///
/// It may interrupt every thread to read its stack, because the service is over. It takes at most
/// the time that the plan has for names, 5 s, and leaves 0.3 s of the deadline. The order is that of
/// the kernel's waits, the stacks, the names: each is worth less without the one before. If the
/// deadline leaves nothing, waits are still read, from a few files for each thread.
pub(super) async fn collect(
    cx: &Context,
    seen: Seen,
    lingering: &[KindRow],
    lingering_threads: Vec<u32>,
) -> Evidence {
    let now = Instant::now();
    let spare = cx
        .deadline()
        .saturating_duration_since(now)
        .saturating_sub(RESERVE);
    let until = now + cx.plan.names.min(spare);
    let main = main_thread(cx);
    let waits = lingering_threads.iter().copied().map(waits::read);
    let waits = waits.collect();
    let held = lingering.iter().filter_map(KindRow::tid);
    let tids = lingering_threads.into_iter().chain(held).chain(main);
    let stacks = read(cx.root.number, tids.collect(), Means::Any, until).await;
    let last = stacks.named(&cx.symbolizer, Answers::new());
    // No request follows: its thread ends after those that it has, and frees its memory.
    cx.symbolizer.end();
    let (drained, mut awaits) = seen.stacks.until(until).await;
    let (last, _) = last.until(until).await;
    let is_late = seen.has_answers && awaits.is_empty();
    for (task, polls) in seen.ready {
        awaits.entry(task).or_default().always_ready = Some(polls);
    }
    Evidence {
        waits,
        drained,
        last,
        is_late,
        awaits,
        main,
    }
}

/// Reads stacks on a separate thread, and waits for it until `until`. Returns none if that is too
/// short. A thread, because a read takes up to two seconds and waits up to two more for another
/// read. One that is late is left to end by itself. Duplicate ids are read once.
async fn read(root: u64, tids: BTreeSet<u32>, means: Means, until: Instant) -> Stacks {
    if tids.is_empty() {
        return Stacks::default();
    }
    let tids: Vec<u32> = tids.into_iter().collect();
    let unread = tids.clone();
    let look = move || Stacks {
        read: tids
            .iter()
            .copied()
            .zip(stacks::read(&tids, means))
            .collect(),
        places: Places::read(),
    };
    if !cfg!(feature = "stacks") {
        return look();
    }
    let (tell, told) = oneshot::channel();
    // Sending fails if the wait timed out.
    let started = threads::start_own(root, "headcount-stacks", move || drop(tell.send(look())));
    if let Err(error) = started {
        let why = format!("no thread could be started to read it: {error}");
        return Stacks {
            read: unread
                .into_iter()
                .map(|tid| (tid, Err(why.clone())))
                .collect(),
            places: Places::default(),
        };
    }
    let read = timeout_at(until, told).await;
    read.ok().and_then(Result::ok).unwrap_or_default()
}

/// Returns the thread of `main` if it is still in the runtime. Its stack shows where a `main`
/// blocks that does not return.
fn main_thread(cx: &Context) -> Option<u32> {
    let is_main =
        |known: &threads::Known| known.root == cx.root.number && known.class == ThreadClass::Main;
    let main = threads::all().into_iter().find(is_main)?;
    cx.owned.main_runs.borrow().then_some(main.tid)
}

// === impl Evidence ===

impl Evidence {
    /// Returns the stack of a thread at the end of the shutdown. By address if it was not
    /// symbolized; `None` if the thread was not read at all.
    pub(super) fn trace(&self, tid: u32) -> Option<&Trace> {
        self.last.get(&tid)
    }

    /// Returns whether the stack of a thread at the end of the shutdown was not read or not
    /// symbolized in time. False if stacks cannot be had at all, or if the system refuses the thread
    /// that reads them: threads that leak until then are to be named.
    pub(super) fn is_late(&self, tid: u32) -> bool {
        cfg!(feature = "stacks") && self.trace(tid).is_none_or(Trace::lacks_names)
    }

    /// Returns what the kernel says of these threads. In the order in which they were read.
    pub(super) fn waits(&self, tids: &HashSet<u32>) -> Vec<&ThreadWait> {
        let waits = self.waits.iter();
        waits.filter(|wait| tids.contains(&wait.tid)).collect()
    }

    /// Adds what is known of tasks that ignored the drain.
    ///
    /// A task without a thread gets the chain of its awaits; one on a thread gets that thread's
    /// stack.
    pub(super) fn complete_ignored(&self, tasks: &mut [KindRow]) {
        for task in tasks {
            self.show_awaits(task);
            // A task that is always ready is polled again and again. A stack is that of one moment.
            if task.always_ready().is_none() {
                show(task, task.tid().and_then(|tid| self.drained.get(&tid)));
            }
        }
    }

    /// Adds what is known of tasks that are still alive.
    ///
    /// The stack of the thread of `main` is shown with the task `main`, unless another task occupies
    /// that thread.
    pub(super) fn complete_lingering(&self, tasks: &mut [KindRow]) {
        let is_free = |main: &u32| tasks.iter().all(|task| task.tid() != Some(*main));
        let main = self.main.filter(is_free);
        for task in tasks {
            let main = main.filter(|_| task.kind == TaskKind::Main);
            show(task, task.tid().or(main).and_then(|tid| self.trace(tid)));
            self.show_awaits(task);
        }
    }

    /// Puts what tasks await into their rows.
    fn show_awaits(&self, task: &mut KindRow) {
        for task in &mut task.rows {
            task.show_awaits(self.awaits.get(&task.id).cloned());
        }
    }

    /// Returns a sentence about what could not be observed.
    pub(super) fn not_observed(&self) -> Option<String> {
        self.is_late.then(|| AWAITS_LATE.to_owned())
    }
}

/// Puts the stack of a task's thread into its finding, unless it shows the thread outside of any
/// task.
fn show(task: &mut KindRow, trace: Option<&Trace>) {
    if let Some(trace) = trace.filter(|trace| may_be_of_task(trace)) {
        task.stack.clone_from(&trace.frames);
        task.stack_note.clone_from(&trace.note);
        stack::name_root(&mut task.stack, task.future);
    }
}

/// Returns whether the stack may be that of a task: it holds a frame of one, or would hold it in a
/// part that is missing.
fn may_be_of_task(trace: &Trace) -> bool {
    let is_named = !trace.calls.is_empty();
    let is_cut = trace.is_cut
        || trace
            .note
            .as_deref()
            .is_some_and(|note| note.contains("incomplete"));
    !is_named || is_cut || trace.frames.iter().any(holds_task)
}

// === impl Stacks ===

impl Stacks {
    /// Returns the stacks without symbols. Costs no debug information and no lock.
    fn by_address(&self) -> Traces {
        let trace = |(tid, stack): (&u32, &Result<Stack, String>)| {
            let trace = match stack {
                Ok(stack) => Trace::by_address(stack, &self.places),
                Err(why) => Trace::absent(why),
            };
            (*tid, trace)
        };
        self.read.iter().map(trace).collect()
    }

    /// Removes the stacks of threads that have gone on since, to another task or to none: they may
    /// not be those of `tasks`.
    fn keep_occupied(&mut self, root: &Root, tasks: &[KindRow]) {
        let still = on_threads::holders(root.scope);
        for row in tasks.iter().filter(|row| row.kind != TaskKind::Blocking) {
            let (Some(tid), Some(first)) = (row.tid(), row.rows.first()) else {
                continue;
            };
            if !still
                .iter()
                .any(|holder| (holder.tid, holder.id) == (tid, first.id))
            {
                self.read.remove(&tid);
            }
        }
    }

    /// Begins to symbolize the stacks and the answers. Answers come first.
    fn named(self, symbolizer: &Symbolizer, answers: Answers) -> Naming {
        let traces = self.by_address();
        let stacks = self.read.into_iter();
        let (tids, stacks) = stacks
            .filter_map(|(tid, stack)| Some((tid, stack.ok()?)))
            .unzip();
        let nameless = Nameless { answers, stacks };
        Naming {
            traces,
            tids,
            coming: symbolizer.begin(nameless),
        }
    }
}

// === impl Naming ===

impl Naming {
    /// Waits for names until `until`. Stacks that are not symbolized by then are shown as addresses.
    async fn until(mut self, until: Instant) -> (Traces, Awaits) {
        let names = self.coming.until(until).await;
        let stacks = names.stacks.into_iter();
        let traces = stacks.map(|(at, trace)| (self.tids[at], trace));
        self.traces.extend(traces);
        (self.traces, names.awaits)
    }
}
