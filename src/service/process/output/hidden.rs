//! Texts that are left out of the lines that the admin server shows: everyone who can reach it can read
//! them.

use std::{borrow::Cow, cmp::Reverse, fmt};

use crate::service::secrets::Secrets;

/// Texts that may be secret, those that contain others first.
#[derive(Default)]
pub(super) struct Hidden(Vec<String>);

// === impl Hidden ===

impl Hidden {
    /// Hides the values of an environment, each line of them for itself. A line of four characters or
    /// more is taken for a secret.
    pub(super) fn of(environment: &Secrets) -> Self {
        let lines = environment.values().flat_map(|value| value.lines());
        let lines = lines.filter(|line| line.chars().count() >= 4);
        let mut hidden: Vec<String> = lines.map(str::to_owned).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a key never matched: output is passed on line by line.
    #[test]
    fn each_line_of_a_value_is_hidden() {
        let key = "-----BEGIN KEY-----\nc2VjcmV0\nabc\n";
        let environment = Secrets::from(std::collections::BTreeMap::from([(
            "KEY".to_owned(),
            key.to_owned(),
        )]));
        let hidden = Hidden::of(&environment);
        assert_eq!(hidden.out_of("read c2VjcmV0, abc"), "read …, abc");
        assert_eq!(hidden.out_of("-----BEGIN KEY-----"), "…");
    }
}
