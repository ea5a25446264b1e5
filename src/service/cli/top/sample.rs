//! Samples of a process, each by the best ways into it.
//!
//! The threads and the process tree come from `/proc`. Of a service of headcount, the tasks come from
//! its black box, which has their ages and last polls and needs no help of the process; without a box
//! from its control socket. Untracked tasks, and all tasks of any other tokio program, come from attach,
//! which knows no ages: those are counted from the first sample that had the task.

use super::super::control::Unanswered;
use super::super::ways::{self, Notes, Page, Untracked, Way};
use crate::inspect::other::{self, Labels, OsProcess, OsThread, Watched};
use crate::text::plain;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// The most tasks of each kind that are shown, and the most tasks.
const OF_A_KIND: usize = 1000;
const TASKS: usize = 10_000;
/// The longest wait for an answer, and the time without questions after a silence. The screen waits
/// meanwhile.
const PATIENCE: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(10);
/// The time between two attempts to open a process that cannot be read by attach.
const AGAIN: Duration = Duration::from_secs(10);

/// A process at one moment.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// The name of the service, or of the program.
    pub(super) name: String,
    pub(super) phase: Option<String>,
    pub(super) is_stopped: bool,
    /// The ways by which the tasks were read.
    pub(super) ways: Vec<Way>,
    pub(super) tasks: Vec<TaskLine>,
    /// The number of live tasks, also of those that have no line.
    pub(super) live: u64,
    pub(super) threads: Vec<ThreadLine>,
    pub(super) processes: Vec<ProcessLine>,
    /// Reasons why something is missing.
    pub(super) notes: Vec<String>,
}

/// A task, or untracked tasks of one type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TaskLine {
    pub(super) by: Way,
    /// `None` for several tasks.
    pub(super) id: Option<u64>,
    pub(super) count: u64,
    /// The path of a tracked task; the type of any other.
    pub(super) name: String,
    pub(super) state: String,
    pub(super) age: Option<Age>,
    /// The time since the last poll.
    pub(super) idle: Option<Duration>,
    /// The time for which a thread has been in it.
    pub(super) busy: Option<Duration>,
    /// The thread that is in it.
    pub(super) thread: Option<u32>,
}

/// The age of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Age {
    /// By headcount's own clock.
    Known(Duration),
    /// Since it was first seen.
    AtLeast(Duration),
}

/// A thread.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ThreadLine {
    pub(super) tid: u32,
    pub(super) name: String,
    /// The class of a thread that headcount knows.
    pub(super) class: Option<&'static str>,
    pub(super) state: &'static str,
    /// The share of a processor since the last sample; `None` in the first one.
    pub(super) busy: Option<f64>,
    pub(super) cpu: Duration,
    /// The task that it is in, and for how long.
    pub(super) task: Option<String>,
    pub(super) held: Option<Duration>,
}

/// A process of the tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProcessLine {
    pub(super) level: usize,
    pub(super) pid: u32,
    pub(super) command: String,
    pub(super) state: &'static str,
    pub(super) busy: Option<f64>,
    pub(super) cpu: Duration,
    pub(super) resident: u64,
}

/// A reader of samples of one process.
#[derive(Debug)]
pub(super) struct Sampler {
    pid: u32,
    attached: Attached,
    /// The time until which the control socket is not asked.
    silent_until: Option<Instant>,
    /// The first sample that had a task, by the address and the id of the task.
    seen: HashMap<(u64, u64), Instant>,
    /// CPU times of threads and processes at the last sample.
    cpu: HashMap<u32, Duration>,
    last: Option<Instant>,
}

/// The memory of the process.
#[derive(Debug)]
enum Attached {
    Open(Box<Watched>),
    /// The reason, and the time of the next attempt.
    Refused(String, Instant),
}

// === impl Attached ===

impl Attached {
    fn open(pid: u32) -> Self {
        match Watched::open(pid) {
            Ok(watched) => Self::Open(Box::new(watched)),
            Err(why) => Self::Refused(why, Instant::now() + AGAIN),
        }
    }
}

// === impl Sampler ===

impl Sampler {
    /// Opens a process. An error is a sentence: there is no way to see its tasks.
    pub(super) fn open(pid: u32) -> Result<Self, String> {
        let sampler = Self {
            pid,
            attached: Attached::open(pid),
            silent_until: None,
            seen: HashMap::new(),
            cpu: HashMap::new(),
            last: None,
        };
        if let Attached::Refused(why, _) = &sampler.attached {
            let is_service = Notes::read(pid, 0).is_some() || ways::overview(pid).is_ok();
            if !is_service {
                return Err(why.clone());
            }
        }
        Ok(sampler)
    }

