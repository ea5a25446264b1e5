//! The keys of a `prewarm` task.

use std::path::PathBuf;
use std::time::Duration;

use crate::service::endpoint::Check;
use crate::service::prewarm::PrewarmSettings;

use super::graph::Link;
use super::process::{depends_on, words};
use super::table::Table;
use super::value::{DAY, Value};

/// The examples in messages.
const FILES: &str = "files = [\"/srv/app/data\"]";
const HTTP: &str = "http = [\"http://127.0.0.1:8080/warm\"]";
const COMMANDS: &str = "commands = [[\"./warm\", \"--all\"]]";
/// The most entries of a list.
const MOST: usize = 1000;

/// Reads the table, and adds the references to other tasks to `links`.
pub(super) fn read(task: &str, table: &mut Table<'_>, links: &mut Vec<Link>) -> PrewarmSettings {
    let default = PrewarmSettings::default();
    let files = table.or("files", default.files, |value| {
        let files = value.list_up_to(MOST, "entries", FILES)?;
        let path = |value: &Value<'_>| value.filled("\"/srv/app/data\"").map(PathBuf::from);
        files.iter().map(path).collect()
    });
    let most_bytes = table.or("files_size", default.most_bytes, |value| {
        value.size(1024..=1 << 40)
    });
    let http = table.or("http", default.http, |value| {
        let urls = value.list_up_to(MOST, "entries", HTTP)?;
        urls.iter().map(url).collect()
    });
    let commands = table.or("commands", default.commands, |value| {
        let commands = value.list_up_to(MOST, "entries", COMMANDS)?;
        let command = |value| words(value, "[\"program\", \"argument\"]");
        Some(commands.iter().map(command).collect())
    });
    let depends_on = table.or("depends_on", default.depends_on, |value| {
        depends_on(task, value, links)
    });
    let concurrency = table.or("concurrency", default.concurrency, |value| {
        value.whole(1..=64u16).map(usize::from)
    });
    let timeout = table.or("timeout", default.timeout, |value| {
        value.duration(Duration::from_millis(10)..=DAY)
    });
    let required = table.or("required", default.required, Value::flag);
    if !files.written && !http.written && !commands.written {
        let what = "needs at least one of `files`, `http` and `commands`";
        let help = format!("for example {FILES}, {HTTP} or {COMMANDS}");
        table
            .problems
            .add(table.at.clone(), &*table.path, what, help);
    }
    PrewarmSettings {
        files: files.value,
        most_bytes: most_bytes.value,
        http: http.value,
        commands: commands.value,
        depends_on: depends_on.value,
        concurrency: concurrency.value,
        timeout: timeout.value,
        required: required.value,
    }
}

/// Reads a URL that can be requested.
fn url(value: &Value<'_>) -> Option<String> {
    let url = value.filled("\"http://127.0.0.1:8080/warm\"")?.to_owned();
    match Check::get(&*url).validate() {
        Ok(()) => Some(url),
        Err(invalid) => value.refuse(invalid.to_string(), format!("for example {HTTP}")),
    }
}
