//! Symbolizes addresses, with the debug information of the program and its libraries.
//!
//! The first look-up reads debug information and may take seconds, so it runs on a thread that
//! nothing waits for without a budget. Paths are shortened to what tells packages apart.

mod build_paths;
#[cfg(all(feature = "stacks", target_os = "linux", target_pointer_width = "64"))]
mod symtab;

use super::frame::Frame;

/// Symbolizes an address. Inlined functions are separate frames, the innermost first. Empty if
/// nothing is known of the address, and without the feature `stacks`.
///
/// The address is that of a return: the symbolizer looks up the instruction before it. It takes the
/// lock of the symbolizer, so that only one thread at a time looks anything up.
#[cfg(feature = "stacks")]
pub(super) fn resolve(address: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        let Some(name) = symbol.name() else { return };
        // The alternate form leaves out the hash at the end of the name.
        let function = format!("{name:#}");
        let file = symbol.filename();
        frames.push(Frame {
            file: file.map(|file| short(&file.to_string_lossy())),
            line: symbol.lineno(),
            ..Frame::bare(function)
        });
    });
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    symtab::add_path(&mut frames, address.wrapping_sub(1));
    frames
}

/// Returns nothing: there is no symbolizer without the feature.
#[cfg(not(feature = "stacks"))]
pub(super) fn resolve(_: usize) -> Vec<Frame> {
    Vec::new()
}

/// Frees the memory of the debug information.
#[cfg(feature = "stacks")]
pub(super) fn give_back() {
    backtrace::clear_symbol_cache();
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    symtab::give_back();
}

/// Adds the file of a spawn site, by which the folder of the build is told.
pub(super) fn know_site(file: &'static str) {
    build_paths::know(file);
}

/// Removes the folder of the build from the paths of frames.
pub(super) fn without_build_paths(mut frames: Vec<Frame>) -> Vec<Frame> {
    build_paths::remove(&mut frames);
    frames
}

/// Cuts off the folders above a package that cargo fetched, and above the standard library. Any
/// other path is returned as it is.
pub(super) fn short(file: &str) -> String {
    if let Some((_, library)) = file.split_once("/library/")
        && file.starts_with("/rustc/")
    {
        return library.to_owned();
    }
    let fetched = file.split_once("/registry/src/");
    let fetched = fetched.map(|(_, rest)| rest.split_once('/').map_or(rest, |(_, file)| file));
    fetched.unwrap_or(file).to_owned()
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn a_path_begins_with_the_package() {
        for (file, shown) in [
            (
                "/rustc/59807616e/library/std/src/thread/mod.rs",
                "std/src/thread/mod.rs",
            ),
            (
                "/home/ann/.cargo/registry/src/index-1a2b/tokio-1.54.1/src/lib.rs",
                "tokio-1.54.1/src/lib.rs",
            ),
            ("/build/orders/src/db.rs", "/build/orders/src/db.rs"),
            ("src/db.rs", "src/db.rs"),
        ] {
            assert_eq!(short(file), shown);
        }
    }
}
