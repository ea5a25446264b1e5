//! The integration tests, as one binary.

#[cfg(feature = "admin")]
mod admin;
mod alone;
mod awaits;
#[cfg(feature = "service")]
mod config;
#[cfg(feature = "console")]
mod console;
#[cfg(feature = "otel")]
mod dashboards;
mod dump;
mod excused;
#[cfg(feature = "admin")]
mod fuzzing;
#[cfg(feature = "service")]
mod guardian;
mod heard;
mod heartbeats;
mod held;
mod mishaps;
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
