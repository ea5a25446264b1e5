//! Tests with `--cfg tokio_unstable`.

use super::bare;
use crate::scenario::{GUARD, Gate, alone, hasty, in_time, quiet, told, until};
use headcount::report::UntrackedRow;
use headcount::{Report, TaskGroup};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Returns the line of a spawn site, which must be in this file.
fn line(site: &UntrackedRow) -> u32 {
    let spawned = site.spawned.expect("it is observed");
    assert_eq!(spawned.file(), file!());
    spawned.line()
}

/// Returns live and started tasks of each spawn site, by line.
fn sites(tasks: &TaskGroup) -> Vec<(u32, u64, u64)> {
    let snapshot = tasks.snapshot();
    let rows = snapshot.untracked().expect("they are observed");
    let mut sites: Vec<_> = rows
        .iter()
        .map(|row| (line(row), row.live, row.started.unwrap()))
        .collect();
    sites.sort_unstable();
    sites
}

/// Returns what the report says about each spawn site, by line.
fn found(report: &Report) -> Vec<(u32, u64, u64)> {
    let sites = report.cancel.untracked.as_ref().expect("they are observed");
    let mut found: Vec<_> = sites
        .iter()
        .map(|site| (line(site), site.dropped, site.live))
        .collect();
    found.sort_unstable();
    found
}

const CLEAN: &str = "clean 0: main ended; 0 of 0 ended; 0 cancelled";

#[test]
fn untracked_tasks_are_counted_by_spawn_site() {
    alone(|| {
        let mut line = 0;
        let report = quiet().build().unwrap().run(async |tasks| {
            assert_eq!(sites(&tasks), []);
            let (release, held) = oneshot::channel::<()>();
            for _ in 0..3 {
                line = bare(pending::<()>()).0;
            }
            let (other, released) = bare(async { held.await.unwrap() });
            drop(tasks.spawn("tracked", async {}));
            assert_eq!(sites(&tasks), [(line, 3, 3), (other, 1, 1)]);
            let group = tasks.group("g").snapshot();
            assert_eq!(group.untracked().map(<[_]>::len), None);
            release.send(()).unwrap();
            in_time(released).await.unwrap();
            until(|| sites(&tasks) == [(line, 3, 3), (other, 0, 1)]).await;
            until(|| tasks.snapshot().tasks().len() == 1).await;
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 0 ended; 0 cancelled; untracked ×3 +0"
        );
        assert_eq!(found(&report), [(line, 3, 0)]);
        assert_eq!(report.not_observed, [""; 0]);
    });
}

#[test]
fn untracked_tasks_of_a_current_thread_runtime_are_counted_too() {
    alone(|| {
        let mut line = 0;
        let runtime = quiet().current_thread().build().unwrap();
        let report = runtime.run(async |tasks| {
            line = bare(pending::<()>()).0;
            in_time(tasks.spawn("tracked", async {})).await.unwrap();
            assert_eq!(sites(&tasks), [(line, 1, 1)]);
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 0 ended; 0 cancelled; untracked ×1 +0"
        );
        assert_eq!(found(&report), [(line, 1, 0)]);
    });
}

#[test]
fn the_tasks_of_a_join_set_are_counted_and_end_with_it() {
    #[track_caller]
    fn add(set: &mut JoinSet<()>, n: u32) -> u32 {
        set.spawn(async move {
            if n >= 5 {
                pending::<()>().await;
            }
        });
        std::panic::Location::caller().line()
    }
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let mut set = JoinSet::new();
            let mut line = 0;
            for n in 0..10 {
                line = add(&mut set, n);
            }
            for _ in 0..5 {
                in_time(set.join_next()).await.unwrap().unwrap();
            }
            until(|| sites(&tasks) == [(line, 5, 10)]).await;
            drop(set);
            until(|| sites(&tasks) == [(line, 0, 10)]).await;
        });
        assert_eq!(told(&report), CLEAN);
    });
}

#[test]
fn a_plain_spawn_in_a_tracked_task_is_untracked() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let nested = tasks.spawn("outer", async {
                let spawns = async { bare(pending::<()>()).0 };
                let (outer, inner) = bare(spawns);
                (outer, in_time(inner).await.unwrap())
            });
            let (outer, inner) = in_time(nested).await.unwrap();
            until(|| sites(&tasks) == [(inner, 1, 1), (outer, 0, 1)]).await;
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 0 ended; 0 cancelled; untracked ×1 +0"
        );
    });
}

/// Spawns bypassing headcount when it is dropped.
struct Spawns;

const DROP_LINE: u32 = line!() + 4;

impl Drop for Spawns {
    fn drop(&mut self) {
        drop(bare(pending::<()>()));
    }
}

