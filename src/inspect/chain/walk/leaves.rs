//! The futures that wake a task, in words.
//!
//! A future that is only kept waits for nothing: each is asked by its own bits and wakers whether
//! something waits for it. The words are those of the await chains of tracked tasks.

use super::{Link, Walk, short};
use crate::inspect::chain::values::Value;
use crate::inspect::header::State;
use crate::stacks::awaits::leaves::waits_for;
use crate::stacks::frame::Frame;
use std::time::Duration;

/// The types of the leaves, without their parameters.
const LEAVES: [&str; 21] = [
    SLEEP,
    ACQUIRE,
    NOTIFIED,
    RECEIVER,
    SENDER,
    JOIN_HANDLE,
    "core::future::pending::Pending",
    "futures_util::stream::pending::Pending",
    READINESS,
    REGISTRATION,
    RX,
    RESPONSE,
    CHILD,
    BROADCAST,
    GUARDS[0],
    GUARDS[1],
    GUARDS[2],
    GUARDS[3],
    GUARDS[4],
    GUARDS[5],
    GUARDS[6],
];
/// The guards of locks.
const GUARDS: [&str; 7] = [
    "tokio::sync::mutex::MutexGuard",
    "tokio::sync::mutex::OwnedMutexGuard",
    "tokio::sync::rwlock::read_guard::RwLockReadGuard",
    "tokio::sync::rwlock::write_guard::RwLockWriteGuard",
    "tokio::sync::rwlock::owned_write_guard::OwnedRwLockWriteGuard",
    "tokio::sync::semaphore::SemaphorePermit",
    "tokio::sync::semaphore::OwnedSemaphorePermit",
];
/// The names of a guard's pointer to its lock, and of a lock's semaphore.
const LOCKS: [&str; 3] = ["lock", "sem", "s"];
const SEMAPHORES: [&str; 2] = ["s", "ll_sem"];
const SEMAPHORE: &str = "tokio::sync::batch_semaphore::Semaphore";
const SLEEP: &str = "tokio::time::sleep::Sleep";
const NOTIFIED: &str = "tokio::sync::notify::Notified";
const ACQUIRE: &str = "tokio::sync::batch_semaphore::Acquire";
const RECEIVER: &str = "tokio::sync::oneshot::Receiver";
const SENDER: &str = "tokio::sync::oneshot::Sender";
const JOIN_HANDLE: &str = "tokio::runtime::task::join::JoinHandle";
const READINESS: &str = "tokio::runtime::io::scheduled_io::Readiness";
const REGISTRATION: &str = "tokio::runtime::io::registration::Registration";
const RX: &str = "tokio::sync::mpsc::chan::Rx";
const RESPONSE: &str = "h2::client::ResponseFuture";
const CHILD: &str = "std::process::Child";
const BROADCAST: &str = "tokio::sync::broadcast::Recv";

/// The bit of a oneshot channel that says that its receiver was polled (`RX_TASK_SET`).
const RECEIVER_WAITS: u64 = 1;
/// The state of a `Notified` that is in the list of its `Notify` (`State::Waiting`).
const NOTIFIED_WAITS: u64 = 1;
/// The least state of a timer that is not in the wheel: it has fired, is about to, or was never in it
/// (`STATE_MIN_VALUE`).
const NOT_IN_WHEEL: u64 = u64::MAX - 1;
/// The names of an entry that a timer has only after its first poll.
const ENTRIES: [&[&str]; 2] = [&["timer"], &["entry", "inner"]];
/// The bits of tokio's `Interest`.
const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
/// The most nestings of tokio's futures of which the words are kept.
const TOLD: usize = 1 << 12;
/// The modules of tokio with futures that have a `mod.rs` as their file.
const FOLDERS: [&str; 3] = ["fs", "process", "signal"];

/// Returns the leaf that a type is, and its parameters without paths.
pub(super) fn leaf(name: &str) -> Option<(&'static str, String)> {
    LEAVES.iter().find_map(|leaf| {
        let payload = match name.strip_prefix(*leaf)? {
            "" => "()",
            rest => rest.strip_prefix('<')?.strip_suffix('>').unwrap_or("()"),
        };
        Some((*leaf, short(payload)))
    })
}

