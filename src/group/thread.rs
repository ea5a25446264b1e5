//! Starting threads that are known, and having others start theirs through us.

use super::TaskGroup;
use crate::audit::{self, Audited, Baseline};
use crate::threads::{self, Start, Stop, ThreadCounts, ThreadHandle, ThreadInfo, ThreadKind};
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Options of one thread, made by [`TaskGroup::thread`].
///
/// ```
/// # use std::time::Duration;
/// # headcount::Runtime::builder().print(false).build().unwrap().run(async |tasks| {
/// tasks.thread("sampler").spawn(|stop| {
///     while !stop.is_requested() {
///         std::thread::sleep(Duration::from_millis(10));
///     }
/// })?;
/// # Ok::<(), std::io::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a thread starts when it is spawned"]
pub struct SpawnThread<'a> {
    group: &'a TaskGroup,
    name: &'a str,
    kind: ThreadKind,
    nudge: bool,
    stack_size: Option<usize>,
}

/// Starts the threads of somebody else's pool, so that they are known by name, and waited for in the last layer of the
/// shutdown. Made by [`TaskGroup::thread_spawner`].
///
/// A pool fits that lets its user start its threads, as rayon's does. Where a pool only calls a hook on threads that it
/// starts itself, use [`TaskGroup::adopt_thread`] in the hook.
///
/// Nothing ends a pool's threads but the pool: drop it before the end of `main`. One that is kept alive is reported,
/// thread by thread, with the place where its spawner was made.
///
/// ```
/// # use headcount::ThreadKind;
/// # let report = headcount::Runtime::builder().print(false).build().unwrap().run(async |tasks| {
/// let threads = tasks.thread_spawner("pool", ThreadKind::Tracked);
/// let pool = rayon::ThreadPoolBuilder::new()
///     .num_threads(2)
///     .spawn_handler(|thread| threads.spawn(|| thread.run()))
///     .build()
///     .map_err(|error| error.to_string())?;
/// pool.install(|| { /* its threads are "pool-0" and "pool-1" */ });
/// # Ok::<(), String>(())
/// # });
/// # assert!(report.is_clean(), "{report}");
/// ```
#[derive(Debug, Clone)]
pub struct ThreadSpawner {
    root: u64,
    name: String,
    kind: ThreadKind,
    stack_size: Option<usize>,
    made: &'static Location<'static>,
    /// How many were started, by all clones.
    started: Arc<AtomicUsize>,
}

// === impl TaskGroup ===

impl TaskGroup {
    /// A thread with options, that hears when it must end: `tasks.thread("reader").nudge().spawn(|stop| …)`.
    pub fn thread<'a>(&'a self, name: &'a str) -> SpawnThread<'a> {
        SpawnThread {
            group: self,
            name,
            kind: ThreadKind::Tracked,
            nudge: false,
            stack_size: None,
        }
    }

    /// For thread pools of others: starts their threads under this name, and a number.
    #[must_use]
    #[track_caller]
    pub fn thread_spawner(&self, name: &str, kind: ThreadKind) -> ThreadSpawner {
        ThreadSpawner {
            root: self.registry_root().number,
            name: name.to_owned(),
            kind,
            stack_size: None,
            made: Location::caller(),
            started: Arc::default(),
        }
    }

    /// Registers the calling thread, which somebody else started, until it ends: from a hook that a pool calls on each
    /// of its threads, for one. A thread that is known already stays what it is.
    #[track_caller]
    pub fn adopt_thread(&self, name: &str, kind: ThreadKind) {
        let root = self.registry_root().number;
        threads::adopt_own(root, name, kind.class(), Location::caller());
    }

    /// How many threads of this service's runtime live, by class, at a cost that does not grow with them. Those of
    /// the whole process: [`threads::live`].
    #[must_use]
    pub fn thread_counts(&self) -> ThreadCounts {
        threads::live_of(self.registry_root().number)
    }

