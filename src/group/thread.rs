//! Registered threads: those that headcount starts, with options, and adopted ones.
//!
//! A registered thread is listed by its full name and the place that started it, and the last layer
//! of the shutdown waits for it unless it is a daemon. Nothing here can end a thread that does not
//! cooperate: see [`Stop`].

use super::TaskGroup;
use crate::audit;
use crate::report::ThreadRow;
use crate::threads::{self, Start, Stop, ThreadCounts, ThreadHandle, ThreadKind};
use std::io;
use std::panic::Location;
use std::sync::Arc;

/// The options of one thread, made by [`TaskGroup::thread`].
///
/// By default the thread is [`ThreadKind::Tracked`], is not nudged, and has the standard library's
/// stack size.
///
/// It also starts the threads of another library's pool, if the pool lets its user start them, as
/// rayon's does. For a pool that only calls a hook on the threads that it starts itself, use
/// [`TaskGroup::adopt_thread`] in the hook. Only the pool can end its threads: drop it before the
/// end of `main`, or make them daemons.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # headcount::testing::check(async |tasks| {
/// let sampler = tasks.thread("sampler").stack_size(256 * 1024).spawn(|stop| {
///     while !stop.is_requested() {
///         std::thread::park_timeout(Duration::from_millis(10));
///     }
/// })?;
/// // The shutdown asks it to stop, and waits for it.
/// assert!(!sampler.is_finished());
/// # Ok::<(), std::io::Error>(())
/// # });
/// ```
///
/// The threads of a pool:
///
/// ```
/// # let report = headcount::Runtime::builder().print(false).build().unwrap().run(async |tasks| {
/// let pool = rayon::ThreadPoolBuilder::new()
///     .num_threads(2)
///     .spawn_handler(|thread| {
///         let name = format!("pool-{}", thread.index());
///         tasks.thread(&name).spawn(|_stop| thread.run()).map(drop)
///     })
///     .build()
///     .map_err(|error| error.to_string())?;
/// pool.install(|| { /* its threads are "pool-0" and "pool-1" */ });
/// # Ok::<(), String>(())
/// # });
/// # assert!(report.is_clean(), "{report}");
/// # assert_eq!(report.exit_code(), 0);
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

// === impl TaskGroup ===

impl TaskGroup {
    /// Starts a thread that is known by its full name and spawn site.
    ///
    /// The shutdown waits in its last layer for a [`ThreadKind::Tracked`] thread, and reports it as
    /// lingering if it does not end: let it check [`TaskGroup::is_draining`]. A
    /// [`ThreadKind::Daemon`] is not waited for and ends with the process. [`TaskGroup::thread`]
    /// starts a thread that can be asked to stop and woken from a blocking call.
    ///
    /// A panic of the thread is logged, and [`ThreadHandle::join`] returns it.
    ///
    /// # Panics
    ///
    /// Panics if the operating system fails to create the thread, as `std::thread::spawn` does.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// use headcount::ThreadKind;
    ///
    /// let hash = tasks.spawn_thread("hash", ThreadKind::Tracked, || 42);
    /// assert_eq!(hash.join().unwrap(), 42);
    /// # });
    /// ```
    #[track_caller]
    pub fn spawn_thread<F, T>(&self, name: &str, kind: ThreadKind, work: F) -> ThreadHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let root = self.registry_root().number;
        threads::start(root, name, kind.class(), Location::caller(), work)
            .unwrap_or_else(|error| panic!("failed to start thread '{name}': {error}"))
    }

    /// Returns the options of a thread that can be asked to stop:
    /// `tasks.thread("reader").nudge().spawn(|stop| …)`.
    ///
    /// Nothing starts before [`SpawnThread::spawn`] is called.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let hash = tasks.thread("hash").spawn(|stop| stop.is_requested())?;
    /// assert!(!hash.join().unwrap());
    /// # Ok::<(), std::io::Error>(())
    /// # });
    /// ```
    pub fn thread<'a>(&'a self, name: &'a str) -> SpawnThread<'a> {
        SpawnThread {
            group: self,
            name,
            kind: ThreadKind::Tracked,
            nudge: false,
            stack_size: None,
        }
    }

    /// Registers the calling thread, which headcount did not start, until it ends.
    ///
    /// Call it from the start hook of a thread pool, for example. A thread that is already
    /// registered keeps its name and class. Reports show the place of this call as the place where
    /// the thread was started.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// use headcount::{ThreadKind, threads::ThreadClass};
    ///
    /// let group = tasks.clone();
    /// let foreign = std::thread::spawn(move || {
    ///     group.adopt_thread("foreign", ThreadKind::Tracked);
    ///     group.thread_counts().of(ThreadClass::Tracked)
    /// });
    /// assert_eq!(foreign.join().unwrap(), Some(1));
    /// # });
    /// ```
    #[track_caller]
    pub fn adopt_thread(&self, name: &str, kind: ThreadKind) {
        let root = self.registry_root().number;
        threads::adopt_own(root, name, kind.class(), Location::caller());
    }

    /// Returns the number of live registered threads of this service's runtime, by class.
    ///
    /// The cost does not grow with the number of threads. For the whole process see
    /// [`threads::live`].
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// use headcount::threads::ThreadClass;
    ///
    /// assert_eq!(tasks.thread_counts().of(ThreadClass::Main), Some(1));
    /// # });
    /// ```
    #[must_use]
    pub fn thread_counts(&self) -> ThreadCounts {
        threads::live_of(self.registry_root().number)
    }

    /// Returns every thread of the process, with its name, class, age and CPU time.
    ///
    /// It reads `/proc` once per thread, which takes about 40 µs per thread if there are thousands,
    /// and stops no thread. The list is empty where `/proc` does not list threads, as on systems
    /// other than Linux.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let threads = tasks.threads();
    /// for thread in &threads {
    ///     println!("{} {} {:?}", thread.tid, thread.name, thread.cpu);
    /// }
    /// # #[cfg(target_os = "linux")]
    /// assert!(threads.iter().any(|thread| thread.own));
    /// # });
    /// ```
    #[must_use]
    pub fn threads(&self) -> Vec<ThreadRow> {
        ThreadRow::all(self.registry_root().number)
    }
}

