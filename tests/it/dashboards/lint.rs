//! The rules that every dashboard follows, each with a fault that it must find.

use super::promql::selectors;
use super::{Dashboard, all, list, word};
use serde_json::{Value, json};
use std::collections::BTreeSet;

struct Rule {
    says: &'static str,
    /// Finds the violations of the rule.
    find: fn(&Dashboard) -> Vec<String>,
    /// Plants a violation.
    plant: fn(&mut Value),
}

const RULES: [Rule; 18] = [
    Rule {
        says: "the version of the schema is 42",
        find: |board| said(board.json["schemaVersion"] != 42, "another version"),
        plant: |json| json["schemaVersion"] = json!(41),
    },
    Rule {
        says: "the uid is fixed, and the file's name",
        find: |board| {
            let uid = format!("headcount-{}", board.stem);
            said(word(&board.json, "uid") != uid, "another uid")
        },
        plant: |json| json["uid"] = json!("cfb2k7d1"),
    },
    Rule {
        says: "it cannot be edited",
        find: |board| said(board.json["editable"] != false, "it can be edited"),
        plant: |json| json["editable"] = json!(true),
    },
    Rule {
        says: "a data source is a variable, everywhere",
        find: datasources,
        plant: |json| {
            panel(json)["targets"][0]["datasource"]["uid"] = json!("headcount-prometheus");
        },
    },
    Rule {
        says: "the title of a panel is unique",
        find: titles,
        plant: |json| panel(json)["title"] = json!("Restarts"),
    },
    Rule {
        says: "the description of a panel is a question",
        find: |board| panels(board, |panel| word(panel, "description").contains('?')),
        plant: |json| panel(json)["description"] = json!("Instances."),
    },
    Rule {
        says: "a panel has a unit",
        find: |board| {
            panels(board, |panel| {
                !word(&panel["fieldConfig"]["defaults"], "unit").is_empty()
            })
        },
        plant: |json| panel(json)["fieldConfig"]["defaults"]["unit"] = json!(""),
    },
    Rule {
        says: "an id is unique",
        find: ids,
        plant: |json| panel(json)["id"] = json!(3),
    },
    Rule {
        says: "no panel covers another, or leaves the page",
        find: places,
        plant: |json| panel(json)["gridPos"]["w"] = json!(5),
    },
    Rule {
        says: "job and instance are matched in every selector",
        find: |board| {
            expressions(board, |selector| {
                ["job", "instance"]
                    .iter()
                    .all(|label| selector.labels.contains(label))
            })
        },
        plant: |json| ask(json, r#"count(headcount_build_info{job=~"$job"})"#),
    },
    Rule {
        says: "a counter is in a rate or an increase",
        find: |board| {
            expressions(board, |selector| {
                let counts = ["_total", "_bucket", "_sum", "_count"];
                let is_counter = counts.iter().any(|end| selector.name.ends_with(end));
                !is_counter
                    || ["rate(", "increase("]
                        .iter()
                        .any(|call| selector.before.ends_with(call))
            })
        },
        plant: |json| {
            ask(
                json,
                r#"headcount_warnings_total{job=~"$job", instance=~"$instance"}"#,
            );
        },
    },
    Rule {
        says: "a rate is over $__rate_interval, an increase over that or the whole range",
        find: |board| {
            expressions(board, |selector| {
                match selector
                    .before
                    .rsplit(|c: char| !c.is_alphanumeric())
                    .nth(1)
                {
                    Some("rate" | "irate") => selector.window == Some("$__rate_interval"),
                    Some("increase") => {
                        matches!(selector.window, Some("$__rate_interval" | "$__range"))
                    }
                    _ => true,
                }
            })
        },
        plant: |json| {
            ask(
                json,
                r#"rate(headcount_warnings_total{job=~"$job", instance=~"$instance"}[5m])"#,
            );
        },
    },
    Rule {
        says: "metrics that every process has are queried only for targets with headcount",
        find: strangers,
        plant: |json| {
            ask(
                json,
                r#"sum(process_threads{job=~"$job", instance=~"$instance"})"#,
            );
        },
    },
    Rule {
        says: "job and instance are variables with an all option, and links keep them",
        find: variables,
        plant: |json| json["links"][0]["includeVars"] = json!(false),
    },
    Rule {
        says: "health comes first, then work, then saturation",
        find: rows,
        plant: |json| json["panels"][0]["title"] = json!("Saturation"),
    },
    Rule {
        says: "graphs of task durations have exemplars",
        find: exemplars,
        plant: |json| {
            ask(
                json,
                r#"histogram_quantile(0.5, sum by (le) (rate(headcount_task_duration_seconds_bucket{job=~"$job", instance=~"$instance"}[$__rate_interval])))"#,
            );
        },
    },
    Rule {
        says: "a link leads to an existing dashboard, and keeps the time range",
        find: links,
        plant: |json| json["links"][0]["url"] = json!("/d/headcount-task"),
    },
    Rule {
        says: "every used variable exists",
        find: used_variables,
        plant: |json| {
            ask(
                json,
                r#"count(headcount_build_info{job=~"$job", instance=~"$instance", version="$version"})"#,
            );
        },
    },
];

fn said(is_wrong: bool, what: &str) -> Vec<String> {
    is_wrong.then(|| what.to_owned()).into_iter().collect()
}

/// Returns the titles of the panels for which `holds` is false.
fn panels(board: &Dashboard, holds: fn(&Value) -> bool) -> Vec<String> {
    let wrong = board.panels().into_iter().filter(|panel| !holds(panel));
    wrong.map(|panel| word(panel, "title").to_owned()).collect()
}

/// Returns the expressions with a selector for which `holds` is false.
fn expressions(board: &Dashboard, holds: fn(&super::promql::Selector<'_>) -> bool) -> Vec<String> {
    let wrong = board.expressions().into_iter();
    wrong
        .filter(|(_, expr)| !selectors(expr).iter().all(holds))
        .map(|(place, expr)| format!("{place}: {expr}"))
        .collect()
}

fn datasources(board: &Dashboard) -> Vec<String> {
    let is_variable = |value: &Value| {
        let source = &value["datasource"];
        let pair = (word(source, "type"), word(source, "uid"));
        [
            ("prometheus", "${datasource}"),
            ("tempo", "${traces}"),
            ("loki", "${logs}"),
        ]
        .contains(&pair)
    };
    let annotations = list(&board.json["annotations"], "list").iter();
    let variables = list(&board.json["templating"], "list").iter();
    let queries = variables.filter(|variable| word(variable, "type") == "query");
    let panels = board.panels().into_iter();
    let all = panels.flat_map(|panel| list(panel, "targets").iter().chain([panel]));
    all.chain(annotations)
        .chain(queries)
        .filter(|value| !is_variable(value))
        .map(|value| {
            format!(
                "{}{}: {}",
                word(value, "title"),
                word(value, "name"),
                value["datasource"]
            )
        })
        .collect()
}

fn titles(board: &Dashboard) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let panels = board.panels().into_iter();
    let titles = panels.map(|panel| word(panel, "title"));
    let wrong = titles.filter(|title| title.is_empty() || !seen.insert(*title));
    wrong.map(str::to_owned).collect()
}

fn ids(board: &Dashboard) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let ids = board
        .everything()
        .into_iter()
        .map(|panel| panel["id"].as_u64());
    let wrong = ids.filter(|id| id.is_none() || !seen.insert(*id));
    wrong.map(|id| format!("{id:?}")).collect()
}

