//! The settings of an exporter, read from the `OTEL_*` variables of the specification.
//!
//! An endpoint that the program sets overrides the variables; see `TelemetryBuilder` for the other
//! settings. An invalid value is an error, not a default, so that a typing error is noticed at the
//! start.
//!
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>,
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>
//!
//! The order of precedence, for each setting:
//!
//! | set by | wins over |
//! |---|---|
//! | a method of `TelemetryBuilder` | all variables |
//! | the variable of one signal, as `OTEL_EXPORTER_OTLP_TRACES_HEADERS` | that of all signals |
//! | the variable of all signals | the default |
//! | the default of the specification | |
//!
//! Values do not merge: the headers of one signal replace those of all signals. Headers of the
//! builder are added to either. Variables that are not listed in `TelemetryBuilder` are not read,
//! and not refused.
//!
//! The variables are read once, when the telemetry is built. A file of certificates is read then,
//! too.

mod builder;

pub use builder::TelemetryBuilder;

use super::http::{Headers, Target};
use crate::http_client::Trust;
use crate::telemetry::metrics::exports::{SIGNALS, Signal};
use crate::text::without_user_info;
use std::time::Duration;

/// A function that returns the value of a variable; a test replaces the environment with it.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// All settings of an exporter.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The value of `service.name`; `None` for the name of the runtime.
    pub(super) service: Option<String>,
    /// The destination of each [`Signal`]; `None` for a signal that is not exported. Records of
    /// such a signal are discarded when they are pushed, without being counted.
    pub(super) targets: [Option<Target>; SIGNALS.len()],
    /// The timeout of one request. Default: 10 s, as in the specification.
    pub(super) timeout: Duration,
    /// The budget of the flush at the end of a run. Default: 1 s. No variable sets it.
    pub(super) flush_budget: Duration,
    /// The share of the ordinary tasks that have a span, from 0 to 1. Default: 1. It decides about
    /// traces, so all tasks of one trace are taken or none.
    pub(super) ratio: f64,
    /// The capacity of each queue, in records. Default: 2048, as in the specification. At least 1.
    pub(super) queue: usize,
    /// The most records in one request. Default: 512, as in the specification. At most `queue`.
    pub(super) batch: usize,
    /// The longest time that a span waits to be exported. Default: 5 s, as in the specification for
    /// spans. It also caps the delay of logs.
    pub(super) delay: Duration,
    /// Attributes of the resource, without `service.name`. Those of the variable come first, so the
    /// builder's win.
    pub(super) attributes: Vec<(String, String)>,
    /// True if requests are encoded but not sent.
    pub(super) discard: bool,
}

/// An endpoint or an environment variable with an invalid value.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::{Telemetry, TelemetryError};
///
/// let error = Telemetry::check_endpoint("127.0.0.1:4318").unwrap_err();
/// assert!(matches!(error, TelemetryError::Endpoint { .. }));
/// assert!(error.to_string().ends_with("http://HOST:PORT or https://HOST:PORT"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The endpoint that the program set is not a valid URL.
    #[error("export to \"{endpoint}\": {reason}; allowed: http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// The endpoint as it was given, without user info.
        endpoint: String,
        /// The fault.
        reason: &'static str,
    },
    /// A variable contains an endpoint that is not a valid URL.
    #[error("use {variable}={endpoint}: {reason}; allowed: http://HOST:PORT or https://HOST:PORT")]
    EndpointVariable {
        /// The name of the variable.
        variable: String,
        /// The endpoint in its value, without user info.
        endpoint: String,
        /// The fault.
        reason: &'static str,
    },
    /// A variable has a value that is not allowed.
    #[error("use {variable}={value}; allowed: {allowed}")]
    Variable {
        /// The name of the variable.
        variable: String,
        /// Its value, without user info.
        value: String,
        /// The allowed values, in words.
        allowed: &'static str,
    },
}

/// The default endpoint of the specification: a collector on this machine.
///
/// Port 4318 is that of OTLP over HTTP; 4317 is that of gRPC.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
/// The allowed values of the variables for certificates, in words.
const CERTIFICATES: &str = "a file of PEM certificates";
/// The longest time that a log record waits; shorter than for spans, so that logs appear soon.
///
/// Events with a name do not wait at all; see `Queue::hasten`.
pub(super) const LOG_DELAY: Duration = Duration::from_secs(1);

// === impl TelemetryError ===

