//! Who hears of panics: whatever is to be noted before the process may end.

use std::fmt;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Hears = Arc<dyn Fn(Option<&str>) + Send + Sync>;

/// What the standard library says before it aborts, when a panic may not go on. The panic itself was told of before.
const AFTERWARDS: [&str; 2] = [
    "panic in a destructor during cleanup",
    "panic in a function that cannot unwind",
];

static LISTENERS: Mutex<Vec<(u64, Hears)>> = Mutex::new(Vec::new());

/// Hears of panics as long as it lives.
#[must_use]
pub(crate) struct Listener(u64);

/// Calls `hears` for each panic, on the thread that panics, with thread, place and message; with nothing when the last
/// one may not go on, and the process is about to abort. It must not panic.
pub(crate) fn listen(hears: impl Fn(Option<&str>) + Send + Sync + 'static) -> Listener {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
    listeners.push((number, Arc::new(hears)));
    Listener(number)
}

pub(super) fn tell(info: &PanicHookInfo<'_>) {
    // A listener may hang with its disk, and then must not hold up the other threads that panic, nor the end of a run.
    let listeners = LISTENERS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if listeners.is_empty() {
        return;
    }
    let message = info.payload_as_str().unwrap_or("not a text");
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let at = info.location();
    let at = at.map_or_else(String::new, |at| format!(" at {at}"));
    let words = format!("thread '{name}' panicked{at}: {message}");
    let words = (!AFTERWARDS.contains(&message)).then_some(&*words);
    for (_, hears) in &listeners {
        hears(words);
    }
}

// === impl Listener ===

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|(number, _)| *number != self.0);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.0).finish()
    }
}