/// Returns left, right, top and bottom.
fn place(panel: &Value) -> [u64; 4] {
    let of = |key: &str| panel["gridPos"][key].as_u64().expect("a whole number");
    let (x, y) = (of("x"), of("y"));
    [x, x + of("w"), y, y + of("h")]
}

fn places(board: &Dashboard) -> Vec<String> {
    let panels = board.everything();
    let mut wrong = Vec::new();
    for (number, panel) in panels.iter().enumerate() {
        let own = place(panel);
        if own[1] > 24 || own[0] == own[1] || own[2] == own[3] {
            wrong.push(format!("{} leaves the page", word(panel, "title")));
        }
        for other in &panels[..number] {
            let theirs = place(other);
            let beside = own[1] <= theirs[0] || theirs[1] <= own[0];
            let below = own[3] <= theirs[2] || theirs[3] <= own[2];
            if !beside && !below {
                wrong.push(format!(
                    "{} covers {}",
                    word(panel, "title"),
                    word(other, "title")
                ));
            }
        }
    }
    wrong
}

fn strangers(board: &Dashboard) -> Vec<String> {
    let wrong = board.expressions().into_iter().filter(|(_, expr)| {
        let all = selectors(expr);
        let is_common = |name: &str| name == "up" || name.starts_with("process_");
        let common = all.iter().filter(|one| is_common(one.name)).count();
        let ours = all.iter().filter(|one| one.name == "headcount_build_info");
        common > 0 && ours.count() == 0
    });
    wrong
        .map(|(place, expr)| format!("{place}: {expr}"))
        .collect()
}

