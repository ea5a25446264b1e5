//! Tests that three sources agree: the metrics that `/metrics` prints, those that dashboards and
//! rules query, and those in `docs/metrics.md`.

use super::promql::{OWN, grouped, selectors};
use super::{all, files, list, text, word};
use crate::scenario::{until, wait_until};
use headcount::telemetry::{Child, Endpoint, Format, Telemetry};
use headcount::{Runtime, TaskGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The labels of each sample name.
type Printed = BTreeMap<String, BTreeSet<String>>;

/// Metrics that `/metrics` prints and nothing queries, each with the reason.
const NOT_ASKED_FOR: &[(&str, &str)] = &[(
    "process_virtual_memory_bytes",
    "says nothing of a service: allocators reserve far more than they use",
)];

/// Labels that Prometheus and the rules put on alerts.
const OF_ALERTS: [&str; 4] = ["alertname", "alertstate", "severity", "cause"];

/// An expression, and its location.
struct Asked {
    place: String,
    expr: String,
    /// Labels that the legends use.
    shown: Vec<String>,
}

/// Returns the metrics of a runtime that has all of them.
fn printed() -> Printed {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let build = |telemetry: &Telemetry| {
        let builder = Runtime::builder().print(false).signals(false);
        let builder = builder.state_folder(folder.path()).telemetry(telemetry);
        let builder = builder.textfile(folder.path().join("end.prom"));
        builder.build().expect("threads are available")
    };
    build(&nowhere()).run(async |_| {});
    // The state of the report is added to it at the very end.
    let saved = || fs::read_to_string(folder.path().join("report.json"));
    wait_until(
        || saved().is_ok_and(|report| report.contains("textfile")),
        || "it is not saved".to_owned(),
    );
    let telemetry = nowhere();
    let runtime = build(&telemetry);
    let metrics = runtime.metrics();
    let mut last = String::new();
    let report = runtime.run(async |tasks| {
        let _child = Child::register(&tasks, "proxy");
        let _endpoint = Endpoint::register(&tasks, "db");
        untracked(&tasks).await;
        // The control side sends the first heartbeat.
        until(|| {
            last = metrics.read(Format::Text);
            last.contains("headcount_runtime_heartbeat_age_seconds ")
        })
        .await;
    });
    // The runtime catches a panic of `main`.
    assert!(!report.required_failed, "{}", report.reason);
    samples(&last)
}

/// Returns telemetry to an address without a listener.
fn nowhere() -> Telemetry {
    let telemetry = Telemetry::builder().endpoint("http://127.0.0.1:9");
    telemetry.build().expect("it is an endpoint")
}

#[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
async fn untracked(tasks: &TaskGroup) {
    tasks.spawn("tracked", async {}).await.ok();
    tokio::spawn(async {}).await.ok();
}

fn samples(text: &str) -> Printed {
    let mut found = Printed::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a sample has a value");
        let selector = selectors(series).pop().expect("a sample has a name");
        let labels = selector.labels.into_iter().map(str::to_owned);
        found
            .entry(selector.name.to_owned())
            .or_default()
            .extend(labels);
    }
    found
}

/// Returns the metric family of a sample.
fn family(name: &str) -> &str {
    let ends = ["_bucket", "_sum", "_count"];
    ends.iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
}

fn in_dashboards() -> Vec<Asked> {
    let mut found = Vec::new();
    for board in all() {
        for (place, expr) in board.expressions().into_iter().chain(board.variables()) {
            found.push(Asked {
                place: format!("{}.json, {place}", board.stem),
                expr: expr.to_owned(),
                shown: Vec::new(),
            });
        }
        for panel in board.panels() {
            for target in list(panel, "targets") {
                let shown = word(target, "legendFormat").split("{{").skip(1);
                let shown = shown.filter_map(|rest| rest.split_once("}}"));
                found.push(Asked {
                    place: format!("{}.json, legend of {}", board.stem, word(panel, "title")),
                    expr: word(target, "expr").to_owned(),
                    shown: shown.map(|(label, _)| label.trim().to_owned()).collect(),
                });
            }
        }
    }
    found.retain(|asked| !asked.expr.contains("service_name"));
    found
}

