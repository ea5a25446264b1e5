//! Processes of their own: what signals do to them, what they print, how they exit.

#[cfg(feature = "admin")]
mod admin;
mod after;
mod culprits;
mod dumps;
mod innocent;
#[cfg(feature = "service")]
mod otel;
mod program;
mod reasons;
#[cfg(feature = "json")]
mod remembers;
#[cfg(feature = "service")]
mod service;
mod signals;
#[cfg(all(feature = "stacks", debug_assertions))]
mod stacks;
mod stuck;
mod terminal;
mod text;
mod wedged;