fn variables(board: &Dashboard) -> Vec<String> {
    let all = list(&board.json["templating"], "list");
    let holds = |name: &str| {
        all.iter().any(|variable| {
            word(variable, "name") == name
                && variable["multi"] == true
                && variable["includeAll"] == true
                && variable["allValue"] == ".+"
                // Refreshed when the time range changes.
                && variable["refresh"] == 2
        })
    };
    let missing = ["job", "instance"].into_iter().filter(|name| !holds(name));
    let links = list(&board.json, "links").iter();
    let forget = links.filter(|link| link["includeVars"] != true || link["keepTime"] != true);
    missing
        .map(str::to_owned)
        .chain(forget.map(|link| word(link, "title").to_owned()))
        .chain(said(list(&board.json, "links").is_empty(), "no links"))
        .collect()
}

fn rows(board: &Dashboard) -> Vec<String> {
    let rows = list(&board.json, "panels").iter();
    let titles: Vec<&str> = rows
        .filter(|panel| word(panel, "type") == "row")
        .map(|row| word(row, "title"))
        .collect();
    let first = list(&board.json, "panels").first();
    let is_row = first.is_some_and(|panel| word(panel, "type") == "row");
    said(
        !is_row || !titles.starts_with(&["Health", "Work", "Saturation"]),
        &format!("{titles:?}"),
    )
}

fn exemplars(board: &Dashboard) -> Vec<String> {
    panels(board, |panel| {
        let targets = list(panel, "targets");
        let asks = |target: &Value| {
            word(target, "expr").contains("headcount_task_duration_seconds_bucket")
        };
        !targets.iter().any(asks) || targets.iter().any(|target| target["exemplar"] == true)
    })
}

/// Returns every text in a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(values) => values.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

fn links(board: &Dashboard) -> Vec<String> {
    let there = ["headcount-fleet", "headcount-tasks", "headcount-shutdown"];
    let all = texts(&board.json).into_iter();
    all.filter_map(|text| Some((text, text.strip_prefix("/d/")?)))
        .filter(|(_, rest)| {
            let (uid, kept) = rest
                .split_once('?')
                .unwrap_or((rest, "${__url_time_range}"));
            !there.contains(&uid) || !kept.contains("${__url_time_range}")
        })
        .map(|(text, _)| text.to_owned())
        .collect()
}

fn used_variables(board: &Dashboard) -> Vec<String> {
    let known = list(&board.json["templating"], "list").iter();
    let known: BTreeSet<&str> = known.map(|variable| word(variable, "name")).collect();
    let all = texts(&board.json).into_iter();
    let used = all.flat_map(|text| text.split('$').skip(1));
    used.map(|rest| rest.trim_start_matches('{'))
        .map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .expect("a part")
        })
        .filter(|name| !name.starts_with("__") && !known.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Returns the first panel that is not a row.
fn panel(json: &mut Value) -> &mut Value {
    &mut json["panels"][1]
}

fn ask(json: &mut Value, expr: &str) {
    panel(json)["targets"][0]["expr"] = json!(expr);
}

#[test]
fn every_dashboard_follows_every_rule() {
    for board in all() {
        for rule in &RULES {
            let found = (rule.find)(&board);
            assert!(
                found.is_empty(),
                "{}.json: {}: {found:#?}",
                board.stem,
                rule.says
            );
        }
    }
}

#[test]
fn every_rule_finds_its_planted_fault_and_no_other_rule_does() {
    let whole = all().into_iter().find(|board| board.stem == "fleet");
    let whole = whole.expect("there is a fleet");
    for planted in &RULES {
        let mut board = whole.clone();
        (planted.plant)(&mut board.json);
        let broken = RULES.iter().filter(|rule| !(rule.find)(&board).is_empty());
        let broken: Vec<&str> = broken.map(|rule| rule.says).collect();
        assert_eq!(broken, [planted.says]);
    }
}
