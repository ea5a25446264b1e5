//! Tests of the file of a black box, without the process's own: each maps a file of its own.

use super::folder::{Folder, find};
use super::moments::LastMoments;
use super::read::{Copy, UnreadableBox};
use super::{BYTES, BlackBox, CHUNKS, NoBox, SLOTS_AT, describe, map};
use crate::fuzzing::fuzz;
use crate::recorder::sheet::{EVENTS, FORMAT, Head, KINDS, Sheet};
use crate::recorder::{self, What};
use crate::registry::slots::BATCH;
use crate::registry::slots::slot::{Entry, Free, Slot};
use crate::state::marker::Run;
use crate::state::previous::last_run;
use crate::state::{Exits, LastRun, PreviousRun};
use proptest::prelude::*;
use rustix::process::geteuid;
use std::fs;
use std::mem::offset_of;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// A black box that no recorder writes to.
struct Made {
    folder: tempfile::TempDir,
    path: PathBuf,
    sheet: &'static Sheet,
    slots: &'static [Slot],
}

/// Returns the folder that is found when `RUNTIME_DIRECTORY` is this.
fn found(folder: &tempfile::TempDir) -> Result<Folder, NoBox> {
    let path = folder.path().as_os_str().to_owned();
    find(|name| (name == "RUNTIME_DIRECTORY").then(|| path.clone()))
}

/// Maps a new file. The mapping stays, so a test makes few.
fn made() -> Made {
    let folder = tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs");
    let place = found(&folder).expect("it is ours");
    let run = Run::new("orders", "1.2.3", Exits::new());
    let file = place
        .create(&BlackBox::name(&run), BYTES as u64)
        .expect("there is room");
    let (sheet, slots) = map::map(&file).expect("it can be mapped");
    describe(sheet, slots, &run, 7);
    Made {
        path: folder.path().join(BlackBox::name(&run)),
        folder,
        sheet,
        slots,
    }
}

impl Made {
    /// Adds a kind of task, and one live task of it, which began `age` ticks before the last beat.
    fn add(&self, at: usize, name: &str, age: u64) {
        let card = &self.sheet.kinds[at];
        card.name.set(name);
        card.file.set("src/main.rs");
        card.line.store(17, Relaxed);
        card.column.store(5, Relaxed);
        card.path.store(1, Relaxed);
        card.is_set.store(1, Relaxed);
        self.sheet.paths[1].set("http");
        self.sheet.live.chunks.store(1, Relaxed);
        let beat = self.sheet.live.beat_raw.load(Relaxed);
        let entry = Entry {
            id: 100 + at as u64,
            started: beat - age,
            kind: u32::try_from(at).expect("few"),
            scope: 70,
        };
        self.slots[at].occupy(Free::NEW, entry);
    }

    /// Notes an event as the recorder does.
    fn note(&self, number: u64, what: What, text: &str) {
        let place = usize::try_from(number).expect("few") % EVENTS;
        let event = &self.sheet.ring[place];
        event.what.store(what as u32, Relaxed);
        event.text.set(text);
        event.at.store(self.sheet.live.beat.load(Relaxed), Relaxed);
        event.stamp.store(number + 1, Relaxed);
        self.sheet.live.events.fetch_max(number + 1, Relaxed);
    }

    fn read(&self) -> LastMoments {
        LastMoments::read(&self.path).expect("it is whole")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("it is there")
    }
}

/// Reads changed bytes.
fn read(bytes: Vec<u8>) -> Result<LastMoments, UnreadableBox> {
    let copy = Copy::checked(bytes, geteuid().as_raw())?;
    LastMoments::of(&copy, 10)
}

#[track_caller]
fn refused(bytes: Vec<u8>) -> String {
    read(bytes).expect_err("it is damaged").to_string()
}

/// The documentation of `Builder::black_box`, of the configuration and of this module says so.
#[test]
fn the_file_has_the_size_that_is_documented() {
    let tenths = (BYTES * 10).div_ceil(1024 * 1024);
    assert_eq!(tenths, 37);
    assert_eq!(CHUNKS * BATCH, 32_768);
    assert_eq!(size_of::<Slot>(), 64);
}

