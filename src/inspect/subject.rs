//! Tasks of this process to be described, and their descriptions.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most types that are remembered.
const TYPES: usize = 1 << 14;

/// The types that were read so far, by the addresses of their tables, which are constants of the
/// program. `None` for one that could not be told.
static KNOWN: Mutex<Option<HashMap<u64, Option<String>>>> = Mutex::new(None);

/// The tasks of one type, to be described.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The address of the table of functions.
    pub(crate) table: u64,
    pub(crate) functions: [u64; 7],
    /// Addresses and ids of the tasks of which the chains are read.
    pub(crate) tasks: Vec<(u64, u64)>,
}

/// The description of a subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Description {
    /// The type of the future, shortened; `None` if it is not known.
    pub(crate) future: Option<String>,
    /// The numbers of tasks by what they await.
    pub(crate) awaits: BTreeMap<String, u64>,
    /// The first of them that is in the program's own code.
    pub(crate) in_program: Option<String>,
}

/// Returns the type of the future of tasks with this table, if it was read before.
pub(crate) fn known_future(table: u64) -> Option<String> {
    known().get_or_insert_default().get(&table)?.clone()
}

/// Returns whether the type of tasks with this table was never read.
pub(crate) fn is_new(table: u64) -> bool {
    let mut known = known();
    let known = known.get_or_insert_default();
    known.len() < TYPES && !known.contains_key(&table)
}

/// Remembers the types of subjects.
pub(crate) fn remember(subjects: &[Subject], descriptions: &[Description]) {
    let mut known = known();
    let known = known.get_or_insert_default();
    for (subject, description) in subjects.iter().zip(descriptions) {
        if known.len() < TYPES {
            known.insert(subject.table, description.future.clone());
        }
    }
}

fn known() -> MutexGuard<'static, Option<HashMap<u64, Option<String>>>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