impl TelemetryError {
    /// Creates the error for an endpoint that the program set, as opposed to a variable.
    pub(super) fn endpoint(endpoint: &str, reason: &'static str) -> Self {
        Self::Endpoint {
            endpoint: without_user_info(endpoint).into_owned(),
            reason,
        }
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            service: None,
            targets: [None, None, None],
            timeout: Duration::from_secs(10),
            flush_budget: Duration::from_secs(1),
            ratio: 1.0,
            queue: 2048,
            batch: 512,
            delay: Duration::from_secs(5),
            attributes: Vec::new(),
            discard: false,
        }
    }
}

impl Settings {
    /// Reads the variables. `endpoint` overrides their endpoints.
    ///
    /// If `OTEL_SDK_DISABLED` is `true`, no signal is exported and the other variables are not
    /// checked.
    ///
    /// `OTEL_SERVICE_NAME` wins over `service.name` in `OTEL_RESOURCE_ATTRIBUTES`, as the
    /// specification requires; the attribute is removed in any case.
    ///
    /// The first invalid value is the error; later ones are not looked at.
    pub(super) fn read(lookup: Lookup<'_>, endpoint: Option<&str>) -> Result<Self, TelemetryError> {
        let vars = Variables(lookup);
        let mut settings = Self {
            service: vars.text("OTEL_SERVICE_NAME"),
            attributes: vars
                .text("OTEL_RESOURCE_ATTRIBUTES")
                .map_or_else(Vec::new, |text| pairs(&text)),
            ..Self::default()
        };
        let taken = settings
            .attributes
            .iter()
            .position(|(key, _)| key == "service.name");
        if let Some(at) = taken {
            let (_, name) = settings.attributes.remove(at);
            settings.service.get_or_insert(name);
        }
        if vars.is("OTEL_SDK_DISABLED", "true") {
            return Ok(settings);
        }
        settings.timeout = vars.millis("OTEL_EXPORTER_OTLP_TIMEOUT", settings.timeout)?;
        settings.delay = vars.millis("OTEL_BSP_SCHEDULE_DELAY", settings.delay)?;
        settings.queue = vars.count("OTEL_BSP_MAX_QUEUE_SIZE", settings.queue)?;
        settings.batch = vars
            .count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", settings.batch)?
            .min(settings.queue);
        settings.ratio = vars.ratio()?;
        vars.protocol()?;
        for signal in Signal::ALL {
            settings.targets[signal as usize] = vars.target(signal, endpoint)?;
        }
        Ok(settings)
    }
}

/// The environment variables. An empty variable counts as unset, as the specification requires.
struct Variables<'a>(Lookup<'a>);

// === impl Variables ===