    /// Every thread of the process, with what is known of it. Empty where threads cannot be listed: outside Linux.
    ///
    /// It stops no thread, and reads a file for each: about 40 µs a thread when there are thousands.
    #[must_use]
    pub fn threads(&self) -> Vec<ThreadInfo> {
        thread_infos(self.registry_root().number)
    }
}

/// Every thread of the process, as the root of that number sees it.
pub(crate) fn thread_infos(root: u64) -> Vec<ThreadInfo> {
    let info = |thread: Audited| ThreadInfo {
        tid: thread.os.key.tid,
        name: thread.name().to_owned(),
        class: thread.class(),
        own: thread
            .known
            .as_ref()
            .is_some_and(|known| known.root == root),
        started: thread.known.as_ref().and_then(|known| known.started),
        age: thread.age,
        cpu: thread.os.cpu,
        state: thread.os.state_name(),
    };
    let all = audit::threads(&Baseline::default());
    all.into_iter().map(info).collect()
}

// === impl SpawnThread ===

impl SpawnThread<'_> {
    /// It may die with the process: nobody waits for it.
    pub fn daemon(mut self) -> Self {
        self.kind = ThreadKind::Daemon;
        self
    }

    /// Its stack's size in bytes. Default: std's.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Once it must end, its system calls are interrupted every 2 ms, so that they return
    /// [`Interrupted`](io::ErrorKind::Interrupted): for threads that wait in `read`, `recv` or `flock` themselves, and
    /// look at [`Stop::is_requested`] then.
    ///
    /// It does not end what std tries again after an interruption: `read_exact`, `accept`, locks, channels, sleeps.
    /// On sockets a closer does ([`Stop::close_on_stop`]). The process gets a handler, which does nothing, for the first
    /// real-time signal from 56 on that nobody handles.
    pub fn nudge(mut self) -> Self {
        self.nudge = true;
        self
    }

    /// Starts the thread. It is told to stop when the last layer of the shutdown begins, and waited for in that layer
    /// unless it is a daemon.
    ///
    /// # Errors
    ///
    /// When the system refuses a thread.
    #[track_caller]
    pub fn spawn<F, T>(self, work: F) -> io::Result<ThreadHandle<T>>
    where
        F: FnOnce(&Stop) -> T + Send + 'static,
        T: Send + 'static,
    {
        let stop = Stop::new(self.nudge);
        let start = Start {
            root: self.group.registry_root().number,
            name: self.name.to_owned(),
            class: self.kind.class(),
            started: Location::caller(),
            stack_size: self.stack_size,
            stop: Some(stop.clone()),
        };
        if self.nudge {
            audit::nudge::install();
        }
        let (root, nudge) = (Arc::clone(self.group.registry_root()), self.nudge);
        start.spawn(move || {
            if nudge {
                audit::nudge::let_through();
            }
            // Looked at after the registration: whoever tells all to stop, after this is set, finds the thread.
            if root.is_refusing() {
                stop.request();
            }
            // A thread that never ends must not keep the root.
            drop(root);
            threads::__headcount_begin_with(work, &stop)
        })
    }
}

// === impl ThreadSpawner ===

impl ThreadSpawner {
    /// The size of the threads' stacks in bytes. Default: std's.
    #[must_use]
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Starts a thread under the spawner's name and the next number.
    ///
    /// # Errors
    ///
    /// When the system refuses a thread.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        self.spawn_named(format!("{}-{number}", self.name), work)
    }

    /// Starts a thread under a name of its own.
    ///
    /// # Errors
    ///
    /// When the system refuses a thread.
    pub fn spawn_named(
        &self,
        name: impl Into<String>,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let start = Start {
            root: self.root,
            name: name.into(),
            class: self.kind.class(),
            started: self.made,
            stack_size: self.stack_size,
            stop: None,
        };
        start.spawn(work).map(drop)
    }
}
