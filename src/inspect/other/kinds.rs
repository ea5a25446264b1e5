//! The kinds of tasks in a program: the tables of functions that its constants hold.
//!
//! A table is found by its shape, seven addresses of code and three offsets in order. The program's
//! data has nothing else of that shape.

use crate::inspect::header::Table;
use crate::inspect::memory::Memory;
use crate::inspect::program::Program;
use std::collections::BTreeMap;

/// The most words of constants that are searched.
const WORDS: u64 = 1 << 27;
/// The words of a table.
const TABLE: usize = 10;
/// Offsets of the scheduler in the tokio versions that are known: the length of the header.
const HEADER: u64 = 32;
const LONGER_HEADERS: [u64; 2] = [40, 48];

/// All tables of a program.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    /// By address in memory.
    pub(crate) tables: BTreeMap<u64, Table>,
    /// Whether each has the offset of the place of the spawn behind it: tokio was built with
    /// `tokio_unstable`.
    pub(crate) has_spawn_place: bool,
}

// === impl Kinds ===

impl Kinds {
    /// Searches the constants of the program at `path`.
    pub(super) fn find(memory: &Memory, program: &Program, path: &str) -> Self {
        let code = program.code();
        let mut kinds = Self::default();
        let mut without_place = 0;
        for mapping in memory.mappings() {
            if mapping.path != path || mapping.is_code() || !mapping.is_readable() {
                continue;
            }
            let length = ((mapping.end - mapping.start) / 8).min(WORDS);
            let words = memory.some_words(mapping.start, usize::try_from(length).unwrap_or(0));
            for (at, window) in (mapping.start..).step_by(8).zip(words.windows(TABLE)) {
                let is_code = |word: &u64| code.contains(word);
                if !window[..7].iter().all(is_code) {
                    continue;
                }
                let window: [u64; TABLE] = window.try_into().expect("windows have ten words");
                let Some(table) = Table::of(window) else {
                    continue;
                };
                let next = usize::try_from((at - mapping.start) / 8).unwrap_or(0) + TABLE;
                let has_place = words.get(next) == Some(&(table.id + 8));
                without_place += usize::from(!has_place);
                kinds.tables.insert(at, table);
            }
        }
        kinds.has_spawn_place = without_place == 0 && !kinds.tables.is_empty();
        kinds
    }

    /// Returns the problems of the tables: the first self-check. `unchecked` gets the checks that were not
    /// possible.
    pub(super) fn check(
        &self,
        program: &Program,
        unchecked: &mut Vec<&'static str>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let functions = |table: &Table| table.functions.map(|at| program.in_file(at));
        let tables = self.tables.values();
        let ordered = tables
            .clone()
            .filter_map(|table| program.symbols().is_in_order(&functions(table)));
        let ordered: Vec<bool> = ordered.collect();
        let other = ordered.iter().filter(|ordered| !**ordered).count();
        if other > 0 {
            wrong.push(format!(
                "the functions of {other} of {} kinds of tasks are in another order",
                ordered.len()
            ));
        }
        if ordered.is_empty() {
            unchecked.push("the order of a task's functions (no symbols)");
        }
        // The way in which a task is scheduled depends on its runtime, so many kinds share one function.
        let mut schedulers: Vec<u64> = tables.clone().map(|table| table.functions[1]).collect();
        schedulers.sort_unstable();
        schedulers.dedup();
        if self.tables.len() >= 12 && schedulers.len() * 2 >= self.tables.len() {
            wrong.push(format!(
                "{} kinds of tasks have {} ways to be scheduled",
                self.tables.len(),
                schedulers.len()
            ));
        }
        let is_known = |length: u64| {
            length == HEADER || self.has_spawn_place && LONGER_HEADERS.contains(&length)
        };
        if let Some(table) = tables.clone().find(|table| !is_known(table.scheduler)) {
            wrong.push(format!(
                "a task begins with {} bytes of header",
                table.scheduler
            ));
        }
        let references =
            tables.filter_map(|table| program.reference(program.in_file(table.functions[5])));
        let references: Vec<u64> = references.collect();
        let expected = crate::inspect::header::REFERENCE;
        if let Some(other) = references.iter().find(|count| **count != expected) {
            wrong.push(format!("a reference counts {other} in the state of a task"));
        }
        if references.is_empty() {
            unchecked.push("the number that a reference counts");
        }
        wrong
    }
}
