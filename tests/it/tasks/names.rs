//! Tests of names: cleaned, and bounded in number.

use crate::scenario::{alone, in_time, quiet, told};
use headcount::TaskGroup;
use std::collections::BTreeSet;
use std::future::pending;

fn names(tasks: &TaskGroup) -> BTreeSet<&'static str> {
    tasks.snapshot().tasks().map(|row| row.name).collect()
}

#[test]
fn names_are_cleaned_and_cut() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("a/b\n");
            assert_eq!(group.name(), "a_b_");
            let long = "é".repeat(40);
            for name in ["", "with space", "tab\tand\u{1b}[31m", "a/b", &long] {
                drop(group.spawn(name, pending::<()>()));
            }
            let cut = "é".repeat(32);
            let expected = ["unnamed", "with space", "tab_and_[31m", "a_b", &cut];
            assert_eq!(names(&group), expected.into_iter().collect());
            assert_eq!(group.group("").name(), "a_b_/unnamed");
            assert_eq!(in_time(group.cancel()).await, 0);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn names_beyond_the_limit_are_other() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("g");
            let mut resident = 0;
            for n in 0..10_000 {
                drop(group.spawn(&format!("id-{n}"), pending::<()>()));
                if n == 5_000 {
                    resident = resident_bytes();
                }
            }
            assert_eq!(group.snapshot().tasks().len(), 10_000);
            let names = names(&group);
            assert!(names.contains("_other") && names.contains("id-0"));
            assert!(!names.contains("id-9999"));
            // There are 4,096 kinds in total, including `main`.
            assert_eq!(names.len(), 4_096);
            let grown = resident_bytes().saturating_sub(resident);
            // 5,000 tasks take some hundred bytes each; names would come on top.
            assert!(grown < 16 << 20, "{grown} bytes for 5,000 tasks");
            assert_eq!(in_time(group.cancel()).await, 0);
            assert!(group.snapshot().tasks().len() == 0);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn groups_beyond_the_limit_are_other_but_remain_separate() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let groups: Vec<_> = (0..1_000).map(|n| tasks.group(&format!("g{n}"))).collect();
            assert_eq!(groups[0].name(), "g0");
            let [one, other] = [&groups[998], &groups[999]];
            assert_eq!((one.name(), other.name()), ("_other", "_other"));
            drop(one.spawn("a", pending::<()>()));
            let kept = other.spawn("a", pending::<()>());
            assert_eq!(in_time(one.cancel()).await, 0);
            assert!(!kept.is_finished());
            assert_eq!(other.snapshot().tasks().len(), 1);
            assert_eq!(in_time(other.cancel()).await, 0);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

/// Returns the resident memory of the process (proc_pid_statm(5), in pages of 4 KiB or more).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_u64) * 4096
}
