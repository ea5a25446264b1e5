//! Tests in separate processes: the effects of signals, the output, and the exit codes.

#[cfg(feature = "admin")]
mod admin;
mod after;
mod black_box;
#[cfg(feature = "service")]
mod control;
mod culprits;
mod dumps;
mod innocent;
#[cfg(all(
    feature = "service",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod inspect;
#[cfg(feature = "service")]
mod limits;
#[cfg(feature = "service")]
mod otel;
mod program;
mod reasons;
mod released;
mod remembers;
#[cfg(feature = "service")]
mod service;
mod signals;
#[cfg(all(feature = "stacks", debug_assertions))]
mod stacks;
mod stuck;
mod terminal;
mod text;
#[cfg(all(
    feature = "service",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod top;
#[cfg(all(
    feature = "service",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod ways;
mod wedged;