/// Returns the rules, and the names that they record.
fn in_rules() -> (Vec<Asked>, BTreeSet<String>) {
    let mut found = Vec::new();
    let mut recorded = BTreeSet::new();
    for path in files("dashboards/rules", ".yml") {
        let whole = fs::read_to_string(&path).expect("a file");
        let lines = whole
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let whole: String = lines.flat_map(|line| [line, "\n"]).collect();
        for rule in whole.split("\n      - ").skip(1) {
            let (kind, name) = rule.split_once(':').expect("a rule has a name");
            let name = name.lines().next().expect("a line").trim();
            if kind == "record" {
                recorded.insert(name.to_owned());
            }
            let expr = rule.split("expr:").nth(1).unwrap_or_default();
            let ends = [
                "\n        for:",
                "\n        labels:",
                "\n        annotations:",
                "\n  - name:",
            ];
            let end = ends.iter().filter_map(|end| expr.find(end)).min();
            found.push(Asked {
                place: format!("{}, {name}", path.display()),
                expr: expr[..end.unwrap_or(expr.len())].to_owned(),
                shown: Vec::new(),
            });
        }
    }
    assert!(found.len() > 10, "the rules are found");
    (found, recorded)
}

/// Returns the names and labels that are queried but do not exist.
fn unknown(asked: &Asked, printed: &Printed, recorded: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let common = ["job", "instance", "__name__"];
    let mut known: BTreeSet<&str> = common.into();
    let mut has_recorded = false;
    for selector in selectors(&asked.expr) {
        let labels = match printed.get(selector.name) {
            Some(labels) => labels,
            None if recorded.contains(selector.name) => {
                has_recorded = true;
                continue;
            }
            None if selector.name.is_empty() => continue,
            None if OWN.contains(&selector.name) => {
                known.extend(OF_ALERTS);
                continue;
            }
            None => {
                wrong.push(format!("{}: there is no {}", asked.place, selector.name));
                continue;
            }
        };
        known.extend(labels.iter().map(String::as_str));
        let strange = selector
            .labels
            .iter()
            .filter(|label| !common.contains(label) && !labels.contains(**label));
        wrong.extend(
            strange.map(|label| format!("{}: {} has no {label}", asked.place, selector.name)),
        );
    }
    let shown = asked.shown.iter().map(String::as_str);
    let strange = grouped(&asked.expr).into_iter().chain(shown);
    if !has_recorded {
        let strange = strange.filter(|label| !known.contains(label));
        wrong.extend(strange.map(|label| format!("{}: nothing there has a {label}", asked.place)));
    }
    wrong
}

/// Returns the metric names in a text, whether in a selector or in quotes.
fn names(expr: &str) -> BTreeSet<&str> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| word.starts_with("headcount_") || word.starts_with("process_"))
        .collect()
}

/// Returns whether the metric is missing because tokio's hooks are not available.
fn without_hooks(name: &str) -> bool {
    cfg!(not(tokio_unstable)) && (name.contains("_untracked_") || name.contains("_blocking_queue_"))
}

/// Returns the families that are used but not documented.
fn undocumented<'a>(used: &BTreeSet<&'a str>, documentation: &str) -> Vec<&'a str> {
    let is_documented = |name: &str| documentation.contains(&format!("| `{name}` |"));
    let missing = used.iter().filter(|name| !is_documented(name));
    missing.copied().collect()
}

/// Returns the families that are printed but unused, and the excuses that are not needed.
fn idle(printed: &Printed, used: &BTreeSet<&str>, excuses: &[(&str, &str)]) -> Vec<String> {
    let there: BTreeSet<&str> = printed.keys().map(|name| family(name)).collect();
    let excused: BTreeSet<&str> = excuses.iter().map(|(name, _)| *name).collect();
    let idle = there
        .difference(used)
        .filter(|name| !excused.contains(*name));
    let needless = |name: &&&str| used.contains(**name) || !there.contains(**name);
    let needless = excused.iter().filter(needless);
    idle.map(|name| format!("nothing queries {name}"))
        .chain(needless.map(|name| format!("no excuse is needed for {name}")))
        .collect()
}

