//! Questions about live tasks: lists, await chains, and which thread runs which task.

pub(crate) mod await_query;
#[cfg(feature = "admin")]
pub(crate) mod listing;
pub(crate) mod on_threads;
pub(crate) mod runtime_tasks;
#[cfg(feature = "admin")]
pub(crate) mod survey;
