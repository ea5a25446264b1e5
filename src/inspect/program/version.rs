//! The version of tokio in a program, by the paths of its sources.
//!
//! A panic has its place in the source as a constant, also in a stripped program. The folder of a
//! crate that cargo fetched has its version: `/tokio-1.54.1/src/…`. With a vendored tokio, or with
//! trimmed paths, the version is not known.

use std::collections::BTreeSet;

/// The most characters of a version.
const LENGTH: usize = 24;

/// Adds the versions of tokio that constants of a program name.
pub(super) fn find(constants: &[u8], versions: &mut BTreeSet<String>) {
    const MARK: &[u8] = b"/tokio-";
    let mut rest = constants;
    while let Some(at) = memchr_of(rest, MARK) {
        rest = &rest[at + MARK.len()..];
        let end = rest.iter().take(LENGTH).position(|byte| *byte == b'/');
        let name = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        if let Some(version) = name.filter(|name| is_version(name)) {
            versions.insert(version.to_owned());
        }
    }
}

/// Returns whether the text is a version with three numbers; a suffix may follow.
fn is_version(text: &str) -> bool {
    let mut parts = text.splitn(3, '.');
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let starts = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let is_known = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
    parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number)
        && parts.next().is_some_and(starts)
        && text.chars().all(is_known)
}

/// Returns the index of `needle` in `bytes`.
fn memchr_of(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::find;
    use std::collections::BTreeSet;

    #[test]
    fn versions_are_those_of_tokio_itself() {
        let constants = b"/x/tokio-1.54.1/src/lib.rs/x/tokio-util-0.7.20/src/a.rs/tokio-1.5/src\
            /tokio-rustls-0.26.1/src/tokio-1.40.0-beta.1/src/tokio-1.38.1/";
        let mut versions = BTreeSet::new();
        find(constants, &mut versions);
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        assert_eq!(versions, ["1.38.1", "1.40.0-beta.1", "1.54.1"]);
        find(b"/tokio-1.54.", &mut BTreeSet::new());
    }
}
