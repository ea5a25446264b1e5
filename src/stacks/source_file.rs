//! A source file of this crate, recognized in frames.

use super::frame::Frame;
use super::resolve::short;
use std::sync::OnceLock;

/// A source file of this crate. It names itself with `file!()`, so that a move cannot break it.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// As the compiler recorded it: relative to the workspace while headcount itself is built, and
    /// absolute for a dependency.
    path: &'static str,
    /// The path as frames show it, computed on first use.
    shown: OnceLock<String>,
}

// === impl SourceFile ===

impl SourceFile {
    /// Creates it from the result of `file!()` in that file.
    pub(crate) const fn new(path: &'static str) -> Self {
        Self {
            path,
            shown: OnceLock::new(),
        }
    }

    /// Returns whether `file`, as a frame shows it, ends with this path. Only whole path components
    /// match.
    ///
    /// Cargo compiles the package that is being built by relative paths. A file of another crate
    /// with the same path below its package then matches as well.
    fn is(&self, file: &str) -> bool {
        let shown = self.shown.get_or_init(|| short(self.path));
        file.strip_suffix(shown.as_str())
            .is_some_and(|above| above.is_empty() || above.ends_with('/'))
    }
}

// === impl Frame ===

impl Frame {
    /// Returns whether this function is in that source file.
    ///
    /// False for a frame without debug information.
    pub(crate) fn is_in(&self, source: &SourceFile) -> bool {
        self.file.as_deref().is_some_and(|file| source.is(file))
    }
}

#[cfg(test)]
mod tests {
    use super::SourceFile;

    #[test]
    fn a_source_file_is_recognized_by_whole_components_wherever_it_was_compiled() {
        let built = SourceFile::new("src/registry/tracked.rs");
        assert!(built.is("src/registry/tracked.rs"));
        assert!(built.is("/home/x/headcount/src/registry/tracked.rs"));
        assert!(!built.is("my_src/registry/tracked.rs"));
        assert!(!built.is("tracked.rs"));
        let fetched = "/home/x/.cargo/registry/src/a-1/headcount-0.1.0/src/registry/tracked.rs";
        let fetched = SourceFile::new(fetched);
        assert!(fetched.is("headcount-0.1.0/src/registry/tracked.rs"));
        assert!(
            !fetched.is("src/registry/tracked.rs"),
            "the user's own file"
        );
    }
}
