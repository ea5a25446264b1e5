//! The error of building a runtime, or of attaching to one.

use std::io;
#[cfg(feature = "admin")]
use std::net::SocketAddr;
use std::time::Duration;

/// The error of building a runtime or attaching to one.
///
/// # Examples
///
/// ```
/// use headcount::{BuildError, Runtime};
/// use std::time::Duration;
///
/// let error = Runtime::builder().deadline(Duration::from_secs(1)).build().unwrap_err();
/// assert!(matches!(error, BuildError::DeadlineTooShort { .. }));
/// assert!(error.to_string().starts_with("fit the layers into the deadline"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The budgets of the layers and the pre-drain delay add up to more than the deadline.
    #[error(
        "fit the layers into the deadline: pre-drain delay {pre_drain:?}, drain {drain:?}, cancel {cancel:?} and close \
         {close:?} take longer than {deadline:?}"
    )]
    DeadlineTooShort {
        /// The pre-drain delay.
        pre_drain: Duration,
        /// The budget of the first layer.
        drain: Duration,
        /// The budget of the second layer.
        cancel: Duration,
        /// The budget of the third layer.
        close: Duration,
        /// The deadline.
        deadline: Duration,
    },
    /// The address of the admin server is in use or not available.
    #[cfg(feature = "admin")]
    #[error("bind the admin server to {address}{}", who_has_it(source))]
    Admin {
        /// The address that was to be bound.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The operating system failed to create a thread or a file descriptor.
    #[error("start the runtime's threads")]
    System(#[source] io::Error),
}

/// Returns a clause for the end of the error that says why the address cannot be bound; empty if
/// that is not clear.
#[cfg(feature = "admin")]
fn who_has_it(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ", where another server is already listening",
        io::ErrorKind::AddrNotAvailable => ", which is not an address of this machine",
        _ => "",
    }
}