#[test]
fn what_is_in_the_box_is_shown() {
    let made = made();
    made.add(0, "serve", 0);
    made.add(1, "accept", 1000);
    made.sheet.draining[1].store(1 << 6, Relaxed);
    let desk = &made.sheet.desks[3];
    desk.tid.store(4711, Relaxed);
    desk.set_current(made.slots[1].address());
    made.slots[1].mark_polled(made.sheet.live.beat_raw.load(Relaxed));
    made.sheet.live.has_pulse.store(1, Relaxed);
    made.note(0, What::StopAsked, "SIGTERM");
    made.sheet.live.phase.store(1, Relaxed);
    made.sheet.live.reason.set("SIGTERM");
    let moments = made.read();
    let text = moments.to_string().replace(&moments.pid.to_string(), "N");
    insta::assert_snapshot!(text, @r"
    headcount orders: pid N, alive 0.0s after its start, for 0.0s in layer 'drain' (SIGTERM)
    ├─ 2 live tasks
    │  ├─ http/accept  draining, 0.0s, spawned at src/main.rs:17:5
    │  └─ http/serve  draining, 0.0s, spawned at src/main.rs:17:5
    ├─ 1 thread in a task
    │  └─ thread 4711  http/accept (id 101), for 0.0s
    ├─ 0 registered threads
    └─ last 1 of 1 event
          -0.0s  stop asked for: SIGTERM
    ");
}

#[test]
fn the_ring_shows_the_latest_events_in_their_order() {
    let made = made();
    for number in 0..EVENTS as u64 + 3 {
        made.note(number, What::EndpointUp, &number.to_string());
    }
    // One that was being written when the process died.
    made.sheet.ring[5].stamp.store(0, Relaxed);
    let moments = made.read();
    assert_eq!(moments.events_noted, EVENTS as u64 + 3);
    let events: Vec<&str> = moments.events.iter().map(|event| &*event.text).collect();
    assert_eq!((events.len(), events[0], events[1]), (EVENTS - 1, "3", "4"));
    assert_eq!(events[2], "6");
    assert_eq!(events.last(), Some(&"10002"));
}

#[test]
fn a_text_that_is_too_long_is_cut_at_a_character() {
    let made = made();
    made.add(0, &"é".repeat(40), 0);
    assert_eq!(made.read().tasks[0].name, "é".repeat(32));
}

#[test]
fn a_task_without_a_name_in_the_box_is_counted() {
    let made = made();
    let kind = u32::try_from(KINDS).expect("few");
    let (id, started, scope) = (1, 0, 0);
    made.sheet.live.chunks.store(1, Relaxed);
    made.slots[0].occupy(
        Free::NEW,
        Entry {
            id,
            started,
            kind,
            scope,
        },
    );
    let moments = made.read();
    assert_eq!((moments.live_tasks, &*moments.tasks[0].name), (1, ""));
    let words = "a task whose name is not in the black box";
    assert!(moments.to_string().contains(words));
}

#[test]
fn a_box_is_that_of_a_live_process_as_long_as_it_is_locked() {
    let made = made();
    assert!(made.read().is_alive);
    let copy = made.folder.path().join("copy.box");
    fs::copy(&made.path, &copy).expect("the folder is ours");
    let moments = LastMoments::read(&copy).expect("it is whole");
    assert!(!moments.is_alive);
    assert_eq!(moments.run_id, made.read().run_id);
}

#[test]
fn a_file_that_is_no_box_or_another_version_s_is_refused() {
    let made = made();
    let whole = made.bytes();
    assert!(read(whole.clone()).is_ok());
    let mut other = whole.clone();
    let at = offset_of!(Head, format);
    other[at..at + 4].copy_from_slice(&(FORMAT + 1).to_ne_bytes());
    let words = "it has format 2, and this version of headcount reads format 1";
    assert_eq!(refused(other), words);
    assert_eq!(
        refused(whole[..SLOTS_AT].to_vec()),
        "it is damaged: its size is wrong"
    );
    let mut larger = whole.clone();
    larger.push(0);
    assert_eq!(refused(larger), "it is damaged: its size is wrong");
    let mut moved = whole.clone();
    moved[offset_of!(Head, sheet_bytes)] ^= 1;
    assert_eq!(refused(moved), "it is damaged: its layout is wrong");
    let mut unfinished = whole;
    unfinished[0] ^= 1;
    assert_eq!(refused(unfinished), "it is not a black box of headcount");
    let empty = made.folder.path().join("empty.box");
    fs::write(&empty, "").expect("the folder is ours");
    assert!(matches!(
        LastMoments::read(&empty),
        Err(UnreadableBox::NotABox)
    ));
    let link = made.folder.path().join("link.box");
    std::os::unix::fs::symlink(&made.path, &link).expect("the folder is ours");
    assert!(matches!(
        LastMoments::read(&link),
        Err(UnreadableBox::NotABox)
    ));
}

#[test]
fn a_box_of_another_user_than_it_names_is_refused() {
    let made = made();
    let other = geteuid().as_raw() + 1;
    let error = Copy::checked(made.bytes(), other).expect_err("it names another user");
    assert_eq!(
        error.to_string(),
        "it is damaged: it names another user than its owner"
    );
}

#[test]
fn a_folder_that_is_no_tmpfs_or_open_to_others_is_passed_over() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs");
    let path = |folder: Result<Folder, NoBox>| folder.map(|folder| folder.path);
    let own = path(found(&folder)).expect("it is ours");
    assert_eq!(own, folder.path());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o770)).expect("it is ours");
    let next = path(found(&folder)).expect("there is another one");
    assert_ne!(next, folder.path());
    let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("it can be made");
    assert_ne!(
        path(found(&disk)).expect("there is another one"),
        disk.path()
    );
}

