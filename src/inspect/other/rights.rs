//! Access to another process, and the reasons why it may be missing.
//!
//! The kernel answers every refusal with one of a few numbers, and several causes share each. So the
//! text names all causes that fit, and the remedy of each.

use crate::inspect::memory::Memory;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The most bytes of copies of memory while the lists of another process are walked. Tasks that are neighbours in
/// the lists are mostly neighbours in memory, so more would be touched once and cost a page fault each.
pub(super) const KEPT: u64 = 16 << 20;

/// An open process.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) memory: Memory,
    /// The file of its program, also if it was deleted or is in a container.
    pub(super) program: File,
    /// The address at which the program begins.
    pub(super) begin: u64,
    /// The path of the program, as the process sees it.
    pub(super) path: String,
}

// === impl Access ===

impl Access {
    /// Opens a process, and keeps at most `kept` bytes of copies of its memory. An error is a sentence.
    pub(super) fn open(pid: u32, kept: u64) -> Result<Self, String> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let refused = |error: &io::Error| refusal(pid, &Facts::read(pid), error);
        let memory = Memory::open(&folder, kept).map_err(|error| refused(&error))?;
        let link = folder.join("exe");
        let path = std::fs::read_link(&link).map_err(|error| refused(&error))?;
        let program = File::open(&link).map_err(|error| refused(&error))?;
        let path = path.to_string_lossy().into_owned();
        let begin = begin_of(&memory, &program, &path).ok_or_else(|| {
            format!("process {pid} has no program in its memory: it may be ending")
        })?;
        // The kernel allows to open the memory of some processes that it does not allow to read.
        if memory.word(begin).is_none() {
            let error = io::Error::from_raw_os_error(libc::EPERM);
            return Err(refused(&error));
        }
        Ok(Self {
            memory,
            program,
            begin,
            path,
        })
    }
}

/// Returns the address at which a program begins in memory.
fn begin_of(memory: &Memory, program: &File, path: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let inode = program.metadata().ok()?.ino();
    let mappings = memory.mappings();
    let begins = |of: &dyn Fn(&crate::audit::proc::maps::Mapping) -> bool| {
        let mut own = mappings.iter().filter(|mapping| mapping.offset == 0);
        own.find(|mapping| of(mapping)).map(|mapping| mapping.start)
    };
    // Some file systems give a file one inode when it is mapped, and another one when it is opened.
    begins(&|mapping| mapping.path == path).or_else(|| begins(&|mapping| mapping.inode == inode))
}

/// Facts by which a refusal is explained.
#[derive(Debug, Default)]
struct Facts {
    /// True if the process has a folder in `/proc`.
    exists: bool,
    /// The user of the process, and that of this one.
    users: Option<(u32, u32)>,
    /// `kernel.yama.ptrace_scope`.
    yama: u32,
    /// True if `/proc` hides the processes of other users.
    hides: bool,
}

// === impl Facts ===

impl Facts {
    fn read(pid: u32) -> Self {
        let text = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let status = text(format!("/proc/{pid}/status"));
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let user = user.and_then(|user| user.split_whitespace().next()?.parse().ok());
        let own = rustix::process::geteuid().as_raw();
        let yama = text("/proc/sys/kernel/yama/ptrace_scope".to_owned());
        let mounts = text("/proc/self/mounts".to_owned());
        Self {
            exists: Path::new(&format!("/proc/{pid}")).exists(),
            users: user.map(|user| (user, own)),
            yama: yama.trim().parse().unwrap_or(0),
            hides: hides_processes(&mounts),
        }
    }
}

/// Returns whether a line of `/proc/self/mounts` says that `/proc` hides processes.
fn hides_processes(mounts: &str) -> bool {
    let proc = mounts.lines().filter(|line| line.contains(" /proc proc "));
    let mut options = proc.filter_map(|line| line.split(' ').nth(3));
    options.any(|options| {
        let mut options = options.split(',');
        options.any(|option| option.starts_with("hidepid=") && !option.ends_with(['0', 'f']))
    })
}

