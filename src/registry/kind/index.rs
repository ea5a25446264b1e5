//! The index: the maps from what a kind is made of to its number, and the creation of kinds.
//!
//! It is behind the lock of [`kind`](super), which only a miss in a thread's cache takes.
//!
//! Creation order is number order, and the number is an index into the static tables: a kind is set
//! in the table first, counted second, and entered in the maps last, all under the lock. Everything
//! that is made here is leaked, so each branch that makes something checks a bound first.
//!
//! | kinds made | a new combination becomes |
//! |---|---|
//! | below 4,096 | a kind of its own |
//! | 4,096 to 4,607 | the `_other` kind of its path and options |
//! | 4,608 | the most similar `_other` kind |

use super::{Kind, NOBODY, OTHER, Options, PATH_TABLE, ROOT_PATH, TABLE, all, clean, note};
use crate::recorder;
use crate::registry::bounds::{GROUP_LABELS, KINDS, NAMED_KINDS, PATH_BYTES, PATHS};
use crate::stacks::awaits::type_name::shortened;
use crate::task::TaskKind;
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// The maps from what a spawn knows to kinds and paths.
#[derive(Debug)]
pub(super) struct Index {
    /// The hasher of `kinds`.
    ///
    /// Random, because names may come from outside, and chosen ones must not collide.
    hasher: RandomState,
    /// The kinds by the hash of path, name, site and options. Keyed by hash, so that a look-up
    /// needs no owned key; kinds with equal hashes share a list.
    kinds: HashMap<u64, Vec<&'static Kind>>,
    /// The kinds of untracked tasks by site: at most one for each root that exists, and those
    /// without a root.
    pub(super) untracked: HashMap<&'static Location<'static>, Vec<&'static Kind>>,
    /// The number of kinds that were made.
    pub(super) made: usize,
    /// The numbers of paths by name.
    paths: HashMap<&'static str, u32>,
    /// The labels of groups by path.
    pub(super) labels: HashMap<u32, usize>,
    /// True once the table was found full.
    warned: bool,
    /// True from then until the warning is logged.
    pub(super) full: bool,
}

// === impl Index ===

