//! Programs in which something that headcount itself needs does not return.

use super::{hangs_everywhere, hangs_in_close, patient, run, wait_for_ever};
use headcount::TaskGroup;
use std::future::pending;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// Runs the scenario with this name, if it is one of these.
pub(super) fn scenario(name: &str) -> Option<ExitCode> {
    let code = match name {
        "control-wedged" => run(hangs_everywhere(), control_wedged),
        "control-wedged-for-long" => run(
            hangs_everywhere().deadline(Duration::from_secs(5)),
            control_wedged,
        ),
        "subscriber-blocks-early" => {
            tracing::subscriber::set_global_default(BlocksOnWarn).expect("it is the first");
            run(patient(), super::untracked)
        }
        "subscriber-blocks" => {
            tracing::subscriber::set_global_default(BlocksOnWarn).expect("it is the first");
            run(hangs_in_close(), super::thread_lingers)
        }
        _ => return None,
    };
    Some(code)
}

/// A waker that does not return when the control side calls it.
struct BlocksWhenWoken;

impl Wake for BlocksWhenWoken {
    fn wake(self: Arc<Self>) {
        println!("woken");
        wait_for_ever();
    }
}

pub(super) async fn control_wedged(tasks: TaskGroup) {
    let waker = Waker::from(Arc::new(BlocksWhenWoken));
    let mut draining = std::pin::pin!(tasks.draining());
    let polled = draining.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    println!("ready");
    pending::<()>().await;
}

/// A subscriber that does not return from a warning.
struct BlocksOnWarn;

impl tracing::Subscriber for BlocksOnWarn {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        wait_for_ever();
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