/// Returns whether a type is a leaf.
pub(super) fn is_leaf(name: &str) -> bool {
    leaf(name).is_some()
}

// === impl Walk ===

impl Walk<'_, '_, '_> {
    /// Returns what a leaf waits for, and how the other end is found. `None` if it does not wait.
    pub(super) fn words(
        &mut self,
        value: Value,
        leaf: &'static str,
        payload: &str,
    ) -> Option<(String, Option<Link>)> {
        let text = match leaf {
            SLEEP => {
                self.is_registered(value).then_some(())?;
                self.told("a timer") + &self.rest(value)
            }
            ACQUIRE => {
                let semaphore = self.chains.values.word_of(value, &["semaphore"]);
                return Some((self.permits(value), semaphore.map(Link::Lock)));
            }
            RECEIVER => return self.oneshot(value, payload),
            SENDER => {
                let channel = self.chains.values.word_of(value, &["inner"])?;
                if channel != 0 {
                    self.give(Link::Oneshot(channel));
                }
                return None;
            }
            guard if GUARDS.contains(&guard) => {
                if let Some(semaphore) = self.lock(value) {
                    self.give(Link::Lock(semaphore));
                }
                return None;
            }
            JOIN_HANDLE => return self.join_handle(value),
            READINESS | REGISTRATION => self.readiness(value, leaf)?,
            RX => self.message(value, payload)?,
            RESPONSE => {
                let stream = self.chains.values.number_of(value, &["stream_id"])?;
                format!("the answer on HTTP/2 stream {stream}")
            }
            CHILD => {
                let pid = self.chains.values.number_of(value, &["pid"])?;
                format!("child process {pid}")
            }
            BROADCAST => {
                let queued = self.chains.values.number_of(value, &["queued"]);
                queued.is_none_or(|queued| queued != 0).then_some(())?;
                let what = self.told("a message in a broadcast channel");
                format!("{what} of {payload}")
            }
            NOTIFIED => {
                let state = self.chains.values.number_of(value, &["state"]);
                let waits = state.is_none_or(|state| state == NOTIFIED_WAITS);
                waits.then_some(())?;
                self.told("a Notify")
            }
            _ => "nothing (it is pending for ever)".to_owned(),
        };
        Some((text, None))
    }

    /// Returns tokio's futures around the leaf in words; `other` if they have none.
    fn told(&self, other: &str) -> String {
        let told = &self.chains.told;
        let known = told.borrow().get(&*self.around).cloned();
        let words = known.unwrap_or_else(|| {
            let words = waits_for(&self.frames("poll"), None);
            let mut told = told.borrow_mut();
            if told.len() < TOLD {
                told.insert(self.around.as_slice().into(), words.clone());
            }
            words
        });
        words.unwrap_or_else(|| other.to_owned())
    }

    /// Returns the types around the leaf as frames, the innermost first.
    fn frames(&self, function: &str) -> Vec<Frame> {
        let names = self.around.iter().rev();
        let names = names.map(|of| self.chains.values.types.name(*of));
        let files = names.filter_map(|name| file_of(&name));
        let frame = |file| Frame {
            file: Some(file),
            ..Frame::bare(function)
        };
        files.map(frame).collect()
    }

    /// Returns whether a timer is in the wheel, so that it wakes the task. That of a branch of `select!`
    /// that is switched off was never polled, and is not. A timer of an unknown layout counts as registered.
    fn is_registered(&self, value: Value) -> bool {
        let values = &self.chains.values;
        let entry = ENTRIES.iter().find_map(|path| values.member(value, path));
        let Some(entry) = entry else {
            return true;
        };
        let state = values.number_of(entry, &["state", "state"]);
        match state {
            Some(state) => state < NOT_IN_WHEEL,
            None => !values.is_none_inside(entry),
        }
    }

    /// Returns the time until a timer is due.
    fn rest(&self, value: Value) -> String {
        let values = &self.chains.values;
        let part = |name| values.number_of(value, &["deadline", name]);
        let Some((seconds, nanos)) = part("tv_sec").zip(part("tv_nsec")) else {
            return String::new();
        };
        let nanos = u32::try_from(nanos).unwrap_or(0);
        let deadline =
            Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
        match deadline.checked_sub(self.chains.now) {
            Some(rest) => format!(", due in {}", time(rest)),
            None => format!(
                ", due {} ago",
                time(self.chains.now.saturating_sub(deadline))
            ),
        }
    }

    fn permits(&self, value: Value) -> String {
        let values = &self.chains.values;
        let what = self.told("a permit of a Semaphore");
        let wanted = values.number_of(value, &["num_permits"]);
        let semaphore = values.member(value, &["semaphore"]);
        let free = semaphore.and_then(|semaphore| {
            let of = values.shape(semaphore.of).pointee?;
            let at = values.word(semaphore.at)?;
            values.number_of(Value { of, at }, &["permits"])
        });
        // The lowest bit says that the semaphore is closed.
        match (wanted, free.map(|free| free >> 1)) {
            (Some(wanted), Some(free)) if what.ends_with("Semaphore") => {
                format!("{what} ({wanted} wanted, {free} free)")
            }
            _ => what,
        }
    }

    /// Returns the address of the semaphore of a guard's lock.
    fn lock(&self, guard: Value) -> Option<u64> {
        let values = &self.chains.values;
        let find = |value, names: &[&'static str]| {
            let mut names = names.iter();
            names.find_map(|name| values.member(value, &[name]))
        };
        let pointer = find(guard, &LOCKS)?;
        let lock = match values.shape(pointer.of).pointee {
            Some(of) => Value {
                of,
                at: values.word(pointer.at)?,
            },
            None => values.shared(pointer)?,
        };
        let is_semaphore = *values.types.name(lock.of) == *SEMAPHORE;
        let semaphore = if is_semaphore {
            Some(lock)
        } else {
            find(lock, &SEMAPHORES)
        }?;
        (*values.types.name(semaphore.of) == *SEMAPHORE).then_some(semaphore.at)
    }

    fn oneshot(&self, value: Value, payload: &str) -> Option<(String, Option<Link>)> {
        let values = &self.chains.values;
        let channel = values.member(value, &["inner"])?;
        let inner = values.shared(channel)?;
        let state = values.number_of(inner, &["state"])?;
        if state & RECEIVER_WAITS == 0 {
            return None;
        }
        let link = values.word(channel.at).map(Link::Oneshot);
        let what = self.told("a oneshot channel");
        Some((format!("{what} of {payload}"), link))
    }

    fn join_handle(&self, value: Value) -> Option<(String, Option<Link>)> {
        let values = &self.chains.values;
        let task = values
            .word_of(value, &["raw"])
            .or_else(|| values.word(value.at))?;
        State(values.word(task)?).is_awaited().then_some(())?;
        Some((self.told("a JoinHandle"), Some(Link::Task(task))))
    }

    fn message(&self, value: Value, payload: &str) -> Option<String> {
        let values = &self.chains.values;
        let channel = values.shared(values.member(value, &["inner"])?)?;
        let waker = values.member(channel, &["rx_waker", "waker"])?;
        if !values.is_some_inside(waker) {
            return None;
        }
        // The second parameter is the channel's semaphore.
        let payload = payload.rsplit_once(", ").map_or(payload, |parts| parts.0);
        let senders = values.number_of(channel, &["tx_count"]);
        let senders = senders.map_or_else(String::new, |senders| match senders {
            1 => ", with 1 sender".to_owned(),
            count => format!(", with {count} senders"),
        });
        let what = self.told("a message in a channel");
        Some(format!("{what} of {payload}{senders}"))
    }

    fn readiness(&self, value: Value, leaf: &str) -> Option<String> {
        let values = &self.chains.values;
        let (record, reads, writes) = if leaf == READINESS {
            let record = values.word_of(value, &["scheduled_io"])?;
            let interest = values.number_of(value, &["interest"]).unwrap_or(0);
            (record, interest & READABLE != 0, interest & WRITABLE != 0)
        } else {
            let shared = values.shared(values.member(value, &["shared"])?)?;
            let has = |name| {
                let waker = values.member(shared, &["waiters", name]);
                waker.is_some_and(|waker| values.is(waker, "Some"))
            };
            (shared.at, has("reader"), has("writer"))
        };
        // A descriptor of a process is shown as the child that is waited for.
        if !reads && !writes || self.chains.descriptors.is_process(record) {
            return None;
        }
        let function = match (reads, writes) {
            (true, false) => "poll_read",
            (false, true) => "poll_write",
            _ => "poll",
        };
        let socket = self.chains.descriptors.describe(record);
        let words = waits_for(&self.frames(function), socket.as_deref());
        words.or_else(|| Some("a descriptor".to_owned()))
    }
}

