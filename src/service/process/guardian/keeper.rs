//! The keeper: runs one command, from its start to the end of the last process of its tree.
//!
//! It enforces the stop budget itself, so that a stop completes even if headcount hangs. It does
//! not restart the command.

use std::{
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::{Inbox, Woken, tree::Tree};
use crate::runtime::end_with_parent;
use crate::service::own_limit;
use crate::service::process::{
    StopSignal, StopSignalTo,
    wire::{Notice, Order, Start},
};

/// The longest time between the stop signal and SIGKILL when headcount or the guardian is gone. A
/// shorter stop budget still applies.
const ABANDONED_BUDGET: Duration = Duration::from_secs(1);

/// The state of a keeper after the start of its command.
struct Keeper<'a> {
    inbox: &'a mut Inbox,
    tree: Tree,
    stop_signal: StopSignal,
    stop_signal_to: StopSignalTo,
    stop_budget: Duration,
    /// True once [`Notice::Exited`] was sent.
    exit_said: bool,
    /// The processes that were sent the stop signal.
    told: Option<StopSignalTo>,
    /// The time at which the remaining processes are killed. The first stop sets it; later ones can
    /// only make it earlier.
    deadline: Option<Instant>,
}

/// Waits for the order to start, runs the command, and returns when no process of its tree is left.
pub(super) fn keep(inbox: &mut Inbox) {
    let Some((start, early)) = order(inbox) else {
        return;
    };
    let group = start.group.as_ref().filter(|group| group.enter().is_ok());
    if group.is_some() {
        inbox.say(&Notice::Grouped);
    }
    let spawned = spawn(&start);
    // It must not kill itself with a group that it cannot leave.
    let group = group.filter(|group| group.leave().is_ok()).cloned();
    let leader = match spawned {
        Ok(leader) => leader,
        Err(refused) => {
            if let Some(group) = group {
                group.remove();
            }
            inbox.say(&refused);
            inbox.say(&Notice::Empty);
            return;
        }
    };
    let pid = leader.as_raw_pid().unsigned_abs();
    inbox.say(&Notice::Started { pid });
    let keeper = Keeper {
        inbox,
        tree: Tree::led_by(leader, group),
        stop_signal: start.stop_signal,
        stop_signal_to: start.stop_signal_to,
        stop_budget: start.stop_budget,
        exit_said: false,
        told: None,
        deadline: None,
    };
    keeper.run(early);
}

/// Waits for the order to start. Returns it with the events that were read together with it,
/// because a stop may follow at once. `None` if headcount or the guardian ends first.
fn order(inbox: &mut Inbox) -> Option<(Start, Vec<Woken>)> {
    loop {
        let mut woken = inbox.wait(None).into_iter();
        match woken.next() {
            Some(Woken::Order(Order::Start(start))) => return Some((start, woken.collect())),
            Some(_) => return None,
            None => {}
        }
    }
}

// === impl Keeper ===

impl Keeper<'_> {
    /// Handles events until no process of the tree is left, beginning with `early`.
    fn run(mut self, early: Vec<Woken>) {
        for woken in early {
            self.hear(woken);
        }
        loop {
            if let (false, Some(exit)) = (self.exit_said, self.tree.reap()) {
                self.exit_said = true;
                self.inbox.say(&Notice::Exited {
                    exit,
                    killed: false,
                });
                // Processes that the command left behind could obstruct its next start.
                self.stop(self.stop_budget);
            }
            if self.exit_said && self.tree.is_empty() {
                break;
            }
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                let tells = self.stop_signal != StopSignal::Kill;
                self.tree.kill_until_empty(tells, self.inbox);
                break;
            }
            for woken in self.inbox.wait(left) {
                self.hear(woken);
            }
        }
        self.tree.remove_group();
        self.inbox.say(&Notice::Empty);
    }

    /// Handles one event.
    fn hear(&mut self, woken: Woken) {
        match woken {
            Woken::Order(Order::Stop) => self.stop(self.stop_budget),
            Woken::Order(Order::Kill) => self.deadline = Some(Instant::now()),
            Woken::Abandoned => self.stop(self.stop_budget.min(ABANDONED_BUDGET)),
            Woken::Order(Order::Start(_)) => {}
        }
    }

    /// Sends the stop signal if this is the first stop, and moves the deadline to at most `budget`
    /// from now. If it goes to the command alone, the rest of the tree is told once the command has
    /// ended.
    fn stop(&mut self, budget: Duration) {
        let budget = match self.stop_signal {
            StopSignal::Kill => Duration::ZERO,
            _ => budget,
        };
        let deadline = Instant::now() + budget;
        let to = match self.exit_said {
            true => StopSignalTo::Tree,
            false => self.stop_signal_to,
        };
        if self.told < Some(to) {
            self.told = Some(to);
            // A process that is stopped (SIGSTOP) handles no other signal until it continues.
            for signal in [self.stop_signal.into(), Signal::CONT] {
                match to {
                    StopSignalTo::Command => self.tree.signal_leader(signal),
                    StopSignalTo::Tree => self.tree.signal(signal),
                }
            }
        }
        self.deadline = Some(self.deadline.map_or(deadline, |set| set.min(deadline)));
    }
}

/// Starts the command in a new process group.
///
/// The kernel kills it when this process ends. It inherits this process's standard output and standard error. Its standard input is empty.
///
/// # Errors
/// A [`Notice::Refused`].
fn spawn(start: &Start) -> Result<Pid, Notice> {
    let Some((program, args)) = start.command.split_first() else {
        return Err(Notice::Refused {
            why: "the command is empty".to_owned(),
            own_limit: false,
        });
    };
    if let Some(limit) = start.file_limit {
        own_limit::set_files(limit);
    }
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(&*start.env)
        .stdin(Stdio::null())
        .process_group(0);
    if let Some(folder) = &start.working_folder {
        // The error of `spawn` does not say whether the folder or the program is missing. The `.`
        // requires the permission to enter the folder.
        if let Err(error) = std::fs::metadata(folder.join(".")) {
            let folder = folder.display();
            return Err(Notice::Refused {
                why: format!("cannot enter working folder {folder}: {error}"),
                own_limit: own_limit::is_cause_of_start(&error),
            });
        }
        command.current_dir(folder);
    }
    end_with_parent(&mut command);
    // The handle is dropped without a wait: `Tree` reaps the command.
    let child = command.spawn().map_err(|error| Notice::Refused {
        why: explain(start, program, &error),
        own_limit: own_limit::is_cause_of_start(&error),
    })?;
    let pid = i32::try_from(child.id()).expect("a pid is at most 2^22");
    Ok(Pid::from_raw(pid).expect("a pid is not zero"))
}

/// Returns the message for a command that could not be started.
fn explain(start: &Start, program: &str, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::NotFound {
        return format!("cannot start {program}: {error}");
    }
    if !program.contains('/') {
        // Values below `env` are not repeated: they may be secrets.
        let path = match start.env.contains_key("PATH") {
            true => "the one below `env`".to_owned(),
            false => std::env::var("PATH").unwrap_or_default(),
        };
        return format!("cannot start {program}: not found in PATH ({path})");
    }
    let folder = start.working_folder.as_deref().unwrap_or(Path::new(""));
    if folder.join(program).exists() {
        return format!(
            "cannot start {program}: the interpreter in its `#!` line, or its loader, is missing"
        );
    }
    format!("cannot start {program}: {error}")
}
