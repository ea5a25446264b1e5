//! The loader: reads a file, or the embedded default, into a [`Config`].
//!
//! The file is read up to a size limit, decoded as UTF-8, parsed as TOML with error recovery, and
//! then read section by section. Problems of all steps carry the position in the file.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::Config;
use super::problem::{ConfigError, Problems, secrets};
use super::sections::{admin, telemetry, threads};
use super::table::Table;
use super::{sections, variables};
use crate::service::own_limit;
use crate::text::{plain, without_user_info};

/// The embedded default configuration, which is also the reference of all keys.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// The maximum size of a file, in bytes.
const LONGEST: u64 = 1024 * 1024;

impl Config {
    /// Loads a file, or the embedded default if `path` is `None`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, is longer than 1 MiB, is not UTF-8, is not valid
    /// TOML, or contains a key or a value that is not allowed.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Self::parse("embedded default", DEFAULT);
        };
        let origin = path.display().to_string();
        let bytes = read(path, &origin)?;
        match str::from_utf8(&bytes) {
            Ok(text) => Self::parse(&origin, text),
            Err(error) => Err(not_utf8(&origin, &bytes, error.valid_up_to())),
        }
    }

    /// Parses a text. `origin` names its source in messages.
    ///
    /// A byte order mark at the start is skipped.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not valid TOML or anything in it is not allowed.
    pub(crate) fn parse(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let problems = Problems::default();
        let (mut document, errors) = DeTable::parse_recoverable(text);
        // After a syntax error, the document that the parser returns is a guess. A duplicate key is
        // different: the rest of the document is as it was written, so it is still read.
        let (twice, other): (Vec<_>, Vec<_>) = errors.iter().partition(|error| is_twice(error));
        for error in &other {
            let what = format!("invalid TOML: {}", error.message());
            problems.add(place(text, error), "", what, "");
        }
        let is_whole = errors.is_empty();
        let twice = twice.iter().map(|error| place(text, error)).collect();
        add_twice(&problems, text, twice);
        let guessed = !other.is_empty();
        // A value without its variables would be a problem of its own.
        let lacks_variables = !guessed && {
            let before = problems.count();
            let variable = |name: &str| {
                let value = std::env::var_os(name);
                value.inspect(|value| problems.hide_inserted(&value.to_string_lossy()))
            };
            variables::replace(document.get_mut(), &problems, &variable);
            problems.count() > before
        };
        let is_read = !guessed && !lacks_variables;
        let config = is_read.then(|| read_document(origin, &document, &problems));
        let secrets = secrets::find(text, (!guessed).then(|| document.get_ref()), is_whole);
        problems.into_result(origin, text, secrets)?;
        Ok(config.expect("a text without a problem was read"))
    }
}

/// Reads the file, at most [`LONGEST`] bytes.
fn read(path: &Path, origin: &str) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "`headcount config --default` prints a file to start from"
            }
            std::io::ErrorKind::PermissionDenied => "allowed: a file that this user may read",
            _ if own_limit::is_cause(&error) => "raise the limit of open files: `ulimit -n`",
            _ => "allowed: a TOML file",
        };
        let what = format!("cannot be read: {}", words(&error));
        let mut refused = ConfigError::unreadable(origin, what, help);
        refused.is_own_limit = own_limit::is_cause(&error);
        refused
    };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(ConfigError::unreadable(
            origin,
            "is a folder".to_owned(),
            "allowed: a TOML file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(ConfigError::unreadable(
            origin,
            "is longer than 1 MiB".to_owned(),
            "allowed: up to 1048576 bytes",
        ));
    }
    Ok(bytes)
}

/// Formats the error without its "(os error 2)", in lower case.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// Returns an error that points at the first byte that is not UTF-8, at index `valid`.
fn not_utf8(origin: &str, bytes: &[u8], valid: usize) -> ConfigError {
    let text = String::from_utf8_lossy(bytes);
    let problems = Problems::default();
    let what = format!("byte 0x{:02x} is not UTF-8", bytes[valid]);
    // The lossy conversion keeps the valid bytes before this one, so the index is the same.
    let at = valid..valid + char::REPLACEMENT_CHARACTER.len_utf8();
    problems.add(at, "", what, "allowed: UTF-8 text");
    let secrets = secrets::find(&text, None, false);
    problems
        .into_result(origin, &text, secrets)
        .expect_err("a problem was just added")
}

/// Returns true if this is the parser's error for a duplicate key or table.
fn is_twice(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key"
}

/// Returns the byte range of the error, at character boundaries of the text.
fn place(text: &str, error: &toml::de::Error) -> Range<usize> {
    let end = text.len();
    error.span().map_or(end..end, |span| {
        // The parser's range may end past the text or within a character.
        let is_boundary = |at: &usize| text.is_char_boundary(*at);
        let start = (0..=span.start.min(end)).rfind(is_boundary).unwrap_or(0);
        let after = (span.end.clamp(start, end)..end).find(is_boundary);
        start..after.unwrap_or(end)
    })
}

/// Adds a problem for each duplicate key and table, but not for the keys of a duplicate table: the
/// parser merges it into the first one, so they are duplicates because of it.
fn add_twice(problems: &Problems, text: &str, mut twice: Vec<Range<usize>>) {
    twice.sort_by_key(|at| at.start);
    let (mut last, mut in_duplicate) = (0, false);
    for at in twice {
        let header = text[last..at.start].rsplit_once("\n[");
        last = at.start;
        if header.is_some() || !in_duplicate {
            let name = without_user_info(text[at.clone()].trim());
            let name = plain(&name);
            let what = format!("`{name}` is defined twice");
            problems.add(at, "", what, "define each key and each table once");
        }
        // The table is a duplicate if its header is on the line of the error.
        in_duplicate = header.map_or(in_duplicate, |(_, rest)| !rest.contains('\n'));
    }
}

/// Reads all sections. Problems are added to `problems`; the result is only used if there are none.
fn read_document(
    origin: &str,
    document: &toml::Spanned<DeTable<'_>>,
    problems: &Problems,
) -> Config {
    let mut root = Table::root(problems, document.get_ref());
    let (name, ends_when_given_up) = sections::service(root.section("service"));
    let log = sections::log(root.section("log"));
    let (shutdown, sound) = sections::shutdown(root.section("shutdown"));
    let drain = sound.then_some(shutdown.drain);
    let runtime = sections::runtime(root.section("runtime"));
    let admin = admin::read(root.section("admin"));
    let console = telemetry::console(root.section("console"));
    let telemetry = telemetry::telemetry(root.section("telemetry"));
    let state = sections::state(root.section("state"));
    let expected_threads = threads::read(root.section("threads"));
    let tasks = sections::tasks(&mut root, drain);
    root.finish();
    Config {
        origin: origin.to_owned(),
        name,
        ends_when_given_up,
        log,
        shutdown,
        runtime,
        admin,
        telemetry,
        console,
        state,
        expected_threads,
        tasks,
    }
}