impl Variables<'_> {
    /// Returns the trimmed value of a variable; `None` if it is unset or empty.
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.0)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// Returns whether a variable has this value, ignoring case.
    fn is(&self, name: &str, word: &str) -> bool {
        self.text(name)
            .is_some_and(|value| value.eq_ignore_ascii_case(word))
    }

    /// Returns the value of a variable as a whole number above 0. 0 is refused: a queue, a batch or
    /// a timeout of 0 would export nothing.
    fn number(&self, name: &str) -> Result<Option<u64>, TelemetryError> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(wrong(name, &value, "a whole number above 0")),
        }
    }

    /// Returns the value of a variable as a duration in milliseconds.
    fn millis(&self, name: &str, default: Duration) -> Result<Duration, TelemetryError> {
        Ok(self.number(name)?.map_or(default, Duration::from_millis))
    }

    /// Returns the value of a variable as a count, cut to the range of `usize`.
    fn count(&self, name: &str, default: usize) -> Result<usize, TelemetryError> {
        let number = self.number(name)?;
        Ok(number.map_or(default, |number| {
            usize::try_from(number).unwrap_or(usize::MAX)
        }))
    }

    /// Returns the share of the sampler. Headcount always samples by parent, so `parentbased_`
    /// makes no difference.
    ///
    /// The argument is read only for `traceidratio`, for which it defaults to 1. Samplers that ask
    /// a remote server are refused.
    fn ratio(&self) -> Result<f64, TelemetryError> {
        const SAMPLERS: &str =
            "always_on, always_off or traceidratio, each optionally with the prefix parentbased_";
        let Some(sampler) = self.text("OTEL_TRACES_SAMPLER") else {
            return Ok(1.0);
        };
        match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
            "always_on" => Ok(1.0),
            "always_off" => Ok(0.0),
            "traceidratio" => {
                let Some(value) = self.text("OTEL_TRACES_SAMPLER_ARG") else {
                    return Ok(1.0);
                };
                let ratio = value
                    .parse()
                    .ok()
                    .filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio
                    .ok_or_else(|| wrong("OTEL_TRACES_SAMPLER_ARG", &value, "a number from 0 to 1"))
            }
            _ => Err(wrong("OTEL_TRACES_SAMPLER", &sampler, SAMPLERS)),
        }
    }

    /// Checks that no variable asks for a protocol other than `http/protobuf`. It would be ignored
    /// otherwise, and a gRPC port would refuse every request.
    fn protocol(&self) -> Result<(), TelemetryError> {
        let signals = SIGNALS.map(|signal| of_signal(signal, "PROTOCOL"));
        for name in std::iter::once("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned()).chain(signals) {
            match self.text(&name) {
                Some(value) if value != "http/protobuf" => {
                    return Err(wrong(&name, &value, "http/protobuf"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the name and the value of the variable of one signal; if that is unset, of the
    /// variable of all signals.
    ///
    /// The name is returned for the error message.
    fn of_signal_or_all(&self, word: &str, what: &str) -> Option<(String, String)> {
        let names = [of_signal(word, what), format!("OTEL_EXPORTER_OTLP_{what}")];
        let mut set = names.into_iter().filter_map(|name| {
            let value = self.text(&name)?;
            Some((name, value))
        });
        set.next()
    }

    /// Returns the destination of a signal according to the variables alone.
    fn environment(&self, word: &str, path: &str) -> Result<Target, TelemetryError> {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let own = of_signal(word, "ENDPOINT");
        // The endpoint of one signal is used as it is; `path` is appended to the endpoint of all
        // signals.
        let (variable, endpoint, append) = match self.text(&own) {
            Some(whole) => (own, whole, None),
            None => {
                let base = self.text(ALL);
                let base = base.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
                (ALL.to_owned(), base, Some(path))
            }
        };
        Target::parse(&endpoint, append).map_err(|reason| TelemetryError::EndpointVariable {
            variable,
            endpoint: without_user_info(&endpoint).into_owned(),
            reason,
        })
    }

    /// Returns whether the requests of a signal are compressed. The variable of the signal
    /// overrides that of all signals; both are checked.
    fn is_gzip(&self, word: &str) -> Result<bool, TelemetryError> {
        let mut is_gzip = false;
        let own = of_signal(word, "COMPRESSION");
        for name in ["OTEL_EXPORTER_OTLP_COMPRESSION", &own] {
            match self.text(name).as_deref() {
                None => {}
                Some("gzip") => is_gzip = true,
                Some("none") => is_gzip = false,
                Some(value) => return Err(wrong(name, value, "gzip or none")),
            }
        }
        Ok(is_gzip)
    }

    /// Returns the destination of a signal; `None` if it is not exported.
    ///
    /// `endpoint` is the one that the program set; it wins over all endpoint variables, which are
    /// then not even checked. Blocks while a file of certificates is read.
    fn target(
        &self,
        signal: Signal,
        endpoint: Option<&str>,
    ) -> Result<Option<Target>, TelemetryError> {
        let word = SIGNALS[signal as usize];
        let exporter = format!("OTEL_{}_EXPORTER", word.to_uppercase());
        match self.text(&exporter) {
            Some(none) if none == "none" => return Ok(None),
            Some(value) if value != "otlp" => return Err(wrong(&exporter, &value, "otlp or none")),
            _ => {}
        }
        let path = format!("/v1/{word}");
        let mut target = match endpoint {
            Some(base) => Target::parse(base, Some(&path))
                .map_err(|reason| TelemetryError::endpoint(base, reason))?,
            None => self.environment(word, &path)?,
        };
        if let Some((_, headers)) = self.of_signal_or_all(word, "HEADERS") {
            target.headers = Headers(pairs(&headers));
        }
        target.is_gzip = self.is_gzip(word)?;
        if let Some((name, path)) = self.of_signal_or_all(word, "CERTIFICATE") {
            let read = Trust::file(path.as_ref());
            let read = read.ok_or_else(|| wrong(&name, &path, CERTIFICATES))?;
            target.trusted = Some(read);
        }
        Ok(Some(target))
    }
}

/// Returns the name of the variable for one signal.
///
/// `word` is one of [`SIGNALS`], and `what` the last part of the name, such as `HEADERS`.
pub(super) fn of_signal(word: &str, what: &str) -> String {
    format!("OTEL_EXPORTER_OTLP_{}_{what}", word.to_uppercase())
}

/// Creates the error for a value that is not allowed. `allowed` is worded to follow "allowed:".
fn wrong(variable: &str, value: &str, allowed: &'static str) -> TelemetryError {
    TelemetryError::Variable {
        variable: variable.to_owned(),
        value: without_user_info(value).into_owned(),
        allowed,
    }
}

/// Parses `key=value,key=value` with percent-encoded values. Parts without `=` or without a key are
/// skipped. Keys are not decoded. The form is that of W3C Baggage without properties, which the
/// specification names for both variables.
fn pairs(text: &str) -> Vec<(String, String)> {
    let parts = text.split(',').filter_map(|part| part.split_once('='));
    let pairs = parts.map(|(key, value)| (key.trim().to_owned(), decoded(value.trim())));
    pairs.filter(|(key, _)| !key.is_empty()).collect()
}

/// Decodes `%xx`. An invalid escape stays as it is. Bytes that are not UTF-8 after that become
/// replacement characters.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, TelemetryError> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&lookup, None)
    }

    fn addresses(settings: &Settings) -> [String; 3] {
        let shown = |target: &Option<Target>| {
            target
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string)
        };
        settings.targets.each_ref().map(shown)
    }

    #[test]
    fn without_variables_all_signals_go_to_a_collector_on_this_machine() {
        let settings = read(&[]).expect("nothing is wrong");
        assert_eq!(
            addresses(&settings),
            [
                "http://localhost:4318/v1/traces",
                "http://localhost:4318/v1/logs",
                "http://localhost:4318/v1/metrics",
            ]
        );
    }

    #[test]
    fn a_signal_can_have_its_own_address_headers_and_compression() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otlp.example/base/"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[::1]:9/t"),
            ("OTEL_METRICS_EXPORTER", "none"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Basic%20YQ==, x-team=a",
            ),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-team=b"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ]);
        let settings = settings.expect("nothing is wrong");
        assert_eq!(
            addresses(&settings),
            ["http://[::1]:9/t", "https://otlp.example/base/v1/logs", "-"]
        );
        let headers = |signal: usize| {
            settings.targets[signal]
                .clone()
                .expect("it has one")
                .headers
                .0
        };
        let targets = settings.targets.iter().flatten();
        let is_gzip: Vec<bool> = targets.map(|target| target.is_gzip).collect();
        assert_eq!(is_gzip, [false, true]);
        assert_eq!(headers(0), [("x-team".to_owned(), "b".to_owned())]);
        assert_eq!(
            headers(1),
            [
                ("authorization".to_owned(), "Basic YQ==".to_owned()),
                ("x-team".to_owned(), "a".to_owned()),
            ]
        );
    }

    #[test]
    fn numbers_and_names_are_read_from_their_variables() {
        let settings = read(&[
            ("OTEL_SERVICE_NAME", "orders"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,deployment.environment.name=prod%2Ceu,wrong",
            ),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
        ]);
        let settings = settings.expect("nothing is wrong");
        assert_eq!(settings.service.as_deref(), Some("orders"));
        assert_eq!(
            settings.attributes,
            [(
                "deployment.environment.name".to_owned(),
                "prod,eu".to_owned()
            )]
        );
        assert_eq!(
            (settings.ratio, settings.queue, settings.batch),
            (0.25, 100, 100)
        );
        assert_eq!(settings.delay, Duration::from_millis(250));
        assert_eq!(settings.timeout, Duration::from_secs(3));
    }

    #[test]
    fn an_invalid_value_is_refused_with_the_allowed_ones() {
        let refused = |name, value| {
            read(&[(name, value)])
                .expect_err("it is not allowed")
                .to_string()
        };
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            "use OTEL_EXPORTER_OTLP_PROTOCOL=grpc; allowed: http/protobuf"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
            "use OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4318: the scheme is missing; allowed: http://HOST:PORT or https://HOST:PORT"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:43180000"),
            "use OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:43180000: the port is invalid; allowed: http://HOST:PORT or https://HOST:PORT"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:secret@otlp:4318"),
            "use OTEL_EXPORTER_OTLP_ENDPOINT=http://…@otlp:4318: credentials belong in a header, not in the URL; allowed: http://HOST:PORT or https://HOST:PORT"
        );
        assert_eq!(
            refused("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            "use OTEL_BSP_MAX_QUEUE_SIZE=many; allowed: a whole number above 0"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
            "use OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere.pem; allowed: a file of PEM certificates"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zstd"),
            "use OTEL_EXPORTER_OTLP_LOGS_COMPRESSION=zstd; allowed: gzip or none"
        );
        assert_eq!(
            refused("OTEL_TRACES_EXPORTER", "zipkin"),
            "use OTEL_TRACES_EXPORTER=zipkin; allowed: otlp or none"
        );
    }

    #[test]
    fn a_disabled_sdk_exports_nothing() {
        let settings = read(&[("OTEL_SDK_DISABLED", "TRUE")]).expect("nothing is wrong");
        assert_eq!(addresses(&settings), ["-", "-", "-"]);
    }
}
