//! Wires what a runtime counts and exports: its metrics, and its telemetry if it has one.

#[cfg(feature = "otel")]
use super::{BuildError, Start};
#[cfg(feature = "otel")]
use crate::shutdown::ending::Endings;
#[cfg(feature = "otel")]
use crate::state::State;
#[cfg(feature = "otel")]
use crate::telemetry::Telemetry;
use crate::telemetry::{Metrics, Watched};
#[cfg(feature = "otel")]
use std::sync::Arc;

/// What exports, from the begin of a runtime on.
#[derive(Debug, Default)]
pub(super) struct Exporting {
    #[cfg(feature = "otel")]
    telemetry: Option<Telemetry>,
}

// === impl Exporting ===

impl Exporting {
    /// By that telemetry, or by that of the process, if there is one.
    #[cfg(feature = "otel")]
    #[track_caller]
    pub(super) fn begin(
        telemetry: Option<Telemetry>,
        (start, version): (&Start, &str),
        endings: &mut Endings,
    ) -> Result<Self, BuildError> {
        let telemetry = telemetry.or_else(Telemetry::of_process);
        if let Some(telemetry) = &telemetry {
            let begun = telemetry.begin(&start.root, (&start.plan.service, version));
            endings.list.push(begun.map_err(BuildError::System)?);
        }
        Ok(Self { telemetry })
    }

    /// The metrics, which tell of the exports too.
    #[cfg(feature = "otel")]
    pub(super) fn metrics(self, mut watched: Watched) -> Metrics {
        let Some(telemetry) = self.telemetry else {
            return Metrics::new(watched);
        };
        watched.exports = Arc::clone(telemetry.exports());
        let previous = watched.past.state.as_deref().and_then(State::previous);
        if let Some(previous) = previous.filter(|previous| previous.is_unclean()) {
            // It could not say so itself, and this one may end before anybody has scraped it.
            telemetry.push_last(&previous.shutdown);
        }
        let metrics = Metrics::new(watched);
        metrics.set_exemplars(move |family, label, bound| telemetry.exemplar(family, label, bound));
        metrics
    }

    /// The metrics.
    #[cfg(not(feature = "otel"))]
    pub(super) fn metrics(self, watched: Watched) -> Metrics {
        Metrics::new(watched)
    }
}
