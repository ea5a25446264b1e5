//! From a file, or the embedded default, to a [`Config`].

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::Config;
use super::problem::{ConfigError, Problems};
use super::reader::Table;
use super::{admin, sections, state, telemetry, threads};

/// The embedded default: the reference of all keys.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// The longest file that is read.
const LONGEST: u64 = 1024 * 1024;
/// The most keys that are there twice and are looked at together.
const COMPARED: usize = 100;

impl Config {
    /// The configuration of a file, or the embedded default.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or anything in it is refused.
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

    /// The configuration of a text; `origin` says in messages where it came from.
    ///
    /// # Errors
    ///
    /// If anything in it is refused.
    pub(crate) fn parse(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let problems = Problems::default();
        let (document, errors) = DeTable::parse_recoverable(text);
        // What the parser makes of a text with a syntax error is a guess, except for a key that
        // is there twice: then the rest is as it was written.
        let (twice, other): (Vec<_>, Vec<_>) = errors.iter().partition(|error| is_twice(error));
        for error in &other {
            let what = format!("not TOML: {}", error.message());
            problems.add(place(text, error), "", what, "");
        }
        let twice: Vec<Range<usize>> = twice.iter().map(|error| place(text, error)).collect();
        for at in &twice {
            // Each is compared with all others, so of very many all are shown.
            if twice.len() > COMPARED || !twice.iter().any(|table| implies(text, table, at)) {
                let name = super::problem::printable(text[at.clone()].trim());
                let what = format!("`{name}` is there twice");
                problems.add(at.clone(), "", what, "write each key and each table once");
            }
        }
        let guessed = !other.is_empty();
        let config = (!guessed).then(|| read_document(origin, &document, &problems));
        problems.into_result(origin, text)?;
        Ok(config.expect("without a syntax error the document was read"))
    }
}

fn read(path: &Path, origin: &str) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "`headcount config --default` prints a file to start from"
            }
            std::io::ErrorKind::PermissionDenied => "allowed: a file that this user may read",
            _ => "allowed: a TOML file",
        };
        ConfigError::unreadable(origin, format!("cannot be read: {}", words(&error)), help)
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

/// The error without "(os error 2)", which says nothing more.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

fn not_utf8(origin: &str, bytes: &[u8], valid: usize) -> ConfigError {
    let text = String::from_utf8_lossy(bytes);
    let problems = Problems::default();
    let what = format!("byte 0x{:02x} is not UTF-8", bytes[valid]);
    // What is valid is not changed by the lossy reading, so the place is the same in it.
    let at = valid..valid + char::REPLACEMENT_CHARACTER.len_utf8();
    problems.add(at, "", what, "allowed: UTF-8 text");
    problems
        .into_result(origin, &text)
        .expect_err("a problem was just added")
}

fn is_twice(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key"
}

fn place(text: &str, error: &toml::de::Error) -> Range<usize> {
    let end = text.len();
    error.span().map_or(end..end, |span| {
        // The parser may point past the end, or into a character.
        let start = text.floor_char_boundary(span.start.min(end));
        start..text.ceil_char_boundary(span.end.clamp(start, end))
    })
}

/// Whether `key` is there twice only because `header` is: a table that is there twice is read as one, so each key that
/// both have is an error too.
fn implies(text: &str, header: &Range<usize>, key: &Range<usize>) -> bool {
    let line = text[..header.start].rfind('\n').map_or(0, |at| at + 1);
    if key.start <= header.end || !text[line..].trim_start().starts_with('[') {
        return false;
    }
    let between = text[header.end..key.start].lines().skip(1);
    let mut between = between.map(str::trim_start);
    let is_again = |line: &str| {
        let rest = line.strip_prefix(&text[key.clone()]);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    !between.any(|line| line.starts_with('[') || is_again(line))
}

fn read_document(
    origin: &str,
    document: &toml::Spanned<DeTable<'_>>,
    problems: &Problems,
) -> Config {
    let mut root = Table::root(problems, document.get_ref());
    let name = sections::service(root.section("service"));
    let log = sections::log(root.section("log"));
    let (shutdown, sound) = sections::shutdown(root.section("shutdown"));
    let drain = sound.then_some(shutdown.drain);
    let runtime = sections::runtime(root.section("runtime"));
    let admin = admin::read(root.section("admin"));
    let console = telemetry::console(root.section("console"));
    let telemetry = telemetry::telemetry(root.section("telemetry"));
    let state = state::read(root.section("state"));
    let expected_threads = threads::read(root.section("threads"));
    let tasks = sections::tasks(&mut root, drain);
    root.finish();
    Config {
        origin: origin.to_owned(),
        name,
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
