//! Rules that declare which threads of other libraries may outlive the shutdown, and why.
//!
//! The audit asks the rules about each unknown thread: the service's own rules first, then the
//! shipped ones. A rule matches by the name that the kernel keeps, or by the functions of the
//! thread's stack. Rules never apply to registered threads.
//!
//! A match is no blank cheque: a rule also says in which system calls its thread waits for work. One
//! that is blocked in another call is shown, and lingers if the rule holds only while it is idle.

use super::idle::{self, Pool};
use std::borrow::Cow;

/// The number of bytes that the kernel keeps of a thread's name (pthread_setname_np(3)).
const KEPT: usize = 15;

/// A rule that declares threads of a library as expected to outlive the shutdown, with the reason.
///
/// A thread that headcount did not start is reported as lingering if it is alive at the end of the
/// shutdown. If it is so by design, such as in a library's pool that never ends, a rule says so.
/// The thread then counts as expected, and the report gives the reason, once per rule.
///
/// Rules for common libraries are built in: for idle threads of rayon's pool and of other tokio
/// runtimes, and for the threads of tracing-appender, OpenTelemetry, reqwest, notify, jemalloc,
/// ctrlc, async-io and tokio-console.
///
/// A rule never excuses a registered thread, such as a worker or a thread started with
/// [`spawn_thread`](crate::TaskGroup::spawn_thread).
///
/// An expected thread that is blocked in a call that is not a wait for work, such as a write to a
/// full pipe, is shown in [`CloseLayer::blocked`](crate::report::CloseLayer::blocked). With
/// [`only_while_idle`](Self::only_while_idle) it lingers, as the worker of tracing-appender does:
/// what it has not written would be lost.
///
/// # Examples
///
/// ```
/// use headcount::threads::ThreadRule;
///
/// let rule = ThreadRule::named("cache-sweep*", "the cache sweeps until the process ends");
/// let runtime = headcount::Runtime::builder().expect_threads(rule).print(false).build()?;
/// let report = runtime.run(async |_tasks| {
///     let cache = std::thread::Builder::new().name("cache-sweeper".to_owned());
///     cache.spawn(|| loop { std::thread::park() }).map(drop)
/// });
/// assert!(report.is_clean(), "{report}");
/// assert!(report.to_text(false).contains("the cache sweeps until the process ends"));
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadRule {
    whose: Whose,
    reason: Cow<'static, str>,
    /// The calls in which such a thread waits for work.
    idle: &'static [&'static str],
    /// True if the thread lingers while it is blocked in another call.
    only_while_idle: bool,
}

