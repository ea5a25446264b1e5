//! The child processes and endpoints that an application supervises, as it describes them: for
//! metrics, for the API and the page of the admin server, and for the body of `/readyz`.
//!
//! The code that runs a child process or checks an endpoint registers it here and reports what
//! happens to it. The registrations of all runtimes are in two global tables, keyed by the number
//! of the root; a reader takes those of its own root. Figures of metrics are atomics; the rest is
//! behind a lock of each entry, which is held for a few assignments.
//!
//! Nothing here starts, checks or judges. The only thing that is looked up is the use of CPU and
//! memory (`usage`), when it is asked for.

mod child;
mod endpoint;
mod usage;

pub use child::Child;
pub(crate) use child::{ChildState, ChildView};
pub use endpoint::Endpoint;
pub(crate) use endpoint::{BOUNDS, EndpointState, EndpointView};
pub(crate) use usage::Usages;

use crate::group::TaskGroup;
use crate::registry::kind::OTHER;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most children, and the most endpoints, with series of their own.
const NAMES: usize = 64;

pub(crate) static CHILDREN: Parts<ChildState> = Parts(Mutex::new(BTreeMap::new()));
pub(crate) static ENDPOINTS: Parts<EndpointState> = Parts(Mutex::new(BTreeMap::new()));

/// The entries of each root, keyed by its number, in the order of registration.
type Registered<T> = BTreeMap<u64, Vec<(String, Arc<T>)>>;

/// A table of registered children or endpoints.
#[derive(Debug)]
pub(crate) struct Parts<T: 'static>(Mutex<Registered<T>>);

/// A registration, which is removed from its table on drop.
#[derive(Debug)]
struct Entry<T: 'static> {
    /// The table that has the entry.
    parts: &'static Parts<T>,
    root: u64,
    /// The figures, shared with the table.
    state: Arc<T>,
    /// True if the table keeps it until the runtime is gone.
    stays: bool,
}

/// An event, and the time since then.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Ago {
    /// The event in words.
    pub(crate) what: String,
    pub(crate) seconds_ago: f64,
}

// === impl Parts ===

impl<T> Parts<T> {
    /// Adds an entry under the global lock. A name may be registered several times.
    fn register(&'static self, tasks: &TaskGroup, name: &str, state: T) -> Entry<T> {
        let root = tasks.registry_root().number;
        let state = Arc::new(state);
        let name = name.replace(char::is_control, "_");
        let entry = (name, Arc::clone(&state));
        self.lock().entry(root).or_default().push(entry);
        Entry {
            parts: self,
            root,
            state,
            stays: false,
        }
    }

    /// Returns the entries of a root by label, in the order in which the names were registered.
    ///
    /// Names beyond the first [`NAMES`] are under `_other`. It holds the lock for a copy of the
    /// handles, and is linear in entries times labels. When an entry is removed, a name beyond the
    /// bound may move up to a series of its own.
    pub(crate) fn of(&self, root: u64) -> Vec<(String, Vec<Arc<T>>)> {
        let all = self.lock();
        let mut labels: Vec<(String, Vec<Arc<T>>)> = Vec::new();
        for (name, state) in all.get(&root).into_iter().flatten() {
            let known = labels.iter().any(|(label, _)| label == name);
            let label = if known || labels.len() < NAMES {
                name
            } else {
                OTHER
            };
            match labels.iter_mut().find(|(known, _)| known == label) {
                Some((_, states)) => states.push(Arc::clone(state)),
                None => labels.push((label.to_owned(), vec![Arc::clone(state)])),
            }
        }
        labels
    }

    /// Returns all entries of a root, in the order in which they were registered.
    pub(crate) fn all(&self, root: u64) -> Vec<Arc<T>> {
        let all = self.lock();
        let entries = all.get(&root).into_iter().flatten();
        entries.map(|(_, state)| Arc::clone(state)).collect()
    }

    /// Removes all entries of a root.
    fn forget(&self, root: u64) {
        self.lock().remove(&root);
    }

    /// A poisoned lock is used as it is: the table is whole between the operations on it.
    fn lock(&self) -> MutexGuard<'_, Registered<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl<T> Drop for Entry<T> {
    /// Removes the entry, and the root with its last entry, so ended runtimes leave nothing behind.
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let mut all = self.parts.lock();
        let Some(entries) = all.get_mut(&self.root) else {
            return;
        };
        entries.retain(|(_, state)| !Arc::ptr_eq(state, &self.state));
        if entries.is_empty() {
            all.remove(&self.root);
        }
    }
}

// === impl Ago ===

impl Ago {
    fn new(what: &str, at: Instant) -> Self {
        Self {
            what: what.to_owned(),
            seconds_ago: at.elapsed().as_secs_f64(),
        }
    }
}

/// Removes what the runtime of this root has left registered. Called when the runtime is gone.
pub(crate) fn forget(root: u64) {
    CHILDREN.forget(root);
    ENDPOINTS.forget(root);
}

/// Locks a mutex. A poisoned lock is used as it is: each field is valid on its own.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