/// Returns the attributes that a query of a trace store uses.
fn attributes(query: &str) -> BTreeSet<&str> {
    let of = |scope: &'static str| query.split(scope).skip(1);
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_';
    let all = of("span.").chain(of("resource."));
    all.map(|rest| rest.split(ends).next().expect("a part"))
        .collect()
}

#[test]
fn queried_metrics_exist_and_existing_metrics_are_queried_and_documented() {
    let printed = printed();
    let (rules, recorded) = in_rules();
    let asked: Vec<Asked> = in_dashboards().into_iter().chain(rules).collect();
    let seen = asked.iter().filter(|asked| !without_hooks(&asked.expr));
    let wrong = seen.flat_map(|asked| unknown(asked, &printed, &recorded));
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
    let used = asked.iter().flat_map(|asked| names(&asked.expr));
    let used: BTreeSet<&str> = used
        .map(family)
        .filter(|name| !name.contains(':'))
        .collect();
    assert_eq!(undocumented(&used, &text("docs/metrics.md")), [""; 0]);
    assert_eq!(idle(&printed, &used, NOT_ASKED_FOR), [""; 0]);
}

#[test]
fn spans_have_the_attributes_that_are_asked_for() {
    let sources = ["record", "flush", "resource"];
    let sources = sources.map(|name| text(&format!("src/telemetry/otel/{name}.rs")));
    let is_written = |name: &str| {
        let literal = format!("\"{name}\"");
        sources.iter().any(|source| source.contains(&literal))
    };
    let mut seen = 0;
    for board in all() {
        for panel in board.panels() {
            for target in list(panel, "targets") {
                for name in attributes(word(target, "query")) {
                    assert!(is_written(name), "{}: no span has {name}", board.stem);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 10, "traces are asked for");
    assert!(!is_written("headcount.task.colour"));
}

#[test]
fn metrics_without_a_query_or_documentation_are_found() {
    let printed = samples("headcount_a 1\nheadcount_b_sum 1\nheadcount_c 1\n");
    let used = BTreeSet::from(["headcount_a"]);
    let excuses = [("headcount_c", "why"), ("headcount_a", "why")];
    let found = [
        "nothing queries headcount_b",
        "no excuse is needed for headcount_a",
    ];
    assert_eq!(idle(&printed, &used, &excuses), found);
    assert_eq!(undocumented(&used, "| `headcount_a` | gauge |"), [""; 0]);
    assert_eq!(undocumented(&used, "| `headcount_ab` |"), ["headcount_a"]);
    let query = "{ span.a.b = \"x\" && resource.c.d =~ \"$job\" }";
    assert_eq!(attributes(query), BTreeSet::from(["a.b", "c.d"]));
}

#[test]
fn a_missing_name_or_label_is_found() {
    let printed = samples("headcount_a{group=\"x\"} 1\nheadcount_b_bucket{le=\"1\"} 1\n");
    let recorded = BTreeSet::from(["a:headcount_a:sum".to_owned()]);
    let right =
        "sum by (group, job) (headcount_a{group=\"x\", job=~\"$job\"}) or a:headcount_a:sum";
    let cases: [(&str, &str, &[&str]); 8] = [
        (right, "group", &[]),
        ("sum by (le) (rate(headcount_b_bucket[5m]))", "le", &[]),
        ("ALERTS{alertname=\"x\"}", "severity", &[]),
        ("headcount_c", "job", &["there is no headcount_c"]),
        (
            "b:headcount_a:sum",
            "job",
            &["there is no b:headcount_a:sum"],
        ),
        (
            "headcount_a{task=\"x\"}",
            "job",
            &["headcount_a has no task"],
        ),
        (
            "sum by (task) (headcount_a)",
            "job",
            &["nothing there has a task"],
        ),
        ("headcount_a", "task", &["nothing there has a task"]),
    ];
    for (expr, shown, says) in cases {
        let asked = Asked {
            place: "here".to_owned(),
            expr: expr.to_owned(),
            shown: vec![shown.to_owned()],
        };
        let says: Vec<String> = says.iter().map(|says| format!("here: {says}")).collect();
        assert_eq!(unknown(&asked, &printed, &recorded), says, "{expr}");
    }
}
