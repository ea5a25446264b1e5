//! The lines of awaits that a macro of a library wrote.
//!
//! The state of a coroutine has the line of the macro's source for an await in `select!` or `join!`.
//! The variable of the awaited future, in the function that polls the coroutine, has the line of the
//! macro's call. The macro makes a closure of its branches, so no other await has a future of that
//! type.

use super::Chains;
use crate::inspect::program::{Place, Type};

/// The crates of the standard library. Its own functions have awaits of its own.
const STANDARD: [&str; 3] = ["core", "std", "alloc"];

// === impl Chains ===

impl Chains<'_, '_> {
    /// Returns the place of an await in the program, if `place` is that of a library's macro. Without
    /// a line that can be found, it is the beginning of the function, and true. `name` is that of the
    /// coroutine.
    pub(super) fn outside_macro(
        &self,
        coroutine: Type,
        name: &str,
        awaited: Option<Type>,
        place: Place,
    ) -> (Place, bool) {
        let own = name.split("::").next().unwrap_or_default();
        let Some(library) = place.library.clone() else {
            return (place, false);
        };
        let Some(awaited) = awaited.filter(|_| library != own && !STANDARD.contains(&own)) else {
            return (place, false);
        };
        let is_outside = |place: &Place| place.library.as_deref().unwrap_or(own) == own;
        // Futures of other types are awaited in many places.
        let is_of_one_place = |future: &Type| {
            let name = self.values.types.name(*future);
            ["{closure_env#", "{async_"]
                .iter()
                .any(|part| name.contains(part))
        };
        let future = Some(awaited).filter(is_of_one_place);
        let found = future.and_then(|future| self.values.types.awaited(future, &is_outside));
        let types = self.values.types;
        let declared = || types.declared(coroutine).into_iter().find(is_outside);
        match found {
            Some(found) => (found, false),
            None => declared().map_or((place, false), |place| (place, true)),
        }
    }
}