/// Explains why a process could not be opened, with all causes that fit.
fn refusal(pid: u32, facts: &Facts, error: &io::Error) -> String {
    if !facts.exists || error.kind() == io::ErrorKind::NotFound {
        let hidden = match facts.hides {
            true => {
                "\n  /proc hides the processes of other users here (hidepid): run this as the user of the process, or as root"
            }
            false => "",
        };
        return format!(
            "no process {pid} is here: it has ended, or is in another container{hidden}"
        );
    }
    let mut causes = Vec::new();
    if let Some((theirs, own)) = facts
        .users
        .filter(|(theirs, own)| theirs != own && *own != 0)
    {
        causes.push(format!(
            "it runs as user {theirs}, and this as user {own}: run this as that user, or as root"
        ));
    } else if facts.users.is_none() {
        causes.push(
            "its user is not known: run this as the user of the process, or as root".to_owned(),
        );
    }
    if facts.yama > 0 {
        causes.push(match facts.yama {
            1 => "Yama allows only the parents of a process to read it: run this as root, or set \
                  kernel.yama.ptrace_scope = 0"
                .to_owned(),
            2 => "Yama allows only root to read a process: run this as root".to_owned(),
            _ => "Yama allows nothing to read a process until the next boot (kernel.yama.ptrace_scope = 3)"
                .to_owned(),
        });
    }
    if causes.is_empty() {
        causes.push(
            "it may not be dumpable: it changed its user, has file capabilities, or set \
             PR_SET_DUMPABLE: run this as root"
                .to_owned(),
        );
        causes.push(
            "a container may lack the capability: run this in the container of the process, or with \
             CAP_SYS_PTRACE"
                .to_owned(),
        );
    }
    format!(
        "the kernel does not allow to read process {pid} ({error}):\n  {}",
        causes.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::{Access, Facts, hides_processes, refusal};
    use std::io;

    fn text(facts: &Facts) -> String {
        refusal(17, facts, &io::Error::from_raw_os_error(libc::EACCES))
    }

    #[test]
    fn a_refusal_names_each_cause_that_fits_and_its_remedy() {
        let known = Facts {
            exists: true,
            users: Some((1000, 1000)),
            ..Facts::default()
        };
        let dumpable = text(&known);
        assert!(dumpable.contains("may not be dumpable"), "{dumpable}");
        assert!(dumpable.contains("CAP_SYS_PTRACE"), "{dumpable}");
        let other = text(&Facts {
            users: Some((1000, 33)),
            yama: 1,
            ..known
        });
        assert!(
            other.contains("it runs as user 1000, and this as user 33"),
            "{other}"
        );
        assert!(other.contains("kernel.yama.ptrace_scope = 0"), "{other}");
        let root = text(&Facts {
            users: Some((1000, 0)),
            exists: true,
            ..Facts::default()
        });
        assert!(!root.contains("as user"), "{root}");
        let gone = text(&Facts::default());
        assert_eq!(
            gone,
            "no process 17 is here: it has ended, or is in another container"
        );
        let hidden = text(&Facts {
            hides: true,
            ..Facts::default()
        });
        assert!(
            hidden.contains("(hidepid): run this as the user"),
            "{hidden}"
        );
    }

    #[test]
    fn a_hidden_process_is_told_by_the_mount_of_proc() {
        for (mounts, hides) in [
            ("proc /proc proc rw,nosuid,relatime 0 0\n", false),
            ("proc /proc proc rw,hidepid=2 0 0\n", true),
            ("proc /proc proc rw,hidepid=invisible 0 0\n", true),
            ("proc /proc proc rw,hidepid=0 0 0\n", false),
            ("proc /proc proc rw,hidepid=off 0 0\n", false),
            ("x /x proc rw,hidepid=2 0 0\n", false),
            ("", false),
        ] {
            assert_eq!(hides_processes(mounts), hides, "{mounts}");
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_said_to_be_gone() {
        let error = Access::open(u32::MAX, super::KEPT).expect_err("no pid is that large");
        assert!(error.contains("no process 4294967295"), "{error}");
    }
}