impl Index {
    /// Returns an index with the path of the root.
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            kinds: HashMap::new(),
            untracked: HashMap::new(),
            made: 0,
            paths: HashMap::from([("", ROOT_PATH)]),
            labels: HashMap::new(),
            warned: false,
            full: false,
        }
    }

    /// Returns the kind of a tracked spawn, and makes it if it does not exist and the table is not
    /// full.
    pub(super) fn kind(
        &mut self,
        path: u32,
        name: &str,
        site: &'static Location<'static>,
        options: &Options,
        type_name: fn() -> &'static str,
    ) -> &'static Kind {
        if let Some(kind) = self.find(path, name, site, options) {
            return kind;
        }
        if self.made < NAMED_KINDS {
            let future = match options.runs {
                // The type is that of a future of headcount's around the user's.
                TaskKind::Main => "",
                _ => shortened(type_name()).leak(),
            };
            return self.make(path, name, site, options, future);
        }
        if !self.warned {
            self.warned = true;
            self.full = true;
        }
        self.overflow(path, options)
    }

    /// Returns the kind of an untracked spawn: the root's own, else one without a root, else a new
    /// one, else the kind for the rest of the root's untracked tasks.
    ///
    /// The site of this function itself stands for "the rest", since no user's task can have it.
    /// The recursion is at most one deep.
    pub(super) fn untracked_kind(
        &mut self,
        root: u64,
        site: &'static Location<'static>,
    ) -> &'static Kind {
        let known = self.untracked.get(site).map_or(&[][..], Vec::as_slice);
        if let Some(kind) = known.iter().find(|kind| kind.serves(root)) {
            return kind;
        }
        if let Some(kind) = known.iter().find(|kind| kind.serves(NOBODY)) {
            kind.give_to(root);
            return kind;
        }
        let options = Options {
            untracked: true,
            ..Options::of(TaskKind::Async)
        };
        let rest = Location::caller();
        let kind = if self.made < NAMED_KINDS {
            self.make(ROOT_PATH, "", site, &options, "")
        } else if site != rest {
            return self.untracked_kind(root, rest);
        } else if self.made < KINDS {
            self.make(ROOT_PATH, OTHER, site, &options, "")
        } else {
            // No kind is left for this root: its tasks are counted with those of the first root
            // that has one.
            return self.overflow(ROOT_PATH, &options);
        };
        kind.give_to(root);
        self.untracked.entry(site).or_default().push(kind);
        kind
    }

    /// Returns the kind with these four properties, if it exists.
    ///
    /// Allocates nothing.
    pub(super) fn find(
        &self,
        path: u32,
        name: &str,
        site: &'static Location<'static>,
        options: &Options,
    ) -> Option<&'static Kind> {
        let hash = self.hasher.hash_one((path, name, site, options));
        let same_hash = self.kinds.get(&hash)?;
        same_hash
            .iter()
            .copied()
            .find(|kind| kind.site == site && kind.is(path, name, options.key()))
    }

    /// Returns the `_other` kind of a path. If no kind is left even for that, returns the existing
    /// `_other` kind with the most similar options.
    ///
    /// The drain budget is left out of the options, because it could have any number of values.
    pub(super) fn overflow(&mut self, path: u32, options: &Options) -> &'static Kind {
        let site = Location::caller();
        let plain = Options {
            drain_budget: None,
            ..*options
        };
        if let Some(kind) = self.find(path, OTHER, site, &plain) {
            return kind;
        }
        if self.made < KINDS {
            return self.make(path, OTHER, site, &plain, "");
        }
        all()
            .filter(|kind| kind.name == OTHER)
            .min_by_key(|kind| {
                let same = kind.options.daemon == options.daemon
                    && kind.options.untracked == options.untracked
                    && kind.options.required == options.required;
                (!same, kind.path != path)
            })
            .expect("the kinds from NAMED_KINDS on are all overflow")
    }

    /// Makes a kind and adds it to the index.
    ///
    /// The caller has checked that a number is left.
    pub(super) fn make(
        &mut self,
        path: u32,
        name: &str,
        site: &'static Location<'static>,
        options: &Options,
        future: &'static str,
    ) -> &'static Kind {
        let number = self.made;
        let given: &'static str = String::from(name).leak();
        let label = self.label(path);
        let kind = TABLE[number].get_or_init(|| Kind {
            number: u32::try_from(number).expect("KINDS fits u32"),
            path,
            label,
            given,
            name: match clean(given) {
                Cow::Borrowed(given) => given,
                Cow::Owned(clean) => clean.leak(),
            },
            site,
            options: *options,
            future,
            key: options.key(),
            seen: AtomicBool::new(false),
            root: AtomicU64::new(NOBODY),
            before: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        note(kind);
        self.made += 1;
        let hash = self.hasher.hash_one((path, name, site, options));
        self.kinds.entry(hash).or_default().push(kind);
        kind
    }

    /// Returns the label of a path. The first paths get one each, all others share the last.
    ///
    /// In the order of the first task, not of the creation of the group.
    pub(super) fn label(&mut self, path: u32) -> usize {
        let next = self.labels.len().min(GROUP_LABELS - 1);
        *self.labels.entry(path).or_insert(next)
    }

    /// Returns the number of a path, or that of `_other` if there are too many paths or the name is
    /// too long.
    pub(super) fn path(&mut self, path: &str) -> u32 {
        if let Some(&number) = self.paths.get(path) {
            return number;
        }
        // The last number is reserved for `_other`.
        let fits = self.paths.len() < PATHS - 1 && path.len() <= PATH_BYTES;
        let (number, name): (usize, &'static str) = if fits {
            (self.paths.len(), String::from(path).leak())
        } else {
            (PATHS - 1, OTHER)
        };
        let name = *PATH_TABLE[number].get_or_init(|| name);
        let number = u32::try_from(number).expect("PATHS fits u32");
        recorder::path(number, name);
        if fits {
            self.paths.insert(name, number);
        }
        number
    }
}
