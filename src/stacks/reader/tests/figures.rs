//! The cost of reading stacks. It is printed, and not asserted: `cargo test --release --lib stack
//! -- --ignored --nocapture figures`.

use super::{Means, await_call, frames, read, thread};
use crate::stacks::names::give_back;
use crate::stacks::prepare;
use std::time::Instant;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let digits = line.expect("it is told").trim().trim_end_matches(" kB");
    digits.parse().expect("a number")
}

#[test]
#[ignore = "it prints figures, and asserts nothing"]
fn figures_of_a_thousand_threads() {
    let before = Instant::now();
    prepare();
    println!("prepare: {:?}", before.elapsed());
    let threads: Vec<_> = (0..1000).map(|_| thread(std::thread::park)).collect();
    let tids: Vec<u32> = threads.iter().map(|(tid, _)| *tid).collect();
    tids.iter()
        .for_each(|tid| await_call(*tid, libc::SYS_futex));
    for round in ["first", "second", "third", "given back", "next"] {
        if round == "given back" {
            give_back();
            println!("given back: {} KiB", resident_kib());
        }
        for means in [Means::Quiet, Means::Any] {
            let begun = Instant::now();
            let stacks = read(&tids, means);
            let read = begun.elapsed();
            let names: usize = stacks
                .iter()
                .flatten()
                .map(|stack| frames(stack).len())
                .sum();
            let all = begun.elapsed();
            let complete = stacks
                .iter()
                .flatten()
                .filter(|stack| stack.is_complete)
                .count();
            let exact = stacks
                .iter()
                .flatten()
                .filter(|stack| stack.is_exact)
                .count();
            println!(
                "{round} {means:?}: read {read:?}, all {all:?}, {complete} complete, {exact} exact, {names} frames, {} KiB",
                resident_kib()
            );
        }
    }
    for (_, thread) in &threads {
        thread.thread().unpark();
    }
}
