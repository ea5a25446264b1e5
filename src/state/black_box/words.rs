//! The last moments as text.

use super::moments::{Event, Held, Kind, LastMoments};
use crate::report::dump::Phase;
use crate::report::{count, path, times};
use crate::text::plain;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The most kinds, threads in tasks, and events that are shown.
const ROWS: usize = 20;
/// The time from which a task is said to hold its thread: the default limit of the watch.
const LONG: Duration = Duration::from_secs(1);

// === impl LastMoments ===

impl fmt::Display for LastMoments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (service, pid) = (plain(&self.service), self.pid);
        let when = if self.is_alive {
            "alive"
        } else {
            "last seen alive"
        };
        writeln!(
            f,
            "headcount {service}: pid {pid}, {when} {} after its start, {}",
            age(self.ran),
            self.layer()
        )?;
        let more = match self.tasks_not_in_box {
            0 => String::new(),
            n => format!(", and about {n} that are not in the black box"),
        };
        let live = match self.live_tasks {
            0 => "no live task".to_owned(),
            live => count(live, "live task"),
        };
        branch(f, &(live + &more))?;
        rows(f, self.tasks.iter().map(Kind::row))?;
        let on = self.on_threads.len() as u64;
        let on = match on {
            0 => "no thread".to_owned(),
            on => count(on, "thread"),
        };
        let more = match self.threads_not_in_box {
            0 => String::new(),
            n => format!("; not known for {}", count(n, "thread")),
        };
        branch(f, &format!("{on} in a task{more}"))?;
        rows(f, self.on_threads.iter().map(Held::row))?;
        branch(
            f,
            &format!(
                "{}{}",
                count(self.threads.len() as u64, "registered thread"),
                self.names()
            ),
        )?;
        let shown = self.events.len().min(ROWS);
        match self.events_noted {
            0 => writeln!(f, "└─ no events")?,
            noted => writeln!(f, "└─ last {shown} of {}", count(noted, "event"))?,
        }
        for event in &self.events[self.events.len() - shown..] {
            writeln!(f, "   {}", plain(&event.row()))?;
        }
        if self.ends_not_noted > 0 {
            let ends = count(self.ends_not_noted, "end");
            writeln!(
                f,
                "   {ends} of tasks were not noted, because there were too many"
            )?;
        }
        Ok(())
    }
}

impl LastMoments {
    /// Returns the phase as the layer of the shutdown.
    fn layer(&self) -> String {
        let took = age(self.in_phase);
        let reason = self.reason.as_deref().map(plain);
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        match self.phase {
            Phase::Running if reason.is_empty() => "running".to_owned(),
            Phase::Running => format!("stopping{reason}, before the first layer"),
            Phase::Draining => format!("for {took} in layer 'drain'{reason}"),
            Phase::Cancelling => format!("for {took} in layer 'cancel'{reason}"),
            Phase::Closing => format!("for {took} in layer 'close'{reason}"),
            Phase::Done => format!("for {took} after the last layer{reason}"),
        }
    }

    /// Returns the threads by name.
    fn names(&self) -> String {
        let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
        for thread in &self.threads {
            let name = match &*thread.name {
                "" => thread.class.as_str(),
                name => name,
            };
            *by_name.entry(name).or_default() += 1;
        }
        let shown = by_name.iter().take(ROWS);
        let shown: Vec<String> = shown
            .map(|(name, number)| format!("{}{}", plain(name), times(*number)))
            .collect();
        match shown.as_slice() {
            [] => String::new(),
            shown => format!(": {}", shown.join(", ")),
        }
    }

    /// Returns all of it in a sentence, for the log.
    pub(in crate::state) fn sentence(&self) -> String {
        let mut kinds: Vec<String> = self
            .tasks
            .iter()
            .take(5)
            .map(|kind| kind.path() + &times(kind.count))
            .collect();
        if self.tasks.len() > kinds.len() {
            kinds.push(format!("{} more kinds", self.tasks.len() - kinds.len()));
        }
        let total = self.live_tasks + self.tasks_not_in_box;
        let mut sentence = format!(
            "it was {}, with {}",
            self.layer(),
            count(total, "live task")
        );
        if !kinds.is_empty() {
            sentence += &format!(": {}", kinds.join(", "));
        }
        let held = self.on_threads.iter().filter(|held| held.is_long());
        for held in held.take(3) {
            sentence += &format!("; {}", held.sentence());
        }
        if let Some(event) = self.events.last() {
            sentence += &format!("; last event: {}", event.sentence());
        }
        plain(&sentence).into_owned()
    }
}

