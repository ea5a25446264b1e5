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

/// The number of the capability to read other processes.
const CAP_SYS_PTRACE: u32 = 19;
/// The reasons why a process is not dumpable, with the remedy.
const UNDUMPABLE: &str =
    ": it changed its user, has file capabilities, or set PR_SET_DUMPABLE: run this as root";

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
    /// True if it has ended, and its parent has not asked for its end yet.
    is_zombie: bool,
    /// True if it has memory; a thread of the kernel has none.
    has_memory: bool,
    /// The user of the process, and that of this one.
    users: Option<(u32, u32)>,
    /// False if the kernel keeps the process from its own user; `None` if that is not known.
    is_dumpable: Option<bool>,
    /// True if this process may read each one that the kernel's other rules allow.
    is_capable: bool,
    /// `kernel.yama.ptrace_scope`.
    yama: u32,
    /// True if `/proc` hides the processes of other users.
    hides: bool,
}

// === impl Facts ===

impl Facts {
    fn read(pid: u32) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let path = format!("/proc/{pid}/status");
        let status = text(&path);
        let user = field(&status, "Uid:");
        // The effective one is the second of four.
        let user = user.and_then(|users| users.split_whitespace().nth(1)?.parse().ok());
        let own = rustix::process::geteuid().as_raw();
        let capable = field(&text("/proc/self/status"), "CapEff:").map(str::to_owned);
        let capable = capable.and_then(|set| u64::from_str_radix(&set, 16).ok());
        let yama = text("/proc/sys/kernel/yama/ptrace_scope");
        Self {
            exists: Path::new(&format!("/proc/{pid}")).exists(),
            is_zombie: field(&status, "State:").is_some_and(|state| state.starts_with('Z')),
            // It may be hidden.
            has_memory: status.is_empty() || field(&status, "VmSize:").is_some(),
            users: user.map(|user| (user, own)),
            is_dumpable: user.and_then(|user| is_dumpable(&path, user)),
            is_capable: capable.unwrap_or(0) & (1 << CAP_SYS_PTRACE) != 0,
            yama: yama.trim().parse().unwrap_or(0),
            hides: hides_processes(&text("/proc/self/mounts")),
        }
    }
}

/// Returns the value of a line of a `status` file in `/proc`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// Returns whether the process of a user is dumpable. The files of one that is not belong to root, so it is not known of a
/// process of root.
fn is_dumpable(file: &str, user: u32) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(file).ok()?.uid();
    (user != 0).then_some(owner == user)
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
    if !facts.exists || error.kind() == io::ErrorKind::NotFound && facts.has_memory {
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
    if facts.is_zombie {
        return format!(
            "process {pid} has ended, and its parent has not asked for its end yet: it has no tasks any more"
        );
    }
    if !facts.has_memory {
        return format!("process {pid} has no program: it is a thread of the kernel, or is ending");
    }
    format!(
        "the kernel does not allow to read process {pid} ({error}):\n  {}",
        causes(facts).join("\n  ")
    )
}

