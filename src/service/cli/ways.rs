//! The three ways into another process, and one picture of it, whichever way it was read by.
//!
//! - The *control socket*: a service of headcount answers for itself. It knows the names and ages of
//!   its tasks, and counts its blocking closures too. It needs no right but to connect.
//! - The *black box*: the notes of a service of headcount, which need not run to be read.
//! - *Attach*: tokio's own lists of tasks, read from the memory of any tokio process.
//!
//! A service that answers is believed. One that is stopped, or does not answer in time, is read by its
//! black box and by attach, which know each other's tasks: attach tells the states and chains, the box
//! their names and ages. A process of which nothing else is known is read by attach alone.

mod black_box;
mod socket;

pub(super) use black_box::{Notes, path};
pub(super) use socket::{Overview, Page, Untracked, overview};

use super::control::Unanswered;
use crate::inspect::other::{ATTACH, Labels, Limits, Picture, Process};
use std::fs;
use std::time::Duration;

/// The longest wait for the first answer of a service. Its control side runs on threads of its own, so
/// it answers within milliseconds however busy its workers are.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// A way into another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Way {
    /// The control socket of a service of headcount
    Socket,
    /// The notes of a service of headcount, also while it is stopped
    BlackBox,
    /// The memory of any tokio program
    Attach,
}

/// The amount of detail of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Types and states.
    Kinds,
    /// The await chain of each task.
    Chains,
    /// The stacks of the threads too.
    Stacks,
}

// === impl Way ===

impl Way {
    /// Returns the word for people and for JSON.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "control socket",
            Self::BlackBox => "black box",
            Self::Attach => ATTACH,
        }
    }
}

/// The word for a picture in which attach and the black box complete each other.
const BOTH: &str = "attach and black box";

/// Returns a picture of the process, by this way or else by the best one. An error is a sentence.
pub(super) fn picture(pid: u32, detail: Detail, way: Option<Way>) -> Result<Picture, String> {
    match way {
        Some(Way::Socket) => socket::picture(pid, detail).map_err(|unanswered| match unanswered {
            Unanswered::NoSocket(why) | Unanswered::Failed(why) => why,
        }),
        Some(Way::BlackBox) => match Notes::read(pid, 0) {
            Some(notes) => Ok(notes.picture(pid)),
            None => Err(format!(
                "process {pid} has no black box that can be read: see `headcount report {pid}`"
            )),
        },
        Some(Way::Attach) => attached(pid, detail, &Labels::new()),
        None => best(pid, detail),
    }
}

/// Returns a picture by the best way. See the documentation of the module.
fn best(pid: u32, detail: Detail) -> Result<Picture, String> {
    let mut silence = None;
    if !is_stopped(pid) {
        match socket::picture(pid, detail) {
            Ok(picture) => return Ok(picture),
            Err(Unanswered::NoSocket(_)) => {}
            Err(Unanswered::Failed(why)) => silence = Some(why),
        }
    }
    let mut picture = from_outside(pid, detail)?;
    picture.notes.extend(silence);
    Ok(picture)
}

/// Returns a picture by the ways that need nothing of the process. An error is a sentence.
pub(super) fn from_outside(pid: u32, detail: Detail) -> Result<Picture, String> {
    match Notes::read(pid, usize::MAX) {
        Some(notes) => by_both(pid, detail, notes),
        None => attached(pid, detail, &Labels::new()),
    }
}

/// Returns a picture by attach, with the names and the further tasks of the black box. If the process
/// cannot be read, by the box alone.
fn by_both(pid: u32, detail: Detail, notes: Notes) -> Result<Picture, String> {
    let read = Process::read(pid).and_then(|process| {
        let notes = notes.again(pid);
        let joined = notes.join(&process);
        let picture = attached_to(&process, detail, &joined.labels)?;
        Ok((picture, joined, notes))
    });
    match read {
        Ok((mut picture, joined, notes)) => {
            picture.by = BOTH;
            notes.complete(&mut picture, &joined);
            Ok(picture)
        }
        Err(why) => {
            let mut picture = notes.picture(pid);
            picture.notes.push(format!("not read by attach: {why}"));
            Ok(picture)
        }
    }
}

fn attached(pid: u32, detail: Detail, labels: &Labels) -> Result<Picture, String> {
    attached_to(&Process::read(pid)?, detail, labels)
}

fn attached_to(process: &Process, detail: Detail, labels: &Labels) -> Result<Picture, String> {
    match detail {
        Detail::Kinds => Ok(Picture::of_kinds(process, labels)),
        Detail::Chains => Picture::with_chains(process, labels, false, Limits::NONE),
        Detail::Stacks => Picture::with_chains(process, labels, true, Limits::NONE),
    }
}

/// Returns whether the process is stopped: by a signal, or by a debugger (proc_pid_stat(5)). It cannot
/// answer then.
pub(super) fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    state.starts_with(['T', 't'])
}

/// Returns the file name of the program of a process; empty if it cannot be read.
pub(super) fn program(pid: u32) -> String {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A program that was replaced on disk still runs.
    name.trim_end_matches(" (deleted)").to_owned()
}

/// Returns a picture without tasks.
fn empty(pid: u32, way: Way) -> Picture {
    Picture {
        pid,
        program: program(pid),
        service: None,
        phase: None,
        tokio: Vec::new(),
        by: way.as_str(),
        tasks: 0,
        fewest: 0,
        most: 0,
        runtimes: 1,
        threads: crate::inspect::other::threads(pid).len(),
        groups: Vec::new(),
        stacks: Vec::new(),
        unchecked: Vec::new(),
        notes: Vec::new(),
    }
}

/// Counts the tasks of a picture that was read at one moment, and sorts its groups.
fn counted(mut picture: Picture) -> Picture {
    let groups = &mut picture.groups;
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    picture.tasks = groups.iter().map(|group| group.count).sum();
    (picture.fewest, picture.most) = (picture.tasks, picture.tasks);
    picture
}
