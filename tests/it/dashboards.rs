//! Tests of the dashboards: they follow the rules, and query only what exists.

mod drift;
mod lint;
mod promql;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// One file of `dashboards/`.
#[derive(Debug, Clone)]
struct Dashboard {
    /// Name of the file, without its extension.
    stem: String,
    json: Value,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the files of a folder with this ending, sorted by name.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    paths.sort();
    paths
}

fn all() -> Vec<Dashboard> {
    let found: Vec<Dashboard> = files("dashboards", ".json")
        .into_iter()
        .map(|path| Dashboard {
            stem: path.file_stem().expect("a name").to_string_lossy().into(),
            json: serde_json::from_str(&fs::read_to_string(&path).expect("a file"))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        })
        .collect();
    assert!(found.len() >= 3, "fleet, tasks, shutdown");
    found
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

// === impl Dashboard ===

impl Dashboard {
    /// Returns rows and panels, including the panels in collapsed rows.
    fn everything(&self) -> Vec<&Value> {
        let mut found = Vec::new();
        for panel in list(&self.json, "panels") {
            found.push(panel);
            found.extend(list(panel, "panels"));
        }
        found
    }

    /// Returns the panels without rows.
    fn panels(&self) -> Vec<&Value> {
        let mut panels = self.everything();
        panels.retain(|panel| word(panel, "type") != "row");
        panels
    }

    /// Returns the Prometheus expressions of panels and annotations, each with its location.
    fn expressions(&self) -> Vec<(String, &str)> {
        let mut found = Vec::new();
        for panel in self.panels() {
            for target in list(panel, "targets") {
                if word(&target["datasource"], "type") == "prometheus" {
                    found.push((word(panel, "title").to_owned(), word(target, "expr")));
                }
            }
        }
        for annotation in list(&self.json["annotations"], "list") {
            let place = format!("annotation {}", word(annotation, "name"));
            found.push((place, word(annotation, "expr")));
        }
        found
    }

    /// Returns the Prometheus queries of the variables.
    fn variables(&self) -> Vec<(String, &str)> {
        let all = list(&self.json["templating"], "list").iter();
        all.filter(|variable| word(variable, "type") == "query")
            .map(|variable| {
                (
                    word(variable, "name").to_owned(),
                    word(&variable["query"], "query"),
                )
            })
            .collect()
    }
}

/// A reader looks a panel up in `dashboards/README.md`.
#[test]
fn the_page_about_the_dashboards_names_every_panel_and_its_question() {
    let page = text("dashboards/README.md");
    for dashboard in all() {
        for panel in dashboard.panels() {
            let row = format!(
                "| {} | {} |",
                word(panel, "title"),
                word(panel, "description")
            );
            assert!(page.contains(&row), "dashboards/README.md lacks\n{row}");
        }
    }
}

#[test]
fn provisioning_points_at_what_it_provisions() {
    let sources = text("dashboards/provisioning/datasources/headcount.yaml");
    let lines = || {
        sources
            .lines()
            .map(|line| line.trim().trim_start_matches("- "))
    };
    let uids: Vec<&str> = lines()
        .filter_map(|line| line.strip_prefix("uid: "))
        .collect();
    assert_eq!(
        uids,
        ["headcount-prometheus", "headcount-tempo", "headcount-loki"]
    );
    for to in lines().filter_map(|line| line.strip_prefix("datasourceUid: ")) {
        assert!(uids.contains(&to), "{to}");
    }
    for line in lines().filter(|line| !line.starts_with('#')) {
        // A single `$` would be a variable of Grafana's own environment.
        assert!(!line.replace("$$", "").contains('$'), "{line}");
    }
}