/// The way in which a rule recognizes a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    /// By its name, as a pattern.
    Named(Cow<'static, str>),
    /// By the outermost function of its stack that is not common to all threads, as a prefix.
    RootedIn(Cow<'static, str>),
    /// By a stack that shows an idle thread of a pool.
    IdleIn(Pool),
}

// === impl ThreadRule ===

impl ThreadRule {
    /// Creates a rule for threads with a name that matches `pattern`, in which `*` stands for any
    /// text.
    ///
    /// The match is case-sensitive and covers the whole name. `reason` is shown in the report.
    ///
    /// The kernel keeps only 15 bytes of a name: a longer pattern matches every name that begins
    /// with what the kernel kept. A thread that was never named has the name of its creator, so a
    /// rule that matches the name of the program excuses such threads too.
    #[must_use]
    pub fn named(pattern: &str, reason: &str) -> Self {
        Self {
            reason: Cow::Owned(reason.to_owned()),
            ..Self::of(Whose::Named(Cow::Owned(pattern.to_owned())), "")
        }
    }

    /// Creates a rule for threads that were started with a function of this path, such as
    /// `rayon_core::registry::`.
    ///
    /// `function` is a prefix of the path of the outermost function on the stack that does not
    /// belong to the standard library, or of the type of the thread's closure. `reason` is shown in
    /// the report.
    ///
    /// It needs symbols: the rule excuses nothing if stacks cannot be read or the binary is
    /// stripped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use headcount::threads::ThreadRule;
    /// fn sweep() {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// // Such as `cache::pool::sweep`.
    /// let function = std::any::type_name_of_val(&sweep);
    /// let rule = ThreadRule::rooted_in(function, "the cache sweeps until the process ends");
    /// let runtime = headcount::Runtime::builder().expect_threads(rule).print(false).build()?;
    /// let report = runtime.run(async |_tasks| {
    ///     std::thread::spawn(sweep);
    /// });
    /// # #[cfg(feature = "stacks")]
    /// assert!(report.is_clean(), "{report}");
    /// # drop(report);
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[must_use]
    pub fn rooted_in(function: &str, reason: &str) -> Self {
        Self {
            reason: Cow::Owned(reason.to_owned()),
            ..Self::of(Whose::RootedIn(Cow::Owned(function.to_owned())), "")
        }
    }

    /// Makes the rule hold only while a thread is idle: one that is blocked in a call that is not a
    /// wait for work, such as a write to a full pipe, then lingers, even if it started before the
    /// runtime. One that is running is waited for in the close layer.
    ///
    /// Without this, the report shows a blocked thread, and it does not linger.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::threads::ThreadRule;
    ///
    /// let rule = ThreadRule::named("audit-log", "it writes as long as the process lives");
    /// let runtime = headcount::Runtime::builder()
    ///     .expect_threads(rule.only_while_idle())
    ///     .print(false)
    ///     .build()?;
    /// assert!(runtime.run(async |_tasks| {}).is_clean());
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    #[must_use]
    pub const fn only_while_idle(mut self) -> Self {
        self.only_while_idle = true;
        self
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) const fn is_only_while_idle(&self) -> bool {
        self.only_while_idle
    }

    pub(crate) const fn idle_calls(&self) -> &'static [&'static str] {
        self.idle
    }

    /// Returns whether the rule matches a thread with this name and stack.
    ///
    /// `name` is what the kernel keeps. `calls` has one entry per frame, the innermost first and
    /// including the standard library, each with function, file and line; it is `None` if the stack
    /// is not known.
    pub(crate) fn matches(&self, name: &str, calls: Option<&[String]>) -> bool {
        match &self.whose {
            Whose::Named(pattern) => {
                let is_cut = name.len() >= KEPT;
                // The cut can fall inside a multi-byte character, which then reads as U+FFFD.
                let name = if is_cut {
                    name.trim_end_matches('\u{fffd}')
                } else {
                    name
                };
                fits(pattern.as_bytes(), name.as_bytes(), is_cut)
            }
            Whose::RootedIn(prefix) => {
                calls.is_some_and(|calls| roots(calls).any(|root| root.starts_with(&**prefix)))
            }
            Whose::IdleIn(pool) => calls.is_some_and(|calls| pool.is_idle(calls, roots(calls))),
        }
    }

    const fn of(whose: Whose, reason: &'static str) -> Self {
        Self {
            whose,
            reason: Cow::Borrowed(reason),
            idle: IDLE,
            only_while_idle: false,
        }
    }

    /// Sets the calls in which such a thread waits for work.
    const fn idle_in(mut self, calls: &'static [&'static str]) -> Self {
        self.idle = calls;
        self
    }
}

/// The built-in rules, which apply to every service. Each names the version and file that it was
/// derived from.
static SHIPPED: [ThreadRule; 12] = [
    idle(Pool::Rayon, "rayon's global pool never ends"),
    idle(
        Pool::Tokio,
        "idle, in a tokio runtime that headcount does not own",
    ),
    // tracing-appender 0.2.5, src/non_blocking.rs, `NonBlockingBuilder::default`.
    named(
        "tracing-appender",
        "tracing-appender's worker runs until its guard is dropped",
    )
    .idle_in(QUEUE)
    .only_while_idle(),
    // reqwest 0.13.5, src/blocking/client.rs, `ClientHandle::new`.
    named(
        "reqwest-internal-sync-runtime",
        "reqwest's blocking client keeps its runtime until it is dropped",
    )
    .idle_in(EVENTS),
    // notify 8.2, src/inotify.rs, src/poll.rs.
    named("notify-rs *", "notify watches until its watcher is dropped").idle_in(EVENTS),
    // jemalloc 5.3, src/background_thread.c, `background_thread_entry`.
    named("jemalloc_bg_thd", "jemalloc's background threads never end").idle_in(QUEUE),
    // opentelemetry_sdk from 0.28, src/trace/span_processor.rs, src/logs/batch_log_processor.rs,
    // src/metrics/periodic_reader.rs.
    named("OpenTelemetry.Traces.BatchProcessor", OPENTELEMETRY).idle_in(QUEUE),
    named("OpenTelemetry.Logs.BatchProcessor", OPENTELEMETRY).idle_in(QUEUE),
    named("OpenTelemetry.Metrics.PeriodicReader", OPENTELEMETRY).idle_in(QUEUE),
    // console-subscriber, src/builder.rs, `Builder::spawn`.
    named("console_subscriber", "the tokio-console server never ends").idle_in(EVENTS),
    // ctrlc 3, src/lib.rs, `set_handler_inner`.
    named("ctrl-c", "ctrlc waits for signals until the process ends"),
    // async-io 2, src/driver.rs, `unparker`.
    named("async-io", "async-io's reactor never ends").idle_in(EVENTS),
];

