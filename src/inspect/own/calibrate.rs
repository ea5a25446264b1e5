//! The layout of tokio's tasks, found by experiments before anything is believed.
//!
//! Tasks are spawned on a runtime that exists for this alone, and brought into every state: waiting,
//! running, woken, aborted, detached, ended and so on. What is known about them is then looked for
//! in memory: which task is the first and the last of each list, how many there are, which bits the
//! state must have. No place in tokio's types is a constant here; only the order of the words of a
//! header and of a table is, and each of them is tested too.
//!
//! If one experiment has another result than expected, the layout is not used at all.

use super::{KEPT, Refusal, SCHEDULER, SHARDS, number};
use crate::inspect::header::{
    CANCELLED, COMPLETE, JOIN_INTEREST, JOIN_WAKER, NOTIFIED, REFERENCE, RUNNING, Tables,
};
use crate::inspect::list::Lists;
use crate::inspect::memory::Memory;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinHandle, yield_now};

/// The number of tasks. It is no power of two, so it is told apart from the numbers of lists.
const TASKS: usize = 13;
/// The experiments after which the layout is given up. Small numbers may be equal by chance; the
/// next runtime has others.
const TRIES: usize = 5;
/// The words around the pointer to the lists among which their description is.
const NEAR: isize = 8;
/// The longest entry of the array of lists, in words: a lock and two pointers.
const ENTRY: usize = 8;
/// The specimens, by what happens to them.
const UNTOUCHED: usize = 0;
const KEPT_WAKER: usize = 1;
const DETACHED: usize = 2;
const ABORTED: usize = 3;
const ENDED: usize = 4;
const AWAITED: usize = 5;

/// Places in words: in a handle, and from the pointer to the lists to what describes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The word of a `Handle` that points to the scheduler.
    handle: usize,
    /// The number of lists, less one.
    mask: isize,
    /// The number of tasks.
    count: isize,
    /// The number that all tasks of the lists have as their owner.
    owner: isize,
    /// The bytes from one list to the next.
    stride: u64,
    /// The bytes from the start of a list to the pointer to its newest task.
    head: u64,
}

/// The runtime for the experiments, and its tasks.
struct Laboratory {
    runtime: Runtime,
    memory: Memory,
    tables: Tables,
    notes: Vec<Arc<Mutex<Note>>>,
    joins: Vec<Option<JoinHandle<()>>>,
    ids: Vec<u64>,
    headers: Vec<u64>,
}

/// A future that waits for ever.
struct Specimen(Arc<Mutex<Note>>);

/// The notes that a specimen takes when it is polled.
#[derive(Default)]
struct Note {
    /// The address of its header.
    header: u64,
    /// Its state during the poll.
    state: u64,
    /// True if it keeps its waker.
    keeps: bool,
    waker: Option<Waker>,
}

/// The place of the lists in a scheduler.
struct Place {
    /// The word with the pointer to them.
    at: usize,
    shards: u64,
    stride: usize,
    head: usize,
}

// === impl Layout ===

impl Layout {
    /// Finds the layout. It blocks, and must not be called by a task.
    ///
    /// # Errors
    ///
    /// Fails if an experiment has another result than expected.
    pub(super) fn find() -> Result<Self, Refusal> {
        let mut last = Self::find_once();
        for _ in 1..TRIES {
            if last.is_ok() {
                break;
            }
            last = Self::find_once();
        }
        last
    }

    fn find_once() -> Result<Self, Refusal> {
        let mut laboratory = Laboratory::open()?;
        let (scheduler, owner) = laboratory.check_headers()?;
        let handle = laboratory.runtime.handle();
        let address = (&raw const *handle).addr() as u64;
        let words = laboratory
            .memory
            .some_words(address, size_of::<Handle>() / 8);
        let pointer = words.iter().position(|word| *word == scheduler);
        let pointer = pointer.ok_or_else(|| unknown("a handle", &"no pointer to the scheduler"))?;
        let place = laboratory.find_lists(scheduler)?;
        laboratory.check_neighbours(place.shards)?;
        let (mask, count, owner) = laboratory.describe(scheduler, &place, owner)?;
        laboratory.check_states()?;
        Ok(Self {
            handle: pointer,
            mask,
            count,
            owner,
            stride: 8 * place.stride as u64,
            head: 8 * place.head as u64,
        })
    }

