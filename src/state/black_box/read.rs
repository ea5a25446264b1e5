//! Reading a black box, of this process or of any other, dead or alive.
//!
//! The file is copied by read(2), and the copy is read as bytes: nothing in it is believed. Sizes and
//! the version must be this build's own, every number that is used as an index is checked, and text
//! is cut to the size of its place. A file that was tampered with shows wrong things at worst.

use super::{BYTES, SLOTS, SLOTS_AT};
use crate::recorder::fixed_text::FixedText;
use crate::recorder::sheet::{FORMAT, Head, Live, MAGIC, Sheet};
use crate::registry::slots::slot::{self, Reading, Slot};
use crate::state::boot;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::mem::offset_of;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The age from which a file that is not complete is taken for a leftover.
const HALF_MADE: Duration = Duration::from_secs(60);
/// The longest wait for the lock of the previous run's file.
const UNLOCKED: Duration = Duration::from_millis(200);
/// The size of the parts of a file that say whose it is, and when its process was last seen.
const HEAD_AND_LIVE: usize = offset_of!(Sheet, live) + size_of::<Live>();

/// The reason why a black box cannot be read.
///
/// # Examples
///
/// ```
/// use headcount::state::{LastMoments, UnreadableBox};
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("1.box");
/// std::fs::write(&file, "not a box")?;
/// let error = LastMoments::read(&file).expect_err("it is no box");
/// assert!(matches!(error, UnreadableBox::NotABox));
/// assert_eq!(error.to_string(), "it is not a black box of headcount");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableBox {
    /// The file cannot be opened or read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is not a regular file, or does not begin like a black box.
    #[error("it is not a black box of headcount")]
    NotABox,
    /// The file belongs to another user, and this one has no reason to trust that one.
    #[error("it belongs to user {owner}, and this process runs as user {own}")]
    OtherUser {
        /// The owner of the file.
        owner: u32,
        /// The user of this process.
        own: u32,
    },
    /// The file was written by a headcount with another format.
    #[error("it has format {found}, and this version of headcount reads format {own}")]
    OtherFormat {
        /// The format of the file.
        found: u32,
        /// The format that this version reads.
        own: u32,
    },
    /// The file is damaged.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// A copy of a file, checked as far as its sizes go.
#[derive(Debug)]
pub(super) struct Copy {
    /// The whole file.
    first: Vec<u8>,
    /// The slots once more, twice. See [`slot::of_copies`].
    second: Vec<u8>,
    third: Vec<u8>,
    /// True if its process was alive.
    pub(super) is_alive: bool,
}

/// Returns when the process of a box was last seen alive, if it is dead and the box is this user's.
/// Returns the time of the last change if the file is not complete and too old to be in the making, or
/// if it is a box of another version.
///
/// A file that headcount cannot have made is not touched: it is neither empty, nor has it the size of a
/// box and zeros at its beginning, nor the first bytes of a box. Only the first kilobytes are read.
pub(super) fn died(path: &Path) -> Option<SystemTime> {
    let (file, owner) = open(path).ok()?;
    if owner != geteuid().as_raw() || is_locked(&file) {
        return None;
    }
    let data = file.metadata().ok()?;
    let mut head = Vec::with_capacity(HEAD_AND_LIVE);
    let most = HEAD_AND_LIVE as u64;
    (&file).take(most).read_to_end(&mut head).ok()?;
    let copy = Copy::of_bytes(head);
    let has_size = data.len() == BYTES as u64;
    match copy.word(offset_of!(Head, magic)) {
        MAGIC if has_size && copy.half(offset_of!(Head, format)) == FORMAT => {
            let pid = copy.word(offset_of!(Head, pid));
            return (!copy.is_running(pid)).then(|| copy.seen());
        }
        MAGIC => {}
        0 if has_size || data.len() == 0 => {}
        _ => return None,
    }
    let changed = data.modified().ok()?;
    changed
        .elapsed()
        .is_ok_and(|since| since > HALF_MADE)
        .then_some(changed)
}

/// Opens a file without following a link or waiting for a pipe, and returns its owner.
fn open(path: &Path) -> Result<(File, u32), UnreadableBox> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("open(2) takes an int");
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => UnreadableBox::NotABox,
        _ => error.into(),
    })?;
    let data = file.metadata()?;
    if !data.is_file() {
        return Err(UnreadableBox::NotABox);
    }
    Ok((file, data.uid()))
}