/// Returns the causes of a refusal that fit, each with its remedy.
fn causes(facts: &Facts) -> Vec<String> {
    let mut causes = Vec::new();
    let is_root = facts.users.is_some_and(|(_, own)| own == 0);
    if facts.users.is_none() {
        causes.push(
            "its user is not known: run this as the user of the process, or as root".to_owned(),
        );
    }
    if let Some((theirs, own)) = facts.users.filter(|(theirs, own)| theirs != own)
        && own != 0
    {
        let user = match facts.is_dumpable {
            Some(false) => "",
            _ => "as that user, or ",
        };
        causes.push(format!(
            "it runs as user {theirs}, and this as user {own}: run this {user}as root"
        ));
    }
    if facts.is_dumpable == Some(false) && !is_root {
        causes.push(format!("it is not dumpable{UNDUMPABLE}"));
    }
    if is_root && !facts.is_capable {
        causes.push(
            "this is root without CAP_SYS_PTRACE, as in most containers: run this with that capability, or outside of the \
             container"
                .to_owned(),
        );
    }
    match facts.yama {
        0 => {}
        1 | 2 if facts.is_capable => {}
        1 => causes.push(
            "Yama allows only the parents of a process to read it: run this as root, or set \
             kernel.yama.ptrace_scope = 0"
                .to_owned(),
        ),
        2 => causes.push("Yama allows only root to read a process: run this as root".to_owned()),
        _ => causes.push(
            "Yama allows nothing to read a process until the next boot (kernel.yama.ptrace_scope = 3)"
                .to_owned(),
        ),
    }
    if causes.is_empty() {
        if facts.is_dumpable.is_none() && !is_root {
            causes.push(format!("it may not be dumpable{UNDUMPABLE}"));
        }
        causes.push(
            "a container, or a security module such as AppArmor, may forbid it: run this in the container of the process, \
             or as root outside of it"
                .to_owned(),
        );
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::{Access, Facts, hides_processes, refusal};
    use std::io;

    fn text(facts: &Facts) -> String {
        refusal(17, facts, &io::Error::from_raw_os_error(libc::EACCES))
    }

    /// A process of another user than root, which has no capability.
    const KNOWN: Facts = Facts {
        exists: true,
        is_zombie: false,
        has_memory: true,
        users: Some((1000, 1000)),
        is_dumpable: Some(true),
        is_capable: false,
        yama: 0,
        hides: false,
    };

    #[test]
    fn a_refusal_names_each_cause_that_fits_and_its_remedy() {
        let begin =
            "the kernel does not allow to read process 17 (Permission denied (os error 13)):\n  ";
        let forbidden = "a container, or a security module such as AppArmor, may forbid it: run this in the container of \
            the process, or as root outside of it";
        let undumpable = "dumpable: it changed its user, has file capabilities, or set PR_SET_DUMPABLE: run this as root";
        let yama = "Yama allows only the parents of a process to read it: run this as root, or set \
            kernel.yama.ptrace_scope = 0";
        let facts = |change: &dyn Fn(&mut Facts)| {
            let mut facts = KNOWN;
            change(&mut facts);
            facts
        };
        for (facts, causes) in [
            (facts(&|_| {}), forbidden.to_owned()),
            (
                facts(&|facts| facts.is_dumpable = None),
                format!("it may not be {undumpable}\n  {forbidden}"),
            ),
            (
                facts(&|facts| facts.is_dumpable = Some(false)),
                format!("it is not {undumpable}"),
            ),
            (
                facts(&|facts| (facts.users, facts.yama) = (Some((1000, 33)), 1)),
                format!("it runs as user 1000, and this as user 33: run this as that user, or as root\n  {yama}"),
            ),
            (
                facts(&|facts| (facts.users, facts.is_dumpable) = (Some((1000, 33)), Some(false))),
                format!("it runs as user 1000, and this as user 33: run this as root\n  it is not {undumpable}"),
            ),
            (
                facts(&|facts| facts.users = Some((1000, 0))),
                "this is root without CAP_SYS_PTRACE, as in most containers: run this with that capability, or outside of \
                 the container"
                    .to_owned(),
            ),
            (
                // The capability is enough for Yama.
                facts(&|facts| (facts.users, facts.is_capable, facts.yama) = (Some((0, 0)), true, 2)),
                forbidden.to_owned(),
            ),
            (
                facts(&|facts| (facts.users, facts.is_capable, facts.yama) = (Some((0, 0)), true, 3)),
                "Yama allows nothing to read a process until the next boot (kernel.yama.ptrace_scope = 3)".to_owned(),
            ),
        ] {
            assert_eq!(text(&facts), format!("{begin}{causes}"), "{facts:?}");
        }
    }

    #[test]
    fn a_process_that_has_no_memory_is_not_said_to_be_forbidden() {
        let gone = text(&Facts::default());
        let absent = "no process 17 is here: it has ended, or is in another container";
        assert_eq!(gone, absent);
        let hidden = text(&Facts {
            hides: true,
            ..Facts::default()
        });
        assert!(hidden.starts_with(absent), "{hidden}");
        assert!(
            hidden.contains("(hidepid): run this as the user"),
            "{hidden}"
        );
        let mut facts = KNOWN;
        facts.has_memory = false;
        let kernel = text(&facts);
        assert!(kernel.contains("is a thread of the kernel"), "{kernel}");
        facts.is_zombie = true;
        let zombie = text(&facts);
        assert!(zombie.contains("has not asked for its end yet"), "{zombie}");
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
