//! The integration tests, one binary.
mod testing;
