//! The integration tests, one binary.

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "service")]
mod config;
#[cfg(feature = "console")]
mod console;
mod dump;
mod excused;
#[cfg(feature = "service")]
mod guardian;
#[cfg(feature = "otel")]
mod otel;
mod properties;
mod report;
mod review_runtime;
mod scenario;
mod tasks;
mod testing;
mod threads;
mod tidy;
mod untracked;
