//! Who exports: the attributes of the process, by <https://opentelemetry.io/docs/specs/semconv/resource/>.

use super::record::{number, text};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::hash::{BuildHasher, RandomState};

/// The resource of a service; `given` counts more than what is found.
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

/// A number that no other run has: <https://www.rfc-editor.org/rfc/rfc9562#section-5.4>.
fn instance() -> String {
    let random = |number: u8| u128::from(RandomState::new().hash_one(number));
    let bits = random(0) << 64 | random(1);
    let bits = bits & !(0xf << 76) | 4 << 76;
    let bits = bits & !(0x3 << 62) | 2 << 62;
    let hex = format!("{bits:032x}");
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &hex[range]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

fn host() -> Option<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The word of the conventions.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        other => other,
    }
}
