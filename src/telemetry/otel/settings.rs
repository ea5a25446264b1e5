//! What is exported, and to where: the `OTEL_*` variables of the specification, and what a program sets itself, which
//! counts more.
//!
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>,
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>

use super::super::exports::{SIGNALS, Signal};
use super::http::{Target, Trusted};
use std::time::Duration;

/// Where a variable's value comes from.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) service: Option<String>,
    /// By [`Signal`]; `None` is not exported.
    pub(super) targets: [Option<Target>; SIGNALS.len()],
    /// For one request.
    pub(super) timeout: Duration,
    /// Of the tasks that end well.
    pub(super) ratio: f64,
    /// How many records may wait.
    pub(super) queue: usize,
    /// How many go into one request.
    pub(super) batch: usize,
    /// How long a span may wait.
    pub(super) delay: Duration,
    /// Of the resource.
    pub(super) attributes: Vec<(String, String)>,
    /// What is exported is thrown away.
    pub(super) discard: bool,
}

/// What cannot be exported to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// An address that is none.
    #[error("export to \"{endpoint}\": {reason}; allowed: http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A variable whose value is such an address.
    #[error("take {variable}={endpoint}: {reason}; allowed: http://HOST:PORT or https://HOST:PORT")]
    EndpointVariable {
        /// Which.
        variable: String,
        /// What it says.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A variable whose value is not allowed.
    #[error("take {variable}={value}: allowed: {allowed}")]
    Variable {
        /// Which.
        variable: String,
        /// What it says.
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
}

/// Where a collector listens if nobody says otherwise.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
const CERTIFICATES: &str = "a file with certificates in PEM form";
/// So that a log record is seen soon.
pub(super) const LOG_DELAY: Duration = Duration::from_secs(1);

// === impl TelemetryError ===

impl TelemetryError {
    pub(super) fn endpoint(endpoint: &str, reason: &'static str) -> Self {
        Self::Endpoint {
            endpoint: endpoint.to_owned(),
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
    /// What the variables say. `endpoint` counts more than they do.
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

/// Variables, of which an empty one is as good as none.
struct Variables<'a>(Lookup<'a>);

// === impl Variables ===

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.0)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn is(&self, name: &str, word: &str) -> bool {
        self.text(name)
            .is_some_and(|value| value.eq_ignore_ascii_case(word))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, TelemetryError> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(wrong(name, &value, "a whole number above 0")),
        }
    }

    fn millis(&self, name: &str, default: Duration) -> Result<Duration, TelemetryError> {
        Ok(self.number(name)?.map_or(default, Duration::from_millis))
    }

    fn count(&self, name: &str, default: usize) -> Result<usize, TelemetryError> {
        let number = self.number(name)?;
        Ok(number.map_or(default, |number| {
            usize::try_from(number).unwrap_or(usize::MAX)
        }))
    }

    /// The share that the sampler takes. Ours is always one by parents, so both forms of a name say the same.
    fn ratio(&self) -> Result<f64, TelemetryError> {
        const SAMPLERS: &str =
            "always_on, always_off, traceidratio, each also with parentbased_ before it";
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
                ratio.ok_or_else(|| wrong("OTEL_TRACES_SAMPLER_ARG", &value, "0 to 1"))
            }
            _ => Err(wrong("OTEL_TRACES_SAMPLER", &sampler, SAMPLERS)),
        }
    }

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

    /// The variable of a signal, or that of all, with its value.
    fn of_signal_or_all(&self, word: &str, what: &str) -> Option<(String, String)> {
        let names = [of_signal(word, what), format!("OTEL_EXPORTER_OTLP_{what}")];
        let mut set = names.into_iter().filter_map(|name| {
            let value = self.text(&name)?;
            Some((name, value))
        });
        set.next()
    }

    /// Where a signal goes by the variables alone.
    fn environment(&self, word: &str, path: &str) -> Result<Target, TelemetryError> {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let own = of_signal(word, "ENDPOINT");
        // The endpoint of a signal is the whole address.
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
            endpoint,
            reason,
        })
    }

    /// Whether a signal's requests are compressed. A signal's own variable counts more, and both must be right.
    fn is_gzip(&self, word: &str) -> Result<bool, TelemetryError> {
        let mut is_gzip = false;
        let own = of_signal(word, "COMPRESSION");
        for name in ["OTEL_EXPORTER_OTLP_COMPRESSION", &own] {
            match self.text(name).as_deref() {
                None => {}
                Some("gzip") => is_gzip = true,
                Some("none") => is_gzip = false,
                Some(value) => return Err(wrong(name, value, "gzip, none")),
            }
        }
        Ok(is_gzip)
    }

    /// Where a signal goes; `None` when it is not exported.
    fn target(
        &self,
        signal: Signal,
        endpoint: Option<&str>,
    ) -> Result<Option<Target>, TelemetryError> {
        let word = SIGNALS[signal as usize];
        let exporter = format!("OTEL_{}_EXPORTER", word.to_uppercase());
        match self.text(&exporter) {
            Some(none) if none == "none" => return Ok(None),
            Some(value) if value != "otlp" => return Err(wrong(&exporter, &value, "otlp, none")),
            _ => {}
        }
        let path = format!("/v1/{word}");
        let mut target = match endpoint {
            Some(base) => Target::parse(base, Some(&path))
                .map_err(|reason| TelemetryError::endpoint(base, reason))?,
            None => self.environment(word, &path)?,
        };
        if let Some((_, headers)) = self.of_signal_or_all(word, "HEADERS") {
            target.headers = pairs(&headers);
        }
        target.is_gzip = self.is_gzip(word)?;
        if let Some((name, path)) = self.of_signal_or_all(word, "CERTIFICATE") {
            let read = Trusted::read(&path);
            let read = read.ok_or_else(|| wrong(&name, &path, CERTIFICATES))?;
            target.trusted = Some(read);
        }
        Ok(Some(target))
    }
}