// === impl Kind ===

impl Kind {
    fn path(&self) -> String {
        match &*self.name {
            "" => "a task whose name is not in the black box".to_owned(),
            name => path(&self.group, name),
        }
    }

    fn row(&self) -> String {
        let mark = match self.runs {
            "blocking" => " (blocking)",
            "local" => " (local)",
            _ => "",
        };
        let states: Vec<String> = match self.states.len() {
            1 => self
                .states
                .keys()
                .map(|state| (*state).to_owned())
                .collect(),
            _ => self
                .states
                .iter()
                .map(|(state, number)| format!("{number} {state}"))
                .collect(),
        };
        let site = match &*self.spawned {
            "" => String::new(),
            site => format!(", spawned at {site}"),
        };
        let oldest = if self.count > 1 { "oldest " } else { "" };
        format!(
            "{}{mark}{}  {}, {oldest}{}{site}",
            self.path(),
            times(self.count),
            states.join(", "),
            age(self.oldest)
        )
    }
}

// === impl Held ===

impl Held {
    /// Returns whether the task held the thread for long.
    fn is_long(&self) -> bool {
        self.held.is_some_and(|held| held >= LONG)
    }

    fn thread(&self) -> String {
        match &self.thread {
            Some(name) if !name.is_empty() => format!("{name} (tid {})", self.tid),
            _ => format!("thread {}", self.tid),
        }
    }

    fn task(&self) -> String {
        let task = match (&self.task, self.id) {
            (Some(task), Some(id)) => format!("{task} (id {id})"),
            (None, Some(id)) => format!("task {id}"),
            _ => "a task that is not in the black box".to_owned(),
        };
        if self.dropping {
            format!("{task}, dropping its future")
        } else {
            task
        }
    }

    fn row(&self) -> String {
        let held = self.held.map(age);
        let held = held.map_or_else(String::new, |held| format!(", for {held}"));
        format!("{}  {}{held}", self.thread(), self.task())
    }

    fn sentence(&self) -> String {
        let held = age(self.held.unwrap_or_default());
        format!("{} had held {} for {held}", self.task(), self.thread())
    }
}

// === impl Event ===

impl Event {
    fn row(&self) -> String {
        format!("{:>8}  {}", format!("-{}", age(self.ago)), self.sentence())
    }

    fn sentence(&self) -> String {
        let text = &self.text;
        let task = match self.task.as_deref() {
            Some("") => "a task",
            Some(task) => task,
            None => "an untracked task",
        };
        match self.what {
            "task_panicked" => format!("{task} panicked: {text}"),
            "task_failed" => format!("{task} failed: {text}"),
            "task_cancelled" => format!("{task} was cancelled"),
            "task_lingers" => format!("{text} lingers"),
            "worker_blocked" => format!("{task} blocks {text}"),
            "worker_unblocked" => format!("{task} stopped blocking its thread after {text}"),
            "task_stalled" => format!("{task} is stalled: no heartbeat for {text}"),
            "task_beats_again" => format!("{task} sends heartbeats again"),
            "untracked_site" => format!("untracked task spawned at {text}"),
            "process_started" => format!("process {text} started"),
            "process_ended" => format!("process {text}"),
            "process_killed" => format!("process {text} was killed"),
            "process_restarted" => format!("process {text} restarts"),
            "process_given_up" => format!("process {text} was given up"),
            "endpoint_up" => format!("endpoint {text} is up"),
            "endpoint_down" => format!("endpoint {text} is down"),
            "stop_asked" => format!("stop asked for: {text}"),
            "phase_changed" => format!("phase {text}"),
            "thread_lingers" => format!("thread {text} lingers"),
            "all_workers_blocked" => "all workers are blocked".to_owned(),
            "deadline_passed" => "the deadline passed".to_owned(),
            other => format!("{other} {text}"),
        }
    }
}

/// Returns a time as an age.
fn age(time: Duration) -> String {
    crate::report::brief(time)
}

/// Writes a branch of the tree.
fn branch(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    writeln!(f, "├─ {text}")
}

/// Writes the first rows of a branch, and the number of the others.
fn rows(f: &mut fmt::Formatter<'_>, rows: impl ExactSizeIterator<Item = String>) -> fmt::Result {
    let all = rows.len();
    for (at, row) in rows.take(ROWS).enumerate() {
        let line = if at + 1 == all { "└─" } else { "├─" };
        writeln!(f, "│  {line} {}", plain(&row))?;
    }
    if all > ROWS {
        writeln!(f, "│  └─ … and {} more", all - ROWS)?;
    }
    Ok(())
}
