//! The observers of roots, found by the number of the root when a task ends.
//!
//! A task's end finds the observer in the thread's cache, then by the map of roots, then in the
//! list of those that have outlived their root. The cache keeps one observer alive for each thread
//! until the thread calls another or ends.

use super::Root;
use crate::registry::observer::{End, Observer, TaskSpan};
use crate::registry::scope::Scope;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The observers of roots that no longer exist but still have live tasks.
///
/// Almost always empty. Cleaned at each access.
static OUTLIVED: Mutex<Vec<Outlived>> = Mutex::new(Vec::new());

thread_local! {
    /// The observer that this thread called last, and the number of its root. Without this cache,
    /// workers would contend for the lock of the roots at the end of each task.
    static LAST: RefCell<Option<(u64, Arc<dyn Observer>)>> = const { RefCell::new(None) };
}

/// The observer of a root that no longer exists.
struct Outlived {
    /// The number of the root.
    root: u64,
    /// The scope of the root, by which its live tasks are counted.
    scope: &'static Scope,
    /// The observer.
    observer: Arc<dyn Observer>,
}

/// Keeps the observer of a root that is dropped until its last task has ended.
///
/// Called when the root is dropped, before it leaves the map, so that a task that ends meanwhile
/// finds it in one of the two.
pub(super) fn outlive(root: &Root, observer: &Arc<dyn Observer>) {
    outlived().push(Outlived {
        root: root.number,
        scope: root.scope,
        observer: Arc::clone(observer),
    });
}

/// Notifies the observer of the root of that number that a task has ended.
pub(crate) fn notify_end(root: u64, end: &End<'_>, mut span: Option<Box<TaskSpan>>) {
    let notified = LAST.try_with(|last| match &*last.borrow() {
        Some((known, observer)) if *known == root => {
            observer.ended(end, span.take());
            true
        }
        _ => false,
    });
    // False if the thread-local storage is destroyed.
    if notified.unwrap_or(false) {
        return;
    }
    let Some(observer) = of(root) else {
        return;
    };
    observer.ended(end, span);
    // The borrow fails while this call is nested in the observer of another task's end. Then
    // nothing is cached.
    let before = LAST.try_with(|last| {
        let mut last = last.try_borrow_mut().ok()?;
        last.replace((root, observer))
    });
    drop(before);
}

/// Returns the observer of the root of that number; `None` if neither the root nor a live task of
/// it exists. Takes the lock of the roots, so callers keep the result.
#[cold]
fn of(number: u64) -> Option<Arc<dyn Observer>> {
    match super::find(number) {
        Some(root) => root.observer().cloned(),
        None => {
            let outlived = outlived();
            let found = outlived.iter().find(|outlived| outlived.root == number);
            found.map(|outlived| Arc::clone(&outlived.observer))
        }
    }
}

/// Locks the list of outlived observers, and removes those of roots with no live task left.
fn outlived() -> MutexGuard<'static, Vec<Outlived>> {
    let mut outlived = OUTLIVED.lock().unwrap_or_else(PoisonError::into_inner);
    outlived.retain(|Outlived { root, scope, .. }| {
        scope.root() == *root && scope.live() + scope.live_daemons() > 0
    });
    outlived
}
