//! The tasks of another process, which knows nothing of headcount.
//!
//! The process is not stopped, signalled or written to, and needs nothing built in. Everything is
//! found from outside: the tables of task functions in the program's constants, the runtimes from the
//! stacks of the threads, and the tasks from the runtimes' lists.
//!
//! Nothing is shown before the self-checks hold. A program with a tokio that lays out its tasks in another
//! way is refused, with the check that failed.

mod checks;
#[cfg(test)]
mod flood;
mod handles;
mod kinds;
mod picture;
mod rights;
mod running;
#[cfg(test)]
mod tests;
mod threads;
#[cfg(feature = "service")]
mod unstopped;
#[cfg(feature = "service")]
mod watched;

#[cfg(feature = "service")]
pub(crate) use super::program::Limits;
pub(crate) use kinds::Kinds;
#[cfg(feature = "service")]
pub(crate) use picture::{ATTACH, Group, Label, Labels, Link, Picture, ThreadGroup};
pub(crate) use threads::Thread;
#[cfg(feature = "service")]
pub(crate) use unstopped::unstopped;
#[cfg(feature = "service")]
pub(crate) use watched::{OsProcess, OsThread, Watched, processes, threads};

use super::header::{Tables, Task};
use super::list::{self, Bounds, End, Lists, Look};
use super::memory::Memory;
use super::program::{Place, Program, Split};
use handles::Found;
use rights::Access;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most tasks that are read of a process.
const TASKS: usize = 4 << 20;
/// The most processor time for one look at the lists of a runtime.
const LOOK: Duration = Duration::from_secs(10);
/// The most attempts to find runtimes whose lists hold the self-checks.
const ATTEMPTS: u32 = 2;
/// The most looks at a runtime that changes meanwhile.
const LOOKS: usize = 6;
/// The most searches for runtimes: a thread on a processor shows no stack. There are more while no runtime is found.
const SEARCHES: u32 = 4;
const SEARCHES_WITHOUT: u32 = 60;
/// The time between two searches.
const PAUSE: Duration = Duration::from_millis(5);

/// The most bytes of copies of this process's own memory: its lists are not walked here.
const OWN: u64 = 1 << 20;

/// The members of a task's header, with their offsets.
const HEADER: [(&str, u64); 4] = [
    ("state", 0),
    ("queue_next", 8),
    ("vtable", 16),
    ("owner_id", 24),
];
/// The most words of a future that are read.
#[cfg(feature = "service")]
const FUTURE: usize = 1 << 13;
/// The most bytes of a path.
const PATH: usize = 4096;

/// A process that can be read, with its tasks at one moment.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The path of the program.
    pub(crate) path: String,
    /// The address at which the program begins.
    begin: u64,
    /// The version of tokio; several, or none, if the program does not tell one.
    pub(crate) tokio: Vec<String>,
    pub(crate) memory: Memory,
    pub(crate) program: Program,
    pub(crate) kinds: Kinds,
    pub(crate) threads: Vec<Thread>,
    /// By the numbers of their lists.
    pub(crate) runtimes: Vec<Runtime>,
    /// The self-checks that were not possible.
    pub(crate) unchecked: Vec<&'static str>,
    /// Those of them that concern the program, not a look at it.
    unchecked_of_kinds: Vec<&'static str>,
}

/// The tasks of a runtime, or of a `LocalSet`.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) tasks: Vec<Task>,
    /// The numbers of tasks that the runtime counted before and after they were read, if it counts.
    pub(crate) counted: Option<(u64, u64)>,
    /// The number of tasks that are in no list: the runtime is being dropped, and waits for them.
    unlisted: usize,
    /// True if a bound ended the look.
    is_cut: bool,
}

/// The program and the memory of this process.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) program: Program,
    pub(crate) memory: Memory,
    path: String,
}

// === impl Own ===

impl Own {
    /// Opens both. An error is a sentence, without a full stop at its end.
    pub(crate) fn open() -> Result<Self, String> {
        let pid = std::process::id();
        let access = Access::open(pid, OWN)?;
        let split = Split::of(pid, &access.path);
        let program = Program::of(access.program, access.begin, split)
            .map_err(|error| format!("cannot read the program of this process: {error}"))?;
        Ok(Self {
            program,
            memory: access.memory,
            path: access.path,
        })
    }

