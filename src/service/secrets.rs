//! Texts by name that `Debug` does not show: they are passwords often enough.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

/// A map from names to texts that may be secret, such as environment variables. `Debug` shows the
/// names alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secrets(BTreeMap<String, String>);

// === impl Secrets ===

impl From<BTreeMap<String, String>> for Secrets {
    fn from(texts: BTreeMap<String, String>) -> Self {
        Self(texts)
    }
}

impl Deref for Secrets {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Secrets {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