#[test]
fn a_plain_spawn_in_a_drop_is_untracked() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("group");
            let (a, b, c) = (Spawns, Spawns, Spawns);
            in_time(tasks.spawn("completes", async move { drop(a) }))
                .await
                .unwrap();
            drop(group.spawn("cancelled", async move {
                pending::<()>().await;
                drop(b);
            }));
            assert_eq!(in_time(group.cancel()).await, 0);
            let aborted = tasks.spawn("aborted", async move {
                pending::<()>().await;
                drop(c);
            });
            aborted.cancel();
            assert!(in_time(aborted).await.unwrap_err().is_cancelled());
            until(|| sites(&tasks) == [(DROP_LINE, 3, 3)]).await;
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 0 ended; 0 cancelled; untracked ×3 +0"
        );
    });
}

#[test]
fn a_spawn_in_a_drop_while_the_runtime_closes_is_counted_out() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |_| {
            for _ in 0..50 {
                let spawns = Spawns;
                drop(bare(async move {
                    pending::<()>().await;
                    drop(spawns);
                }));
            }
        });
        // A task spawned on a closed runtime is dropped at once, and was never live.
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 0 ended; 0 cancelled; untracked ×50 +0"
        );
    });
}

#[test]
fn blocking_work_and_our_own_tasks_never_count() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            for _ in 0..100 {
                in_time(tasks.spawn_blocking("blocking", || ()))
                    .await
                    .unwrap();
                #[expect(clippy::disallowed_methods, reason = "the call must not count")]
                in_time(tokio::task::spawn_blocking(|| ())).await.unwrap();
            }
            in_time(tokio::fs::metadata("/")).await.unwrap();
            let group = tasks.group("group");
            drop(group.spawn("ignores", pending::<()>()));
            assert_eq!(in_time(group.cancel()).await, 0);
            let member = group.clone();
            drop(group.spawn("member", async move { member.draining().await }));
            assert_eq!(in_time(group.drain()).await, 0);
            in_time(group.wait()).await;
            assert_eq!(sites(&tasks), []);
        });
        assert_eq!(told(&report), CLEAN);
        assert_eq!(report.cancel.untracked, Some(Vec::new()));
    });
}

#[test]
fn a_great_churn_of_untracked_tasks_ends_at_none() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let mut line = 0;
            for round in 0..20 {
                let (done, mut all) = mpsc::channel::<()>(1);
                for n in 0..1_000 {
                    let done = done.clone();
                    let (at, handle) = bare(async move {
                        for _ in 0..n % 3 {
                            tokio::task::yield_now().await;
                        }
                        drop(done);
                    });
                    line = at;
                    if n % 7 == 0 {
                        handle.abort();
                    }
                }
                drop(done);
                assert_eq!(in_time(all.recv()).await, None, "round {round}");
            }
            until(|| sites(&tasks) == [(line, 0, 20_000)]).await;
        });
        assert_eq!(told(&report), CLEAN);
    });
}

#[test]
fn an_untracked_task_that_never_yields_lingers() {
    alone(|| {
        let gate = Gate::default();
        let report = hasty().build().unwrap().run(async |_| {
            let (inside, held) = (Gate::default(), gate.clone());
            let told = inside.clone();
            drop(bare(async move {
                told.open();
                held.wait();
            }));
            inside.wait();
        });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 0 ended; 0 cancelled; untracked ×0 +1; \
             thread headcount-work (worker) holds nothing"
        );
    });
}

/// The captured log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_spawn_site_is_warned_of_once() {
    alone(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .init();
        let mut lines = [0; 2];
        let report = quiet().build().unwrap().run(async |tasks| {
            for _ in 0..10 {
                let (line, handle) = bare(async {});
                in_time(handle).await.unwrap();
                lines[0] = line;
            }
            let (line, handle) = bare(async {});
            in_time(handle).await.unwrap();
            lines[1] = line;
            until(|| sites(&tasks).iter().all(|site| site.1 == 0)).await;
        });
        assert_eq!(told(&report), CLEAN);
        let begun = Instant::now();
        let logged = loop {
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            let lines: Vec<_> = text
                .lines()
                .map(str::trim_start)
                .map(str::to_owned)
                .collect();
            if lines.iter().any(|line| line.contains("shutdown completed")) {
                break lines;
            }
            assert!(begun.elapsed() < GUARD, "{text}");
            std::thread::yield_now();
        };
        let warning = |line| {
            format!(
                "WARN headcount::task: untracked task: it bypasses headcount, so shutdown will drop it without \
                 draining spawned={}:{line}:",
                file!()
            )
        };
        for line in lines {
            let warnings = logged
                .iter()
                .filter(|text| text.starts_with(&warning(line)));
            assert_eq!(warnings.count(), 1, "{logged:#?}");
        }
        assert_eq!(logged.len(), 3, "{logged:#?}");
    });
}
