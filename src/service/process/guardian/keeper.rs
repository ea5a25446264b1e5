//! Runs one command from its start to the end of the last process that came from it.

use std::{
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::{Inbox, Woken, tree::Tree};
use crate::service::process::{
    StopSignal,
    wire::{Notice, Order, Start},
};

/// What a tree gets between the stop signal and SIGKILL when headcount is gone, if its own budget is not shorter.
const ABANDONED_BUDGET: Duration = Duration::from_secs(1);

struct Keeper<'a> {
    inbox: &'a mut Inbox,
    tree: Tree,
    stop_signal: StopSignal,
    stop_budget: Duration,
    exit_said: bool,
    /// When those that remain are killed; set by the first stop, and only ever made earlier.
    deadline: Option<Instant>,
}

/// Waits for the order, runs the command, and returns when nothing of it is left.
pub(super) fn keep(inbox: &mut Inbox) {
    let Some((start, early)) = order(inbox) else {
        return;
    };
    let leader = match spawn(&start) {
        Ok(leader) => leader,
        Err(why) => {
            inbox.say(&Notice::Refused { why });
            inbox.say(&Notice::Empty);
            return;
        }
    };
    let pid = leader.as_raw_pid().unsigned_abs();
    inbox.say(&Notice::Started { pid });
    let keeper = Keeper {
        inbox,
        tree: Tree::led_by(leader),
        stop_signal: start.stop_signal,
        stop_budget: start.stop_budget,
        exit_said: false,
        deadline: None,
    };
    keeper.run(early);
}

/// The order to start, and what came with it: a stop that is given at once may be read together with the start.
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
    fn run(mut self, early: Vec<Woken>) {
        for woken in early {
            self.hear(woken);
        }
        loop {
            if let (false, Some(exit)) = (self.exit_said, self.tree.reap()) {
                self.exit_said = true;
                self.inbox.say(&Notice::Exited { exit });
                // What it left behind would stand in the way of its next start.
                self.stop(self.stop_budget);
            }
            if self.exit_said && self.tree.is_empty() {
                break;
            }
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                self.tree.kill_until_empty(self.inbox);
                break;
            }
            for woken in self.inbox.wait(left) {
                self.hear(woken);
            }
        }
        self.inbox.say(&Notice::Empty);
    }

    fn hear(&mut self, woken: Woken) {
        match woken {
            Woken::Order(Order::Stop) => self.stop(self.stop_budget),
            Woken::Order(Order::Kill) => self.deadline = Some(Instant::now()),
            Woken::Abandoned => self.stop(self.stop_budget.min(ABANDONED_BUDGET)),
            Woken::Order(Order::Start(_)) => {}
        }
    }

    fn stop(&mut self, budget: Duration) {
        let budget = match self.stop_signal {
            StopSignal::Kill => Duration::ZERO,
            _ => budget,
        };
        let deadline = Instant::now() + budget;
        if self.deadline.is_none() {
            self.tree.signal(self.stop_signal.into());
            // A stopped process takes no other signal until it goes on.
            self.tree.signal(Signal::CONT);
        }
        self.deadline = Some(self.deadline.map_or(deadline, |set| set.min(deadline)));
    }
}

/// Starts the command in a group of its own; its output goes where this process's goes.
fn spawn(start: &Start) -> Result<Pid, String> {
    let Some((program, args)) = start.command.split_first() else {
        return Err("no command is given".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(&start.env)
        .stdin(Stdio::null())
        .process_group(0);
    if let Some(folder) = &start.working_folder {
        // The error of a spawn does not say whether the folder or the program is missing; `.` asks for the permission to enter.
        if let Err(error) = std::fs::metadata(folder.join(".")) {
            let folder = folder.display();
            return Err(format!("cannot enter working folder {folder}: {error}"));
        }
        command.current_dir(folder);
    }
    // Never waited for through the handle: the tree keeps the leader's end.
    let child = command
        .spawn()
        .map_err(|error| explain(start, program, &error))?;
    let pid = i32::try_from(child.id()).expect("a pid is at most 2^22");
    Ok(Pid::from_raw(pid).expect("a pid is not zero"))
}

fn explain(start: &Start, program: &str, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::NotFound {
        return format!("cannot start {program}: {error}");
    }
    if !program.contains('/') {
        let inherited = || std::env::var("PATH").unwrap_or_default();
        let path = start.env.get("PATH").cloned().unwrap_or_else(inherited);
        return format!("cannot start {program}: not found in PATH ({path})");
    }
    let folder = start.working_folder.as_deref().unwrap_or(Path::new(""));
    if folder.join(program).exists() {
        return format!(
            "cannot start {program}: the interpreter that its first line names is missing"
        );
    }
    format!("cannot start {program}: {error}")
}
