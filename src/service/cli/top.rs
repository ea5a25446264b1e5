//! `headcount top`: the tasks, threads and processes of a process, again and again.
//!
//! Everything runs on one thread: a sample, then keys until the next one. The pause after a sample is at
//! least [`REST`] times the processor time that the sample took, so this process uses at most 2 % of a
//! processor, however large the other one is.

mod columns;
mod draw;
mod sample;
mod screen;
#[cfg(all(test, not(headcount_loom)))]
mod tests;
mod view;

use super::tasks::{age, colours};
use crate::runtime::release_signals;
use crate::text::plain;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use sample::{Sample, Sampler};
use screen::Screen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::{self, IsTerminal as _, stdin, stdout};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use view::{Effect, View};

/// The pause after a sample, in times of the processor time that it took.
const REST: u32 = 60;
/// The longest wait for a key, after which signals and the end of the process are noticed.
const NOTICED: Duration = Duration::from_millis(200);

/// The options of `top`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Process to watch
    pid: u32,
    /// Time between two samples; longer if a sample takes more than 2 % of a processor
    #[arg(long, value_parser = period, value_name = "TIME", default_value = "2s")]
    every: Duration,
}

/// The ends that are watched for: that of the process, and a signal to this one.
struct Watch {
    pid: u32,
    end: Option<OwnedFd>,
    /// Set by a signal.
    is_signalled: Arc<AtomicBool>,
}

/// The end of the loop.
enum End {
    /// The user quits, or a signal asks for it.
    Quit,
    /// The process has ended.
    Ended,
}

/// Parses the time between two samples.
fn period(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(500)..=Duration::from_secs(60);
    allowed
        .contains(&time)
        .then_some(time)
        .ok_or_else(|| "the time must be between 500ms and 60s".to_owned())
}

/// Runs the command until it is quit or the process ends, and returns the last words. An error is a
/// sentence.
///
/// Signals must be held: they end this process only when the terminal was restored.
pub(super) fn top(arguments: &Arguments) -> Result<String, String> {
    let ended = watch(arguments);
    // A signal that came ends this process here.
    release_signals();
    ended
}

fn watch(arguments: &Arguments) -> Result<String, String> {
    let pid = arguments.pid;
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(format!(
            "`top` needs a terminal for its keys and its screen; `headcount ps {pid}` and `tree {pid}` print once"
        ));
    }
    let watch = Watch::of(pid).map_err(|error| format!("a signal cannot be handled: {error}"))?;
    let mut sampler = Sampler::open(pid)?;
    let begun = Instant::now();
    let refused = |error: io::Error| format!("the terminal refuses: {error}");
    let mut screen = Screen::open().map_err(refused)?;
    let mut view = View::new(arguments.every);
    let mut last = Sample::default();
    let ended = run(&mut screen, &mut view, &mut sampler, &watch, &mut last);
    drop(screen);
    match ended.map_err(refused)? {
        End::Quit => Ok(String::new()),
        End::Ended => Ok(format!(
            "process {pid} ({}) has ended; it was watched for {}, with {} tasks and {} threads at the end\n",
            plain(&last.name),
            age(begun.elapsed()),
            last.live,
            last.threads.len(),
        )),
    }
}

/// Takes samples and reads keys in turn.
fn run(
    screen: &mut Screen,
    view: &mut View,
    sampler: &mut Sampler,
    watch: &Watch,
    last: &mut Sample,
) -> io::Result<End> {
    let colours = colours();
    let mut next = Instant::now();
    loop {
        if watch.has_ended() {
            return Ok(End::Ended);
        }
        let used = processor_time();
        let is_due = Instant::now() >= next && !view.is_paused;
        if is_due {
            let sample = sampler.sample();
            // One that was taken while the process ended shows nothing.
            if !sample.processes.is_empty() {
                *last = sample;
            }
            view.pause = view.every.max((processor_time() - used) * REST);
        }
        let drawn = |frame: &mut Frame<'_>| draw::draw(frame, view, last, colours);
        screen.terminal.draw(drawn)?;
        if is_due {
            // With the processor time of the drawing.
            view.pause = view.every.max((processor_time() - used) * REST);
            next = Instant::now() + view.pause;
        }
        match key(watch, next, view.is_paused)? {
            Some(key) => match view.press(key) {
                Effect::Draw => {}
                Effect::Sample => next = Instant::now(),
                Effect::Suspend => screen.suspend()?,
                Effect::Quit => return Ok(End::Quit),
            },
            None if watch.is_signalled() => return Ok(End::Quit),
            None => {}
        }
    }
}

/// Waits for a key until the next sample. Returns `None` then, or if something else has to be done.
fn key(watch: &Watch, next: Instant, is_paused: bool) -> io::Result<Option<KeyEvent>> {
    loop {
        if watch.is_signalled() || watch.has_ended() {
            return Ok(None);
        }
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() && !is_paused {
            return Ok(None);
        }
        let wait = if is_paused {
            NOTICED
        } else {
            left.min(NOTICED)
        };
        // Keys that came together are no longer in the terminal.
        wait_for_input(Duration::ZERO)?;
        if !event::poll(Duration::ZERO)? {
            wait_for_input(wait)?;
        }
        if event::poll(Duration::ZERO)? {
            return Ok(match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => Some(key),
                // The size has changed.
                _ => None,
            });
        }
    }
}

/// Waits for input, or until the time is over.
///
/// crossterm must not read from a terminal that was closed: it then never returns.
///
/// # Errors
///
/// The terminal was closed.
fn wait_for_input(time: Duration) -> io::Result<()> {
    let input = stdin();
    let mut ends = [PollFd::new(&input, PollFlags::IN)];
    let time = Timespec::try_from(time).ok();
    match poll(&mut ends, time.as_ref()) {
        // A signal.
        Err(Errno::INTR) => return Ok(()),
        polled => polled?,
    };
    let closed = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    if ends[0].revents().intersects(closed) {
        return Err(io::Error::other("it was closed"));
    }
    Ok(())
}

/// Returns the processor time that this process has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

// === impl Watch ===

impl Watch {
    fn of(pid: u32) -> io::Result<Self> {
        let is_signalled = Arc::<AtomicBool>::default();
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&is_signalled))?;
        }
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let end = raw.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self {
            pid,
            end,
            is_signalled,
        })
    }

    fn is_signalled(&self) -> bool {
        self.is_signalled.load(Ordering::Relaxed)
    }

    /// Returns whether the process has ended. It may be a zombie.
    fn has_ended(&self) -> bool {
        let Some(end) = &self.end else {
            return !Path::new(&format!("/proc/{}", self.pid)).exists();
        };
        let now = Timespec::default();
        let mut ends = [PollFd::new(end, PollFlags::IN)];
        poll(&mut ends, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}
