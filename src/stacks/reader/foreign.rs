//! Reads the stacks of the threads of another process, from outside only: nothing is sent to them.
//!
//! A thread on a processor has no stack here. The modules are those at the time of the opening.

use super::memory::Memory;
use super::modules::Modules;
use super::walk::{Walker, Window};
use crate::audit::proc::syscall::WaitPoint;
use crate::stacks::Stack;
use std::fs;
use std::io;
use std::path::PathBuf;

/// The most looks at a thread that moves on meanwhile.
const LOOKS: usize = 3;

/// A reader of the stacks of one process.
pub(crate) struct ForeignReader {
    process: PathBuf,
    memory: Memory,
    modules: Modules,
    walker: Walker,
}

// === impl ForeignReader ===

impl ForeignReader {
    /// Opens a process, and loads the unwinding information of its modules.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not allow to read the process.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let memory = Memory::of(pid)?;
        let mut modules = Modules::default();
        modules.refresh(&memory);
        Ok(Self {
            process: memory.process(),
            memory,
            modules,
            walker: Walker::default(),
        })
    }

    /// Reads the stack of a thread; `None` if it is on a processor, or has ended.
    pub(crate) fn stack(&mut self, tid: u32) -> Option<Stack> {
        let folder = self.process.join("task").join(tid.to_string());
        let look = || {
            let call = fs::read_to_string(folder.join("syscall")).ok()?;
            Some((call, fs::read_to_string(folder.join("schedstat")).ok()))
        };
        let mut last = None;
        for _ in 0..LOOKS {
            let before = look()?;
            let Some(point) = WaitPoint::parse(before.0.trim_end()) else {
                return last;
            };
            let mut window = Window::new(&self.memory, point.sp);
            let walker = &mut self.walker;
            let mut stack = walker.walk_from(point.pc, point.sp, &mut window, &self.modules);
            let is_still = before.1.is_some() && look().is_some_and(|after| after == before);
            stack.is_exact &= is_still;
            last = Some(stack);
            if is_still {
                break;
            }
        }
        last
    }

    /// Returns the beginning of the function with an address, as far as its module tells.
    pub(crate) fn function(&self, address: u64) -> Option<u64> {
        self.modules.function(address)
    }
}

#[cfg(test)]
mod tests {
    use super::ForeignReader;
    use std::process::{Command, Stdio};

    #[test]
    fn the_stack_of_a_waiting_thread_of_another_process_is_complete() {
        let mut command = Command::new("cat");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.expect("cat is installed");
        let link = format!("/proc/{}/syscall", child.id());
        // `read` of standard input (syscall 0 or 63 with the descriptor 0).
        let reads = || {
            let call = std::fs::read_to_string(&link).unwrap_or_default();
            let mut words = call.split(' ');
            matches!(
                (words.next(), words.next()),
                (Some("0" | "63"), Some("0x0"))
            )
        };
        while !reads() {
            std::thread::yield_now();
        }
        let mut reader = ForeignReader::open(child.id()).expect("it is our child");
        let stack = reader.stack(child.id()).expect("it waits");
        assert!(stack.is_complete && stack.is_exact, "{stack:?}");
        assert!(stack.addresses.len() > 3, "{stack:?}");
        drop(child.stdin.take());
        child.wait().expect("it ends with its input");
        assert!(ForeignReader::open(u32::MAX).is_err());
    }
}