    /// Returns the address of the scheduler of a runtime.
    pub(super) fn scheduler(&self, memory: &Memory, handle: &Handle) -> Option<u64> {
        let handle = (&raw const *handle).addr() as u64;
        memory.word(handle + 8 * self.handle as u64)
    }

    /// Returns the lists to which the word at an index of the scheduler points, if what is around it
    /// fits.
    pub(super) fn lists(&self, words: &[u64], scheduler: u64, at: usize) -> Option<Lists> {
        let near = |offset: isize| words.get(at.checked_add_signed(offset)?).copied();
        let (array, shards, owner) = (words[at], near(1)?, near(self.owner)?);
        let fits = array != 0
            && array.is_multiple_of(8)
            && shards.is_power_of_two()
            && shards <= SHARDS
            && near(self.mask)? == shards - 1
            && owner != 0;
        let heads = |shard: u64| array + shard * self.stride + self.head;
        fits.then(|| Lists {
            heads: (0..shards).map(heads).collect(),
            owner,
            count: at
                .checked_add_signed(self.count)
                .map(|word| scheduler + 8 * word as u64),
        })
    }
}

// === impl Laboratory ===

impl Laboratory {
    /// Starts the specimens, and polls each once.
    fn open() -> Result<Self, Refusal> {
        let memory = super::open()?;
        let runtime = Builder::new_current_thread()
            .build()
            .map_err(|error| Refusal::for_now(format!("a runtime cannot be made: {error}")))?;
        let note = |specimen| Note {
            keeps: specimen == KEPT_WAKER,
            ..Note::default()
        };
        let notes: Vec<_> = (0..TASKS)
            .map(|specimen| Arc::new(Mutex::new(note(specimen))))
            .collect();
        let spawn = |note: &Arc<Mutex<Note>>| runtime.spawn(Specimen(Arc::clone(note)));
        let joins: Vec<_> = notes.iter().map(|note| Some(spawn(note))).collect();
        let ids = joins.iter().flatten();
        let ids = ids.map(|join| number(join.id())).collect();
        let mut laboratory = Self {
            runtime,
            memory,
            tables: Tables::new(cfg!(tokio_unstable)),
            notes,
            joins,
            ids,
            headers: Vec::new(),
        };
        laboratory.turn();
        laboratory.memory.refresh();
        laboratory.headers = (0..TASKS)
            .map(|of| laboratory.note(of, |note| note.header))
            .collect();
        Ok(laboratory)
    }

    /// Lets the tasks that are woken take their turn.
    fn turn(&self) {
        self.runtime.block_on(async {
            for _ in 0..3 {
                yield_now().await;
            }
        });
    }

