//! Tests with a process made of files: a runtime as tokio lays it out, and the same with one thing
//! changed, which must be refused.

use super::*;
use crate::inspect::header::Table;
use crate::inspect::program::{Functions, Limits, Split};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

const TABLE: u64 = 0x1_0000;
const CODE: u64 = 0x2_0000;
const TASK: u64 = 0x10_0000;
const SHARDS: u64 = 0x18_0000;
const HANDLE: u64 = 0x19_0000;
/// The place of the array of lists in the handle.
const PLACE: u64 = HANDLE + 0x68;
const STACK: u64 = 0x30_0000;
/// The mappings of the process.
const MAPS: &str = "\
    00010000-00020000 r--p 00000000 fe:00 7 /bin/shop\n\
    00020000-00030000 r-xp 00010000 fe:00 7 /bin/shop\n\
    00100000-00200000 rw-p 00000000 00:00 0 \n\
    00300000-00310000 rw-p 00000000 00:00 0 [stack]\n";
const TASKS_OF_A_LIST: u64 = 3;
const LISTS: u64 = 4;
/// A task that waits, with its handle.
const WAITING: u64 = (2 * 64) | 8;

/// The words of a process.
struct Fake(BTreeMap<u64, u64>);

/// The address of a task.
fn task(list: u64, place: u64) -> u64 {
    TASK + (list * TASKS_OF_A_LIST + place) * 0x100
}

// === impl Fake ===

impl Fake {
    /// Makes a runtime with four lists of three tasks, and a stack with the address of its handle and
    /// of a task.
    fn runtime() -> Self {
        let mut fake = Self(BTreeMap::new());
        let functions = (0..7).map(|function| CODE + function * 16);
        let table: Vec<u64> = functions.chain([0x80, 0x20, 0x28]).collect();
        fake.set(TABLE, &table);
        for list in 0..LISTS {
            for place in 0..TASKS_OF_A_LIST {
                let at = task(list, place);
                fake.set(
                    at,
                    &[WAITING, 0, TABLE, 5, HANDLE, list + LISTS * (place + 1)],
                );
                let newer = if place + 1 < TASKS_OF_A_LIST {
                    task(list, place + 1)
                } else {
                    0
                };
                let older = place.checked_sub(1).map_or(0, |place| task(list, place));
                fake.set(at + 0x80, &[newer, older]);
            }
            let ends = [0, task(list, TASKS_OF_A_LIST - 1), task(list, 0)];
            fake.set(SHARDS + list * 24, &ends);
        }
        let count = LISTS * TASKS_OF_A_LIST;
        fake.set(PLACE, &[SHARDS, LISTS, 70, count, LISTS - 1]);
        fake.set(STACK + 0x40, &[HANDLE, 7, task(0, 0)]);
        fake
    }

    fn set(&mut self, at: u64, words: &[u64]) {
        self.0.extend((at..).step_by(8).zip(words.iter().copied()));
    }

    fn change(&mut self, at: u64, change: impl Fn(u64) -> u64) {
        let word = self.0.get_mut(&at).expect("it is set");
        *word = change(*word);
    }

    fn each_task(&mut self, change: impl Fn(&mut Self, u64)) {
        for list in 0..LISTS {
            for place in 0..TASKS_OF_A_LIST {
                change(self, task(list, place));
            }
        }
    }

    /// Makes the files of the process, in a folder.
    fn memory(&self) -> (tempfile::TempDir, Memory) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("maps"), MAPS).expect("it is ours");
        let file = File::create(folder.path().join("mem")).expect("it is ours");
        file.set_len(STACK + 0x1_0000).expect("it is sparse");
        for (at, word) in &self.0 {
            file.write_all_at(&word.to_le_bytes(), *at)
                .expect("it is ours");
        }
        let memory = Memory::open(folder.path(), 1 << 20).expect("it is ours");
        (folder, memory)
    }

    /// Reads the runtimes. The error is the text of the refusal.
    fn read(&self) -> Result<(Vec<Runtime>, Vec<&'static str>), String> {
        let (_folder, memory) = self.memory();
        let tables = Tables::new(false);
        let (mut wrong, mut unchecked) = (Vec::new(), Vec::new());
        let stack = std::slice::from_ref(&(STACK..STACK + 0x1_0000));
        let found = handles::find(&memory, &tables, stack);
        let runtimes = runtimes(&memory, &tables, &found, &mut wrong, &mut unchecked);
        refuse(&["1.99.0".to_owned()], &wrong)?;
        Ok((runtimes, unchecked))
    }

    #[track_caller]
    fn assert_refused(&self, reason: &str) {
        let error = self.read().expect_err("it is another layout");
        assert!(error.contains(reason), "{error}");
        assert!(
            error.starts_with("this program has tokio 1.99.0, whose tasks are laid out"),
            "{error}"
        );
        assert!(
            error.contains("): nothing is shown rather than something wrong\n  a newer headcount"),
            "{error}"
        );
    }
}

