//! The JSON of rows: the keys that each list gives to them.
//!
//! A row that is serialized alone, or in a snapshot or an answer of the admin API, has the keys of a
//! list. Reports and dumps choose their keys with [`in_report`] and [`in_dump`]. A duration is a
//! number of seconds, and a location is `file:line:column`.

use super::{ChildRow, KindRow, TaskRow, ThreadRow, UntrackedRow, short};
use crate::task::TaskState;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

/// The document that a row is part of, which decides its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    Report,
    Dump,
    List,
}

/// A row, or several, with keys that depend on the document.
pub(crate) trait Keyed {
    /// Serializes the row with the keys of the document.
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error>;
}

/// A row as part of a document.
struct Placed<'a, T>(&'a T, Within);

/// Serializes the rows of a report.
pub(crate) fn in_report<S: Serializer>(
    rows: &impl Keyed,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    rows.write(Within::Report, serializer)
}

/// Serializes the rows of a dump.
pub(crate) fn in_dump<S: Serializer>(rows: &impl Keyed, serializer: S) -> Result<S::Ok, S::Error> {
    rows.write(Within::Dump, serializer)
}

/// Serializes the number of threads for each reason of a rule.
pub(in crate::report) fn excused<S: Serializer>(
    threads: &BTreeMap<String, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(serde::Serialize)]
    struct Excused<'a> {
        count: u64,
        reason: &'a str,
    }
    let rows = threads.iter();
    serializer.collect_seq(rows.map(|(reason, count)| Excused {
        count: *count,
        reason,
    }))
}

impl<T: Keyed> Serialize for Placed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(self.1, serializer)
    }
}

impl<T: Keyed> Keyed for Vec<T> {
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|row| Placed(row, within)))
    }
}

impl<T: Keyed> Keyed for Option<T> {
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self.as_ref().map(|rows| Placed(rows, within));
        rows.serialize(serializer)
    }
}

impl Keyed for TaskRow {
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_map(None)?;
        row.serialize_entry("id", &self.id.get())?;
        if within == Within::List {
            row.serialize_entry("group", self.group)?;
            row.serialize_entry("name", self.name)?;
            row.serialize_entry("kind", &self.kind)?;
            row.serialize_entry("spawned", &place(self.spawned, within))?;
            row.serialize_entry("required", &self.required)?;
            row.serialize_entry("daemon", &self.daemon)?;
            row.serialize_entry("future", self.future)?;
        }
        row.serialize_entry("state", &self.state)?;
        row.serialize_entry("age_seconds", &self.age.as_secs_f64())?;
        if within != Within::List {
            row.serialize_entry("last_poll_seconds", &seconds(self.last_poll))?;
            row.serialize_entry("awaits", &self.awaits)?;
            row.serialize_entry("always_ready", &self.always_ready)?;
            row.serialize_entry("dropping", &self.dropping)?;
        }
        row.serialize_entry("on_thread", &self.on_thread)?;
        row.end()
    }
}

impl Serialize for TaskRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(Within::List, serializer)
    }
}

impl Keyed for KindRow {
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_map(None)?;
        row.serialize_entry("name", self.name)?;
        row.serialize_entry("kind", &self.kind)?;
        row.serialize_entry("daemon", &self.daemon)?;
        row.serialize_entry("spawned", &place(self.spawned, within))?;
        row.serialize_entry("count", &self.count)?;
        row.serialize_entry("future", self.future)?;
        let states = TaskState::ALL.map(|state| (state.as_str(), self.in_state(state)));
        row.serialize_entry("states", &BTreeMap::from(states))?;
        row.serialize_entry("never_started", &self.never_started)?;
        row.serialize_entry("not_polled", &self.not_polled)?;
        if within == Within::Dump {
            row.serialize_entry("oldest_seconds", &self.oldest.as_secs_f64())?;
            row.serialize_entry("rows", &Placed(&self.rows, within))?;
            return row.end();
        }
        let ids: Vec<u64> = self.rows.iter().map(|task| task.id.get()).collect();
        row.serialize_entry("group", self.group)?;
        row.serialize_entry("ids", &ids)?;
        row.serialize_entry("age_seconds", &self.oldest.as_secs_f64())?;
        row.serialize_entry("draining_seconds", &seconds(self.draining))?;
        row.serialize_entry("held_by", &self.held_by)?;
        row.serialize_entry("dropping", &self.is_dropping())?;
        row.serialize_entry("always_ready", &self.always_ready())?;
        row.serialize_entry("on_thread", &self.on_thread)?;
        row.serialize_entry("held_seconds", &seconds(self.held()))?;
        row.serialize_entry("tid", &self.tid())?;
        row.serialize_entry("stack", &self.stack)?;
        row.serialize_entry("stack_note", &self.stack_note)?;
        row.serialize_entry("awaits", &self.awaits())?;
        row.end()
    }
}

