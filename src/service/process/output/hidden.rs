//! Texts that are left out of the lines that the admin server shows: everyone who can reach it can read
//! them.

use std::{borrow::Cow, cmp::Reverse, fmt};

use crate::service::secrets::Secrets;

/// Texts that may be secret, those that contain others first.
#[derive(Default)]
pub(super) struct Hidden(Vec<String>);

// === impl Hidden ===

impl Hidden {
    /// Hides the values of an environment. A value of four characters or more is taken for a secret.
    pub(super) fn of(environment: &Secrets) -> Self {
        let values = environment.values();
        let values = values.filter(|value| value.chars().count() >= 4);
        let mut hidden: Vec<String> = values.cloned().collect();
        hidden.sort_by_key(|value| Reverse(value.len()));
        Self(hidden)
    }

    /// Returns the line without them.
    pub(super) fn out_of<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let mut line = Cow::Borrowed(line);
        for secret in &self.0 {
            if line.contains(secret) {
                line = Cow::Owned(line.replace(secret, "…"));
            }
        }
        line
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hidden").field(&self.0.len()).finish()
    }
}