#[test]
fn a_runtime_is_found_from_a_stack_and_all_its_tasks_are_read() {
    let (runtimes, unchecked) = Fake::runtime().read().expect("it is a known layout");
    assert_eq!(unchecked, [""; 0]);
    let [runtime] = &runtimes[..] else {
        panic!("one runtime")
    };
    let mut ids: Vec<u64> = runtime.tasks.iter().map(|task| task.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (4..16).collect::<Vec<u64>>());
    assert_eq!(runtime.range(), (12, 12));
    assert!(
        runtime
            .tasks
            .iter()
            .all(|task| task.state.as_str() == "waiting")
    );
}

#[test]
fn a_single_list_has_no_count_and_says_so() {
    let mut fake = Fake::runtime();
    // As in a `LocalSet`: the two ends are in the handle.
    fake.set(PLACE, &[task(1, 2), task(1, 0), 0, 0, 0]);
    let (runtimes, unchecked) = fake.read().expect("it is a known layout");
    assert_eq!(runtimes[0].tasks.len(), 3);
    assert_eq!(unchecked, ["the runtime's own count of its tasks"]);
}

#[test]
fn one_of_many_lists_on_a_stack_leads_to_all_of_them() {
    let mut fake = Fake::runtime();
    fake.set(STACK + 0x40, &[SHARDS + 24, 7, 7]);
    assert_eq!(
        fake.read().expect("it is a known layout").0[0].tasks.len(),
        12
    );
    // It is not taken for a list of its own.
    fake.change(PLACE + 32, |_| 6);
    fake.assert_refused("there are tasks, and no list that has them");
}

/// A runtime that is dropped removes a task that runs from its list, and waits for it.
#[test]
fn a_task_that_a_runtime_in_its_drop_waits_for_is_read_without_a_list() {
    const STUCK: u64 = 64 | 32 | 1;
    let stuck = task(0, 0);
    let mut fake = Fake::runtime();
    for list in 0..LISTS {
        fake.set(SHARDS + list * 24, &[0, 0, 0]);
    }
    fake.set(PLACE + 24, &[0]);
    fake.set(stuck, &[STUCK]);
    fake.set(stuck + 0x80, &[0, 0]);
    // The address of the task is on the stack twice, as the two ends of a list are.
    fake.set(STACK + 0x40, &[HANDLE, 7, stuck, stuck, 7, STACK + 0x50]);
    let (runtimes, _) = fake.read().expect("it is a known layout");
    assert_eq!(runtimes.len(), 1);
    let ids: Vec<u64> = runtimes[0].tasks.iter().map(|task| task.id).collect();
    assert_eq!((ids, runtimes[0].unlisted), (vec![4], 1));
    // Other tasks are still in the lists.
    let mut fake = Fake::runtime();
    fake.set(stuck, &[STUCK]);
    fake.set(stuck + 0x80, &[0, 0]);
    fake.set(task(0, 1) + 0x88, &[0]);
    fake.set(SHARDS + 16, &[task(0, 1)]);
    fake.set(PLACE + 24, &[11]);
    let (runtimes, _) = fake.read().expect("it is a known layout");
    assert_eq!((runtimes.len(), runtimes[0].unlisted), (1, 1));
    assert_eq!(runtimes[0].range(), (12, 12));
    // One that does not run is in no list for another reason.
    let mut fake = Fake::runtime();
    fake.change(PLACE + 32, |_| 6);
    fake.change(stuck, |state| state | 32);
    fake.assert_refused("there are tasks, and no list that has them");
}

