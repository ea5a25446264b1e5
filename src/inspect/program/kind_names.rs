//! The names of all kinds of tasks of a program.
//!
//! The compiler merges functions with the same machine code. Two kinds with one name are therefore
//! not two kinds of one future: each may be the other, and both names say so. A future that is
//! spawned on two kinds of scheduler has two kinds of tasks too; they differ in the function that
//! schedules.

use super::{Certainty, FUNCTIONS, Name, Program, Types};
use std::collections::HashMap;

/// Returns the names of the futures of tasks. `tables` are all tables of functions of the program, by
/// their addresses and with functions at addresses in the file.
pub(crate) fn of_kinds(
    program: &Program,
    types: Option<&Types<'_>>,
    tables: impl IntoIterator<Item = (u64, [u64; FUNCTIONS])>,
) -> HashMap<u64, Name> {
    let named = tables.into_iter().map(|(table, functions)| {
        let name = types.and_then(|types| by_types(types, functions[0]));
        let name = name.or_else(|| program.future(&functions));
        let name = name.unwrap_or_else(|| Name::unknown(functions[0]));
        (table, (functions[1], name))
    });
    let mut names: HashMap<u64, (u64, Name)> = named.collect();
    doubt_shared(&mut names);
    let names = names.into_iter();
    names.map(|(table, (_, name))| (table, name)).collect()
}

/// Returns the name of the future that a function polls, by the debug information.
fn by_types(types: &Types<'_>, poll: u64) -> Option<Name> {
    Some(Name::exact(&*types.name(types.future(poll)?)))
}

/// Marks the names that several kinds on one kind of scheduler have. Each name comes with the function
/// that schedules.
fn doubt_shared(names: &mut HashMap<u64, (u64, Name)>) {
    let mut counts: HashMap<(u64, String), usize> = HashMap::new();
    for (schedule, name) in names.values() {
        *counts.entry((*schedule, name.text.clone())).or_default() += 1;
    }
    for (schedule, name) in names.values_mut() {
        let count = counts.get(&(*schedule, name.text.clone()));
        if name.certainty == Certainty::Called && count > Some(&1) {
            name.text += " or one with the same code";
            name.certainty = Certainty::Several;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Certainty, Name, doubt_shared};
    use std::collections::HashMap;

    #[test]
    fn a_name_that_two_kinds_have_is_in_doubt_unless_it_is_exact() {
        let called = |text: &str| Name {
            text: text.to_owned(),
            certainty: Certainty::Called,
        };
        let mut names = HashMap::from([
            (1, (7, called("a"))),
            (2, (7, called("a"))),
            (3, (7, called("b"))),
            (4, (7, Name::exact("c"))),
            (5, (7, Name::exact("c"))),
            (6, (8, called("b"))),
        ]);
        doubt_shared(&mut names);
        assert_eq!(names[&1].1.text, "a or one with the same code");
        assert_eq!(names[&1].1.certainty, Certainty::Several);
        assert_eq!(names[&1], names[&2]);
        assert_eq!(names[&3].1, called("b"));
        assert_eq!(names[&4].1, Name::exact("c"));
        assert_eq!(names[&6].1, called("b"), "one future on two schedulers");
    }
}
