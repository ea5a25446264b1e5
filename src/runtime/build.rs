//! The building of a tokio runtime on a system that may refuse threads or descriptors.
//!
//! [`tokio::runtime::Builder::build`] returns an error for some of these refusals. For others it
//! panics, and if some workers have started by then, the panic never ends: it waits for them. So
//! what tokio needs is tried first, and tokio then builds on a thread of its own. A panic there is
//! an error here, and so is a build that takes too long.

use super::trial;
use crate::registry::panics;
use crate::threads;
use std::io;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// The threads that must be available besides the workers: one of the blocking pool, and headcount's
/// own, of which some start only with the shutdown.
const OTHERS: usize = 12;
/// The longest time for a build, which usually takes less than a millisecond.
const LONGEST: Duration = Duration::from_secs(10);

/// Builds the runtime, after a trial of its `workers`, of [`OTHERS`], and of its descriptors.
///
/// # Errors
///
/// Returns an error if the system refuses a thread or a descriptor. If it refuses one only after
/// the trial has succeeded, the workers that have started stay until the process ends.
///
/// The panic hook of headcount must be installed: it is how a panic is noticed that does not end.
pub(super) fn build(mut builder: Builder, root: u64, workers: usize) -> io::Result<Runtime> {
    if workers > 0 {
        trial::try_start(root, workers + OTHERS)?;
    }
    try_descriptors()?;
    let (tell, told) = sync_channel(2);
    let thread: Arc<OnceLock<ThreadId>> = Arc::default();
    let (own, refused) = (Arc::clone(&thread), tell.clone());
    let _listener = panics::listen(move |words| {
        if own.get() == Some(&std::thread::current().id()) {
            let words = words.unwrap_or("panicked twice").to_owned();
            refused.try_send(Err(io::Error::other(words))).ok();
        }
    });
    let building = threads::start_own(root, "headcount-build", move || {
        thread.get_or_init(|| std::thread::current().id());
        // Fails only if the caller has given up.
        tell.send(builder.build()).ok();
        threads::own_tid()
    })?;
    let built = told
        .recv_timeout(LONGEST)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    trial::await_end(building);
    Ok(built)
}

/// Opens as many descriptors as a runtime does, and closes them.
///
/// A runtime has an epoll instance, an eventfd, and three ends of the socket pair through which
/// tokio hears of signals. If that pair cannot be opened, tokio panics.
fn try_descriptors() -> io::Result<()> {
    let _open = [io::pipe()?, io::pipe()?, io::pipe()?];
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Builds a runtime whose workers the system refuses from the given one on.
    fn refused_from(first: usize) -> String {
        panics::install();
        let mut builder = Builder::new_multi_thread();
        let asked = AtomicUsize::new(0);
        // Tokio calls it for each thread, on the thread that starts it.
        builder.worker_threads(4).thread_name_fn(move || {
            let asked = asked.fetch_add(1, Ordering::Relaxed);
            assert!(asked < first, "no more threads");
            "test".to_owned()
        });
        let error = build(builder, 0, 0).expect_err("a worker is refused");
        error.to_string()
    }

    #[test]
    fn a_panic_of_tokio_is_an_error_even_if_it_never_ends() {
        for first in [0, 2] {
            let refused = refused_from(first);
            assert!(refused.ends_with(": no more threads"), "{refused}");
        }
    }

    #[test]
    fn threads_whose_stacks_do_not_fit_are_an_error_of_the_build() {
        let built = crate::Runtime::builder()
            .print(false)
            .configure(|tokio| {
                tokio.thread_stack_size(1 << 46);
            })
            .build();
        let error = built.expect_err("no machine has 64 TiB for a stack");
        assert!(matches!(error, crate::BuildError::System(_)), "{error:?}");
    }
}