#[test]
fn a_runtime_without_tasks_is_no_other_layout() {
    let mut fake = Fake::runtime();
    fake.set(SHARDS, &[0; 12]);
    fake.set(PLACE + 24, &[0]);
    fake.set(STACK + 0x40, &[HANDLE, 7, 7]);
    assert_eq!(fake.read().expect("it is a known layout").0.len(), 0);
}

#[test]
fn a_count_that_the_tasks_do_not_reach_is_refused() {
    let mut fake = Fake::runtime();
    fake.change(PLACE + 24, |count| count + 8);
    fake.assert_refused("12 tasks are in the lists, and the runtime counts 20");
}

#[test]
fn a_look_that_ends_at_a_bound_says_so() {
    let (_folder, memory) = Fake::runtime().memory();
    let lists = Lists {
        heads: (0..LISTS).map(|list| SHARDS + list * 24 + 8).collect(),
        owner: 5,
        count: None,
    };
    let look = |tasks| {
        let bounds = Bounds {
            tasks,
            until: End::after(LOOK),
        };
        list::look(&memory, &Tables::new(false), &lists, bounds)
    };
    let cut = look(5);
    assert!(cut.is_cut && cut.tasks.len() < 12);
    let whole = look(100);
    assert_eq!((whole.is_cut, whole.tasks.len()), (false, 12));
}

#[test]
fn a_count_that_is_equal_to_the_mask_is_not_taken_for_it() {
    let mut fake = Fake::runtime();
    // As many tasks as the mask says, after others that have ended.
    fake.set(SHARDS + 24, &[0; 9]);
    let count = TASKS_OF_A_LIST;
    assert_eq!(count, LISTS - 1);
    fake.set(PLACE + 16, &[10 + count, count, LISTS - 1]);
    let (runtimes, unchecked) = fake.read().expect("it is a known layout");
    assert_eq!((runtimes[0].range(), unchecked), ((3, 3), Vec::new()));
    // None of the places has the number of tasks.
    fake.set(PLACE + 16, &[14, 3, LISTS - 1]);
    fake.change(task(0, 2) + 0x80, |_| 0);
    fake.set(SHARDS, &[0, task(0, 1), task(0, 0)]);
    fake.change(task(0, 1) + 0x80, |_| 0);
    let (runtimes, unchecked) = fake.read().expect("it is a known layout");
    assert_eq!(runtimes[0].range(), (2, 2));
    assert_eq!(unchecked, ["the runtime's own count of its tasks"]);
}

#[test]
fn another_mask_or_order_of_the_ends_is_refused() {
    let mut fake = Fake::runtime();
    fake.change(PLACE + 32, |_| 6);
    fake.assert_refused("there are tasks, and no list that has them");
    let mut fake = Fake::runtime();
    for list in 0..LISTS {
        fake.set(SHARDS + list * 24 + 8, &[task(list, 0), task(list, 2)]);
    }
    fake.assert_refused("there are tasks, and no list that has them");
    let mut fake = Fake::runtime();
    fake.each_task(|fake, at| {
        let links = [fake.0[&(at + 0x88)], fake.0[&(at + 0x80)]];
        fake.set(at + 0x80, &links);
    });
    fake.assert_refused("there are tasks, and no list that has them");
}

/// A worker that was just given a task has it at both ends of a queue in the handle, before the lists. All tasks of the runtime
/// were missing then.
#[test]
fn the_ends_of_a_queue_are_not_taken_for_the_list_of_a_runtime() {
    let queued = TASK + 0x1000;
    let mut fake = Fake::runtime();
    // It is about to be put into its list.
    fake.set(queued, &[WAITING, 0, TABLE, 5, HANDLE, 99]);
    fake.set(queued + 0x80, &[0, 0]);
    fake.set(HANDLE + 0x20, &[queued, queued]);
    // A copy of the lists that was moved away has the count of that moment.
    fake.set(PLACE + 0x40, &[SHARDS, LISTS, 70, 0, LISTS - 1]);
    let (runtimes, unchecked) = fake.read().expect("it is a known layout");
    assert_eq!(unchecked, [""; 0]);
    let ranges: Vec<(u64, u64)> = runtimes.iter().map(Runtime::range).collect();
    assert_eq!(ranges, [(12, 12)]);
}

#[test]
fn the_neighbours_in_a_task_are_not_taken_for_a_list() {
    let mut fake = Fake::runtime();
    fake.change(PLACE + 32, |_| 6);
    // The words behind such a handle are those of tasks.
    fake.set(STACK + 0x40, &[task(0, 0) + 0x40, 7, task(0, 0)]);
    fake.assert_refused("there are tasks, and no list that has them");
}