#[test]
fn a_folder_that_is_unsafe_is_warned_of_and_one_that_is_missing_only_if_asked_for() {
    let told = |error: NoBox, is_asked: bool| {
        let mut warnings = Vec::new();
        let why = error.told(is_asked, &mut warnings);
        (why, warnings)
    };
    let no_folder = || NoBox::NoFolder("/run: not on a tmpfs".to_owned());
    let why = Some("/run: not on a tmpfs".to_owned());
    assert_eq!(told(no_folder(), false), (why, Vec::new()));
    let rest = "; if this run is killed, the next one cannot tell which tasks lived";
    let warning = format!("there is no black box: /run: not on a tmpfs{rest}");
    assert_eq!(told(no_folder(), true), (None, vec![warning]));
    let bad = NoBox::BadFolder("/run: other users can write to it".to_owned());
    let warning = format!("there is no black box: /run: other users can write to it{rest}");
    assert_eq!(told(bad, false), (None, vec![warning]));
}

#[test]
fn a_fault_of_a_folder_is_told_apart_from_a_folder_that_is_not_there() {
    use super::folder::{Unusable, usable};
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs");
    let missing = usable(&folder.path().join("a/b"), true).expect_err("it has no parent");
    assert!(matches!(missing, Unusable::Unfit(_)), "{missing}");
    let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("it can be made");
    let disk = usable(disk.path(), false).expect_err("it is not on a tmpfs");
    assert!(matches!(disk, Unusable::Unfit(_)), "{disk}");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o770)).expect("it is ours");
    let open = usable(folder.path(), false).expect_err("others can write to it");
    assert!(matches!(open, Unusable::Fault(_)), "{open}");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).expect("it is ours");
    let link = usable(&link, true).expect_err("it may lead to anywhere");
    assert!(matches!(link, Unusable::Fault(_)), "{link}");
}

#[test]
fn a_box_of_a_process_is_looked_for_in_trusted_folders_only() {
    let made = made();
    let own = geteuid().as_raw();
    let prefix = format!("{}-", std::process::id());
    let found = |prefix: &str, user: u32| {
        let folders = [(made.folder.path().to_owned(), false)];
        super::newest(folders.into_iter(), prefix, |owner| owner == user)
    };
    assert_eq!(found(&prefix, own).as_ref(), Some(&made.path));
    assert_eq!(found(&prefix, own + 1), None);
    assert_eq!(found("0-", own), None);
}

#[test]
fn a_file_without_room_leaves_nothing_behind() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("there is a tmpfs");
    let place = found(&folder).expect("it is ours");
    // More than any machine has.
    place
        .create("1.box".as_ref(), 1 << 50)
        .expect_err("there is no room");
    let mut left = fs::read_dir(folder.path()).expect("it is ours");
    assert!(left.next().is_none());
}

#[test]
fn a_process_has_one_box() {
    let run = Run::new("orders", "", Exits::new());
    // Another test of this process may have it.
    let first = BlackBox::open(&run, u64::MAX);
    let second = BlackBox::open(&run, u64::MAX).expect_err("there is one");
    let mut warnings = Vec::new();
    let why = second.told(true, &mut warnings);
    assert_eq!(
        why.as_deref(),
        Some("this process has, or had, a black box already")
    );
    assert_eq!(warnings, [""; 0]);
    assert!(recorder::has_begun());
    if let Ok(black_box) = &first {
        let threads = || {
            let moments = LastMoments::read(black_box.path());
            moments.expect("it is whole").threads_not_in_box
        };
        let beat = |root: u64| recorder::beat(root, (0, false), || 0, || 7);
        beat(1);
        assert_eq!(threads(), 0, "the beat of another runtime");
        beat(u64::MAX);
        assert_eq!(threads(), 7);
    }
    first.iter().for_each(BlackBox::remove);
}

