//! `headcount ps` and `headcount tree`: the tasks of another process.
//!
//! The process may be any tokio program of the same user. It is not stopped, signalled or written to.

use crate::inspect::other::{Group, Picture, Process, ThreadGroup};
use crate::text::plain;
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;

/// The width of a line, if the terminal does not tell another one.
const WIDTH: usize = 80;
/// The narrowest line.
const NARROWEST: usize = 40;

/// The options of `ps` and `tree`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Process to look into
    pub(super) pid: u32,
    /// Print one JSON object, see docs/inspect.md for its fields
    #[arg(long)]
    pub(super) json: bool,
}

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    width: usize,
    colours: bool,
}

/// Returns the output of `headcount ps`. An error is a sentence.
pub(super) fn ps(arguments: &Arguments, form: Form) -> Result<String, String> {
    let process = Process::read(arguments.pid)?;
    let picture = Picture::of_kinds(&process);
    Ok(match arguments.json {
        true => json(&picture),
        false => form.kinds(&picture),
    })
}

/// Returns the output of `headcount tree`. An error is a sentence.
pub(super) fn tree(arguments: &Arguments, form: Form) -> Result<String, String> {
    let process = Process::read(arguments.pid)?;
    let picture = Picture::with_chains(&process, false)?;
    Ok(match arguments.json {
        true => json(&picture),
        false => form.trees(&picture),
    })
}

/// Returns the output of `headcount dump`. An error is a sentence.
pub(super) fn dump(arguments: &Arguments, form: Form) -> Result<String, String> {
    let process = Process::read(arguments.pid)?;
    let picture = Picture::with_chains(&process, true)?;
    Ok(match arguments.json {
        true => json(&picture),
        false => form.trees(&picture),
    })
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
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            width: width.unwrap_or(WIDTH).max(NARROWEST),
            colours: size.is_some() && !is_plain,
        }
    }

    /// Lists the kinds of tasks, a row for each.
    fn kinds(self, picture: &Picture) -> String {
        let mut text = self.head(picture);
        if !picture.groups.is_empty() {
            text += &self.line(&format!("{:>7}  {:<9}  TYPE", "TASKS", "STATE"), "");
        }
        for group in &picture.groups {
            let never = if group.never_wakes {
                ", never wakes"
            } else {
                ""
            };
            let row = format!("{:>7}  {:<9}  ", group.count, group.state);
            let name = format!("{}{never}", group.name);
            let spawned = group.spawned.as_ref();
            let spawned = spawned.map_or_else(String::new, |place| format!("  spawned {place}"));
            text += &self.line(&row, &format!("{name}{spawned}"));
        }
        text + &self.foot(picture)
    }

    /// Lists groups of tasks with their chains.
    fn trees(self, picture: &Picture) -> String {
        let mut text = self.head(picture);
        for group in &picture.groups {
            text += &self.group(group);
        }
        for threads in &picture.stacks {
            text += &self.threads(threads);
        }
        text + &self.foot(picture)
    }

    fn group(self, group: &Group) -> String {
        let ids: Vec<String> = group.ids.iter().map(u64::to_string).collect();
        let more = if group.count > ids.len() as u64 {
            ", …"
        } else {
            ""
        };
        let count = match group.count {
            1 => format!("task {}", ids.concat()),
            count => format!("{count} tasks ({}{more})", ids.join(", ")),
        };
        let never = if group.never_wakes {
            ", never wakes"
        } else {
            ""
        };
        let spawned = group.spawned.as_ref();
        let spawned = spawned.map_or_else(String::new, |place| format!(", spawned {place}"));
        let head = format!("{count}: {}, {}{never}{spawned}", group.name, group.state);
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
        let tokio = match picture.tokio.as_slice() {
            [] => "tokio of an unknown version".to_owned(),
            versions => format!("tokio {}", versions.join(" and ")),
        };
        let range = match picture.fewest == picture.most {
            true => String::new(),
            false => format!(
                " (between {} and {} while read)",
                thousands(picture.fewest),
                thousands(picture.most)
            ),
        };
        let head = format!(
            "{} (pid {}), {tokio}, {} thread{}: {} task{}{range}, read by {}",
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
    fn line(self, start: &str, rest: &str) -> String {
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

/// Returns the style of a line of a chain or a stack.
fn style(kind: &str) -> Style {
    match kind {
        "own" => AnsiColor::Cyan.on_default(),
        "wakes" => AnsiColor::Yellow.on_default(),
        _ => Style::new().dimmed(),
    }
}

/// Formats a number with commas.
fn thousands(number: u64) -> String {
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