/// The calls in which a thread may wait for work: for input, an event, a message or a notification.
/// The names are
/// those of `audit::waits`. `ioctl` is among them, because its meaning depends on the file.
pub(crate) const IDLE: &[&str] = &[
    "futex",
    "futex_waitv",
    "epoll_wait",
    "poll",
    "select",
    "read",
    "readv",
    "recv",
    "recvmsg",
    "recvmmsg",
    "accept",
    "ioctl",
    "io_uring_enter",
    "io_getevents",
    "mq_receive",
    "msgrcv",
    "semop",
    "semtimedop",
    "restart_syscall",
];
/// The calls of a thread that waits for a message or a notification of another thread.
const QUEUE: &[&str] = &["futex"];
/// The calls of a thread that waits for events of files, or is parked.
const EVENTS: &[&str] = &["epoll_wait", "poll", "select", "futex"];

const OPENTELEMETRY: &str = "OpenTelemetry's exporters run until their provider is shut down";

const fn named(pattern: &'static str, reason: &'static str) -> ThreadRule {
    ThreadRule::of(Whose::Named(Cow::Borrowed(pattern)), reason)
}

const fn idle(pool: Pool, reason: &'static str) -> ThreadRule {
    ThreadRule::of(Whose::IdleIn(pool), reason)
}

/// Returns whether a thread with these calls runs a tokio runtime, or a part of one.
pub(crate) fn is_of_tokio(calls: &[String]) -> bool {
    idle::is_of_tokio(calls)
}

/// Returns the built-in rules.
pub(crate) fn shipped() -> &'static [ThreadRule] {
    &SHIPPED
}

/// The frame of the standard library below which a thread's own closure runs.
const BEGINS: &str = "__rust_begin_short_backtrace";

/// Returns the functions that a thread was started with, for a comparison with prefixes.
///
/// These are the outermost function that is not part of how every thread starts, and the type of
/// the closure that was given to the standard library. The second is needed in an optimized program
/// with line tables only: it names inlined functions without their paths, as in `{closure#0}`.
/// Leading `<`, `&` and `:` are removed, so `<a::B as c::D>::e` begins with `a::B`.
fn roots(functions: &[String]) -> impl Iterator<Item = &str> {
    const STARTS: [&str; 5] = ["std::", "core::", "alloc::", "clone", "start_thread"];
    let begins = functions.iter().rposition(|name| name.contains(BEGINS));
    let inside = &functions[..begins.unwrap_or(functions.len())];
    let outermost = inside.iter().rev().map(|name| unwrapped(name));
    // A frame without a symbol is shown as its module and an offset.
    let says_nothing = |name: &str| name.starts_with('_') || name.contains("+0x");
    let outermost = outermost
        .into_iter()
        .find(|name| !says_nothing(name) && !STARTS.iter().any(|start| name.starts_with(start)));
    let closure = begins.and_then(|at| functions[at].split_once(BEGINS));
    let closure = closure.map(|(_, generics)| unwrapped(generics));
    outermost.into_iter().chain(closure)
}

fn unwrapped(name: &str) -> &str {
    name.trim_start_matches([':', '<', '&'])
}

