//! A service with three things that do not end: a task that ignores the drain, a task that somebody spawned past
//! headcount, and a thread that is blocked. Stop it with Ctrl-C and read all three in the report; the exit code is 3.

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
