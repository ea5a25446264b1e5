//! Places in the source, as debug information has them.
//!
//! Code of a library is below a registry of cargo, a git checkout of cargo, or the sources of the
//! compiler. All other code is the program's own.

use std::fmt;

/// The folders of libraries, each with the number of folders between it and the package.
const LIBRARIES: [(&str, usize); 4] = [
    ("/registry/src/", 1),
    ("/git/checkouts/", 0),
    ("/rustc/", 2),
    ("/lib/rustlib/src/rust/library/", 0),
];

/// A line of a source file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// The path from the folder of the build, as in `src/db.rs`; for a library from its package, as in
    /// `tokio-1.54.1/src/sync/mutex.rs`.
    pub(crate) file: String,
    /// 0 if the line is not known.
    pub(crate) line: u64,
    /// The crate of the library that the file is part of; `None` for the program's own code.
    pub(crate) library: Option<String>,
}

// === impl Place ===

impl Place {
    /// Makes a place of a path, and the folder in which the unit was compiled.
    pub(crate) fn of(path: &str, line: u64, folder: &str) -> Self {
        let package = LIBRARIES.iter().find_map(|(mark, between)| {
            let (_, rest) = path.split_once(mark)?;
            let mut from = 0;
            for _ in 0..*between {
                from += rest[from..].find('/')? + 1;
            }
            Some(&rest[from..])
        });
        match package {
            Some(package) => Self {
                file: package.to_owned(),
                line,
                library: Some(crate_of(package)),
            },
            None => {
                let inside = path.strip_prefix(folder).filter(|_| !folder.is_empty());
                let inside = inside.and_then(|inside| inside.strip_prefix('/'));
                Self {
                    file: inside.unwrap_or(path).to_owned(),
                    line,
                    library: None,
                }
            }
        }
    }

    /// Returns whether it is code of the program itself.
    pub(crate) fn is_own(&self) -> bool {
        self.library.is_none() && !self.file.is_empty()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Returns the crate of a package's path: `tokio_util` for `tokio-util-0.7.20/src/lib.rs`. A checkout
/// has a hash of 16 digits in place of the version, and stands for all crates of its repository.
fn crate_of(path: &str) -> String {
    let package = path.split('/').next().unwrap_or_default();
    let is_hash = |part: &str| part.len() == 16 && part.bytes().all(|c| c.is_ascii_hexdigit());
    let is_version = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let name = match package.rsplit_once('-') {
        Some((name, end)) if is_version(end) || is_hash(end) => name,
        _ => package,
    };
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn code_of_a_library_is_told_by_its_folder() {
        for (path, file, library) in [
            ("/build/orders/src/db.rs", "src/db.rs", None),
            (
                "/build/orders-api/src/db.rs",
                "/build/orders-api/src/db.rs",
                None,
            ),
            ("src/db.rs", "src/db.rs", None),
            (
                "/home/ann/.cargo/registry/src/index-1a/tokio-util-0.7.20/src/a.rs",
                "tokio-util-0.7.20/src/a.rs",
                Some("tokio_util"),
            ),
            (
                "/cargo/git/checkouts/tokio-fa2b0123456789ab/3c4d/tokio/src/a.rs",
                "tokio-fa2b0123456789ab/3c4d/tokio/src/a.rs",
                Some("tokio"),
            ),
            (
                "/rustc/59807616e/library/core/src/future/mod.rs",
                "core/src/future/mod.rs",
                Some("core"),
            ),
            (
                "/x/lib/rustlib/src/rust/library/core/src/lib.rs",
                "core/src/lib.rs",
                Some("core"),
            ),
        ] {
            let place = Place::of(path, 7, "/build/orders");
            assert_eq!(place.file, file);
            assert_eq!(place.library.as_deref(), library, "{path}");
            assert_eq!(place.to_string(), format!("{file}:7"));
        }
        assert!(!Place::default().is_own());
    }
}
