use super::{Lock, Waiter, hints, sentences};
use crate::audit::facts::{Facts, Waits};
use crate::audit::frame::Frame;

fn frame(function: &str, file: Option<&str>) -> Frame {
    Frame {
        function: function.to_owned(),
        file: file.map(str::to_owned),
        line: file.map(|_| 1),
    }
}

fn on_futex(tid: u32, address: u64) -> Facts {
    Facts {
        tid,
        waits: Waits::Futex {
            address,
            timed: false,
        },
    }
}

#[test]
fn the_innermost_frames_tell_what_lock_it_is() {
    let of = |frames: &[(&str, Option<&str>)]| {
        let frames: Vec<_> = frames
            .iter()
            .map(|(name, file)| frame(name, *file))
            .collect();
        Lock::of(&frames)
    };
    // As backtrace names them, in debug and in optimised programs, std 1.95.
    let wait = ("futex_wait", Some("std/src/sys/pal/unix/futex.rs"));
    let contended = Some("std/src/sys/sync/mutex/futex.rs");
    let condition = Some("std/src/sys/sync/condvar/futex.rs");
    assert_eq!(of(&[("syscall", None), wait]), None);
    assert_eq!(
        of(&[wait, ("lock_contended", contended)]),
        Some(Lock::Mutex)
    );
    let again = [wait, ("lock", contended), ("wait", condition)];
    assert_eq!(of(&again), Some(Lock::Mutex), "notified, and locks again");
    assert_eq!(of(&again[2..]), Some(Lock::Condition));
    for (file, lock) in [
        ("std/src/sys/sync/rwlock/futex.rs", Lock::ReadWrite),
        ("std/src/sys/sync/once/futex.rs", Lock::Once),
        ("std/src/sys/sync/thread_parking/futex.rs", Lock::Park),
        ("parking_lot-0.12.5/src/raw_mutex.rs", Lock::Mutex),
    ] {
        assert_eq!(of(&[wait, ("any", Some(file))]), Some(lock), "{file}");
    }
    assert_eq!(of(&[wait, ("lock", Some("mine/src/raw_mutex.rs"))]), None);
    for (name, lock) in [
        ("___pthread_mutex_lock", Lock::PosixMutex),
        ("pthread_cond_clockwait", Lock::Condition),
        (
            "std::sys::sync::thread_parking::futex::Parker::park",
            Lock::Park,
        ),
        (
            "<std::sys::sync::mutex::futex::Mutex>::lock_contended",
            Lock::Mutex,
        ),
    ] {
        assert_eq!(of(&[("__lll_lock_wait", None), (name, None)]), Some(lock));
    }
    // With the debug information of glibc.
    let glibc = Some("./nptl/pthread_mutex_lock.c");
    assert_eq!(
        of(&[("___pthread_mutex_lock", glibc)]),
        Some(Lock::PosixMutex)
    );
    let mut deep = vec![("a", None); super::LOOKED_AT];
    deep.push(("pthread_mutex_lock", None));
    assert_eq!(of(&deep), None, "it may be where the thread was started");
}

#[test]
fn what_the_stack_tells_is_said_instead_of_a_futex() {
    let facts = [
        on_futex(1, 0x10),
        on_futex(2, 0x10),
        on_futex(3, 0x20),
        on_futex(4, 0x30),
        on_futex(5, 0x40),
        Facts {
            tid: 6,
            waits: Waits::OnCpu,
        },
        Facts {
            tid: 7,
            waits: Waits::Futex {
                address: 0x50,
                timed: true,
            },
        },
    ];
    let locks = [
        Some(Lock::Mutex),
        Some(Lock::Mutex),
        Some(Lock::Park),
        Some(Lock::Condition),
        None,
        Some(Lock::Mutex),
        Some(Lock::Once),
    ];
    assert_eq!(
        sentences(&facts.iter().collect::<Vec<_>>(), &locks),
        [
            "waiting for a mutex (futex 0x10), with 1 other",
            "waiting for a mutex (futex 0x10), with 1 other",
            "parked",
            "waiting for a condition",
            "waiting on futex 0x40",
            "on CPU",
            "waiting for an initialisation by another thread (futex 0x50) for a limited time",
        ]
    );
}

