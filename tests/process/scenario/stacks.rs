//! Programs with stacks that are essential to the report. A line that a stack must name has a mark at
//! its end.

use super::{hangs_in_close, patient, ready, run, wait_for_ever};
use headcount::threads::Stop;
use headcount::{TaskGroup, ThreadKind};
use std::ffi::c_void;
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

/// Runs the scenario with this name, if it is one of these.
pub(super) fn scenario(name: &str) -> Option<ExitCode> {
    let code = match name {
        "lock-order" => run(hangs_in_close(), lock_order),
        "one-mutex" => run(hangs_in_close(), one_mutex),
        "posix-lock-order" => run(hangs_in_close(), posix_lock_order),
        "deep-recursion" => run(hangs_in_close(), deep_recursion),
        "many-threads" => run(hangs_in_close(), many_threads),
        "rayon-pool" => run(patient(), rayon_pool),
        "in-loader-callback" => run(hangs_in_close(), in_loader_callback),
        "control-wedged-in-loader-callback" => run(super::hangs_everywhere(), async |tasks| {
            hold_the_loader();
            super::wedged::control_wedged(tasks).await;
        }),
        "main-wedged-in-loader-callback" => {
            run(super::hangs_with_time_for_names(), async |_: TaskGroup| {
                println!("ready");
                in_callback(Box::leak(Box::new(Barrier::new(1))));
            })
        }
        _ => return None,
    };
    Some(code)
}

/// A kind of mutex.
trait Lock: Send + Sync + 'static {
    fn hold(&self, then: impl FnOnce());
}

impl Lock for Mutex<()> {
    #[inline(never)]
    fn hold(&self, then: impl FnOnce()) {
        let guard = self.lock(); // mark: std lock
        then();
        drop(guard);
    }
}

/// A POSIX mutex, as used by C libraries.
struct Posix(*mut libc::pthread_mutex_t);

#[expect(unsafe_code, reason = "there is no safe equivalent")]
// SAFETY: a mutex may be used by many threads; it is never moved and never freed.
unsafe impl Send for Posix {}

#[expect(unsafe_code, reason = "there is no safe equivalent")]
// SAFETY: as for `Send`.
unsafe impl Sync for Posix {}

impl Posix {
    fn new() -> Self {
        Self(Box::into_raw(Box::new(libc::PTHREAD_MUTEX_INITIALIZER)))
    }
}

impl Lock for Posix {
    #[inline(never)]
    #[expect(unsafe_code, reason = "there is no safe equivalent")]
    fn hold(&self, then: impl FnOnce()) {
        // SAFETY: it was initialised and leaked.
        unsafe { libc::pthread_mutex_lock(self.0) }; // mark: posix lock
        then();
        // SAFETY: this thread has locked it.
        unsafe { libc::pthread_mutex_unlock(self.0) };
    }
}

/// Spawns two threads that each hold the lock that the other waits for.
async fn in_a_circle<L: Lock>(tasks: TaskGroup, left: L, right: L) {
    let both_hold = Arc::new(Barrier::new(2));
    let locks = Arc::new((left, right));
    let (these, meet) = (Arc::clone(&locks), Arc::clone(&both_hold));
    let takes_left_first = move || {
        these.0.hold(|| {
            meet.wait();
            these.1.hold(|| ()); // mark: wants right
        });
    };
    let takes_right_first = move || {
        locks.1.hold(|| {
            both_hold.wait();
            locks.0.hold(|| ()); // mark: wants left
        });
    };
    tasks.spawn_thread("left-first", ThreadKind::Tracked, takes_left_first);
    tasks.spawn_thread("right-first", ThreadKind::Tracked, takes_right_first);
    ready(tasks).await;
}

async fn lock_order(tasks: TaskGroup) {
    in_a_circle(tasks, Mutex::new(()), Mutex::new(())).await;
}

async fn posix_lock_order(tasks: TaskGroup) {
    in_a_circle(tasks, Posix::new(), Posix::new()).await;
}

async fn one_mutex(tasks: TaskGroup) {
    let mutex = Arc::new(Mutex::new(()));
    let held = Arc::clone(&mutex);
    let told = Arc::new(Barrier::new(2));
    let tell = Arc::clone(&told);
    tasks.spawn_thread("holder", ThreadKind::Daemon, move || {
        held.hold(|| {
            tell.wait();
            wait_for_ever();
        });
    });
    told.wait();
    for name in ["first", "second"] {
        let wanted = Arc::clone(&mutex);
        tasks.spawn_thread(name, ThreadKind::Tracked, move || wanted.hold(|| ()));
    }
    ready(tasks).await;
}

#[inline(never)]
fn deeper(left: u32) -> u32 {
    if left == 0 {
        wait_for_ever();
        return 0;
    }
    // The addition keeps this from being a tail call, which would become a loop.
    std::hint::black_box(deeper(left - 1)) + 1 // mark: deeper
}

async fn deep_recursion(tasks: TaskGroup) {
    tasks.spawn_thread("deep", ThreadKind::Tracked, || {
        std::hint::black_box(deeper(5_000));
    });
    ready(tasks).await;
}

/// Spawns more threads than a dump lists.
async fn many_threads(tasks: TaskGroup) {
    const MANY: usize = 1200;
    let all = Arc::new(Barrier::new(MANY + 1));
    for _ in 0..MANY {
        let begun = Arc::clone(&all);
        let work = move |_: &Stop| {
            begun.wait();
            wait_for_ever();
        };
        let thread = tasks.thread("pool").daemon().stack_size(64 * 1024);
        thread.spawn(work).expect("the system has threads");
    }
    all.wait();
    ready(tasks).await;
}

async fn rayon_pool(tasks: TaskGroup) {
    let (sum, _) = rayon::join(|| 1, || 2);
    assert_eq!(sum, 1);
    ready(tasks).await;
}

/// Never returns, and holds the loader's lock.
#[expect(unsafe_code, reason = "the loader has no safe call")]
fn in_callback(told: &'static Barrier) {
    unsafe extern "C" fn never_returns(
        _: *mut libc::dl_phdr_info,
        _: libc::size_t,
        told: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: the data is the barrier below, which is never freed.
        unsafe { &*told.cast::<Barrier>() }.wait();
        wait_for_ever(); // mark: in the callback
        0
    }
    let told = std::ptr::from_ref(told).cast_mut().cast();
    // SAFETY: the callback has the required signature, and uses the data as the type that it is.
    unsafe { libc::dl_iterate_phdr(Some(never_returns), told) };
}

fn hold_the_loader() {
    let inside: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
    let builder = thread::Builder::new().name("loads".to_owned());
    let thread = builder.spawn(move || in_callback(inside));
    thread.expect("the system has threads");
    inside.wait();
}

async fn in_loader_callback(tasks: TaskGroup) {
    hold_the_loader();
    ready(tasks).await;
}