    /// Takes a sample.
    pub(super) fn sample(&mut self) -> Sample {
        let now = Instant::now();
        let mut sample = Sample {
            name: ways::program(self.pid),
            is_stopped: ways::is_stopped(self.pid),
            ..Sample::default()
        };
        // All of them, because attach sees those again.
        let notes = Notes::read(self.pid, usize::MAX);
        self.look(now);
        let notes = notes.map(|notes| notes.again(self.pid));
        match &notes {
            Some(notes) => self.by_box(notes, &mut sample),
            None => self.by_socket(&mut sample, now),
        }
        if !matches!(self.attached, Attached::Open(_)) && sample.ways == [Way::BlackBox] {
            self.add_untracked(&mut sample, now);
        }
        let shown: u64 = sample.tasks.iter().map(|task| task.count).sum();
        sample.live = sample.live.max(shown);
        sample.tasks.truncate(TASKS);
        self.add_threads(&mut sample, notes.as_ref(), now);
        self.last = Some(now);
        sample
    }

    /// Looks at the tasks by attach anew, or tries to.
    fn look(&mut self, now: Instant) {
        match &mut self.attached {
            Attached::Open(watched) => {
                if let Err(why) = watched.look() {
                    self.attached = Attached::Refused(why, now);
                }
            }
            Attached::Refused(_, at) if *at <= now => self.attached = Attached::open(self.pid),
            Attached::Refused(..) => {}
        }
    }

    /// Adds the tasks of the black box, and the untracked ones of attach.
    fn by_box(&mut self, notes: &Notes, sample: &mut Sample) {
        let moments = &notes.moments;
        sample.name.clone_from(&moments.service);
        sample.phase = Some(moments.phase.as_str().to_owned());
        sample.ways.push(Way::BlackBox);
        let on_threads = moments.on_threads.iter();
        let on_threads = on_threads.filter_map(|held| Some((held.id?, (held.tid, held.held))));
        let on_threads: HashMap<u64, (u32, Option<Duration>)> = on_threads.collect();
        for kind in &moments.tasks {
            let name = ways::path(&kind.group, &kind.name);
            for task in kind.rows.iter().take(OF_A_KIND) {
                let on_thread = on_threads.get(&task.id);
                sample.tasks.push(TaskLine {
                    by: Way::BlackBox,
                    id: Some(task.id),
                    count: 1,
                    name: name.clone(),
                    state: task.state.as_str().to_owned(),
                    age: Some(Age::Known(task.age + notes.since)),
                    idle: task.last_poll.map(|idle| idle + notes.since),
                    busy: on_thread
                        .and_then(|(_, held)| *held)
                        .map(|held| held + notes.since),
                    thread: on_thread.map(|(tid, _)| *tid),
                });
            }
        }
        sample.live = moments.live_tasks + moments.tasks_not_in_box;
        let Attached::Open(watched) = &self.attached else {
            return;
        };
        sample.ways.push(Way::Attach);
        let joined = notes.join(watched.process());
        let before = sample.tasks.len();
        self.add_attached(sample, Some(&joined.labels));
        // Tracked tasks for which the box had no room are among these.
        let others = (sample.tasks.len() - before) as u64;
        sample.live = moments.live_tasks + others.max(moments.tasks_not_in_box);
    }

    /// Adds the tasks that the service tells, or those of attach if it tells none.
    fn by_socket(&mut self, sample: &mut Sample, now: Instant) {
        let told = self.ask::<Page>("/api/tasks?limit=1000", sample.is_stopped, now);
        let Some(page) = told else {
            if let Attached::Open(_) = &self.attached {
                sample.ways.push(Way::Attach);
            }
            if let Attached::Refused(why, _) = &self.attached {
                sample.notes.push(format!("tasks are not seen: {why}"));
            }
            self.add_attached(sample, None);
            return;
        };
        sample.ways.push(Way::Socket);
        sample.live = page.live;
        for task in page.tasks {
            sample.tasks.push(TaskLine {
                by: Way::Socket,
                id: Some(task.id),
                count: 1,
                name: ways::path(&task.group, &task.name),
                state: task.state,
                age: Duration::try_from_secs_f64(task.age_seconds)
                    .ok()
                    .map(Age::Known),
                idle: None,
                busy: None,
                thread: task.on_thread,
            });
        }
        if let Some(seen) = self.ask::<ways::Overview>("/api/runtime", sample.is_stopped, now) {
            (sample.name, sample.phase) = (seen.service, Some(seen.phase));
        }
        self.add_untracked(sample, now);
    }

