use headcount::testing::check;
#[test]
fn a_forgotten_task() {
    check(async |tasks| {
        tasks.spawn("forgotten", std::future::pending::<()>());
    });
}
#[test]
fn clean() {
    check(async |tasks| {
        tasks.spawn("x", async {});
    });
}
#[test]
fn un() {
    check(async |_| {
        tokio::spawn(std::future::pending::<()>());
    });
}
#[test]
fn thr() {
    check(async |_| {
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(100)));
    });
}
#[test]
fn bl() {
    check(async |t| {
        t.spawn_blocking("blk", || {
            std::thread::sleep(std::time::Duration::from_secs(100))
        });
    });
}
#[test]
fn child() {
    check(async |_| {
        std::process::Command::new("sleep")
            .arg("5")
            .spawn()
            .unwrap();
    });
}
#[test]
fn child2() {
    check(async |t| {
        t.spawn("f", async {
            std::process::Command::new("sleep")
                .arg("6")
                .spawn()
                .unwrap();
        })
        .await
        .unwrap();
    });
}