    /// Returns the functions of all kinds of tasks of the program, by the addresses of their tables.
    pub(crate) fn kinds(&self) -> Vec<(u64, [u64; 7])> {
        let kinds = Kinds::find(&self.memory, &self.program, &self.path);
        let tables = kinds.tables.iter();
        tables.map(|(at, table)| (*at, table.functions)).collect()
    }
}

// === impl Process ===

impl Process {
    /// Reads the tasks of a process. An error is a sentence, without a full stop at its end.
    pub(crate) fn read(pid: u32) -> Result<Self, String> {
        let mut process = Self::open(pid)?;
        process.look()?;
        Ok(process)
    }

    /// Opens a process, without a look at its tasks. An error is a sentence.
    fn open(pid: u32) -> Result<Self, String> {
        let access = Access::open(pid, rights::KEPT)?;
        let split = Split::of(pid, &access.path);
        let program = Program::of(access.program, access.begin, split)
            .map_err(|error| format!("cannot read the program of process {pid}: {error}"))?;
        let memory = access.memory;
        let kinds = Kinds::find(&memory, &program, &access.path);
        let tokio: Vec<String> = program.tokio_versions().into_iter().collect();
        if kinds.tables.is_empty() {
            return Err(without_tasks(pid, &access.path, &tokio));
        }
        let mut unchecked = Vec::new();
        refuse(&tokio, &kinds.check(&program, &mut unchecked))?;
        Ok(Self {
            pid,
            path: access.path,
            begin: access.begin,
            tokio,
            memory,
            program,
            kinds,
            threads: Vec::new(),
            runtimes: Vec::new(),
            unchecked_of_kinds: unchecked.clone(),
            unchecked,
        })
    }

    /// Looks at the tasks, anew if it did before. An error is a sentence; what was read before is
    /// then unchanged.
    fn look(&mut self) -> Result<(), String> {
        let (pid, memory) = (self.pid, &self.memory);
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let tables = Tables::new(self.kinds.has_spawn_place);
        let is_there = || {
            let word = memory.word(self.begin).map(drop);
            word.ok_or_else(|| format!("process {pid} ended while its tasks were read"))
        };
        let mut attempts = 1;
        let mut unchecked = self.unchecked_of_kinds.clone();
        let of_kinds = unchecked.len();
        let (threads, found, unseen, runtimes) = loop {
            let mut wrong = Vec::new();
            let (threads, found, unseen) = search(&folder, memory, &tables);
            if unseen > 0 {
                unchecked
                    .push("the stacks of threads on a processor, which may know another runtime");
            }
            let runtimes = runtimes(memory, &tables, &found, &mut wrong, &mut unchecked);
            if wrong.is_empty() {
                break (threads, found, unseen, runtimes);
            }
            is_there()?;
            if runtimes.iter().any(|runtime| runtime.is_cut) {
                return Err(too_many(pid));
            }
            // A runtime may have been dropped meanwhile, and its memory be used by something else.
            if attempts == ATTEMPTS {
                refuse(&self.tokio, &wrong)?;
            }
            attempts += 1;
            unchecked.truncate(of_kinds);
        };
        // Something that looks like a runtime without tasks is not all, if a thread may know another one.
        if runtimes.is_empty() && (found.empty == 0 || unseen > 0) {
            is_there()?;
            return Err(without_runtime(pid, threads.len(), unseen));
        }
        unchecked.sort_unstable();
        unchecked.dedup();
        (self.threads, self.runtimes, self.unchecked) = (threads, runtimes, unchecked);
        Ok(())
    }