pub(super) fn of_signal(word: &str, what: &str) -> String {
    format!("OTEL_EXPORTER_OTLP_{}_{what}", word.to_uppercase())
}

fn wrong(variable: &str, value: &str, allowed: &'static str) -> TelemetryError {
    TelemetryError::Variable {
        variable: variable.to_owned(),
        value: value.to_owned(),
        allowed,
    }
}

/// `key=value,key=value`, with `%xx` in the values; what is not of that form is left out, as the specification says.
fn pairs(text: &str) -> Vec<(String, String)> {
    let parts = text.split(',').filter_map(|part| part.split_once('='));
    let pairs = parts.map(|(key, value)| (key.trim().to_owned(), decoded(value.trim())));
    pairs.filter(|(key, _)| !key.is_empty()).collect()
}

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
    fn without_a_word_all_goes_to_a_collector_on_this_machine() {
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
    fn a_signal_has_an_address_headers_and_compression_of_its_own() {
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
    fn numbers_and_names_are_taken_from_their_variables() {
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
    fn what_is_not_allowed_is_refused_with_what_is() {
        let refused = |name, value| {
            read(&[(name, value)])
                .expect_err("it is not allowed")
                .to_string()
        };
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            "take OTEL_EXPORTER_OTLP_PROTOCOL=grpc: allowed: http/protobuf"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
            "take OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4318: it has no scheme; allowed: http://HOST:PORT or https://HOST:PORT"
        );
        assert_eq!(
            refused("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            "take OTEL_BSP_MAX_QUEUE_SIZE=many: allowed: a whole number above 0"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
            "take OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere.pem: allowed: a file with certificates in PEM form"
        );
        assert_eq!(
            refused("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zstd"),
            "take OTEL_EXPORTER_OTLP_LOGS_COMPRESSION=zstd: allowed: gzip, none"
        );
        assert_eq!(
            refused("OTEL_TRACES_EXPORTER", "zipkin"),
            "take OTEL_TRACES_EXPORTER=zipkin: allowed: otlp, none"
        );
    }

    #[test]
    fn a_disabled_sdk_exports_nothing() {
        let settings = read(&[("OTEL_SDK_DISABLED", "TRUE")]).expect("nothing is wrong");
        assert_eq!(addresses(&settings), ["-", "-", "-"]);
    }
}
