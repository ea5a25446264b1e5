//! Code of a dependency that spawns bypassing headcount, because it knows only tokio.

#![expect(clippy::disallowed_methods, reason = "dependencies spawn like this")]

use crate::host::Host;
use crate::{FOR_EVER, begun};
use std::thread;

pub(crate) fn bare_spawn(_host: &Host<'_>) {
    tokio::spawn(keep_alive()); // mark: bare-spawn
}

async fn keep_alive() {
    begun();
    std::future::pending::<()>().await;
}

pub(crate) fn bare_spawn_on_worker(_host: &Host<'_>) {
    tokio::spawn(parse_for_ever()); // mark: spawn of bare-spawn-on-worker
}

async fn parse_for_ever() {
    begun();
    thread::sleep(FOR_EVER); // mark: bare-spawn-on-worker
}

pub(crate) fn bare_spawn_blocking(_host: &Host<'_>) {
    tokio::task::spawn_blocking(compress);
}

fn compress() {
    begun();
    thread::sleep(FOR_EVER); // mark: bare-spawn-blocking
}
