//! The reasons, given by the application, for which a service is not ready.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reasons by what they are about, in alphabetical order.
#[derive(Debug, Default)]
pub(crate) struct Unready(Mutex<BTreeMap<String, String>>);

// === impl Unready ===

impl Unready {
    /// Sets the reason for one thing, or removes it.
    pub(crate) fn set(&self, what: &str, why: Option<&str>) {
        let mut reasons = self.lock();
        match why {
            Some(why) => drop(reasons.insert(what.to_owned(), why.to_owned())),
            None => drop(reasons.remove(what)),
        }
    }

    /// Returns the first reason, as `db: still connecting`.
    pub(crate) fn first(&self) -> Option<String> {
        let reasons = self.lock();
        let (what, why) = reasons.first_key_value()?;
        Some(format!("{what}: {why}"))
    }

    /// Returns all reasons, with what each is about.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        let reasons = self.lock();
        let all = reasons.iter();
        all.map(|(what, why)| (what.clone(), why.clone())).collect()
    }

    /// A poisoned lock is used as it is: the map is whole between the operations on it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