/// Returns whether the pattern matches the name, or some name that begins with it if the name is
/// cut.
///
/// It backtracks to the last `*` only, so the time is bounded by the product of the two lengths.
fn fits(pattern: &[u8], name: &[u8], is_cut: bool) -> bool {
    let (mut at, mut seen) = (0, 0);
    // The position in the pattern after the last star, and the end of the text that this star has
    // matched so far.
    let mut retry = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                retry = Some((at, seen));
            }
            Some(byte) if *byte == name[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((behind, from)) = retry else {
                    return false;
                };
                (at, seen) = (behind, from + 1);
                retry = Some((behind, from + 1));
            }
        }
    }
    is_cut || pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::{ThreadRule, fits, shipped};

    fn named(pattern: &str, name: &str) -> bool {
        ThreadRule::named(pattern, "so").matches(name, None)
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("pool", "pool"),
            ("pool-*", "pool-12"),
            ("pool-*", "pool-"),
            ("*", ""),
            ("*-io", "async-io"),
            ("a*b*c", "a-b-b-c"),
            ("*ab", "aab"),
            ("**", "x"),
        ] {
            assert!(named(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("pool", "pool-1"),
            ("pool-*", "pool"),
            ("*-io", "async-io-2"),
            ("a*b*c", "a-c-b"),
            ("", "x"),
            ("Pool", "pool"),
            ("pool-1", "pool-"),
        ] {
            assert!(!named(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_may_be_longer_than_what_the_kernel_keeps() {
        assert!(named("reqwest-internal-sync-runtime", "reqwest-interna"));
        assert!(named("reqwest-*-runtime", "reqwest-interna"));
        assert!(!named("reqwest-external-sync-runtime", "reqwest-interna"));
        // A name of 14 bytes is not cut.
        assert!(!named("reqwest-internal", "reqwest-intern"));
        // "ä" is cut after its first byte.
        assert!(named("abcdefghijklmnä", "abcdefghijklmn\u{fffd}"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!fits(pattern.as_bytes(), "a".repeat(400).as_bytes(), false));
    }

    /// The frames of an idle thread of rayon-core 1.13 as the `backtrace` crate names them,
    /// innermost first.
    #[test]
    fn the_root_is_the_outermost_function_that_is_not_common_to_all_threads() {
        let functions = [
            "syscall",
            "std::sys::sync::condvar::futex::Condvar::wait",
            "rayon_core::sleep::Sleep::sleep",
            "rayon_core::registry::WorkerThread::wait_until_cold",
            "rayon_core::registry::ThreadBuilder::run",
            "<rayon_core::registry::DefaultSpawn as rayon_core::registry::ThreadSpawn>::spawn::{{closure}}",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "<core::panic::unwind_safe::AssertUnwindSafe<F> as core::ops::function::FnOnce<()>>::call_once",
            "__rust_try",
            "core::ops::function::FnOnce::call_once{{vtable.shim}}",
            "<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once",
            "start_thread",
            "clone3",
        ]
        .map(str::to_owned);
        let rule = ThreadRule::rooted_in("rayon_core::registry::", "so");
        assert!(rule.matches("any", Some(&functions)));
        assert!(!rule.matches("any", None), "nothing is known of it");
        let inside = ThreadRule::rooted_in("rayon_core::sleep::", "so");
        assert!(
            !inside.matches("any", Some(&functions)),
            "it is not the root"
        );
        assert!(!rule.matches("any", Some(&[])));
        let excused = |name| {
            shipped()
                .iter()
                .any(|rule| rule.matches(name, Some(&functions)))
        };
        assert!(excused("orders"));
    }

    /// The frames of the same kind of thread in an optimized build with line tables only.
    #[test]
    fn the_closure_type_identifies_a_thread_without_function_paths() {
        let functions = [
            "wait_until_out_of_work",
            "main_loop",
            "run",
            "{closure#0}",
            "__rust_begin_short_backtrace<rayon_core::registry::{impl#2}::spawn::{closure_env#0}, ()>",
            "{closure#0}<rayon_core::registry::{impl#2}::spawn::{closure_env#0}, ()>",
            "catch_unwind<(), core::panic::unwind_safe::AssertUnwindSafe<()>>",
            "<std::sys::thread::unix::Thread>::new::thread_start",
            "clone3",
        ]
        .map(str::to_owned);
        let is_rooted = |path| ThreadRule::rooted_in(path, "so").matches("any", Some(&functions));
        assert!(is_rooted("rayon_core::registry::"));
        assert!(!is_rooted("rayon_core::sleep::"));
        assert!(!is_rooted("std::"), "every thread begins there");
    }

    #[test]
    fn the_built_in_rules_match_names_that_the_kernel_has_cut() {
        let reason = |name: &str| {
            let rule = shipped().iter().find(|rule| rule.matches(name, None));
            rule.map(ThreadRule::reason)
        };
        for name in [
            "tracing-appende",
            "reqwest-interna",
            "notify-rs inoti",
            "jemalloc_bg_thd",
            "OpenTelemetry.T",
            "OpenTelemetry.L",
            "OpenTelemetry.M",
            "console_subscri",
            "ctrl-c",
            "async-io",
        ] {
            assert!(reason(name).is_some(), "{name}");
        }
        for name in ["orders", "tokio-runtime-w", "tokio-rt-worker", "", "notify"] {
            assert_eq!(reason(name), None, "{name}");
        }
    }
}
