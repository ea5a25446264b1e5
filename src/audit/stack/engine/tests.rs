use super::super::{Means, folded, frames};
use super::read;
use crate::threads::own_tid;
use std::sync::mpsc::channel;

/// Starts a thread that tells its number and goes on.
fn thread(work: impl FnOnce() + Send + 'static) -> u32 {
    let (tell, told) = channel();
    std::thread::Builder::new()
        .spawn(move || {
            tell.send(own_tid()).expect("it is waited for");
            work();
        })
        .expect("a thread");
    told.recv().expect("it tells")
}

#[test]
fn a_thread_on_a_processor_is_read_by_signal() {
    let spins = thread(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    let [stack] = &read(&[spins], Means::Quiet)[..] else {
        panic!("one was asked for");
    };
    let stack = stack.as_ref().expect("it answers");
    assert!(stack.is_complete && stack.is_exact);
    let outermost = folded(frames(stack)).pop().expect("it has frames");
    let here = "headcount::audit::stack::engine::tests::thread::{closure}";
    assert_eq!(outermost.function, here);
}
