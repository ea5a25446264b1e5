//! A service that leaves three things behind: a task that ignores the drain, a task that a dependency spawned with plain
//! `tokio::spawn`, and a blocked thread. Stop it with Ctrl-C: the report names all three, and the exit code is 3.

use headcount::ThreadKind;

#[expect(clippy::disallowed_methods, reason = "a dependency does it")]
fn main() -> headcount::Report {
    headcount::run("orders", async |tasks| {
        let http = tasks.group("http");
        http.spawn("accept", std::future::pending::<()>());
        tokio::spawn(std::future::pending::<()>());
        tasks.spawn_thread("pg-reader", ThreadKind::Tracked, std::thread::park);
        println!("running, pid {}: Ctrl-C stops it", std::process::id());
        tasks.draining().await;
    })
}
