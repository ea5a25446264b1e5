//! The types and await chains of tasks of this process, read from its debug information.
//!
//! It takes about 0.1 s for a large program, and as much memory as its debug information has bytes, at
//! most 512 MiB, with an index of the types of the units that are looked through. So it is for a thread of its
//! own and for a report or a dump, not for a scrape. What was read is freed at the end.

use super::chain::{Address, Chains, Tasks};
use super::descriptors::Descriptors;
use super::header::Tables;
use super::other::Own;
use super::program::{Certainty, Functions, Limits, Program, of_kinds};
use super::subject::{Description, Subject};
use crate::stacks::awaits::type_name::shortened;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The most descriptions of what tasks of one type await. Those of the others are left out.
const TEXTS: usize = 20;
/// The most bytes of debug information that are copied. With more, types are told by symbols alone.
const BYTES: u64 = 512 << 20;
/// The time for the types of tasks, also if the request ends before: they are remembered.
const NAMES: Duration = Duration::from_secs(10);

/// Describes subjects, each as far as it can be. After `until` no further chain is read, and one that is
/// being read is left out if it needs more of the debug information.
///
/// # Errors
///
/// Fails if the program or the memory of this process cannot be read.
pub(crate) fn describe(subjects: &[Subject], until: Instant) -> Result<Vec<Description>, String> {
    let own = Own::open()?;
    let program = &own.program;
    let in_file = |functions: [u64; 7]| functions.map(|at| program.in_file(at));
    let limits = Limits {
        bytes: BYTES,
        until: Some(until.max(Instant::now() + NAMES)),
        // A type that is in none of the expected units is not known.
        is_whole: false,
    };
    let types = program.types(functions_of(program, subjects), limits);
    let by_types = || Some(&types).filter(|types| !types.is_cut());
    let tables = subjects.iter();
    let tables = tables.map(|subject| (subject.table, in_file(subject.functions)));
    let mut names = of_kinds(program, by_types(), tables);
    if names
        .values()
        .any(|name| name.certainty == Certainty::Called)
    {
        // Another kind may have the same code, and is as likely then.
        let all = own.kinds().into_iter();
        let all = all.map(|(table, functions)| (table, in_file(functions)));
        names = of_kinds(program, by_types(), all);
    }
    types.end_at(until);
    let descriptors = Descriptors::of(Path::new("/proc/self"));
    let chains = Chains::new(&types, &own.memory, program, &descriptors);
    let tables = Tables::new(cfg!(tokio_unstable));
    let mut tasks = Tasks::default();
    let mut read = Vec::new();
    for subject in subjects {
        let name = names.get(&subject.table);
        let name = name.filter(|name| name.certainty != Certainty::Unknown);
        let mut future = name.map(|name| shortened(&name.text));
        let mut of_subject = Vec::new();
        for (header, id) in &subject.tasks {
            if Instant::now() > until || types.is_cut() {
                break;
            }
            let Some(table) = tables.get(&own.memory, subject.table) else {
                break;
            };
            let tree = chains.of_task(Address {
                header: *header,
                table: subject.table,
                poll: subject.functions[0],
                id: (table.id, *id),
            });
            let Some(tree) = tree.filter(|_| !types.is_cut()) else {
                continue;
            };
            // Without the box that the future may be in.
            if !tree.name.is_empty() {
                future = Some(shortened(&tree.name));
            }
            let name = future.as_deref().unwrap_or_default();
            of_subject.push(tasks.add(*header, *id, name.into(), Some(tree.into())));
        }
        read.push((future, of_subject));
    }
    // A chain may go on in another task, so all are read first.
    let described = read.into_iter().map(|(future, of_subject)| {
        let mut read = of_subject.iter().copied();
        let own = read.find(|at| tasks.is_in_program(*at));
        Description {
            future,
            awaits: counted(of_subject.iter().filter_map(|at| tasks.summary(*at))),
            in_program: own.and_then(|at| tasks.summary(at)),
        }
    });
    Ok(described.collect())
}

/// Returns the functions of the subjects, as addresses in the program's file.
fn functions_of(program: &Program, subjects: &[Subject]) -> Functions {
    let mut functions = Functions {
        closures: program.symbols().closure_polls(),
        ..Functions::default()
    };
    for subject in subjects {
        let [poll, others @ ..] = subject.functions.map(|at| program.in_file(at));
        functions.polls.insert(poll);
        functions.others.extend(others);
    }
    functions.others.sort_unstable();
    functions.others.dedup();
    functions
}

/// Counts equal texts. At most [`TEXTS`] different ones are kept.
fn counted(texts: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for text in texts {
        if counts.len() < TEXTS || counts.contains_key(&text) {
            *counts.entry(text).or_default() += 1;
        }
    }
    counts
}
