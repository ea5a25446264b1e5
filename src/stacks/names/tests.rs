use super::{folded, started_with, with_plain_closures};
use crate::stacks::frame::Frame;
#[cfg(target_os = "linux")]
use crate::stacks::places::Places;

fn frame(function: &str, file: Option<&str>) -> Frame {
    Frame {
        function: with_plain_closures(function),
        file: file.map(str::to_owned),
        line: file.map(|_| 7),
        waits_for: None,
    }
}

fn folded_names(frames: &[(&str, Option<&str>)]) -> Vec<String> {
    let frames = frames.iter().map(|(function, file)| frame(function, *file));
    let folded = folded(frames.collect());
    folded.iter().map(ToString::to_string).collect()
}

#[test]
fn a_thread_of_an_optimised_program_shows_the_closure_it_was_started_with() {
    let names = folded_names(&[
        ("read", None),
        ("{closure#0}", Some("src/db.rs")),
        (
            "call_once<db::reader::{closure_env#0}, ()>",
            Some("core/src/ops/function.rs"),
        ),
        (
            "__headcount_begin_with<db::reader<(u8, u8)>::{closure_env#3}, ()>",
            Some("src/threads.rs"),
        ),
        (
            "{closure#0}<other::{closure_env#0}>",
            Some("src/group/thread.rs"),
        ),
        (
            "__headcount_begin<other::{closure_env#0}, ()>",
            Some("src/threads.rs"),
        ),
        ("__rust_begin_short_backtrace<x::{closure_env#0}, ()>", None),
        ("start_thread", None),
        ("libc.so.6+0x8512c", None),
    ]);
    let closure = "db::reader<(u8, u8)>::{closure} (src/db.rs:7)";
    assert_eq!(names, ["read", closure]);
}

#[test]
fn unnamed_frames_are_dropped_at_the_ends_and_kept_between() {
    let names = folded_names(&[
        ("libc.so.6+0x8512c", None),
        ("read", None),
        ("libjit.so+0x10", None),
        ("work", None),
        ("start_thread", None),
        ("libc.so.6+0x8512c", None),
    ]);
    assert_eq!(names, ["read", "libjit.so+0x10", "work"]);
}

#[test]
fn at_least_one_frame_of_every_stack_is_left() {
    assert_eq!(folded_names(&[("clone3", None)]), ["clone3"]);
    assert_eq!(folded_names(&[("+0x10", None)]), ["+0x10"]);
    let begins = "__rust_begin_short_backtrace";
    assert_eq!(folded_names(&[(begins, None), ("clone3", None)]), [begins]);
    assert_eq!(folded_names(&[]), [""; 0]);
}

#[test]
fn only_a_closure_names_itself_by_its_type() {
    assert_eq!(
        started_with("begin<a::{closure}<b>, ()>").as_deref(),
        Some("a::{closure}<b>")
    );
    assert_eq!(started_with("begin<fn(), ()>"), None);
    assert_eq!(started_with("begin"), None);
    assert_eq!(started_with("begin<unfinished"), None);
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_without_a_name_is_shown_as_module_and_offset() {
    let here = only_a_closure_names_itself_by_its_type as fn();
    let unnamed = |address| super::unnamed(address, &Places::read()).function;
    let name = unnamed(here as usize);
    assert!(
        name.starts_with("headcount-") && name.contains("+0x"),
        "{name}"
    );
    // The program is mapped first, and its own addresses begin at 0.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
    let (start, _) = maps.split_once('-').expect("a range");
    let start = usize::from_str_radix(start, 16).expect("a number");
    let offset = format!("+{:#x}", here as usize - start);
    assert!(name.ends_with(&offset), "{name}, not {offset}");
    assert_eq!(unnamed(16), "+0x10");
}