    /// Adds the untracked tasks that the service tells, a line for each type.
    fn add_untracked(&mut self, sample: &mut Sample, now: Instant) {
        let Some(untracked) = self.ask::<Untracked>("/api/untracked", sample.is_stopped, now)
        else {
            let why = "untracked tasks are not seen: neither by the control socket nor by attach";
            sample.notes.push(why.to_owned());
            return;
        };
        if !sample.ways.contains(&Way::Socket) {
            sample.ways.push(Way::Socket);
        }
        for site in untracked.sites {
            let future = site.future.unwrap_or_default();
            let spawned = format!("spawned {}", site.spawned);
            let age = site.age_seconds.map(Duration::try_from_secs_f64);
            sample.live += site.live;
            sample.tasks.push(TaskLine {
                by: Way::Socket,
                id: None,
                count: site.live,
                name: if future.is_empty() { spawned } else { future },
                state: if site.running > 0 {
                    "running"
                } else {
                    "waiting"
                }
                .to_owned(),
                age: age.and_then(Result::ok).map(Age::AtLeast),
                idle: None,
                busy: None,
                thread: None,
            });
        }
    }

    /// Adds the tasks of attach, but those with labels, which have lines already.
    fn add_attached(&mut self, sample: &mut Sample, labels: Option<&Labels>) {
        let Attached::Open(watched) = &self.attached else {
            return;
        };
        let now = Instant::now();
        let mut alive = HashSet::new();
        for task in watched.tasks() {
            if labels.is_some_and(|labels| labels.contains_key(&task.header)) {
                continue;
            }
            let key = (task.header, task.id);
            let begun = *self.seen.entry(key).or_insert(now);
            alive.insert(key);
            let age = now - begun;
            sample.tasks.push(TaskLine {
                by: Way::Attach,
                id: Some(task.id),
                count: 1,
                name: task.name.to_owned(),
                state: match (task.state, task.never_wakes) {
                    ("waiting", true) => "never wakes".to_owned(),
                    (state, _) => state.to_owned(),
                },
                // Ids grow, but the first sample says nothing about the time before it.
                age: Some(Age::AtLeast(age)),
                idle: None,
                busy: None,
                thread: None,
            });
        }
        self.seen.retain(|key, _| alive.contains(key));
        sample.live = sample.live.max(sample.tasks.len() as u64);
    }

    /// Asks the service, unless it is stopped, or was silent a moment ago.
    fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        path: &str,
        is_stopped: bool,
        now: Instant,
    ) -> Option<T> {
        if is_stopped || self.silent_until.is_some_and(|until| now < until) {
            return None;
        }
        match super::super::control::read(self.pid, path, PATIENCE) {
            Ok(answer) => Some(answer),
            Err(Unanswered::NoSocket(_) | Unanswered::Failed(_)) => {
                self.silent_until = Some(now + SILENCE);
                None
            }
        }
    }

    /// Adds the threads and the processes, with their use of processors since the last sample.
    fn add_threads(&mut self, sample: &mut Sample, notes: Option<&Notes>, now: Instant) {
        let threads = other::threads(self.pid);
        let processes = other::processes(self.pid);
        let passed = self.last.map(|last| (now - last).as_secs_f64());
        let share = |id: u32, key: u32, cpu: Duration| {
            let (before, passed) = (self.cpu.get(&(id ^ key))?, passed?);
            Some(cpu.saturating_sub(*before).as_secs_f64() / passed.max(0.001))
        };
        sample.threads = threads
            .iter()
            .map(|thread| thread_line(thread, notes, share(thread.tid, 0, thread.cpu)))
            .collect();
        // The main thread of a process has its number.
        const PROCESS: u32 = 1 << 31;
        sample.processes = processes
            .iter()
            .map(|process| process_line(process, share(process.pid, PROCESS, process.cpu)))
            .collect();
        let of_threads = threads.iter().map(|thread| (thread.tid, thread.cpu));
        let of_processes = processes.iter();
        let of_processes = of_processes.map(|process| (process.pid ^ PROCESS, process.cpu));
        self.cpu = of_threads.chain(of_processes).collect();
    }
}

fn thread_line(thread: &OsThread, notes: Option<&Notes>, busy: Option<f64>) -> ThreadLine {
    let moments = notes.map(|notes| &notes.moments);
    let known = moments.and_then(|moments| {
        let mut threads = moments.threads.iter();
        threads.find(|known| known.tid == thread.tid)
    });
    let held = moments.and_then(|moments| {
        let mut held = moments.on_threads.iter();
        held.find(|held| held.tid == thread.tid)
    });
    let name = known.map_or(&thread.name, |known| &known.name);
    ThreadLine {
        tid: thread.tid,
        name: plain(name).into_owned(),
        class: known.map(|known| known.class.as_str()),
        state: thread.state,
        busy,
        cpu: thread.cpu,
        task: held.map(|held| held.task.clone().unwrap_or_else(|| "a task".to_owned())),
        held: held.and_then(|held| Some(held.held? + notes?.since)),
    }
}

fn process_line(process: &OsProcess, busy: Option<f64>) -> ProcessLine {
    ProcessLine {
        level: process.level,
        pid: process.pid,
        command: plain(&process.command).into_owned(),
        state: process.state,
        busy,
        cpu: process.cpu,
        resident: process.resident,
    }
}
