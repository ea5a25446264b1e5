//! Tests of counters by name: one row per name, in order, and only those of a group and its
//! subgroups.

use crate::scenario::{alone, in_time, quiet, told};
use headcount::TaskGroup;
use std::future::{pending, ready};

/// Returns group, name, number ever started, and number of live tasks.
fn counted(tasks: &TaskGroup) -> Vec<(&'static str, &'static str, u64, u64)> {
    let counters = tasks.counters();
    let rows = counters
        .iter()
        .map(|row| (row.group, row.name, row.started, row.live()));
    rows.collect()
}

#[test]
fn a_name_has_one_row_for_all_spawn_sites_and_rows_stay_sorted() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let (http, httpd) = (tasks.group("http"), tasks.group("httpd"));
            let inner = http.group("inner");
            in_time(http.spawn("b", ready(()))).await.unwrap();
            drop(http.spawn("b", pending::<()>()));
            in_time(httpd.spawn("b", ready(()))).await.unwrap();
            in_time(inner.spawn("b", ready(()))).await.unwrap();
            assert_eq!(
                counted(&http),
                [("http", "b", 2, 1), ("http/inner", "b", 1, 0)]
            );
            in_time(http.task("b").daemon().spawn(ready(())))
                .await
                .unwrap();
            in_time(http.spawn("a", ready(()))).await.unwrap();
            let of_http = [
                ("http", "a", 1, 0),
                ("http", "b", 3, 1),
                ("http/inner", "b", 1, 0),
            ];
            assert_eq!(counted(&http), of_http);
            let main = tasks.counters();
            assert_eq!((main[0].group, main[0].name), ("", "main"));
            assert_eq!(counted(&tasks)[1..4], of_http);
            assert_eq!(counted(&tasks)[4..], [("httpd", "b", 1, 0)]);
            assert_eq!(in_time(http.cancel()).await, 0);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}
