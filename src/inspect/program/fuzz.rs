//! Damaged programs: whatever a file has, reading it ends, within its bounds and without a panic.

use super::{Functions, Limits, Program, Split};
use crate::fuzzing::fuzz;
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The most functions and types of a file that are asked for.
const ASKED: usize = 300;
/// The address at which the program is said to begin.
const BEGIN: u64 = 0x20_0000;

/// Compiles a small program with full debug information in a folder, and returns its file.
pub(super) fn seed(folder: &Path, flags: &[&str]) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fuzzing/seed.rs");
    let file = folder.join("seed");
    let mut compiler = Command::new("rustc");
    // An object is named as it is written on the command line.
    compiler.current_dir(folder).args(flags);
    compiler.args(["--edition", "2024", "-g", "-C", "panic=abort"]);
    compiler.args(["-C", "relocation-model=static", "-C", "opt-level=1"]);
    compiler.args(["-C", "link-args=-nostdlib -nostartfiles -static", "-o"]);
    let built = compiler
        .arg(&file)
        .arg(source)
        .output()
        .expect("rustc runs");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    file
}

/// Reads all that is ever read of a program. Returns the number of types with members, and of lines.
fn read(bytes: &[u8]) -> (usize, usize) {
    let memory = rustix::fs::memfd_create("damaged", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.expect("there is memory"));
    file.write_all(bytes).expect("there is memory");
    read_with(file, Split::default())
}

/// Reads a program with the files of its debug information. Returns the number of types with members, and of lines.
pub(super) fn read_with(file: File, split: Split) -> (usize, usize) {
    let Ok(program) = Program::of(file, BEGIN, split) else {
        return (0, 0);
    };
    program.tokio_versions();
    let symbols = program.symbols();
    let functions: Vec<u64> = symbols.addresses().take(ASKED).collect();
    let wanted = Functions {
        polls: functions.iter().copied().collect(),
        others: functions.clone(),
        closures: symbols.closure_polls(),
    };
    let types = program.types(
        wanted,
        Limits {
            bytes: 1 << 30,
            until: Some(Instant::now() + Duration::from_secs(5)),
            is_whole: true,
        },
    );
    let mut lines = 0;
    for function in &functions {
        program.reference(*function);
        program.future(&[*function; 7]);
        symbols.function(*function);
        types.of_table(*function);
        lines += usize::from(types.line(*function).is_some());
        if let Some(future) = types.future(*function) {
            types.stage(future);
        }
    }
    types.header();
    types.is_split();
    program.without_types(&types);
    let mut members = 0;
    for of in types.known().into_iter().take(ASKED) {
        types.name(of);
        types.declared(of);
        types.awaited(of, &|_| false);
        members += usize::from(!types.shape(of).members.is_empty());
    }
    (members, lines)
}

#[test]
fn a_damaged_program_is_read_as_far_as_it_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = std::fs::read(seed(folder.path(), &[])).expect("it was built");
    let (members, lines) = read(&whole);
    assert!(members > 5 && lines > 3, "{members} types, {lines} lines");
    let length = whole.len();
    // Most of a file is the core library's, so some changes are near each other.
    let change = (
        any::<prop::sample::Index>(),
        prop::collection::vec(any::<u8>(), 1..9),
    );
    let place = prop_oneof![
        // The header and the tables of contents.
        1 => (0..128_usize).boxed(),
        1 => (length - 4096..length - 8).boxed(),
        // The sections.
        4 => (0..length - 8).boxed(),
    ];
    let changes = prop::collection::vec((place, change), 1..64);
    let cut = prop::option::weighted(0.1, 0..length);
    fuzz(24, &(changes, cut), |(changes, cut)| {
        let mut bytes = whole.clone();
        for (at, (near, new)) in changes {
            let at = (at + near.index(64)).min(length - new.len());
            bytes[at..at + new.len()].copy_from_slice(&new);
        }
        bytes.truncate(cut.unwrap_or(length));
        read(&bytes);
        Ok(())
    });
}
