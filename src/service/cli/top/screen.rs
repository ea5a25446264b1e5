//! The terminal while `headcount top` draws on it: raw, on its other screen, and restored whatever
//! happens.
//!
//! It is restored when the [`Screen`] is dropped, and before the message of a panic is printed. Signals
//! that end the process are held meanwhile. SIGKILL leaves the terminal as it is, and so does a second
//! SIGTERM or SIGINT, if the process has not ended by then; `reset` then helps.

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::process::{Signal, kill_current_process_group};
use std::io::{self, Stdout, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

/// True while the terminal is raw.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// The terminal, raw and on its other screen.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

// === impl Screen ===

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// Returns an error if it refuses; it is then as it was.
    pub(super) fn open() -> io::Result<Self> {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            restore();
            earlier(panicked);
        }));
        begin()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        let terminal = terminal.inspect_err(|_| restore())?;
        Ok(Self { terminal })
    }

    /// Gives the terminal back, stops the process as Ctrl-Z does, and takes the terminal again when it
    /// goes on.
    ///
    /// # Errors
    ///
    /// Returns an error if the terminal refuses.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        restore();
        kill_current_process_group(Signal::TSTP)?;
        begin()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn begin() -> io::Result<()> {
    enable_raw_mode()?;
    IS_ON.store(true, Ordering::Relaxed);
    execute!(stdout(), EnterAlternateScreen, Hide).inspect_err(|_| restore())
}

/// Restores the terminal, if it is raw. A terminal that is gone cannot be restored.
fn restore() {
    if IS_ON.swap(false, Ordering::Relaxed) {
        execute!(stdout(), LeaveAlternateScreen, Show).ok();
        disable_raw_mode().ok();
    }
}

#[cfg(all(test, not(headcount_loom)))]
mod tests {
    use super::Screen;
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::tcgetattr;
    use std::fs::File;
    use std::io::Read as _;
    use std::process::Command;

    /// Set where the panic is wanted.
    const PLANTED: &str = "HEADCOUNT_PLANTED_PANIC";

    /// Panics with the terminal in use, in a process of its own.
    #[test]
    #[ignore = "a_panic_is_printed_on_a_terminal_that_was_restored starts it"]
    fn panics() {
        // All ignored tests may be run at once.
        if std::env::var_os(PLANTED).is_none() {
            return;
        }
        let _screen = Screen::open().expect("it is on a terminal");
        panic!("planted");
    }

    #[test]
    fn a_panic_is_printed_on_a_terminal_that_was_restored() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let ours = openpt(flags).expect("the system has terminals");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is ours");
        let theirs = ioctl_tiocgptpeer(&ours, flags).expect("it is unlocked");
        let modes = || {
            let attributes = tcgetattr(&theirs).expect("it is a terminal");
            (attributes.local_modes, attributes.input_modes)
        };
        let before = modes();
        let end = || theirs.try_clone().expect("it is open");
        let test = std::env::current_exe().expect("a process knows its program");
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(test);
        command.args(["--exact", "--ignored", "--nocapture"]);
        let (_, module) = module_path!().split_once("::").expect("it is in a crate");
        command.arg(format!("{module}::panics"));
        command.env(PLANTED, "1");
        command.stdin(end()).stdout(end()).stderr(end());
        let ended = command.status().expect("setsid is installed");
        assert!(!ended.success());
        assert_eq!(modes(), before);
        drop((command, theirs));
        let mut written = Vec::new();
        // It ends with an error once no process has the other end.
        File::from(ours).read_to_end(&mut written).ok();
        let written = String::from_utf8_lossy(&written);
        let enters = written.find("\u{1b}[?1049h");
        let leaves = written.find("\u{1b}[?1049l");
        let says = written.find("planted");
        assert!(
            enters.is_some() && enters < leaves && leaves < says,
            "{written:?}"
        );
    }
}
