//! Sections `telemetry` and `console`: the collector that spans, logs and the report are pushed to, and the address of
//! the tokio-console server.
//!
//! The `OTEL_*` variables are not read here: `exports` reads them when the run starts.

use std::net::SocketAddr;
use std::time::Duration;

use super::admin::{LISTEN, parse_listen};
use crate::service::config::table::Table;
use crate::service::config::value::Value;
use crate::service::config::{ConsoleSettings, Endpoint, TelemetrySettings};
use crate::telemetry::Telemetry;

/// Reads `[telemetry]`.
pub(in crate::service::config) fn telemetry(mut table: Table<'_>) -> TelemetrySettings {
    let default = TelemetrySettings::default();
    let endpoint = table.or("endpoint", default.endpoint, |value| {
        match value.text("endpoint = \"http://127.0.0.1:4318\"")? {
            "off" => Some(Endpoint::Off),
            text => match Telemetry::check_endpoint(text) {
                Ok(()) => Some(Endpoint::At(text.to_owned())),
                Err(error) => value.refuse(error.to_string(), "or \"off\" for no export"),
            },
        }
    });
    let sample_ratio = table.or("sample_ratio", default.sample_ratio, |value| {
        value.number(0.0..=1.0).map(Some)
    });
    table.finish();
    TelemetrySettings {
        endpoint: endpoint.value,
        sample_ratio: sample_ratio.value,
    }
}

/// Reads `[console]`.
pub(in crate::service::config) fn console(mut table: Table<'_>) -> ConsoleSettings {
    let default = ConsoleSettings::default();
    let listen = table.or("listen", default.listen, listen);
    let retention = table.or("retention", default.retention, |value| {
        value.duration(Duration::from_secs(1)..=Duration::from_secs(60))
    });
    table.finish();
    ConsoleSettings {
        listen: listen.value,
        retention: retention.value,
    }
}

/// Reads `listen`; the inner `None` stands for "off".
fn listen(value: &Value<'_>) -> Option<Option<SocketAddr>> {
    match parse_listen(value.text("listen = \"127.0.0.1:6669\"")?) {
        Ok(listen) => Some(listen),
        Err(error) => value.refuse(error, LISTEN),
    }
}
