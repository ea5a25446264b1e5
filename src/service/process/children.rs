//! The helper processes of all runs, and the children of headcount that are none of them.
//!
//! Headcount gets children that it did not start: as process 1 of a container every orphan there,
//! and what the program left running that headcount replaced (execve(2)). Each stays a zombie until
//! its parent waits for it, so a thread reaps them. The guardians are left to tokio, which waits for
//! each of them by pid.
//!
//! Headcount is a child subreaper, so it also gets what is left of a tree whose guardian and keeper
//! were both killed, a *stray*. [`Helpers::kill_strays`] ends those.

use std::{
    collections::HashSet,
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};
use signal_hook::consts::SIGCHLD;
use tokio::{
    process::{Child, Command},
    sync::oneshot,
};

use super::{
    TARGET,
    group::{Delegated, Group},
    guardian::{children, is_stopped, kill_trees, started_at},
    mark,
};
use crate::TaskGroup;

/// The pids of the helper processes that are alive or not yet waited for.
#[derive(Debug, Clone, Default)]
pub(super) struct Helpers(Arc<Mutex<Family>>);

/// The processes below headcount, as far as they are known.
#[derive(Debug, Default)]
struct Family {
    helpers: HashSet<Pid>,
    /// The mark of the trees, and what else can be below headcount. `None` if strays do not become
    /// children.
    strays: Option<Strays>,
    /// The control group below which each run gets one of its own.
    delegated: Option<Delegated>,
    /// The writing end of a nonblocking socket pair, which wakes the reaper thread. The handler of
    /// SIGCHLD writes to it too. `None` if there is no such thread.
    waker: Option<UnixStream>,
    /// The questions that the reaper thread has not read yet.
    asked: Vec<Asked>,
}

/// A question for strays.
#[derive(Debug)]
struct Asked {
    /// The strangers at the start of the run that asks.
    before: Arc<Strangers>,
    /// The helper processes of that run. They have ended, or should have.
    lost: Vec<Pid>,
    answer: oneshot::Sender<Look>,
}

/// The way to tell strays from other children.
#[derive(Debug)]
struct Strays {
    /// The mark in the environment of each command.
    mark: String,
    /// True if every child that is no helper is a stray: headcount had no children at the start, and
    /// is not process 1, which adopts the orphans of others.
    is_alone: bool,
}

/// Children that are no helper processes, each with the time of its start.
#[derive(Debug, Default)]
pub(super) struct Strangers(HashSet<(Pid, u64)>);

/// The result of one look for strays.
#[derive(Debug)]
pub(super) struct Look {
    /// The names of those that were alive. All have been sent SIGKILL.
    pub(super) killed: Vec<String>,
    /// True if there was one, although it had ended.
    pub(super) has_strays: bool,
    /// True if there was a child that may be one.
    pub(super) is_unclear: bool,
}

// === impl Helpers ===

