//! Tests of what went wrong in the whole run, long before the stop, as the report says it.

use crate::scenario::{alone, in_time, quiet};
use headcount::report::{Outcome, Report};
use headcount::{TaskGroup, TaskHandle};

async fn ended<T>(tasks: impl IntoIterator<Item = TaskHandle<T>>) {
    for task in tasks {
        in_time(task).await.ok();
    }
}

/// Returns the lines between the last layer and the verdict.
fn lines(report: &Report) -> Vec<String> {
    let text = report.to_text(false);
    let lines = text.lines().skip_while(|line| !line.starts_with("├─ 3"));
    let lines = lines.filter_map(|line| line.strip_prefix("├─ ! "));
    lines.map(str::to_owned).collect()
}

/// Fails twice and panics once, each in a group.
async fn unlucky(tasks: &TaskGroup) {
    let jobs = tasks.group("jobs");
    for _ in 0..2 {
        ended([jobs.try_spawn("import", async { Err::<(), _>("no file") })]).await;
    }
    ended([tasks
        .group("rates")
        .spawn("refresh", async { panic!("no rates today") })])
    .await;
}

#[test]
fn tasks_that_failed_or_panicked_long_before_the_stop_are_in_its_report() {
    alone(|| {
        // The counters belong to the process, and each run has its own share of them.
        for _ in 0..2 {
            let report = quiet()
                .build()
                .expect("threads")
                .run(async |tasks| unlucky(&tasks).await);
            assert_eq!(
                (report.outcome, report.exit_code()),
                (Outcome::Clean, 0),
                "{report}"
            );
            assert_eq!(
                lines(&report),
                [
                    "2 tasks failed in this run: jobs/import ×2",
                    "1 task panicked in this run: rates/refresh",
                ]
            );
            let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
            assert_eq!(
                json["failed_tasks"],
                serde_json::json!({ "jobs/import": 2 })
            );
            assert_eq!(
                json["panicked_tasks"],
                serde_json::json!({ "rates/refresh": 1 })
            );
        }
        let calm = quiet().build().expect("threads").run(async |_| {});
        assert!(
            calm.failed_tasks.is_empty() && calm.panicked_tasks.is_empty(),
            "{calm}"
        );
        assert_eq!(lines(&calm), [""; 0]);
    });
}

#[test]
fn a_line_names_ten_tasks_and_counts_the_others() {
    alone(|| {
        let report = quiet().build().expect("threads").run(async |tasks| {
            for number in 10..23 {
                let name = format!("job-{number}");
                ended([tasks.try_spawn(&name, async { Err::<(), _>("no") })]).await;
            }
            ended([tasks.try_spawn("job-22", async { Err::<(), _>("no") })]).await;
        });
        let [line] = &*lines(&report) else {
            panic!("{report}");
        };
        assert_eq!(
            line,
            "14 tasks failed in this run: job-22 ×2, job-10, job-11, job-12, job-13, job-14, job-15, \
             job-16, job-17, job-18 and 3 more"
        );
        assert_eq!(report.failed_tasks.len(), 13);
    });
}

#[test]
fn names_beyond_a_hundred_share_one() {
    alone(|| {
        let report = quiet().build().expect("threads").run(async |tasks| {
            for number in 0..120 {
                let name = format!("job-{number}");
                ended([tasks.try_spawn(&name, async { Err::<(), _>("no") })]).await;
            }
        });
        assert_eq!(report.failed_tasks.len(), 100);
        assert_eq!(report.failed_tasks["_other"], 21);
    });
}

#[test]
fn the_report_does_not_repeat_a_mishap_that_it_tells_elsewhere() {
    alone(|| {
        let report = quiet().build().expect("threads").run(async |tasks| {
            let member = tasks.clone();
            tasks.spawn("late", async move {
                member.draining().await;
                panic!("too late");
            });
            Err::<(), _>("the port is taken")
        });
        assert_eq!(report.panicked_tasks["late"], 1);
        assert_eq!(report.failed_tasks["main"], 1);
        assert_eq!(lines(&report), [""; 0], "{report}");

        let report = quiet().build().expect("threads").run(async |tasks| {
            let needed = tasks.task("needed").required();
            needed.try_spawn(async { Err::<(), _>("no") });
            tasks.draining().await;
        });
        assert_eq!(report.failed_tasks["needed"], 1);
        assert_eq!(lines(&report), [""; 0], "{report}");
    });
}
