//! `headcount ps`, `tree` and `dump`: the tasks of another process.
//!
//! The process may be a service of headcount, or any tokio program of the same user. It is not stopped,
//! signalled or written to. `ways` reads it; here is the text.

use super::control;
use super::control::Unanswered;
use super::ways::{self, Detail, Way};
use crate::inspect::other::{Group, Picture, ThreadGroup};
use crate::text::plain;
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;
use std::time::Duration;

/// The width of a line, if the terminal does not tell another one.
const WIDTH: usize = 80;
/// The narrowest line.
const NARROWEST: usize = 40;

/// The options of `ps`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Process to look into [default: list the services of headcount]
    pub(super) pid: Option<u32>,
    /// Way into the process [default: the best one]
    #[arg(long, value_enum, value_name = "WAY", requires = "pid")]
    by: Option<Way>,
    /// Print JSON, see docs/inspect.md for its fields
    #[arg(long)]
    pub(super) json: bool,
}

/// The options of `tree` and `dump`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Process to look into
    pid: u32,
    /// Way into the process [default: the best one]
    #[arg(long, value_enum, value_name = "WAY")]
    by: Option<Way>,
    /// Print one JSON object, see docs/inspect.md for its fields
    #[arg(long)]
    json: bool,
}

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    width: usize,
    colours: bool,
}

/// Returns the output of `headcount ps` for a process. An error is a sentence.
pub(super) fn ps(arguments: &List, pid: u32, form: Form) -> Result<String, String> {
    let picture = ways::picture(pid, Detail::Kinds, arguments.by)?;
    Ok(match arguments.json {
        true => json(&picture),
        false => form.kinds(&picture),
    })
}

/// Returns the output of `headcount tree`. An error is a sentence.
pub(super) fn tree(arguments: &Arguments, form: Form) -> Result<String, String> {
    let picture = ways::picture(arguments.pid, Detail::Chains, arguments.by)?;
    Ok(shown(&picture, arguments.json, form))
}

/// Returns the output of `headcount dump`: the dump that a service takes of itself, or else what is seen
/// from outside, with a note of the reason. An error is a sentence.
pub(super) fn dump(arguments: &Arguments, form: Form) -> Result<(String, Option<String>), String> {
    let own = matches!(arguments.by, None | Some(Way::Socket)) && !ways::is_stopped(arguments.pid);
    let asked = own.then(|| control::dump(arguments.pid, arguments.json));
    let note = match (asked, arguments.by) {
        (Some(Ok(text)), _) => return Ok((text, None)),
        (Some(Err(Unanswered::NoSocket(why) | Unanswered::Failed(why))), Some(_)) => {
            return Err(why);
        }
        (Some(Err(Unanswered::Failed(why))), None) => Some(why),
        (Some(Err(Unanswered::NoSocket(_))) | None, _) => None,
    };
    // It is not asked twice.
    let picture = match arguments.by {
        None => ways::from_outside(arguments.pid, Detail::Stacks)?,
        by => ways::picture(arguments.pid, Detail::Stacks, by)?,
    };
    Ok((shown(&picture, arguments.json, form), note))
}

fn shown(picture: &Picture, is_json: bool, form: Form) -> String {
    match is_json {
        true => json(picture),
        false => form.trees(picture),
    }
}

fn json(picture: &Picture) -> String {
    let text = serde_json::to_string(picture).expect("it has text and numbers only");
    text + "\n"
}

// === impl Form ===