    /// Returns all tasks.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.runtimes.iter().flat_map(|runtime| &runtime.tasks)
    }

    /// Returns the first of these addresses that is among the words of a task and its future.
    #[cfg(feature = "service")]
    pub(crate) fn refers_to(&self, task: &Task, addresses: &HashSet<u64>) -> Option<u64> {
        let table = self.kinds.tables.get(&task.table)?;
        let words = usize::try_from(table.trailer / 8).ok()?.min(FUTURE);
        let words = self.memory.some_words(task.header, words);
        words.into_iter().find(|word| addresses.contains(word))
    }

    /// Holds the members of a task's header in the debug information against those that are known.
    fn check_layout(&self, members: &[(String, u64)]) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (name, expected) in HEADER {
            let member = members.iter().find(|member| member.0 == name);
            if let Some((_, at)) = member.filter(|(_, at)| *at != expected) {
                wrong.push(format!("`{name}` of a task is at {at}"));
            }
        }
        refuse(&self.tokio, &wrong)
    }

    /// Returns the place in the source that a `core::panic::Location` at an address names; `None` at
    /// 0, or if the words there are not those of one.
    fn place(&self, at: u64) -> Option<String> {
        if at == 0 || !self.memory.is_constant(at) {
            return None;
        }
        let [file, length, lines] = self.memory.words(at)?;
        let mut bytes = vec![
            0;
            usize::try_from(length)
                .ok()
                .filter(|length| *length <= PATH)?
        ];
        let read = self.memory.read(file, &mut bytes);
        bytes.truncate(read);
        let path = String::from_utf8(bytes).ok()?;
        let path = path.trim_end_matches('\0');
        // The line is the lower half of the word, and the column the upper one.
        let line = lines & u64::from(u32::MAX);
        Some(Place::of(path, line, "").to_string())
    }

    /// Returns the number of tasks that are in no list, because their runtime is being dropped.
    pub(crate) fn unlisted(&self) -> usize {
        self.runtimes.iter().map(|runtime| runtime.unlisted).sum()
    }

    /// Returns the fewest and the most tasks that there were while they were read.
    pub(crate) fn range(&self) -> (u64, u64) {
        let ranges = self.runtimes.iter().map(Runtime::range);
        ranges.fold((0, 0), |sum, range| (sum.0 + range.0, sum.1 + range.1))
    }
}

// === impl Runtime ===

impl Runtime {
    /// Returns the fewest and the most tasks that there were while they were read.
    fn range(&self) -> (u64, u64) {
        let read = self.tasks.len() as u64;
        let unlisted = self.unlisted as u64;
        let counted = self.counted;
        let counted = counted.map(|(before, after)| (before + unlisted, after + unlisted));
        let (before, after) = counted.unwrap_or((read, read));
        (read.min(before).min(after), read.max(before).max(after))
    }
}

/// Reads the tasks of the lists that were found. `wrong` gets the self-checks that failed, and
/// `unchecked` those that were not possible.
fn runtimes(
    memory: &Memory,
    tables: &Tables,
    found: &Found,
    wrong: &mut Vec<String>,
    unchecked: &mut Vec<&'static str>,
) -> Vec<Runtime> {
    if found.lists.is_empty() && !found.lost.is_empty() {
        wrong.push("there are tasks, and no list that has them".to_owned());
    } else if !found.lost.is_empty() {
        unchecked.push("tasks on a stack whose runtime was not found");
    }
    let runtimes = found.lists.values().map(|lists| {
        let (look, problems) = looks(memory, tables, lists, unchecked);
        wrong.extend(problems);
        Runtime {
            tasks: look.tasks,
            counted: look.counted,
            unlisted: 0,
            is_cut: look.is_cut,
        }
    });
    let mut runtimes: Vec<Runtime> = runtimes.collect();
    add_unlisted(memory, tables, &found.cancelled, &mut runtimes);
    runtimes
}

/// Adds the tasks that are in no list, because their runtime is being dropped: they run, and are cancelled.
fn add_unlisted(
    memory: &Memory,
    tables: &Tables,
    cancelled: &BTreeMap<u64, Task>,
    runtimes: &mut Vec<Runtime>,
) {
    for task in cancelled.values() {
        let of_task = |runtime: &&mut Runtime| {
            let first = runtime.tasks.first();
            first.is_some_and(|first| first.owner == task.owner)
        };
        let now = tables.task(memory, task.header);
        let is_there = |now: &Task| now.id == task.id && handles::is_cancelled(now);
        let Some(now) = now.filter(is_there) else {
            continue;
        };
        match runtimes.iter_mut().find(of_task) {
            // It was aborted, and is in the list until it returns.
            Some(runtime) if runtime.tasks.iter().any(|task| task.id == now.id) => {}
            Some(runtime) => {
                runtime.tasks.push(now);
                runtime.unlisted += 1;
            }
            None => runtimes.push(Runtime {
                tasks: vec![now],
                counted: None,
                unlisted: 1,
                is_cut: false,
            }),
        }
    }
}

