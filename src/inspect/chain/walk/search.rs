//! The search of a type for one that may wait.
//!
//! Types may be nested deeper than a thread's stack allows for, so the search keeps its own list.

use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// The most types that are searched for one that may wait.
const TYPES: usize = 20_000;

/// The result of a look at one type.
pub(super) enum Found<T> {
    /// It may wait itself.
    Waits,
    /// It may wait if one of these does.
    Inside(Vec<T>),
}

/// Returns whether a type can hold something that waits. `known` keeps the answers. If there are too
/// many types, it may: its value is walked then, within the bounds of the walk.
pub(super) fn can_wait<T: Copy + Eq + Hash>(
    of: T,
    known: &mut FxHashMap<T, bool>,
    mut look: impl FnMut(T) -> Found<T>,
) -> bool {
    if let Some(known) = known.get(&of) {
        return *known;
    }
    // Each type with the one around it.
    let mut seen: FxHashMap<T, Option<T>> = FxHashMap::from_iter([(of, None)]);
    let mut open = vec![of];
    while let Some(next) = open.pop() {
        if seen.len() > TYPES {
            known.insert(of, true);
            return true;
        }
        let inside = match known.get(&next) {
            Some(true) => Found::Waits,
            Some(false) => continue,
            None => look(next),
        };
        match inside {
            Found::Waits => {
                let mut around = Some(next);
                while let Some(at) = around {
                    known.insert(at, true);
                    around = seen.get(&at).copied().flatten();
                }
                return true;
            }
            Found::Inside(types) => {
                for inner in types.into_iter().rev() {
                    if let Entry::Vacant(place) = seen.entry(inner) {
                        place.insert(Some(next));
                        open.push(inner);
                    }
                }
            }
        }
    }
    known.extend(seen.into_keys().map(|of| (of, false)));
    false
}

#[cfg(test)]
mod tests {
    use super::{Found, TYPES, can_wait};
    use rustc_hash::FxHashMap;

    /// Each type has the next one in it, and the last one waits or not.
    fn nested(depth: usize, waits: bool) -> impl FnMut(usize) -> Found<usize> {
        move |of| match of == depth {
            true if waits => Found::Waits,
            true => Found::Inside(vec![0]),
            false => Found::Inside(vec![of + 1]),
        }
    }

    #[test]
    fn types_nested_deeper_than_a_stack_are_searched() {
        for waits in [true, false] {
            let search = move || {
                let mut known = FxHashMap::default();
                let can = can_wait(0, &mut known, nested(TYPES - 2, waits));
                (can, known)
            };
            let thread = std::thread::Builder::new().stack_size(64 << 10);
            let thread = thread.spawn(search).expect("a thread");
            let (can, known) = thread.join().expect("it ends");
            assert_eq!(can, waits);
            assert_eq!(known.len(), TYPES - 1);
            assert!(known.values().all(|known| *known == waits));
        }
    }

    #[test]
    fn a_type_with_too_many_inside_may_wait_and_says_nothing_of_the_others() {
        let mut known = FxHashMap::default();
        assert!(can_wait(0, &mut known, nested(2 * TYPES, false)));
        assert_eq!(known, FxHashMap::from_iter([(0, true)]));
    }

    #[test]
    fn an_answer_is_kept_for_the_types_around_only() {
        let mut known = FxHashMap::default();
        let look = |of: usize| match of {
            0 => Found::Inside(vec![1, 2]),
            2 => Found::Waits,
            _ => Found::Inside(Vec::new()),
        };
        assert!(can_wait(0, &mut known, look));
        assert_eq!((known.get(&0), known.get(&2)), (Some(&true), Some(&true)));
        assert_ne!(known.get(&1), Some(&true));
    }
}
