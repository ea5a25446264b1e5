//! The name of a task's future, from the symbols of the task's functions.
//!
//! A symbol of the v0 mangling has the future as a type parameter. The legacy mangling has no
//! parameters, but the functions that are called tell it: the body of the future, and the functions
//! that drop it or its cell. So direct calls are followed, a few levels deep.
//!
//! A name that does not follow from the symbols is not guessed: then the name says that there are
//! several, or there is none.

use super::FUNCTIONS;
use super::symbols::{Symbols, demangled};
use std::collections::{BTreeSet, HashSet};

/// The most levels of calls that are followed.
const DEPTH: u32 = 3;
/// The most functions that are looked at for one task.
const LOOKED_AT: usize = 512;
/// The functions of a task from which calls are followed: `poll`, `dealloc`, `shutdown`,
/// `drop_join_handle_slow` and `try_read_output`.
const ROOTS: [usize; 5] = [0, 2, 6, 4, 3];
/// Parts of tokio's types that have the future as their first parameter, with their ranks.
const CELLS: [(u32, &str); 4] = [
    (0, "task::core::Cell<"),
    (1, "task::core::Core<"),
    (2, "task::core::CoreStage<"),
    (2, "task::core::Stage<"),
];
/// The rank of a future that is only known to be dropped.
const DROPPED: u32 = 10;
/// The addition to the rank of a function with several names.
const MERGED: u32 = 30;

/// The way by which a name is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Certainty {
    /// By the type in the debug information, or by a parameter of a symbol.
    Exact,
    /// By a function that the task calls.
    Called,
    /// One of several names, which is as likely as the others.
    Several,
    /// There is no name; an address stands for it.
    Unknown,
}

/// The name of a task's future.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// The type, as the compiler writes it.
    pub(crate) text: String,
    pub(crate) certainty: Certainty,
}

/// The names of the lowest rank so far.
#[derive(Default)]
struct Best(Option<(u32, BTreeSet<String>)>);

// === impl Name ===

impl Name {
    pub(crate) fn exact(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            certainty: Certainty::Exact,
        }
    }

    /// Returns the name for a future of which only the address of its `poll` is known.
    pub(crate) fn unknown(poll: u64) -> Self {
        Self {
            text: format!("future {poll:#x}"),
            certainty: Certainty::Unknown,
        }
    }
}

/// Returns the name of the future of the task with these functions. `calls` returns the functions that a
/// function calls.
pub(super) fn of_future(
    symbols: &Symbols,
    functions: &[u64; FUNCTIONS],
    calls: &dyn Fn(u64) -> Vec<u64>,
) -> Option<Name> {
    for name in symbols.names(functions[0]) {
        if let Some((_, parameters)) = demangled(name).split_once("raw::poll::<") {
            return Some(Name::exact(first_argument(parameters)));
        }
    }
    let mut best = Best::default();
    for root in ROOTS {
        follow(symbols, functions[root], root == 0, calls, &mut best);
    }
    let (rank, names) = best.0?;
    let certainty = match names.len() {
        1 if rank < MERGED => Certainty::Called,
        _ => Certainty::Several,
    };
    let names: Vec<String> = names.into_iter().collect();
    Some(Name {
        text: names.join(" or "),
        certainty,
    })
}

/// Follows calls from a function of a task.
fn follow(
    symbols: &Symbols,
    root: u64,
    is_poll: bool,
    calls: &dyn Fn(u64) -> Vec<u64>,
    best: &mut Best,
) {
    let mut seen = HashSet::new();
    let mut next = vec![(root, 0)];
    while let Some((at, depth)) = next.pop() {
        if depth > DEPTH || seen.len() > LOOKED_AT || !seen.insert(at) {
            continue;
        }
        for to in calls(at) {
            let merged = if symbols.names(to).count() > 1 {
                MERGED
            } else {
                0
            };
            for name in symbols.names(to) {
                let name = demangled(name);
                if let Some((rank, future)) = future_in(&name, is_poll) {
                    best.add(rank + depth + merged, future);
                }
                if is_passed_through(&name) {
                    next.push((to, depth + 1));
                }
            }
        }
    }
}

/// Returns whether calls are followed through a function.
fn is_passed_through(name: &str) -> bool {
    let parts = [
        "runtime::task",
        "drop_in_place",
        "core::mem::drop",
        "panicking",
        "panic_unwind",
        "panic::catch_unwind",
    ];
    parts.iter().any(|part| name.contains(part))
}

