//! `headcount init`, which writes a configuration to start from.

use crate::text::plain;
use std::env::current_dir;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

/// The text of the file, with places for the names of the service and of the file.
const TEMPLATE: &str = include_str!("init.toml");
/// The longest name of a service.
const LONGEST: usize = 64;

/// The options of `init`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// File to write
    #[arg(default_value = "headcount.toml")]
    file: PathBuf,
    /// Name of the service [default: that of the current folder]
    #[arg(long, value_parser = name)]
    name: Option<String>,
}

/// Writes the file, and returns words about it. A file that exists is never overwritten. An error is a
/// sentence.
pub(super) fn init(arguments: &Arguments) -> Result<String, String> {
    let file = arguments.file.display().to_string();
    let name = arguments.name.clone().unwrap_or_else(name_of_folder);
    let text = configuration(&name, &file);
    // Fails on a link too, even on one to nowhere (open(2), O_EXCL).
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&arguments.file);
    let written = opened.and_then(|mut opened| {
        let written = opened.write_all(text.as_bytes());
        // A part of it, of a full disk, would have to be removed by hand. It is ours.
        written.and_then(|()| opened.sync_all()).inspect_err(|_| {
            fs::remove_file(&arguments.file).ok();
        })
    });
    let file = plain(&file);
    match written {
        Ok(()) => Ok(format!(
            "wrote {file}, for the service \"{name}\"\n  headcount check {file}   validate it\n  headcount run {file}     run it\n"
        )),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(format!(
            "{file} exists, and is not overwritten: name another file, or remove it first"
        )),
        Err(error) => Err(format!("failed to write {file}: {error}")),
    }
}

/// Returns the text for a service and a file. A path with a line feed would end the comment.
fn configuration(name: &str, file: &str) -> String {
    TEMPLATE
        .replace("{name}", name)
        .replace("{file}", &plain(file))
}

/// Accepts the name of a service, as a configuration does.
fn name(text: &str) -> Result<String, String> {
    match valid(text) == text && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => Err(
            "a name has 1 to 64 characters of A-Z a-z 0-9 _ . -, and begins with a letter, a digit or _"
                .to_owned(),
        ),
    }
}

/// Returns the name of the current folder, as far as it can be the name of a service.
fn name_of_folder() -> String {
    let folder = current_dir().unwrap_or_default();
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    match valid(&name) {
        name if name.is_empty() => "service".to_owned(),
        name => name,
    }
}

/// Returns the text as the name of a service: other characters become `-`.
fn valid(text: &str) -> String {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let name: String = text
        .chars()
        .map(|c| if is_valid(c) { c } else { '-' })
        .collect();
    let name = name.trim_start_matches(['.', '-']);
    name.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::{TEMPLATE, configuration, name, valid};
    use crate::service::config::Config;

    #[test]
    fn the_file_is_accepted_as_it_is_and_with_all_its_examples() {
        let text = configuration("orders", "headcount.toml");
        let config = Config::parse("headcount.toml", &text).expect("it is valid");
        assert_eq!((config.name.as_str(), config.tasks.len()), ("orders", 2));
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(code) if code.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => code,
            _ => line,
        });
        let all: Vec<&str> = lines.collect();
        let all = all.join("\n");
        let config =
            Config::parse("headcount.toml", &all).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.tasks.len(), 4);
    }

    #[test]
    fn each_name_of_a_folder_becomes_a_valid_name() {
        for (folder, service) in [
            ("orders", "orders"),
            ("My Orders", "My-Orders"),
            (".config", "config"),
            ("größe", "gr--e"),
            ("-.", ""),
        ] {
            assert_eq!(valid(folder), service);
        }
        assert_eq!(valid(&"x".repeat(100)).len(), 64);
        assert!(name("or ders").is_err() && name("").is_err() && name("orders").is_ok());
        assert!(TEMPLATE.contains("{name}") && TEMPLATE.contains("{file}"));
    }
}