/// Returns whether the process that made the file lives, as [`is_locked`] does, but waits for the lock.
///
/// Another reader holds the lock for a moment, and the kernel frees the memory of a large process for
/// longer.
fn stays_locked(file: &File) -> bool {
    let begun = Instant::now();
    while is_locked(file) {
        if begun.elapsed() >= UNLOCKED {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// Returns whether the process that made the file lives. Its lock ends with it.
fn is_locked(file: &File) -> bool {
    let locked = flock(file, FlockOperation::NonBlockingLockShared);
    // Closing the file would end it too, but the caller may still read.
    flock(file, FlockOperation::Unlock).ok();
    locked == Err(Errno::WOULDBLOCK)
}

// === impl Copy ===

impl Copy {
    /// Copies a file, which must belong to that user; to any if it is `None`.
    pub(super) fn of(path: &Path, user: Option<u32>) -> Result<Self, UnreadableBox> {
        Self::of_when(path, user, is_locked)
    }

    /// Copies a file of this user, whose process should be dead. Waits up to 200 ms for its lock.
    pub(super) fn of_dead(path: &Path) -> Result<Self, UnreadableBox> {
        Self::of_when(path, Some(geteuid().as_raw()), stays_locked)
    }

    /// Copies a file. `lives` returns whether its process does.
    fn of_when(
        path: &Path,
        user: Option<u32>,
        lives: impl FnOnce(&File) -> bool,
    ) -> Result<Self, UnreadableBox> {
        let (file, owner) = open(path)?;
        if let Some(own) = user.filter(|own| *own != owner) {
            return Err(UnreadableBox::OtherUser { owner, own });
        }
        let mut magic = [0; 8];
        let is_box = file.read_exact_at(&mut magic, 0).is_ok();
        if !is_box || u64::from_ne_bytes(magic) != MAGIC {
            return Err(UnreadableBox::NotABox);
        }
        let is_alive = lives(&file);
        let mut first = Vec::with_capacity(BYTES);
        (&file).take(BYTES as u64 + 1).read_to_end(&mut first)?;
        let mut copy = Self::of_bytes(first);
        copy.check(owner)?;
        let again = || {
            let mut slots = vec![0; BYTES - SLOTS_AT];
            let read = file.read_exact_at(&mut slots, SLOTS_AT as u64);
            read.map(|()| slots)
        };
        (copy.second, copy.third) = (again()?, again()?);
        copy.is_alive = is_alive;
        Ok(copy)
    }

    /// Takes the bytes of a file, unchecked, as one of a dead process: all three copies are one.
    fn of_bytes(first: Vec<u8>) -> Self {
        Self {
            first,
            second: Vec::new(),
            third: Vec::new(),
            is_alive: false,
        }
    }

    /// Takes the bytes of a file, and checks them.
    #[cfg(all(test, not(headcount_loom)))]
    pub(super) fn checked(bytes: Vec<u8>, owner: u32) -> Result<Self, UnreadableBox> {
        let mut copy = Self::of_bytes(bytes);
        copy.check(owner)?;
        copy.second = copy.first[SLOTS_AT..].to_vec();
        copy.third = copy.second.clone();
        Ok(copy)
    }

    /// Compares the head with the layout of this version. After this, every offset of the sheet and of
    /// the slots is in the file.
    fn check(&self, owner: u32) -> Result<(), UnreadableBox> {
        if self.word(offset_of!(Head, magic)) != MAGIC {
            return Err(UnreadableBox::NotABox);
        }
        let found = self.half(offset_of!(Head, format));
        if found != FORMAT {
            return Err(UnreadableBox::OtherFormat { found, own: FORMAT });
        }
        if self.first.len() != BYTES {
            return Err(UnreadableBox::Damaged("its size is wrong"));
        }
        let sizes = [
            (offset_of!(Head, sheet_bytes), size_of::<Sheet>()),
            (offset_of!(Head, slot_bytes), size_of::<Slot>()),
            (offset_of!(Head, slots), SLOTS),
        ];
        for (at, size) in sizes {
            if self.word(at) != size as u64 {
                return Err(UnreadableBox::Damaged("its layout is wrong"));
            }
        }
        if self.half(offset_of!(Head, uid)) != owner {
            return Err(UnreadableBox::Damaged(
                "it names another user than its owner",
            ));
        }
        Ok(())
    }

    /// Returns the bytes at an offset; zeros beyond the end of the file.
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.first.get(at..at.saturating_add(N));
        found.map_or([0; N], |found| {
            found.try_into().expect("it has this length")
        })
    }

    /// Returns the eight bytes at an offset.
    pub(super) fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }

    /// Returns the four bytes at an offset.
    pub(super) fn half(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    /// Returns the [`FixedText`] at an offset.
    pub(super) fn text<const WORDS: usize>(&self, at: usize) -> String {
        let len = self.half(at + offset_of!(FixedText<WORDS>, len)) as usize;
        let at = at + offset_of!(FixedText<WORDS>, words);
        let bytes = self.first.get(at..at + len.min(8 * WORDS));
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    }

    /// Returns the task in a slot; `None` if it is free, or there is no such slot.
    pub(super) fn slot(&self, number: usize) -> Option<Reading> {
        let bytes = size_of::<Slot>();
        let at = number.checked_mul(bytes)?;
        let place = at..at.checked_add(bytes)?;
        let first = self.first.get(SLOTS_AT..)?.get(place.clone())?;
        let [second, third] = [&self.second, &self.third].map(|copy| copy.get(place.clone()));
        slot::of_copies([first, second?, third?])
    }

    /// Returns the words of the waker in a slot. The task of the slot may be another one than that of
    /// [`Copy::slot`] if the process runs.
    pub(super) fn waker_words(&self, number: usize) -> [u64; slot::WAKER_WORDS] {
        let at = number.saturating_mul(size_of::<Slot>());
        let copies = [&self.second, &self.third];
        let [second, third] = copies.map(|copy| {
            let slot = copy
                .get(at..)
                .and_then(|rest| rest.get(..size_of::<Slot>()));
            slot::waker_words(slot.unwrap_or_default())
        });
        if second == third {
            second
        } else {
            [0; slot::WAKER_WORDS]
        }
    }

    /// Returns whether a process has this pid and the start time in the file, in the same boot.
    fn is_running(&self, pid: u64) -> bool {
        let start = self.word(offset_of!(Head, pid_start));
        let boot = self.text::<5>(offset_of!(Head, boot_id));
        u32::try_from(pid).is_ok_and(|pid| {
            start != 0 && boot == boot::id() && crate::audit::start_of(pid) == Some(start)
        })
    }

    /// Returns the time of the last beat, by the wall clock.
    pub(super) fn seen(&self) -> SystemTime {
        let at = offset_of!(Sheet, live) + offset_of!(Live, beat_wall);
        wall(self.word(at))
    }
}

/// Returns a time by the wall clock, from nanoseconds since 1970. All of them are valid.
pub(super) fn wall(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}
