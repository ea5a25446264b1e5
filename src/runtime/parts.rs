//! The list of the parts of a runtime.
//!
//! A new part is added here and nowhere else: the phases and the exit hooks only see the list. A
//! part may use those before it, through `Earlier`.

#[cfg(feature = "admin")]
use crate::admin::{AdminPart, SocketPart};
use crate::control::part::{Part, Parts};
use crate::state::StatePart;
#[cfg(feature = "console")]
use crate::telemetry::ConsolePart;
#[cfg(feature = "admin")]
use crate::telemetry::TelemetryPart;

/// Returns all parts with their default settings, in the order in which they start.
///
/// The exit hooks are in this order too. The state folder is dropped last, so that it is held until
/// everything else has ended.
pub(super) fn all() -> Parts {
    let all: [Box<dyn Part>; _] = [
        Box::new(StatePart::default()),
        #[cfg(feature = "admin")]
        Box::new(TelemetryPart::default()),
        #[cfg(feature = "console")]
        Box::new(ConsolePart::default()),
        #[cfg(feature = "admin")]
        Box::new(AdminPart::default()),
        #[cfg(feature = "admin")]
        Box::new(SocketPart::default()),
    ];
    Parts::new(all)
}
