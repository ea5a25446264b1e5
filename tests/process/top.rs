//! Tests of `headcount top` on a terminal of its own.
//!
//! `setsid --ctty` makes the terminal that of the process, as a shell does.

use crate::inspect;
use crate::program::{LONG, Process};
use crate::ways::serve;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// `headcount top` and its terminal.
struct Top {
    child: Child,
    process: Process,
    keys: File,
    /// The terminal's end that the program has.
    theirs: OwnedFd,
    coming: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    /// All that it wrote.
    written: Vec<u8>,
}

fn nonzero(size: u16) -> NonZero<u16> {
    NonZero::new(size).expect("no terminal is that small")
}

impl Top {
    fn start(pid: u32, columns: u16, variables: &[(&str, &str)]) -> Self {
        const ROWS: u16 = 24;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let ours = openpt(flags).expect("the system has terminals");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is ours");
        let theirs = ioctl_tiocgptpeer(&ours, flags).expect("it is unlocked");
        let size = Winsize {
            ws_row: ROWS,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size).expect("it is a terminal");
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_headcount"), "top"]);
        command.arg(pid.to_string()).args(["--every", "500ms"]);
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.envs(variables.iter().copied());
        let end = || theirs.try_clone().expect("it is open");
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("setsid is installed");
        let keys = File::from(ours);
        let mut output = keys.try_clone().expect("it is open");
        let (sender, coming) = channel();
        let read = move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .spawn(read)
            .expect("the system has threads");
        Self {
            process: Process::new(&child.id().to_string()),
            child,
            keys,
            theirs,
            coming,
            screen: vt100::Parser::new(nonzero(ROWS), nonzero(columns), 0),
            written: Vec::new(),
        }
    }

    /// Waits until the text on the screen is as it should, and returns it.
    #[track_caller]
    fn until(&mut self, is_so: impl Fn(&str) -> bool) -> String {
        self.until_screen(|screen| is_so(&screen.contents()))
    }

    #[track_caller]
    fn until_screen(&mut self, is_so: impl Fn(&vt100::Screen) -> bool) -> String {
        let begun = Instant::now();
        loop {
            if is_so(self.screen.screen()) {
                return self.screen.screen().contents();
            }
            let left = LONG.saturating_sub(begun.elapsed());
            match self.coming.recv_timeout(left) {
                Ok(bytes) => {
                    self.screen.process(&bytes);
                    self.written.extend(bytes);
                }
                Err(_) => {
                    let text = self.screen.screen().contents();
                    panic!("it never comes to that:\n{text}");
                }
            }
        }
    }

    #[track_caller]
    fn shows(&mut self, text: &str) -> String {
        self.until(|screen| screen.contains(text))
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("it is open");
    }

    fn is_raw(&self) -> bool {
        let attributes = tcgetattr(&self.theirs).expect("it is a terminal");
        !attributes.local_modes.contains(LocalModes::ICANON)
    }

    /// Waits for the end, and checks that the terminal is as it was.
    #[track_caller]
    fn end(mut self, is_so: impl Fn(&str) -> bool) -> ExitStatus {
        assert!(self.process.ends_within(LONG), "it does not end");
        let status = self.child.wait().expect("it is ours");
        assert!(!self.is_raw());
        // What it wrote last may still be on its way.
        self.until_screen(|screen| {
            let is_restored = !screen.alternate_screen() && !screen.hide_cursor();
            is_restored && is_so(&screen.contents())
        });
        status
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // It has either ended, or must be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_service_is_shown_by_its_black_box_and_keys_change_the_view() {
    let service = serve();
    let pid = service.program.pid();
    let mut top = Top::start(pid, 80, &[]);
    let screen = top.until(|screen| screen.contains("process/sleeps") && screen.contains("q quit"));
    assert!(screen.contains("resources"), "{screen}");
    assert!(
        screen.starts_with(&format!(
            "orders (pid {pid}), running, read by black box and attach"
        )),
        "{screen}"
    );
    assert!(top.is_raw());
    top.press("/slee");
    top.until(|screen| !screen.contains("resources") && screen.contains("process/sleeps"));
    top.press("\u{1b}");
    top.shows("resources");
    top.press("2");
    // A thread's use of processors is known from the second sample on.
    top.until(|screen| screen.contains("headcount-") && screen.contains("worker"));
    top.press("3");
    let screen = top.shows("sleep 1000");
    let lines: Vec<&str> = screen.lines().collect();
    let at = |text: &str| lines.iter().position(|line| line.contains(text));
    assert!(at("guardian sleeps") < at("  sleep 1000"), "{screen}");
    top.press("?");
    top.shows("reverse the order");
    top.press("q");
    assert_eq!(top.end(|_| true).code(), Some(0));
    service.program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_stopped_service_is_shown_and_its_end_is_said() {
    let mut service = serve();
    let pid = service.program.pid();
    service.program.signal(Signal::STOP);
    let mut top = Top::start(pid, 80, &[]);
    let screen = top.shows("process/sleeps");
    assert!(screen.contains("stopped by a signal"), "{screen}");
    drop(service.program.stop(Signal::KILL));
    let ended = format!("process {pid} (orders) has ended");
    let status = top.end(|screen| screen.contains(&ended));
    assert_eq!(status.code(), Some(0));
    drop(service.folder);
}

#[test]
fn a_foreign_program_is_shown_on_a_narrow_terminal_without_colours() {
    let program = inspect::wedged();
    let mut top = Top::start(program.pid(), 40, &[("NO_COLOR", "1")]);
    let screen =
        top.until(|screen| screen.contains("wedged_service::f") && screen.contains("never wakes"));
    assert!(screen.contains("AGE"), "{screen}");
    assert!(!screen.contains("POLLED"), "it is too narrow: {screen}");
    top.press("q");
    top.shows("");
    let colour = |at: usize| {
        top.written[at..].starts_with(b"\x1b[38;") || top.written[at..].starts_with(b"\x1b[48;")
    };
    let coloured = (0..top.written.len()).find(|at| colour(*at) && top.written[at + 3] != b'9');
    assert_eq!(coloured, None);
    assert_eq!(top.end(|_| true).code(), Some(0));
}

#[test]
fn a_signal_ends_it_with_the_terminal_restored() {
    let program = inspect::wedged();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut top = Top::start(program.pid(), 80, &[]);
        top.shows("q quit");
        top.process.kill(signal);
        assert_eq!(top.end(|_| true).signal(), Some(signal.as_raw()));
    }
    let mut top = Top::start(program.pid(), 80, &[]);
    top.shows("q quit");
    // The terminal is raw, so this is a key.
    top.press("\u{3}");
    assert_eq!(top.end(|_| true).code(), Some(0));
}

#[test]
fn without_a_terminal_or_a_process_it_says_so() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        let output = command.args(arguments).output().expect("it runs");
        let error = String::from_utf8(output.stderr).expect("it is UTF-8");
        (output.status.code(), error)
    };
    let (code, error) = run(&["top", "1"]);
    assert_eq!(code, Some(1));
    assert!(
        error.starts_with("headcount: `top` needs a terminal"),
        "{error}"
    );
    let (code, error) = run(&["top", "1", "--every", "1ms"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("between 500ms and 60s"), "{error}");
    let top = Top::start(u32::MAX, 80, &[]);
    let said = top.end(|screen| screen.contains("no process 4294967295 is here"));
    assert_eq!(said.code(), Some(1));
}
