//! The passwords of checks, which are in files.
//!
//! A file is read for each check, so a changed password is used from the next check on. No message
//! contains a part of it.

use super::files;
use crate::service::endpoint::failure::Failure;
use std::path::Path;

/// Reads a password: the only line of the file, without its line break.
///
/// # Errors
/// [`Failure::Impossible`] names the file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = files::read("password_file", path)?;
    let unusable = |why| {
        let path = path.display();
        Err(Failure::Impossible(format!("password_file {path} {why}")))
    };
    if content.ends_with(b"\n") {
        content.pop();
    }
    if content.ends_with(b"\r") {
        content.pop();
    }
    if content.is_empty() {
        return unusable("is empty");
    }
    if content.contains(&b'\n') {
        return unusable("has more than one line");
    }
    Ok(content)
}
