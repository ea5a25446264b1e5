//! The declared tasks.