impl Form {
    /// Returns the form for standard output: as wide as the terminal, and with colours on one.
    pub(super) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        let width = size
            .map(|size| usize::from(size.ws_col))
            .filter(|width| *width > 0);
        Self {
            width: width.unwrap_or(WIDTH).max(NARROWEST),
            colours: size.is_some() && colours(),
        }
    }

    /// Lists the kinds of tasks, a row for each.
    fn kinds(self, picture: &Picture) -> String {
        let mut text = self.head(picture);
        let states = picture.groups.iter().map(|group| group.state.len());
        let width = states.max().unwrap_or(0).max(9);
        if !picture.groups.is_empty() {
            let by = by(picture, || "  BY".to_owned());
            let head = format!(
                "{:>7}  {:<width$}  {:>5}  TASK OR TYPE{by}",
                "TASKS", "STATE", "AGE"
            );
            text += &self.line(&head, "");
        }
        for group in &picture.groups {
            let never = if group.never_wakes {
                ", never wakes"
            } else {
                ""
            };
            let oldest = group.oldest.map_or_else(String::new, age);
            let row = format!("{:>7}  {:<width$}  {oldest:>5}  ", group.count, group.state);
            let by = by(picture, || format!("  by {}", group.by));
            let spawned = group.spawned.as_ref();
            let spawned = spawned.map_or_else(String::new, |place| format!("  spawned {place}"));
            text += &self.line(&row, &format!("{}{never}{by}{spawned}", name(group)));
        }
        text + &self.foot(picture)
    }

    /// Lists groups of tasks with their chains.
    fn trees(self, picture: &Picture) -> String {
        let mut text = self.head(picture);
        for group in &picture.groups {
            text += &self.group(picture, group);
        }
        for threads in &picture.stacks {
            text += &self.threads(threads);
        }
        text + &self.foot(picture)
    }

    fn group(self, picture: &Picture, group: &Group) -> String {
        let ids: Vec<String> = group.ids.iter().map(u64::to_string).collect();
        let more = if group.count > ids.len() as u64 {
            ", …"
        } else {
            ""
        };
        let count = match (group.count, ids.as_slice()) {
            (1, ids) => format!("task {}", ids.concat()).trim_end().to_owned(),
            (count, []) => format!("{count} tasks"),
            (count, ids) => format!("{count} tasks ({}{more})", ids.join(", ")),
        };
        let never = if group.never_wakes {
            ", never wakes"
        } else {
            ""
        };
        let spawned = group.spawned.as_ref();
        let spawned = spawned.map_or_else(String::new, |place| format!(", spawned {place}"));
        let oldest = group.oldest.map(|oldest| match group.count {
            1 => format!(" for {}", age(oldest)),
            _ => format!(", the oldest for {}", age(oldest)),
        });
        let oldest = oldest.unwrap_or_default();
        let by = by(picture, || format!(", by {}", group.by));
        let head = format!(
            "{count}: {}, {}{oldest}{never}{by}{spawned}",
            name(group),
            group.state
        );
        let mut text = self.wrapped("", &head, 4, AnsiColor::White.on_default().bold());
        if let Some(summary) = &group.summary {
            text += &self.wrapped("    ", summary, 6, Style::new());
        }
        for link in &group.chain {
            let mark = match link.kind {
                "own" => "●",
                "library" => "○",
                "wakes" => "→",
                _ => "·",
            };
            let indent = format!(
                "{}{mark} ",
                " ".repeat(4 + 2 * link.level.min(self.width / 4))
            );
            let deeper = indent.chars().count();
            text += &self.wrapped(&indent, &link.text, deeper, style(link.kind));
        }
        text + "\n"
    }

    fn threads(self, threads: &ThreadGroup) -> String {
        let tids: Vec<String> = threads.tids.iter().map(u32::to_string).collect();
        let more = if threads.count > tids.len() as u64 {
            ", …"
        } else {
            ""
        };
        let names: Vec<String> = threads
            .names
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        let state = if threads.stack.is_empty() {
            ": on a processor"
        } else {
            ""
        };
        let head = format!(
            "{} thread{} {} (tid {}{more}){state}",
            threads.count,
            plural(threads.count),
            names.join(", "),
            tids.join(", ")
        );
        let mut text = self.wrapped("", &head, 4, Style::new().bold());
        for call in &threads.stack {
            let mark = if call.kind == "own" {
                "    ● "
            } else {
                "    ○ "
            };
            text += &self.wrapped(mark, &call.text, 6, style(call.kind));
        }
        text + "\n"
    }

    fn head(self, picture: &Picture) -> String {
        let tokio = match (picture.tokio.as_slice(), &picture.service) {
            ([], Some(_)) => String::new(),
            ([], None) => ", tokio of an unknown version".to_owned(),
            (versions, _) => format!(", tokio {}", versions.join(" and ")),
        };
        let service = picture.service.as_ref();
        let service = service.map_or_else(String::new, |name| format!("headcount {name}: "));
        let phase = picture.phase.as_ref();
        let phase = phase.map_or_else(String::new, |phase| format!(", {phase}"));
        let range = match picture.fewest == picture.most {
            true => String::new(),
            false => format!(
                " (between {} and {} while read)",
                thousands(picture.fewest),
                thousands(picture.most)
            ),
        };
        let head = format!(
            "{service}{} (pid {}){phase}{tokio}, {} thread{}: {} task{}{range}, read by {}",
            picture.program,
            picture.pid,
            picture.threads,
            plural(picture.threads as u64),
            thousands(picture.tasks),
            plural(picture.tasks),
            picture.by
        );
        self.wrapped("", &head, 2, Style::new().bold()) + "\n"
    }

    fn foot(self, picture: &Picture) -> String {
        let mut text = String::new();
        for note in &picture.notes {
            text += &self.wrapped("note: ", note, 6, Style::new());
        }
        if !picture.unchecked.is_empty() {
            let unchecked = picture.unchecked.join(", ");
            text += &self.wrapped("not checked: ", &unchecked, 2, Style::new());
        }
        text
    }

    /// Returns one line, which is cut at the width.
    pub(super) fn line(self, start: &str, rest: &str) -> String {
        let line = plain(&format!("{start}{rest}")).into_owned();
        let mut cut: String = line.chars().take(self.width).collect();
        if cut.len() < line.len() {
            cut.pop();
            cut.push('…');
        }
        cut.truncate(cut.trim_end().len());
        cut + "\n"
    }

    /// Returns lines of at most the width, broken at spaces; each after the first has an indent. A
    /// longer word is not broken.
    fn wrapped(self, start: &str, text: &str, indent: usize, style: Style) -> String {
        let text = plain(text);
        let mut lines = vec![start.to_owned()];
        let mut is_empty = true;
        for word in text.split(' ') {
            let last = lines.last_mut().expect("there is one");
            let length = last.chars().count() + 1 + word.chars().count();
            if length > self.width && !is_empty {
                lines.push(format!("{}{word}", " ".repeat(indent)));
            } else {
                if !is_empty {
                    last.push(' ');
                }
                last.push_str(word);
            }
            is_empty = false;
        }
        let mut shown = String::new();
        for line in lines {
            match self.colours && style != Style::new() {
                true => writeln!(shown, "{style}{line}{style:#}"),
                false => writeln!(shown, "{line}"),
            }
            .expect("a String takes every write");
        }
        shown
    }
}

/// Returns whether the user wants colours (<https://no-color.org>).
pub(super) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns the path of a task that headcount tracks, and the type of its future.
fn name(group: &Group) -> String {
    match (&group.task, group.name.as_str()) {
        (Some(task), "") => task.clone(),
        (Some(task), name) => format!("{task} ({name})"),
        (None, name) => name.to_owned(),
    }
}

/// Returns words about the way that a row came by, if not all rows of the picture came by one.
fn by(picture: &Picture, words: impl FnOnce() -> String) -> String {
    let first = picture.groups.first().map(|group| group.by);
    let is_one = picture.groups.iter().all(|group| Some(group.by) == first);
    if is_one { String::new() } else { words() }
}

/// Returns an age in one or two units.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0 if age.as_millis() < 100 => "0s".to_owned(),
        0..10 => format!("{:.1}s", age.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Returns the style of a line of a chain or a stack.
fn style(kind: &str) -> Style {
    match kind {
        "own" => AnsiColor::Cyan.on_default(),
        "wakes" => AnsiColor::Yellow.on_default(),
        _ => Style::new().dimmed(),
    }
}

/// Formats a number with commas.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}