impl Helpers {
    /// Starts a helper process. The lock keeps the reaper from taking it for a stranger before its
    /// pid is noted.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut family = self.lock();
        let child = command.spawn()?;
        family.helpers.extend(child.id().and_then(pid));
        Ok(child)
    }

    /// Notes a helper process that another one has started. It becomes a child of headcount when
    /// that one is killed.
    pub(super) fn note(&self, helper: u32) {
        let mut family = self.lock();
        family.helpers.extend(pid(helper));
    }

    /// Forgets a helper process for which nothing waits any longer.
    pub(super) fn forget(&self, helper: u32) {
        let mut family = self.lock();
        if let Some(pid) = pid(helper) {
            family.helpers.remove(&pid);
        }
    }

    /// Returns the mark of the trees; `None` before [`Self::take_charge`].
    pub(super) fn mark(&self) -> Option<String> {
        let family = self.lock();
        family.strays.as_ref().map(|strays| strays.mark.clone())
    }

    /// Makes the control group of a run. `None` where none is delegated.
    pub(super) fn group(&self) -> Option<Group> {
        let delegated = self.lock().delegated.clone();
        delegated?.make()
    }

    /// Makes headcount the parent of strays, and starts the thread that reaps the other children
    /// and ends helper processes that are stopped. It ends with the process.
    ///
    /// # Errors
    ///
    /// Fails if the operating system refuses the thread, a handler or a file descriptor.
    pub(super) fn take_charge(&self, service: &str, tasks: &TaskGroup) -> io::Result<()> {
        let (changes, wake) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, wake.try_clone()?)?;
        let is_alone = getpid() != Pid::INIT && children().is_empty();
        set_child_subreaper(Some(getpid()))?;
        let delegated = Delegated::find(started_at);
        let mut family = self.lock();
        family.delegated = delegated;
        family.strays = Some(Strays {
            mark: mark::own(service),
            is_alone,
        });
        drop(family);
        let helpers = self.clone();
        tasks.thread("reaper").daemon().spawn(move |_| {
            // Some may have ended before the handler stood.
            helpers.look();
            // Signals may interrupt it.
            while retry_on_intr(|| rustix::io::read(&changes, &mut [0; 64])).is_ok() {
                helpers.look();
                helpers.answer();
            }
        })?;
        self.lock().waker = Some(wake);
        Ok(())
    }

    /// Reaps each child that has ended and is no helper process, and kills helper processes that are
    /// stopped: they would guard nothing.
    fn look(&self) {
        let mut killed = Vec::new();
        let family = self.lock();
        for child in children() {
            if !family.helpers.contains(&child) {
                // It may be alive.
                waitpid(Some(child), WaitOptions::NOHANG).ok();
            } else if is_stopped(child) {
                // Only tokio and this thread reap it, so the pid is still its own.
                kill_process(child, Signal::KILL).ok();
                killed.push(child.as_raw_pid());
            }
        }
        drop(family);
        for pid in killed {
            tracing::warn!(target: TARGET, pid, "a helper process was stopped (SIGSTOP), so it is killed");
        }
    }

    /// Answers what was asked for.
    fn answer(&self) {
        let asked = std::mem::take(&mut self.lock().asked);
        for asked in asked {
            if let Some(look) = self.sweep(&asked) {
                // The run that has asked may have been given up.
                asked.answer.send(look).ok();
            }
        }
    }

    /// Returns the children that are alive and no helper processes. None of them can be a stray of a
    /// run that starts later.
    pub(super) fn strangers(&self) -> Strangers {
        let family = self.lock();
        let others = children().into_iter();
        let others = others.filter(|child| !family.helpers.contains(child));
        Strangers(others.filter_map(start).collect())
    }

    /// Kills the strays of all trees that have lost both helper processes. `before` holds the
    /// strangers at the start of the run that asks, and `lost` its helper processes. `None` if strays
    /// do not come to headcount, so that it cannot know.
    ///
    /// The reaper thread does it: it reads the files of every process below headcount, and there may
    /// be many.
    pub(super) async fn kill_strays(&self, before: &Arc<Strangers>, lost: &[u32]) -> Option<Look> {
        let (answer, look) = oneshot::channel();
        {
            let mut family = self.lock();
            let mut waker = family.waker.as_ref()?;
            // It is full if the thread will wake anyway.
            waker.write_all(&[0]).ok();
            family.asked.push(Asked {
                before: Arc::clone(before),
                lost: lost.iter().copied().filter_map(pid).collect(),
                answer,
            });
        }
        look.await.ok()
    }

    /// Kills strays for a run, on the thread that reaps all children but the guardians. So no pid of a
    /// stray is reused meanwhile.
    fn sweep(&self, asked: &Asked) -> Option<Look> {
        let mut found = Vec::new();
        let mut is_unclear = false;
        {
            let family = self.lock();
            let strays = family.strays.as_ref()?;
            // Under the lock, no helper process is started before its pid is noted.
            for child in children() {
                if family.helpers.contains(&child) {
                    continue;
                }
                match strays.is_stray(child, asked) {
                    Some(true) => found.push(child),
                    Some(false) => {}
                    None => is_unclear = true,
                }
            }
        }
        let look = Look {
            killed: kill_trees(&found),
            has_strays: !found.is_empty(),
            is_unclear,
        };
        for stray in found {
            waitpid(Some(stray), WaitOptions::NOHANG).ok();
        }
        Some(look)
    }

    /// Locks the family. It is whole between the operations on it.
    fn lock(&self) -> MutexGuard<'_, Family> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Strays ===

impl Strays {
    /// Returns whether a child that is no helper process was started by a command of this run of
    /// headcount. `None` if that cannot be known: the environment of the command may have been cleared.
    fn is_stray(&self, child: Pid, asked: &Asked) -> Option<bool> {
        let mark = mark::of(child);
        if mark.as_ref() == Some(&mark::of_helper(&self.mark)) {
            // A keeper of another run comes here when its guardian is killed, perhaps before its pid
            // is noted. It still ends its own tree.
            return Some(asked.lost.contains(&child));
        }
        if self.is_alone {
            return Some(true);
        }
        match mark {
            Some(mark) => Some(mark == self.mark),
            None => start(child)
                .is_none_or(|start| asked.before.0.contains(&start))
                .then_some(false),
        }
    }
}

/// Returns a child with the time of its start, because its pid can be reused once it is reaped.
/// `None` if it has ended.
fn start(child: Pid) -> Option<(Pid, u64)> {
    let number = child.as_raw_pid().cast_unsigned();
    Some((child, started_at(number)?))
}

/// Returns the pid in the form of the system calls.
fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The keeper of another run was taken for a stray, and killed with its tree before the stop
    /// budget, if its guardian was killed before its pid was noted.
    #[test]
    fn the_keeper_of_another_run_is_no_stray() {
        let mark = mark::own("test");
        let judged = |environment: Option<&str>, is_alone, is_lost: bool| {
            let mut command = Command::new("sleep");
            command.arg("1000").env_remove(mark::VARIABLE);
            command.envs(environment.map(|mark| (mark::VARIABLE, mark)));
            let mut child = command.spawn().expect("sleep is installed");
            let pid = pid(child.id()).expect("a pid");
            // It is empty for a moment after execve(2).
            let environment = format!("/proc/{}/environ", child.id());
            while std::fs::read(&environment).expect("it is alive").is_empty() {}
            let strays = Strays {
                mark: mark.clone(),
                is_alone,
            };
            let asked = Asked {
                before: Arc::default(),
                lost: is_lost.then_some(pid).into_iter().collect(),
                answer: oneshot::channel().0,
            };
            let judged = strays.is_stray(pid, &asked);
            child.kill().expect("it is alive");
            child.wait().expect("it is a child");
            judged
        };
        let helper = mark::of_helper(&mark);
        for is_alone in [false, true] {
            assert_eq!(judged(Some(&helper), is_alone, false), Some(false));
            assert_eq!(judged(Some(&helper), is_alone, true), Some(true));
            assert_eq!(judged(Some(&mark), is_alone, false), Some(true));
        }
        assert_eq!(judged(Some("another"), false, false), Some(false));
        assert_eq!(judged(None, false, false), None);
        assert_eq!(judged(None, true, false), Some(true));
    }
}
