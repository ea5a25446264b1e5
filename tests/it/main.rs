//! The integration tests, one binary.

#[cfg(feature = "service")]
mod config;
#[cfg(feature = "service")]
mod guardian;
mod testing;
mod tidy;