/// A row that stands alone has the keys of a report.
impl Serialize for KindRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(Within::Report, serializer)
    }
}

impl Keyed for ThreadRow {
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_map(None)?;
        row.serialize_entry("tid", &self.tid)?;
        row.serialize_entry("name", &self.name)?;
        row.serialize_entry("class", &self.class)?;
        let started = self.started.map(|site| place(site, within));
        match within {
            Within::Report => {
                row.serialize_entry("started", &started)?;
                row.serialize_entry("tried", &self.tried)?;
                row.serialize_entry("appeared_while_stopping", &self.appeared_while_stopping)?;
            }
            Within::Dump => {
                row.serialize_entry("spawned", &started)?;
                row.serialize_entry("there_before", &self.there_before)?;
            }
            Within::List => {
                row.serialize_entry("started", &started)?;
                row.serialize_entry("own", &self.own)?;
            }
        }
        row.serialize_entry("age_seconds", &self.age.as_secs_f64())?;
        row.serialize_entry("cpu_seconds", &self.cpu.as_secs_f64())?;
        row.serialize_entry("state", &self.state)?;
        if within != Within::List {
            row.serialize_entry("waits", &self.waits)?;
            row.serialize_entry("task", &self.task)?;
            row.serialize_entry("stack", &self.stack)?;
            row.serialize_entry("stack_note", &self.stack_note)?;
            row.serialize_entry("no_stack", &self.no_stack)?;
        }
        row.end()
    }
}

impl Serialize for ThreadRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(Within::List, serializer)
    }
}

impl Keyed for UntrackedRow {
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_map(None)?;
        let spawned = self.spawned.map(|site| place(site, within));
        row.serialize_entry("spawned", &spawned.unwrap_or_default())?;
        row.serialize_entry("future", &self.future)?;
        if within != Within::List {
            row.serialize_entry("awaits", &self.awaits)?;
        }
        if within == Within::Report {
            row.serialize_entry("dropped", &self.dropped)?;
            row.serialize_entry("lingering", &self.live)?;
        } else {
            row.serialize_entry("live", &self.live)?;
        }
        row.serialize_entry("running", &self.running)?;
        row.serialize_entry("unwakeable", &self.unwakeable)?;
        row.serialize_entry("age_seconds", &seconds(self.age))?;
        if within == Within::List {
            row.serialize_entry("started", &self.started)?;
        }
        row.end()
    }
}

impl Serialize for UntrackedRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(Within::List, serializer)
    }
}

impl Keyed for ChildRow {
    fn write<S: Serializer>(&self, within: Within, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_map(None)?;
        row.serialize_entry("pid", &self.pid)?;
        row.serialize_entry("command", &self.command)?;
        if within == Within::Report {
            row.serialize_entry("task", &self.task)?;
            row.serialize_entry("end", &self.end)?;
            row.serialize_entry("signal", &self.signal)?;
            row.serialize_entry("took_seconds", &seconds(self.took))?;
            row.serialize_entry("waited_for", &self.waited_for)?;
            row.serialize_entry("killed", &self.killed)?;
            row.serialize_entry("unstopped", &self.unstopped)?;
        }
        row.end()
    }
}

/// A row that stands alone has the keys of a list of live children.
impl Serialize for ChildRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(Within::List, serializer)
    }
}

/// Serializes a location as text.
pub(super) fn site<S: Serializer>(
    location: &Location<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(location)
}

/// Returns the seconds of a duration, if there is one.
fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

/// Returns a location as text. Lists cut off the folder of downloaded sources.
fn place(location: &Location<'_>, within: Within) -> String {
    match within {
        Within::Report | Within::Dump => location.to_string(),
        Within::List => short(location),
    }
}