#[test]
fn tasks_in_another_list_than_their_ids_say_are_refused() {
    let mut fake = Fake::runtime();
    fake.each_task(|fake, at| fake.change(at + 0x28, |id| id + 1));
    fake.assert_refused("12 of 12 tasks are in another list than their ids say");
}

#[test]
fn a_list_that_does_not_close_is_refused() {
    let mut fake = Fake::runtime();
    fake.change(task(2, 1) + 0x80, |_| task(3, 1));
    fake.assert_refused("1 of 4 lists of tasks do not close");
}

#[test]
fn shifted_and_swapped_bits_of_the_state_are_refused() {
    let mut shifted = Fake::runtime();
    shifted.each_task(|fake, at| fake.change(at, |state| state << 1));
    shifted.assert_refused("12 tasks have the waker of a handle, and no handle");
    let mut complete = Fake::runtime();
    complete.each_task(|fake, at| fake.change(at, |state| state | 2));
    complete.assert_refused("12 tasks are finished, and still in the list");
    let mut counted = Fake::runtime();
    counted.each_task(|fake, at| fake.change(at, |_| 64 | 8));
    counted.assert_refused("12 tasks have fewer references than holders");
}

#[test]
fn tasks_with_one_id_are_refused() {
    let mut fake = Fake::runtime();
    fake.change(task(1, 2) + 0x28, |_| 5);
    fake.assert_refused("1 tasks have no id, or that of another task");
}

/// The kinds of tasks of this test's own program.
fn own_kinds() -> (Program, Kinds) {
    let access = Access::open(std::process::id(), OWN).expect("a process may read itself");
    let program = Program::of(access.program, access.begin, Split::default());
    let program = program.expect("it is a program");
    let kinds = Kinds::find(&access.memory, &program, &access.path);
    (program, kinds)
}

#[test]
fn another_table_of_functions_is_refused() {
    let (program, kinds) = own_kinds();
    assert!(!kinds.tables.is_empty());
    let mut unchecked = Vec::new();
    assert_eq!(kinds.check(&program, &mut unchecked), [""; 0]);
    let doctored = |doctor: &dyn Fn(&mut Table)| {
        let mut other = Kinds {
            tables: kinds.tables.clone(),
            has_spawn_place: kinds.has_spawn_place,
        };
        other.tables.values_mut().for_each(doctor);
        other.check(&program, &mut Vec::new()).join("; ")
    };
    let order = doctored(&|table| table.functions.swap(2, 6));
    assert!(
        order.contains("kinds of tasks are in another order"),
        "{order}"
    );
    let header = doctored(&|table| table.scheduler = 56);
    assert!(
        header.contains("a task begins with 56 bytes of header"),
        "{header}"
    );
    let one = std::cell::Cell::new(0);
    let schedule = doctored(&|table| {
        one.set(one.get() + 16);
        table.functions[1] = one.get();
    });
    assert!(schedule.contains("ways to be scheduled"), "{schedule}");
}

#[test]
fn debug_information_beyond_the_limits_is_not_read() {
    let (_, kinds) = own_kinds();
    let read = |limits: Limits| {
        // The sections of a program are read once.
        let (program, _) = own_kinds();
        let mut functions = Functions::default();
        let polls = kinds.tables.values().map(|table| table.functions[0]);
        functions.polls.extend(polls.map(|at| program.in_file(at)));
        let types = program.types(functions, limits);
        let here = program.in_file(own_kinds as *const () as u64);
        (types.line(here).is_some(), types.is_cut())
    };
    assert_eq!(read(Limits::NONE), (true, false));
    let bytes = Limits {
        bytes: 1 << 10,
        ..Limits::NONE
    };
    assert_eq!(read(bytes), (false, false));
    let until = Limits {
        until: Some(Instant::now()),
        ..Limits::NONE
    };
    assert_eq!(read(until), (true, true));
}

#[test]
fn the_program_says_its_tokio() {
    let (program, _) = own_kinds();
    let versions = program.tokio_versions();
    let is_known = |version: &String| version.starts_with("1.");
    assert!(
        !versions.is_empty() && versions.iter().all(is_known),
        "{versions:?}"
    );
}