// === impl SpawnThread ===

impl SpawnThread<'_> {
    /// Makes the thread a daemon: the shutdown asks it to stop, but does not wait for it or report
    /// it.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let (sender, jobs) = std::sync::mpsc::channel::<u32>();
    /// let reader = tasks.thread("reader").daemon().spawn(move |_stop| jobs.recv())?;
    /// // It may block forever: the shutdown does not wait for it.
    /// assert!(!reader.is_finished());
    /// # std::mem::forget(sender);
    /// # Ok::<(), std::io::Error>(())
    /// # });
    /// ```
    pub fn daemon(mut self) -> Self {
        self.kind = ThreadKind::Daemon;
        self
    }

    /// Sets the size of the thread's stack, in bytes. Default: that of [`std::thread::Builder`].
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Interrupts the thread's blocking system calls once it has been asked to stop.
    ///
    /// From then on a signal is sent to the thread every 2 ms, so that calls such as `read`, `recv`
    /// or `flock` return [`Interrupted`](io::ErrorKind::Interrupted) and the thread can check
    /// [`Stop::is_requested`].
    ///
    /// It has no effect on calls that the standard library retries after an interruption:
    /// `read_exact`, `accept`, locks, channels, sleeps. For sockets use a closer instead:
    /// [`Stop::close_on_stop`].
    ///
    /// The process gets an empty handler for the first real-time signal from 56 on that has none.
    /// If all of them are in use, the thread is not nudged, and the report says so.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// use std::io::{ErrorKind, Read};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (mut input, output) = UnixStream::pair()?;
    /// let reader = tasks.thread("reader").nudge().spawn(move |stop| {
    ///     let mut buffer = [0; 64];
    ///     while !stop.is_requested() {
    ///         match input.read(&mut buffer) {
    ///             Err(error) if error.kind() == ErrorKind::Interrupted => {}
    ///             Ok(0) | Err(_) => return,
    ///             Ok(read) => println!("{:?}", &buffer[..read]),
    ///         }
    ///     }
    /// })?;
    /// drop(output);
    /// assert!(reader.join().is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// # });
    /// ```
    pub fn nudge(mut self) -> Self {
        self.nudge = true;
        self
    }

    /// Starts the thread.
    ///
    /// It is asked to stop when the last layer of the shutdown begins. That layer waits for it
    /// unless it is a daemon. A thread that is started once the shutdown has reached the cancel
    /// layer runs, and is asked to stop at once.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system fails to create the thread.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let reader = tasks.thread("reader").spawn(|_stop| "read")?;
    /// assert_eq!(reader.join().unwrap(), "read");
    /// # Ok::<(), std::io::Error>(())
    /// # });
    /// ```
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
            // Read after the thread has been registered. `refuse` is set before the registered
            // threads are asked to stop, so a thread that reads false here is found by that walk.
            if root.is_refusing() {
                stop.request();
            }
            // A thread that never ends must not keep the root alive.
            drop(root);
            threads::__headcount_begin_with(work, &stop)
        })
    }
}
