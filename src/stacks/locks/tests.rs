use super::{Lock, Waiter, hints, sentences};
use crate::audit::waits::{ThreadWait, Wait};
use crate::stacks::frame::Frame;

fn frame(function: &str, file: Option<&str>) -> Frame {
    Frame {
        function: function.to_owned(),
        file: file.map(str::to_owned),
        line: file.map(|_| 1),
        waits_for: None,
    }
}

fn on_futex(tid: u32, address: u64) -> ThreadWait {
    ThreadWait {
        tid,
        wait: Wait::Futex {
            address,
            timed: false,
        },
    }
}

#[test]
fn the_innermost_frames_show_the_kind_of_lock() {
    let of = |frames: &[(&str, Option<&str>)]| {
        let frames: Vec<_> = frames
            .iter()
            .map(|(name, file)| frame(name, *file))
            .collect();
        Lock::of(&frames)
    };
    // As `backtrace` names them, in debug and in optimised programs, with std 1.95.
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
    // With debug information for glibc.
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
fn a_lock_known_from_the_stack_is_named_instead_of_a_futex() {
    let threads = [
        on_futex(1, 0x10),
        on_futex(2, 0x10),
        on_futex(3, 0x20),
        on_futex(4, 0x30),
        on_futex(5, 0x40),
        ThreadWait {
            tid: 6,
            wait: Wait::OnCpu,
        },
        ThreadWait {
            tid: 7,
            wait: Wait::Futex {
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
        sentences(&threads.iter().collect::<Vec<_>>(), &locks),
        [
            "waiting for a mutex (futex 0x10), along with 1 other thread",
            "waiting for a mutex (futex 0x10), along with 1 other thread",
            "parked",
            "waiting for a condition",
            "waiting on futex 0x40",
            "on CPU",
            "waiting for an initialisation by another thread (futex 0x50) with a timeout",
        ]
    );
}

fn hinted(waiters: &[(ThreadWait, Option<Lock>)]) -> Vec<String> {
    let names: Vec<_> = waiters.iter().map(|(thread, _)| name(thread.tid)).collect();
    let waiters: Vec<_> = waiters
        .iter()
        .zip(&names)
        .map(|((thread, lock), name)| Waiter {
            thread,
            lock: *lock,
            name,
        })
        .collect();
    // Thread 9 holds the mutex at 0x90, and so on; there are threads up to 20.
    let owner = |address: u64| u32::try_from(address / 16).ok();
    hints(&waiters, owner, |tid| (tid <= 20).then(|| name(tid)))
}

fn name(tid: u32) -> String {
    format!("t{tid}")
}

#[test]
fn threads_that_wait_for_one_lock_are_named_together() {
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
fn the_owner_of_a_posix_mutex_is_named() {
    let mutex = Some(Lock::PosixMutex);
    assert_eq!(
        hinted(&[(on_futex(1, 0x90), mutex)]),
        ["1 thread waits for one mutex (futex 0x90), held by \"t9\" (tid 9): \"t1\" (tid 1)"]
    );
    // Not a thread of this process, so the memory is not a mutex.
    assert_eq!(hinted(&[(on_futex(1, 0x900), mutex)]), [""; 0]);
}

#[test]
fn threads_that_wait_in_a_cycle_are_a_deadlock() {
    let mutex = Some(Lock::PosixMutex);
    let joins = |tid, other| {
        let wait = Wait::Thread(other);
        (ThreadWait { tid, wait }, None)
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
fn the_owner_of_a_posix_mutex_is_read_from_its_memory() {
    assert_eq!(super::posix_owner(0), None);
    let nothing = [0_u32; 4];
    assert_eq!(super::posix_owner(nothing.as_ptr() as u64), None);
    let held = [1_u32, 0, 77, 0];
    assert_eq!(super::posix_owner(held.as_ptr() as u64), Some(77));
}