/// Returns the file of a type or coroutine of tokio or tokio-util, as far as the modules in its path
/// tell it.
pub(super) fn file_of(name: &str) -> Option<String> {
    let name = name.strip_prefix("&mut ").unwrap_or(name);
    let (package, path) = name.split_once("::")?;
    let package = match package {
        "tokio" => "tokio",
        "tokio_util" => "tokio-util",
        _ => return None,
    };
    let is_module = |part: &&str| part.starts_with(|c: char| c.is_ascii_lowercase());
    let mut modules: Vec<&str> = path.split("::").take_while(is_module).collect();
    let next = path.split("::").nth(modules.len()).unwrap_or_default();
    if next.starts_with("{async_") {
        // The last one is the function.
        modules.pop();
    }
    match modules.as_slice() {
        [] => None,
        [folder] if FOLDERS.contains(folder) => Some(format!("{package}/src/{folder}/mod.rs")),
        modules => Some(format!("{package}/src/{}.rs", modules.join("/"))),
    }
}

/// Formats a time: `3.2s`, `23h59m`.
fn time(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::{file_of, is_leaf, time};
    use std::time::Duration;

    #[test]
    fn the_file_of_a_type_is_told_by_its_modules() {
        for (name, file) in [
            (
                "tokio::sync::batch_semaphore::Acquire",
                "tokio/src/sync/batch_semaphore.rs",
            ),
            (
                "tokio::sync::mutex::{impl#6}::lock::{async_fn_env#0}<u32>",
                "tokio/src/sync/mutex.rs",
            ),
            (
                "tokio::net::lookup_host::lookup_host::{async_fn_env#0}<&str>",
                "tokio/src/net/lookup_host.rs",
            ),
            (
                "tokio::process::{impl#10}::wait::{async_fn_env#0}",
                "tokio/src/process/mod.rs",
            ),
            (
                "&mut tokio::net::tcp::stream::TcpStream",
                "tokio/src/net/tcp/stream.rs",
            ),
            (
                "tokio_util::sync::cancellation_token::X<'_>",
                "tokio-util/src/sync/cancellation_token.rs",
            ),
        ] {
            assert_eq!(file_of(name).as_deref(), Some(file), "{name}");
        }
        for name in ["shop::sync::mutex::X", "tokio::X", "u32", ""] {
            assert_eq!(file_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_leaf_is_told_by_its_whole_name() {
        assert!(is_leaf("tokio::sync::oneshot::Receiver<u32>"));
        assert!(is_leaf("tokio::time::sleep::Sleep"));
        assert!(!is_leaf("tokio::time::sleep::SleepUntil"));
        assert!(!is_leaf("tokio::sync::mpsc::chan::RxFields<u32>"));
    }

    #[test]
    fn a_time_has_two_units_at_most() {
        for (seconds, shown) in [
            (3, "3.0s"),
            (187, "3m07s"),
            (86_399, "23h59m"),
            (90_000, "1d01h"),
        ] {
            assert_eq!(time(Duration::from_secs(seconds)), shown);
        }
    }
}
