//! The exit codes of `headcount` that are not those of a report; the help of the command lists all.

/// Threads could not be started, or an address could not be bound: `EX_OSERR` of sysexits.h.
pub(super) const NOT_STARTED: u8 = 71;
/// The output of `check` or `config` could not be written: `EX_IOERR` of sysexits.h.
pub(super) const NOT_WRITTEN: u8 = 74;
/// The configuration or an `OTEL_*` variable is invalid: `EX_CONFIG` of sysexits.h.
pub(super) const BAD_CONFIG: u8 = 78;
