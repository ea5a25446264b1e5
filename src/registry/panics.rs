//! Panics, as the panic hook sees them: it keeps the location, which a payload does not contain,
//! for the thread that panics, and calls the listeners, which must learn of a panic before the
//! process may end.
//!
//! The order of one panic: the hook stores the location, the listeners are called, the previous
//! hook prints, the stack unwinds, and `catch_unwind` around the task takes the payload and the
//! location. The hook runs in the panicking thread, before any destructor. It is never uninstalled,
//! since another hook may have been put in front of it.

use crate::task::payload_text;
use std::cell::RefCell;
use std::fmt;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

/// A function that is called for each panic, with its text.
///
/// The text is `None` at the second panic of a thread that cannot unwind.
type OnPanic = Arc<dyn Fn(Option<&str>) + Send + Sync>;

/// The messages with which the standard library panics once more before it aborts, if a panic
/// cannot unwind. The first panic was reported before.
const AFTERWARDS: [&str; 2] = [
    "panic in a destructor during cleanup",
    "panic in a function that cannot unwind",
];

thread_local! {
    /// The location of the last panic of this thread that was not taken yet.
    ///
    /// A panic that is caught by the user's code leaves its location here until the next one.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The listeners, by number.
///
/// One for each runtime with a state folder.
static LISTENERS: Mutex<Vec<(u64, OnPanic)>> = Mutex::new(Vec::new());

/// A registration for panics, until it is dropped.
#[must_use]
pub(crate) struct Listener(u64);

/// Installs a panic hook in front of the current one, once per process. It notes the panic, calls
/// the listeners, and then the previous hook.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            LOCATION
                .try_with(|cell| cell.try_borrow_mut().map(|mut cell| *cell = location))
                .ok();
            notify(info);
            next(info);
        }));
    });
}

/// Takes the location of this thread's last panic. `None` if it was taken already, or if the
/// thread-local storage is destroyed.
///
/// Must be called on the thread that caught the panic, before anything there can panic again.
pub(crate) fn take_location() -> Option<String> {
    LOCATION
        .try_with(|cell| cell.try_borrow_mut().ok()?.take())
        .ok()
        .flatten()
}

/// Calls `on_panic` for each panic, on the thread that panics, with the thread's name, the place
/// and the message. Calls it with `None` if the last panic cannot unwind, so that the process is
/// about to abort. `on_panic` must not panic.
pub(crate) fn listen(on_panic: impl Fn(Option<&str>) + Send + Sync + 'static) -> Listener {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    listeners().push((number, Arc::new(on_panic)));
    Listener(number)
}

/// Calls every listener. Called by the panic hook, on the thread that panics.
fn notify(info: &PanicHookInfo<'_>) {
    // The list is copied, so that no lock is held during the calls. A listener may hang in its
    // disk, and must block neither other threads that panic, nor the end of a run, which removes
    // the listener.
    let listeners = listeners().clone();
    if listeners.is_empty() {
        return;
    }
    let message = payload_text(info.payload());
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let at = info.location();
    let at = at.map_or_else(String::new, |at| format!(" at {at}"));
    let text = format!("thread '{name}' panicked{at}: {message}");
    let text = (!AFTERWARDS.contains(&message)).then_some(&*text);
    for (_, on_panic) in &listeners {
        on_panic(text);
    }
}

/// Locks the listeners. Ignores lock poisoning.
fn listeners() -> MutexGuard<'static, Vec<(u64, OnPanic)>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Listener ===

impl Drop for Listener {
    fn drop(&mut self) {
        listeners().retain(|(number, _)| *number != self.0);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.0).finish()
    }
}
