//! Ends a child process when its parent is killed.

#![expect(
    unsafe_code,
    reason = "std marks every call between fork and exec as unsafe"
)]

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the kernel kill the command with SIGKILL when the thread that spawns it ends.
///
/// The command is killed however the thread ends, also when the whole process is killed. Spawn it on
/// a thread that lives as long as the command may: not on a worker of a runtime that is closed
/// before.
///
/// It holds for the command alone, not for processes that it starts, and not for a set-user-ID
/// program or one with capabilities (PR_SET_PDEATHSIG(2const)).
///
/// # Examples
///
/// ```
/// let mut command = std::process::Command::new("sleep");
/// headcount::runtime::end_with_parent(&mut command);
/// let mut child = command.arg("60").spawn()?;
/// child.kill()?;
/// child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn end_with_parent(command: &mut Command) {
    let parent = getpid();
    let ask = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the request.
        if getppid() == Some(parent) {
            return Ok(());
        }
        Err(io::Error::from(rustix::io::Errno::SRCH))
    };
    // SAFETY: between fork and exec, the closure makes two system calls (prctl(2), getppid(2)), and
    // allocates nothing: an error is a number.
    unsafe {
        command.pre_exec(ask);
    }
}
