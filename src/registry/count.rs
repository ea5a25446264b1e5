//! Counters: one shard per thread, written without contention and summed by readers.
//!
//! A counter is written by the thread that holds its shard and read by any. [`counter`] has the two
//! ways to write one, [`shard`] says which thread may, [`histogram`] is a row of counters.
//! [`warnings`] are different: they are rare, so they are shared and counted by an exchange.

pub(crate) mod counter;
pub(crate) mod histogram;
pub(crate) mod shard;
pub(crate) mod warnings;
