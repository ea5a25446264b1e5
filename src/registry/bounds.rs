//! The bounds of the registry. Its tables are never freed, so each of them has a bound, and a rule
//! for what exceeds it.

/// The most kinds of a process, including the `_other` kind of each path.
pub(crate) const KINDS: usize = 4608;
/// The number of kinds after which only `_other` kinds are made.
pub(crate) const NAMED_KINDS: usize = 4096;
/// The longest name that is kept as it was given, in bytes. A longer one is cut, and is therefore
/// looked up under the lock at each spawn.
pub(crate) const GIVEN_BYTES: usize = 256;
/// The longest name that is shown, in bytes. A longer one is cut.
pub(crate) const NAME_BYTES: usize = 64;
/// The most group paths of a process. Further paths become `_other`.
pub(crate) const PATHS: usize = 256;
/// The longest path, in bytes. A longer one becomes `_other`.
pub(crate) const PATH_BYTES: usize = 256;
/// The number of labels of groups: eight for the first eight paths with tasks, which have
/// histograms of their own, and one for all others.
pub(crate) const GROUP_LABELS: usize = 9;
/// The most groups at the same time. A further one is merged into its parent.
pub(crate) const SCOPES: usize = 65_536;
/// The deepest nesting of groups. A deeper one is merged into its parent, because a shutdown
/// recurses this deep.
pub(crate) const DEPTH: u32 = 128;
/// The most shards: more than the threads of a process under default limits. Threads beyond that
/// share shard 0.
pub(crate) const SHARDS: usize = 65_535;
/// The most blocks of slots, of 1,048,576 each: 2³² live tasks would need more than a terabyte of
/// memory.
pub(crate) const SLOT_BLOCKS: usize = 4096;
