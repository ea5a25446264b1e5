//! A service with three things that do not end: a task that ignores the drain, a task that a dependency spawned, and a
//! thread that sleeps. Stop it with Ctrl-C, and read them in the report; the exit code is 3.

use headcount::ThreadKind;
use std::time::Duration;

fn main() -> headcount::Report {
    headcount::run("culprits", async |tasks| {
        tasks
            .group("http")
            .spawn("accept", std::future::pending::<()>());
        #[expect(clippy::disallowed_methods, reason = "this is what a dependency does")]
        tokio::spawn(std::future::pending::<()>());
        tasks.spawn_thread("watcher", ThreadKind::Tracked, || {
            std::thread::sleep(Duration::from_secs(1000));
        });
        println!("running as {}", std::process::id());
        tasks.draining().await;
    })
}