fn hinted(waiters: &[(Facts, Option<Lock>)]) -> Vec<String> {
    let names: Vec<_> = waiters.iter().map(|(facts, _)| name(facts.tid)).collect();
    let waiters: Vec<_> = waiters
        .iter()
        .zip(&names)
        .map(|((facts, lock), name)| Waiter {
            facts,
            lock: *lock,
            name,
        })
        .collect();
    // Thread 9 holds what is at 0x90, and so on; there are threads up to 20.
    let owner = |address: u64| u32::try_from(address / 16).ok();
    hints(&waiters, owner, |tid| (tid <= 20).then(|| name(tid)))
}

fn name(tid: u32) -> String {
    format!("t{tid}")
}

#[test]
fn those_who_wait_for_one_lock_are_named_together() {
    let mutex = Some(Lock::Mutex);
    assert_eq!(hinted(&[(on_futex(1, 0x90), mutex)]), [""; 0]);
    for idle in [Lock::Park, Lock::Condition, Lock::Semaphore].map(Some) {
        let pool = [(on_futex(1, 0x90), idle), (on_futex(2, 0x90), idle)];
        assert_eq!(hinted(&pool), [""; 0]);
    }
    assert_eq!(
        hinted(&[
            (on_futex(1, 0x90), mutex),
            (on_futex(2, 0x90), mutex),
            (on_futex(3, 0x80), mutex)
        ]),
        ["2 threads wait for one mutex (futex 0x90): \"t1\" (tid 1), \"t2\" (tid 2)"]
    );
    let many: Vec<_> = (1..=10).map(|tid| (on_futex(tid, 0x90), mutex)).collect();
    let [hint] = &*hinted(&many) else { panic!() };
    assert!(hint.ends_with(", \"t8\" (tid 8), and 2 more"), "{hint}");
}

#[test]
fn a_mutex_that_knows_who_holds_it_is_asked() {
    let mutex = Some(Lock::PosixMutex);
    assert_eq!(
        hinted(&[(on_futex(1, 0x90), mutex)]),
        ["1 thread waits for one mutex (futex 0x90), which \"t9\" (tid 9) holds: \"t1\" (tid 1)"]
    );
    // No thread of ours: it is not what we take it for.
    assert_eq!(hinted(&[(on_futex(1, 0x900), mutex)]), [""; 0]);
}

#[test]
fn those_who_wait_in_a_circle_are_a_deadlock() {
    let mutex = Some(Lock::PosixMutex);
    let joins = |tid, other| {
        let waits = Waits::Thread(other);
        (Facts { tid, waits }, None)
    };
    let said = hinted(&[
        joins(3, 1),
        (on_futex(1, 0x20), mutex),
        (on_futex(2, 0x10), mutex),
    ]);
    assert_eq!(
        said.last().map(String::as_str),
        Some("deadlock: \"t1\" (tid 1) waits for \"t2\" (tid 2) waits for \"t1\" (tid 1)")
    );
    assert_eq!(said.len(), 3, "{said:#?}");
    assert_eq!(hinted(&[joins(3, 1), joins(1, 2)]), [""; 0]);
    assert_eq!(
        hinted(&[joins(3, 3)]),
        ["deadlock: \"t3\" (tid 3) waits for \"t3\" (tid 3)"]
    );
}

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[test]
fn nobody_holds_what_is_no_mutex() {
    assert_eq!(super::posix_owner(0), None);
    let nothing = [0_u32; 4];
    assert_eq!(super::posix_owner(nothing.as_ptr() as u64), None);
    let held = [1_u32, 0, 77, 0];
    assert_eq!(super::posix_owner(held.as_ptr() as u64), Some(77));
}