/// Looks at the lists of a runtime until the tasks and the self-checks agree. Returns the last look,
/// with the problems of it.
fn looks(
    memory: &Memory,
    tables: &Tables,
    lists: &Lists,
    unchecked: &mut Vec<&'static str>,
) -> (Look, Vec<String>) {
    let mut last = (Look::default(), Vec::new());
    for _ in 0..LOOKS {
        let bounds = Bounds {
            tasks: TASKS,
            until: End::after(LOOK),
        };
        let look = list::look(memory, tables, lists, bounds);
        let problems = checks::problems(memory, tables, lists, &look, unchecked);
        last = (look, problems);
        if last.1.is_empty() || last.0.is_cut {
            break;
        }
    }
    last
}

/// Searches the stacks of all threads for runtimes: again, while a thread is on a processor and shows no
/// stack. Returns the threads, what was found, and the number of threads without a stack.
fn search(folder: &Path, memory: &Memory, tables: &Tables) -> (Vec<Thread>, Found, usize) {
    let mut found = Found::default();
    let mut seen: HashSet<u32> = HashSet::new();
    for round in 1.. {
        let threads = threads::list(folder);
        // A list may have changed too much while it was looked at.
        let is_lost = !found.lost.is_empty();
        let unseen = threads
            .iter()
            .filter(|thread| is_lost || !seen.contains(&thread.tid));
        let unseen: Vec<&Thread> = unseen.collect();
        found.merge(handles::find(memory, tables, &stacks(memory, &unseen)));
        let with_stacks = unseen.iter().filter(|thread| thread.registers.is_some());
        seen.extend(with_stacks.map(|thread| thread.tid));
        let unseen = threads
            .iter()
            .filter(|thread| !seen.contains(&thread.tid))
            .count();
        let is_whole = unseen == 0 && found.lost.is_empty();
        let searches = match found.lists.is_empty() {
            true => SEARCHES_WITHOUT,
            false => SEARCHES,
        };
        if is_whole || round >= searches {
            return (threads, found, unseen);
        }
        std::thread::sleep(PAUSE);
    }
    unreachable!("the last round returns")
}

/// Returns the used parts of the stacks of threads that wait.
fn stacks(memory: &Memory, threads: &[&Thread]) -> Vec<Range<u64>> {
    memory.refresh();
    let pointers = threads.iter().filter_map(|thread| thread.registers);
    let stacks = pointers.filter_map(|(pointer, _)| {
        let start = pointer.checked_next_multiple_of(8)?;
        Some(start..memory.mapping(start)?.end)
    });
    stacks.collect()
}

/// Fails if a self-check failed, with a text that names it.
fn refuse(tokio: &[String], wrong: &[String]) -> Result<(), String> {
    if wrong.is_empty() {
        return Ok(());
    }
    let version = match tokio {
        [] => "tokio of a version that it does not name".to_owned(),
        versions => format!("tokio {}", versions.join(" and ")),
    };
    Err(format!(
        "this program has {version}, whose tasks are laid out in a way that this headcount does not know ({}): \
         nothing is shown rather than something wrong\n  a newer headcount may know it; this one knows tokio 1.28 to 1.54",
        wrong.join("; ")
    ))
}

/// Explains why a program has no kinds of tasks.
fn without_tasks(pid: u32, path: &str, tokio: &[String]) -> String {
    let name = Path::new(path).file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    match tokio {
        [] => format!(
            "process {pid} ({name}) has no tokio in its program; one in a shared library is not looked for"
        ),
        versions => format!(
            "process {pid} ({name}) has tokio {} in its program, and spawns no task: or tokio lays out tasks in a way \
             that this headcount does not know; it knows tokio 1.28 to 1.54",
            versions.join(" and ")
        ),
    }
}

/// Explains that a bound was reached.
fn too_many(pid: u32) -> String {
    let seconds = LOOK.as_secs();
    format!(
        "process {pid} has a runtime with too many tasks: at most {TASKS} are read, and for at most {seconds} s of \
         processor time"
    )
}

/// Explains why no runtime was found.
fn without_runtime(pid: u32, threads: usize, unseen: usize) -> String {
    let busy = match unseen {
        0 => String::new(),
        busy => format!(
            "; {busy} of its {threads} threads are on a processor, where their stacks cannot be read: try again"
        ),
    };
    format!("no tokio runtime with a task was found in process {pid}{busy}")
}