    fn note<T>(&self, of: usize, read: impl FnOnce(&Note) -> T) -> T {
        read(
            &self.notes[of]
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Returns the state of a specimen; 0 if it cannot be read.
    fn state(&self, of: usize) -> u64 {
        self.memory.word(self.headers[of]).unwrap_or(0)
    }

    /// Checks the words of each header. Returns the scheduler and the owner that they have in
    /// common.
    fn check_headers(&self) -> Result<(u64, u64), Refusal> {
        let mut common = None;
        for (header, id) in self.headers.iter().zip(&self.ids) {
            let task = self.tables.task(&self.memory, *header);
            let task = task.ok_or_else(|| unknown("a task", &"no header with a table"))?;
            expect("the id of a task", task.id, *id)?;
            let own = (task.scheduler, task.owner, task.table);
            expect("the header of a task", own, *common.get_or_insert(own))?;
        }
        let (scheduler, owner, _) = common.expect("there are specimens");
        if scheduler == 0 || owner == 0 {
            return Err(unknown("the header of a task", &"no scheduler or owner"));
        }
        Ok((scheduler, owner))
    }

    /// Finds the lists: it is known which task is the first and which the last of each.
    fn find_lists(&self, scheduler: u64) -> Result<Place, Refusal> {
        let words = self.memory.some_words(scheduler, SCHEDULER);
        for at in 0..words.len().saturating_sub(1) {
            let (array, shards) = (words[at], words[at + 1]);
            let may_be = array.is_multiple_of(8) && shards.is_power_of_two() && shards <= 64;
            if !may_be || !self.memory.is_writable(array) {
                continue;
            }
            let shards_of = usize::try_from(shards).unwrap_or(0);
            let entries = self.memory.some_words(array, ENTRY * shards_of);
            for stride in 2..=ENTRY {
                for head in 0..stride - 1 {
                    let pair = |shard: u64| {
                        let from = usize::try_from(shard).ok()? * stride + head;
                        Some((*entries.get(from)?, *entries.get(from + 1)?))
                    };
                    if (0..shards).all(|shard| pair(shard) == Some(self.ends(shard, shards))) {
                        return Ok(Place {
                            at,
                            shards,
                            stride,
                            head,
                        });
                    }
                }
            }
        }
        Err(unknown(
            "a runtime",
            &"no lists with the tasks in their order",
        ))
    }

    /// Returns the newest and the oldest specimen of a list.
    fn ends(&self, shard: u64, shards: u64) -> (u64, u64) {
        let ids = self.ids.iter().zip(&self.headers);
        let mut of = ids.filter(|(id, _)| **id & (shards - 1) == shard);
        let oldest = of.next().map_or(0, |(_, header)| *header);
        (of.next_back().map_or(oldest, |(_, header)| *header), oldest)
    }

    /// Checks the links between the specimens of each list.
    fn check_neighbours(&self, shards: u64) -> Result<(), Refusal> {
        let shard = |of: usize| self.ids[of] & (shards - 1);
        for of in 0..TASKS {
            let task = self.tables.task(&self.memory, self.headers[of]);
            let links = task.map(|task| (task.newer, task.older));
            let is_near = |other: &usize| shard(*other) == shard(of);
            let header = |of: Option<usize>| of.map_or(0, |of| self.headers[of]);
            let newer = header((of + 1..TASKS).find(is_near));
            let older = header((0..of).rev().find(is_near));
            expect("the neighbours of a task", links, Some((newer, older)))?;
        }
        Ok(())
    }

    /// Finds the words that describe the lists, and ends a specimen: only the count of tasks then
    /// falls. Returns the places of the mask, the count and the owner.
    fn describe(
        &mut self,
        scheduler: u64,
        place: &Place,
        owner: u64,
    ) -> Result<(isize, isize, isize), Refusal> {
        let words = || self.memory.some_words(scheduler, SCHEDULER);
        let near = |words: &[u64], value: u64| -> Vec<isize> {
            let is_value = |offset: &isize| {
                let at = place.at.checked_add_signed(*offset);
                at.and_then(|at| words.get(at)) == Some(&value)
            };
            (-NEAR..=NEAR).filter(is_value).collect()
        };
        let before = words();
        let masks = near(&before, place.shards - 1);
        let counts = near(&before, TASKS as u64);
        let owners = near(&before, owner);
        if let Some(join) = &self.joins[ENDED] {
            join.abort();
        }
        self.turn();
        let after = near(&words(), TASKS as u64 - 1);
        let counts: Vec<isize> = counts.into_iter().filter(|at| after.contains(at)).collect();
        expect(
            "the number of tasks",
            self.runtime.metrics().num_alive_tasks(),
            TASKS - 1,
        )?;
        let [mask] = masks[..] else {
            return Err(unknown("the mask of the lists", &masks));
        };
        let [count] = counts[..] else {
            return Err(unknown("the count of the lists", &counts));
        };
        // The word behind the pointer is the number of lists.
        let owners = owners
            .into_iter()
            .filter(|at| ![1, mask, count].contains(at));
        let owners: Vec<isize> = owners.collect();
        let [owner] = owners[..] else {
            return Err(unknown("the owner of the lists", &owners));
        };
        Ok((mask, count, owner))
    }

    /// Checks what each bit of the state means.
    fn check_states(&mut self) -> Result<(), Refusal> {
        let waiting = (REFERENCE * 2) | JOIN_INTEREST;
        expect(
            "the state of a task that waits",
            self.state(UNTOUCHED),
            waiting,
        )?;
        // The queue from which it was taken still has a reference.
        let during = self.note(UNTOUCHED, |note| note.state);
        if during == 0 {
            let text = "the memory of the process cannot be opened again";
            return Err(Refusal::for_now(text.to_owned()));
        }
        expect(
            "the state of a task that runs",
            during,
            (waiting + REFERENCE) | RUNNING,
        )?;
        let kept = self.state(KEPT_WAKER);
        expect(
            "the state of a task with a waker",
            kept,
            waiting + REFERENCE,
        )?;
        self.note(KEPT_WAKER, |note| {
            if let Some(waker) = &note.waker {
                waker.wake_by_ref();
            }
        });
        let woken = (waiting + REFERENCE * 2) | NOTIFIED;
        expect(
            "the state of a task that was woken",
            self.state(KEPT_WAKER),
            woken,
        )?;
        let abort = self.joins[UNTOUCHED].as_ref().map(JoinHandle::abort_handle);
        let abortable = self.state(UNTOUCHED);
        expect(
            "the state of a task with an abort handle",
            abortable,
            waiting + REFERENCE,
        )?;
        drop(abort);
        self.joins[DETACHED] = None;
        expect(
            "the state of a detached task",
            self.state(DETACHED),
            REFERENCE,
        )?;
        if let Some(join) = &self.joins[ABORTED] {
            join.abort();
        }
        let aborted = (waiting + REFERENCE) | NOTIFIED | CANCELLED;
        expect("the state of an aborted task", self.state(ABORTED), aborted)?;
        let ended = self.state(ENDED) & !CANCELLED;
        let expected = REFERENCE | JOIN_INTEREST | COMPLETE;
        expect("the state of a task that has ended", ended, expected)?;
        if let Some(mut join) = self.joins[AWAITED].take() {
            self.runtime.block_on(poll_fn(|cx| {
                // It is pending: the specimens wait for ever.
                Poll::Ready(Pin::new(&mut join).poll(cx).is_pending())
            }));
            let awaited = self.state(AWAITED);
            expect(
                "the state of a task that is awaited",
                awaited,
                waiting | JOIN_WAKER,
            )?;
        }
        Ok(())
    }
}

// === impl Specimen ===

impl Future for Specimen {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut note = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        note.header = cx.waker().data().addr() as u64;
        let memory = Memory::open(Path::new("/proc/self"), KEPT);
        note.state = memory
            .ok()
            .and_then(|memory| memory.word(note.header))
            .unwrap_or(0);
        if note.keeps {
            note.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Returns the refusal of a layout that is not known.
fn unknown(what: &str, found: &(impl Debug + ?Sized)) -> Refusal {
    Refusal::for_good(format!(
        "this tokio lays out its tasks in a way that is not known ({what}: {found:?})"
    ))
}

/// Checks the result of an experiment.
fn expect<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), Refusal> {
    if found == expected {
        return Ok(());
    }
    Err(unknown(what, &(found, expected)))
}
