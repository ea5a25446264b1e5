//! The resource: attributes of the exporting process, by
//! <https://opentelemetry.io/docs/specs/semconv/resource/>.
//!
//! The resource is built once, when the exporting thread starts, and copied into each request.
//! Nothing in it can change while the process runs. Attributes of containers and clouds are not
//! detected; set them with `OTEL_RESOURCE_ATTRIBUTES`.

use super::record::{number, text};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::hash::{BuildHasher, RandomState};

/// Returns the resource of a service. An attribute in `given` replaces a detected one with the same
/// key.
///
/// Host and executable are left out if they cannot be determined. The last of several with the same
/// key wins. `service.name` may also be replaced so.
///
/// A service without a version has no `service.version`. It reads the executable's path by a system
/// call (`readlink(2)` of `/proc/self/exe` on Linux).
pub(super) fn resource(service: &str, version: &str, given: &[(String, String)]) -> Resource {
    let mut attributes = vec![
        text("service.name", service),
        text("service.instance.id", instance()),
        text("telemetry.sdk.name", "headcount"),
        text("telemetry.sdk.language", "rust"),
        text("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        number("process.pid", u64::from(std::process::id())),
        text("host.arch", arch()),
        text("os.type", std::env::consts::OS),
    ];
    if !version.is_empty() {
        attributes.push(text("service.version", version));
    }
    attributes.extend(host().map(|name| text("host.name", name)));
    if let Ok(path) = std::env::current_exe() {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        attributes.extend(name.map(|name| text("process.executable.name", name)));
        attributes.push(text("process.executable.path", path.to_string_lossy()));
    }
    for (key, value) in given {
        attributes.retain(|known: &KeyValue| known.key != *key);
        attributes.push(text(key, value.as_str()));
    }
    Resource {
        attributes,
        ..Resource::default()
    }
}

/// Returns a random UUID (version 4), different for each run:
/// <https://www.rfc-editor.org/rfc/rfc9562#section-5.4>.
///
/// The bits come from two `RandomState`s, with keys that the standard library seeds from the
/// operating system. They are unique enough to tell instances apart, and no secret: nothing relies
/// on them being hard to guess.
///
/// The two masks set the version, bits 76 to 79, to 4, and the variant, the upper two of bits 60 to
/// 63, to binary 10.
fn instance() -> String {
    let random = |number: u8| u128::from(RandomState::new().hash_one(number));
    let bits = random(0) << 64 | random(1);
    let bits = bits & !(0xf << 76) | 4 << 76;
    let bits = bits & !(0x3 << 62) | 2 << 62;
    let hex = format!("{bits:032x}");
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &hex[range]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Returns the host name. That is the node name of `uname(2)`; in a container mostly its id. `None`
/// if it is empty or not UTF-8.
fn host() -> Option<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Returns the word of the semantic conventions for the CPU architecture.
///
/// The words are those of `host.arch` in
/// <https://opentelemetry.io/docs/specs/semconv/resource/host/>. One without a word there keeps the
/// name that Rust has for it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        other => other,
    }
}