/// A folder of a service may have any files.
#[test]
fn only_what_headcount_made_is_removed_from_the_folder() {
    let made = made();
    let (head, day) = (made.bytes(), Duration::from_secs(86_400));
    let folder = made.folder.path();
    let file = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).expect("the folder is ours");
        let file = fs::File::options().write(true).open(&path);
        let old = SystemTime::now() - 2 * day;
        file.and_then(|file| file.set_modified(old)).expect("ours");
        path
    };
    let mut dead = head.clone();
    let seen = offset_of!(Sheet, live) + offset_of!(recorder::sheet::Live, beat_wall);
    dead[seen..seen + 8].fill(0);
    dead[offset_of!(Head, pid_start)..][..8].fill(0);
    let mut other = head.clone();
    other.truncate(4096);
    let theirs = [
        file("tool.box", b"a file of the service"),
        file("tool-1.box", &dead),
        file("12.box", &dead),
        file("12-tool.box", &dead),
        file("12-ab.box", b"a file of the service"),
        file("12-ac.box", &[0; 4096]),
        made.path.clone(),
    ];
    let ours = [
        file("12-ad.box", &dead),
        file("12-ae.box", b""),
        file("12-af.box", &vec![0; BYTES]),
        file("12-ba.box", &other),
    ];
    super::stale::remove(folder);
    for path in theirs {
        assert!(path.exists(), "{}", path.display());
    }
    for path in ours {
        assert!(!path.exists(), "{}", path.display());
    }
}

/// `dc` is "do not copy area on fork" (proc_pid_smaps(5)).
#[test]
fn a_child_of_a_fork_does_not_get_the_mapping() {
    let made = made();
    let maps = fs::read_to_string("/proc/self/smaps").expect("it can be read");
    let path = made.path.display().to_string();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(&path));
    let flags = lines.find(|line| line.starts_with("VmFlags:"));
    let flags = flags.expect("it is mapped");
    assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
}

#[test]
fn a_desk_with_an_address_beyond_all_memory_is_no_task() {
    let made = made();
    made.sheet.head.address.store(0, Relaxed);
    made.sheet.desks[0].tid.store(1, Relaxed);
    made.sheet.desks[0].set_current(usize::MAX - 63);
    let moments = made.read();
    let [held] = &*moments.on_threads else {
        panic!("{moments}")
    };
    assert_eq!((&held.task, held.id), (&None, None));
}

/// The box is locked, by the mapping of this process.
#[test]
fn the_marker_is_believed_over_the_lock_and_few_events_stay_in_memory() {
    let made = made();
    for number in 0..150 {
        made.note(number, What::EndpointUp, &number.to_string());
    }
    let state = tempfile::tempdir().expect("a temporary folder can be created");
    let mut warnings = Vec::new();
    let mut take = |is_gone: bool| {
        let mut previous = PreviousRun::unreadable(None);
        previous.run_id = made.read().run_id;
        let left = Some((made.path.as_path(), is_gone));
        last_run::take(state.path(), &mut previous, left, &mut warnings);
        previous.moments
    };
    assert_eq!(take(false), None, "it is that of a live process");
    assert!(made.path.exists());
    let moments = take(true).expect("it is read");
    assert!(!moments.is_alive);
    assert!(!made.path.exists());
    assert_eq!((moments.events.len(), moments.events_noted), (100, 150));
    assert_eq!(moments.events[0].text, "50");
    let kept = LastRun::in_file(&state.path().join("killed.json")).expect("it was kept");
    let events = kept.json()["moments"]["events"].as_array();
    assert_eq!(events.expect("a list").len(), 150);
    assert_eq!(warnings, [""; 0]);
}

/// Returns what a reader makes of the bytes; it must not panic.
fn show(bytes: Vec<u8>) {
    if let Ok(moments) = read(bytes) {
        let text = moments.to_string();
        assert!(text.len() < 1024 * 1024);
        moments.sentence();
        serde_json::to_string(&moments).expect("it is data");
    }
}

#[test]
fn a_damaged_file_is_refused_or_read_without_a_panic() {
    let made = made();
    made.add(0, "serve", 0);
    made.add(1, "accept", 1000);
    made.note(0, What::Panicked, "no luck");
    let whole = made.bytes();
    // Where most of what is read is, and anywhere.
    let busy = prop_oneof![
        0..size_of::<Head>() + 512,
        offset_of!(Sheet, desks)..offset_of!(Sheet, desks) + 4096,
        offset_of!(Sheet, kinds)..offset_of!(Sheet, kinds) + 1024,
        offset_of!(Sheet, ring)..offset_of!(Sheet, ring) + 1024,
        SLOTS_AT..SLOTS_AT + 1024,
        0..BYTES,
    ];
    let flips = prop::collection::vec((busy, any::<u8>()), 1..64);
    let cut = prop::option::weighted(0.1, 0..BYTES);
    fuzz(256, &(flips, cut), |(flips, cut)| {
        let mut bytes = whole.clone();
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(BYTES));
        show(bytes);
        Ok(())
    });
    // Every number at its largest.
    let mut bytes = whole;
    bytes[size_of::<Head>()..].fill(0xff);
    show(bytes.clone());
    let phase = offset_of!(Sheet, live) + offset_of!(recorder::sheet::Live, phase);
    bytes[phase..phase + 8].fill(0);
    show(bytes);
}
