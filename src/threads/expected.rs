//! Rules that say which threads of other libraries may live when all else has ended, and why.

use super::idle::Pool;
use std::borrow::Cow;

/// The kernel keeps so many bytes of a thread's name (pthread_setname_np(3)).
const KEPT: usize = 15;

/// Says that some threads of a library may outlive the shutdown, and why.
///
/// A thread that headcount did not start is reported as lingering when it lives at the end; where it lives by design,
/// such as the pool of a library that has no end, a rule says so. It is then counted as expected, and the report gives
/// the reason, once a rule. Rules for what many meet are there already: the pool of rayon and other
/// runtimes of tokio while they have nothing to do, the workers of tracing-appender, of OpenTelemetry, and the like.
///
/// A rule never excuses a thread that is registered: a worker, one of [`spawn_thread`](crate::TaskGroup::spawn_thread).
///
/// # Examples
///
/// ```
/// use headcount::Runtime;
/// use headcount::threads::ThreadRule;
///
/// let builder = Runtime::builder()
///     .expect_threads(ThreadRule::named("cache-sweep*", "the cache sweeps as long as the process lives"))
///     .expect_threads(ThreadRule::rooted_in("geo::lookup::", "geo's pool has no end"));
/// # drop(builder);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadRule {
    whose: Whose,
    reason: Cow<'static, str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    Named(Cow<'static, str>),
    RootedIn(Cow<'static, str>),
    IdleIn(Pool),
}

// === impl ThreadRule ===

impl ThreadRule {
    /// Threads of that name; `*` stands for any text.
    ///
    /// The kernel keeps 15 bytes of a name, so of a longer pattern the rest cannot be told. A thread that was never
    /// named has the name of the one that started it: a rule that fits the name of the program excuses those too.
    #[must_use]
    pub fn named(pattern: &str, reason: &str) -> Self {
        Self {
            whose: Whose::Named(Cow::Owned(pattern.to_owned())),
            reason: Cow::Owned(reason.to_owned()),
        }
    }

    /// Threads whose stack begins, below the standard library, in a function whose path begins so, as in
    /// `rayon_core::registry::`.
    ///
    /// It needs the names of functions: it excuses nothing where stacks cannot be read, or a binary was stripped.
    #[must_use]
    pub fn rooted_in(function: &str, reason: &str) -> Self {
        Self {
            whose: Whose::RootedIn(Cow::Owned(function.to_owned())),
            reason: Cow::Owned(reason.to_owned()),
        }
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the thread is one of those: by the name that the kernel keeps, or by the calls of its stack, the
    /// innermost first, where they are known, those of the standard library among them: function, file and line.
    pub(crate) fn matches(&self, name: &str, calls: Option<&[String]>) -> bool {
        match &self.whose {
            Whose::Named(pattern) => {
                let is_cut = name.len() >= KEPT;
                // A character may be cut in two.
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
        }
    }
}

/// The rules that hold for every service.
static SHIPPED: [ThreadRule; 12] = [
    idle(Pool::Rayon, "rayon's global pool has no end"),
    idle(
        Pool::Tokio,
        "idle, of a tokio runtime that is not headcount's",
    ),
    // tracing-appender 0.2.5, src/non_blocking.rs, `NonBlockingBuilder::default`.
    named(
        "tracing-appender",
        "tracing-appender's worker ends with its guard",
    ),
    // reqwest 0.13.5, src/blocking/client.rs, `ClientHandle::new`.
    named(
        "reqwest-internal-sync-runtime",
        "reqwest's blocking client keeps its runtime until it is dropped",
    ),
    // notify 8.2, src/inotify.rs, src/poll.rs.
    named("notify-rs *", "notify watches until its watcher is dropped"),
    // jemalloc 5.3, src/background_thread.c, `background_thread_entry`.
    named(
        "jemalloc_bg_thd",
        "jemalloc's background threads have no end",
    ),
    // opentelemetry_sdk from 0.28, src/trace/span_processor.rs, src/logs/batch_log_processor.rs,
    // src/metrics/periodic_reader.rs.
    named("OpenTelemetry.Traces.BatchProcessor", OPENTELEMETRY),
    named("OpenTelemetry.Logs.BatchProcessor", OPENTELEMETRY),
    named("OpenTelemetry.Metrics.PeriodicReader", OPENTELEMETRY),
    // console-subscriber, src/builder.rs, `Builder::spawn`.
    named(
        "console_subscriber",
        "the server of tokio-console has no end",
    ),
    // ctrlc 3, src/lib.rs, `set_handler_inner`.
    named("ctrl-c", "ctrlc waits for signals without end"),
    // async-io 2, src/driver.rs, `unparker`.
    named("async-io", "the reactor of async-io has no end"),
];

const OPENTELEMETRY: &str = "OpenTelemetry's exporters end when their provider is shut down";

const fn named(pattern: &'static str, reason: &'static str) -> ThreadRule {
    ThreadRule::of(Whose::Named(Cow::Borrowed(pattern)), reason)
}

const fn idle(pool: Pool, reason: &'static str) -> ThreadRule {
    ThreadRule::of(Whose::IdleIn(pool), reason)
}

pub(crate) fn shipped() -> &'static [ThreadRule] {
    &SHIPPED
}

/// Where a thread of the standard library begins its own work.
const BEGINS: &str = "__rust_begin_short_backtrace";

/// What a thread was started with: the outermost function that is not the way in which every thread starts, and the
/// type of the closure that the standard library was given. An optimised program with line tables alone names inlined
/// functions without their paths, `{closure#0}`, and the type is all that tells. `<a::B as c::D>::e` is one of `a::B`.
fn roots(functions: &[String]) -> impl Iterator<Item = &str> {
    const STARTS: [&str; 5] = ["std::", "core::", "alloc::", "clone", "start_thread"];
    let begins = functions.iter().rposition(|name| name.contains(BEGINS));
    let inside = &functions[..begins.unwrap_or(functions.len())];
    let outermost = inside.iter().rev().map(|name| unwrapped(name));
    // What has no name is its module and a number.
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

/// Whether the pattern fits the name, or where that is cut, a longer one that begins so.
fn fits(pattern: &[u8], name: &[u8], is_cut: bool) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star: where the pattern goes on, and how much of the name that star has not taken.
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
        // 14 bytes are the whole name.
        assert!(!named("reqwest-internal", "reqwest-intern"));
        // "ä" is cut after its first byte.
        assert!(named("abcdefghijklmnä", "abcdefghijklmn\u{fffd}"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!fits(pattern.as_bytes(), "a".repeat(400).as_bytes(), false));
    }

    /// As `backtrace` names them in rayon-core 1.13, innermost first.
    #[test]
    fn the_root_is_the_first_function_that_is_not_of_every_thread() {
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

    /// The same, optimised, with line tables alone.
    #[test]
    fn the_type_of_the_closure_tells_where_the_functions_have_no_paths() {
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
    fn the_shipped_rules_know_their_threads_by_what_the_kernel_keeps() {
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