/// Returns the future in the name of a function that a task calls, and a rank: a lower one is surer.
fn future_in(name: &str, is_poll: bool) -> Option<(u32, String)> {
    for (rank, mark) in CELLS {
        let parameters = name.split_once(mark).map(|(_, rest)| rest);
        let future = parameters.map(first_argument);
        // A parameter of one letter is that of a generic definition.
        if let Some(future) = future.filter(|future| future.len() > 1) {
            return Some((rank, future.to_owned()));
        }
    }
    let dropped = name.strip_prefix("core::ptr::drop_in_place<");
    let dropped = dropped.and_then(|dropped| dropped.strip_suffix('>'));
    if let Some(future) = dropped.filter(|dropped| dropped.ends_with("{{closure}}")) {
        return Some((DROPPED, future.to_owned()));
    }
    let machinery = ["std::", "core::", "<core", "<std"];
    let is_body = is_poll
        && name.ends_with("{{closure}}")
        && !name.contains("runtime::task")
        && !machinery.iter().any(|start| name.starts_with(start));
    is_body.then(|| (0, name.to_owned()))
}

/// Returns the text up to the end of the first parameter.
fn first_argument(parameters: &str) -> &str {
    let mut depth = 0_i32;
    let mut before = ' ';
    let end = parameters.find(|c| {
        let is_arrow = c == '>' && before == '-';
        before = c;
        match c {
            '<' | '(' | '[' | '{' => depth += 1,
            '>' | ')' | ']' | '}' if !is_arrow => depth -= 1,
            _ => {}
        }
        depth < 0 || depth == 0 && c == ','
    });
    &parameters[..end.unwrap_or(parameters.len())]
}

// === impl Best ===

impl Best {
    fn add(&mut self, rank: u32, future: String) {
        match &mut self.0 {
            Some((best, _)) if *best < rank => {}
            Some((best, names)) if *best == rank => {
                names.insert(future);
            }
            best => *best = Some((rank, BTreeSet::from([future]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::elf::Symbol;
    use super::{Certainty, Name, Symbols, first_argument, of_future};

    const FUNCTIONS: [u64; 7] = [1, 2, 3, 4, 5, 6, 7];

    /// Returns the name by functions with addresses and names, and calls from one to another.
    fn name(functions: &[(u64, &str)], calls: &[(u64, u64)]) -> Option<Name> {
        let symbol = |(address, name): &(u64, &str)| Symbol {
            address: *address,
            size: 1,
            name: (*name).into(),
        };
        let symbols = Symbols::of(functions.iter().map(symbol).collect());
        let of = |from: u64| {
            let own = calls.iter().filter(|call| call.0 == from);
            own.map(|call| call.1).collect()
        };
        of_future(&symbols, &FUNCTIONS, &of)
    }

    #[test]
    fn the_body_that_poll_leads_to_names_the_future() {
        let functions = [
            (1, "tokio::runtime::task::raw::poll"),
            (8, "tokio::runtime::task::harness::poll_future"),
            (9, "shop::import::{{closure}}"),
            (10, "std::panicking::catch_unwind"),
        ];
        let found = name(&functions, &[(1, 8), (8, 10), (10, 9)]).expect("it is called");
        assert_eq!(found.text, "shop::import::{{closure}}");
        assert_eq!(found.certainty, Certainty::Called);
        assert_eq!(name(&functions, &[(1, 8)]), None);
    }

    #[test]
    fn a_merged_function_does_not_name_one_of_its_futures() {
        let functions = [
            (1, "tokio::runtime::task::raw::poll"),
            (9, "shop::export::{{closure}}"),
            (9, "shop::import::{{closure}}"),
        ];
        let found = name(&functions, &[(1, 9)]).expect("it is called");
        assert_eq!(
            found.text,
            "shop::export::{{closure}} or shop::import::{{closure}}"
        );
        assert_eq!(found.certainty, Certainty::Several);
    }

    #[test]
    fn a_cell_is_surer_than_a_dropped_future() {
        let functions = [
            (3, "tokio::runtime::task::raw::dealloc"),
            (
                8,
                "core::ptr::drop_in_place<tokio::runtime::task::core::Cell<shop::a::{{closure}}, alloc::sync::Arc<S>>>",
            ),
            (9, "core::ptr::drop_in_place<shop::b::{{closure}}>"),
        ];
        let found = name(&functions, &[(3, 8), (3, 9)]).expect("it is called");
        assert_eq!(found.text, "shop::a::{{closure}}");
        let found = name(&functions, &[(3, 9)]).expect("it is called");
        assert_eq!(found.text, "shop::b::{{closure}}");
        // As in a debug build of tokio 1.28.
        let functions = [&functions[..], &[(10, "core::mem::drop")]].concat();
        let found = name(&functions, &[(3, 10), (10, 8)]).expect("it is called");
        assert_eq!(found.text, "shop::a::{{closure}}");
    }

    #[test]
    fn the_first_argument_ends_at_its_comma_or_bracket() {
        for (text, first) in [
            ("a::B<C, D>, E>", "a::B<C, D>"),
            ("fn(A, B) -> C, D>", "fn(A, B) -> C"),
            ("{async_fn_env#0}<A>>::x", "{async_fn_env#0}<A>"),
            ("A", "A"),
        ] {
            assert_eq!(first_argument(text), first, "{text}");
        }
    }
}
