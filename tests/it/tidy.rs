//! The repository's own rules, held against the sources: which module may use which, how long files and functions may be,
//! how comments read, and that public items have examples.

mod examples;
mod imports;
mod prose;
mod sources;

use examples::Examples;
use imports::Imports;
use prose::Prose;
use sources::{Source, is_code};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module may use the modules before it in this list, and no others.
const MODULES: [&str; 22] = [
    "text",
    "task",
    "recorder",
    "threads",
    "audit",
    "stacks",
    "inspect",
    "registry",
    "report",
    "group",
    "control",
    "dump",
    "watch",
    "shutdown",
    "state",
    "http_client",
    "telemetry",
    "admin",
    "runtime",
    "testing",
    "service",
    "main",
];
const NO_NAMES: [&str; 8] = [
    "util", "utils", "common", "helpers", "manager", "core", "types", "prelude",
];
/// The most files in a folder.
const FOLDER: usize = 13;

/// The names that `lib.rs` shows at the root, with their modules.
fn shown_at_the_root() -> BTreeMap<String, String> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(lib).expect("lib.rs");
    let mut shown = BTreeMap::new();
    for line in text.lines() {
        let Some((module, names)) = line
            .strip_prefix("pub use ")
            .and_then(|rest| rest.split_once("::"))
        else {
            continue;
        };
        for name in names.split(|c: char| !c.is_alphanumeric() && c != '_') {
            shown.insert(name.to_owned(), module.to_owned());
        }
    }
    assert!(shown.contains_key("TaskGroup"), "lib.rs shows its names");
    shown
}

#[test]
fn a_module_uses_only_those_above_it() {
    let sources = sources::all();
    let place = |source: &Source| {
        let module = source.top()?;
        let place = MODULES.iter().position(|known| *known == module);
        Some(place.unwrap_or_else(|| panic!("{module} is not in the table")))
    };
    let mut wrong = Vec::new();
    for (at, used) in Imports::of(&sources).edges() {
        for used in used {
            if let (Some(own), Some(theirs)) = (place(&sources[at]), place(&sources[used]))
                && theirs > own
            {
                wrong.push(format!(
                    "{} uses {}",
                    sources[at].shown(),
                    sources[used].shown()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file and its own submodules may use each other: they are one idea.
#[test]
fn no_files_of_a_module_use_each_other_in_a_circle() {
    let sources = sources::all();
    let mut edges = Imports::of(&sources).edges();
    for (at, used) in &mut edges {
        let source = &sources[*at];
        used.retain(|other| {
            sources[*other].top() == source.top() && !imports::is_kin(source, &sources[*other])
        });
    }
    let circles: Vec<String> = imports::circles(&edges)
        .iter()
        .map(|circle| {
            let files: Vec<String> = circle.iter().map(|at| sources[*at].shown()).collect();
            files.join(", ")
        })
        .collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn the_service_uses_public_items_only() {
    let shown = shown_at_the_root();
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let lib = fs::read_to_string(lib).expect("lib.rs");
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
    let public: BTreeSet<&str> = modules
        .map(|module| module.trim_end_matches(';'))
        .chain(shown.values().map(String::as_str))
        .collect();
    let sources = sources::all();
    for (at, used) in Imports::of(&sources).named() {
        if sources[at].top() != Some("service") {
            continue;
        }
        for used in used {
            let other = sources[used].top().unwrap_or("lib");
            // The HTTP client is infrastructure, not what headcount is for: one for telemetry and for checks.
            // A look into another process is a command, and nothing that a service does.
            let is_own = ["service", "lib", "http_client", "inspect"].contains(&other);
            let allowed = is_own || public.contains(other);
            assert!(allowed, "{} uses {other}", sources[at].shown());
        }
    }
}

#[test]
fn a_folder_holds_at_most_thirteen_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in sources::files(&root) {
        let folder = file.parent().expect("it is in a folder").to_owned();
        *folders.entry(folder).or_default() += 1;
    }
    // One file a module.
    folders.remove(&root);
    let full: Vec<_> = folders
        .iter()
        .filter(|(_, files)| **files > FOLDER)
        .collect();
    assert!(full.is_empty(), "{full:?}");
}

/// A path in a string goes stale in silence when the file moves; `file!()` does not.
#[test]
fn no_string_holds_a_path_of_a_source() {
    let sources = sources::all();
    let paths: Vec<String> = sources.iter().map(Source::shown).collect();
    for source in &sources {
        for line in source.lines.iter().filter(|line| is_code(line)) {
            let found = paths
                .iter()
                .find(|path| line.contains(&format!("{path}\"")));
            assert_eq!(found, None, "{}: {line}", source.shown());
        }
    }
}

#[test]
fn comments_are_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folders in [&["src"][..], &["tests", "benches", "examples"]] {
        let files: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| sources::files(&root.join(folder)))
            .filter(|file| !file.ends_with("tests/it/tidy/prose.rs"))
            .collect();
        let prose = Prose::of(&files);
        assert!(prose.blocks > 500, "{}", prose.blocks);
        let opened = prose.opened.len() * 100 <= prose.blocks * 3;
        assert!(opened, "of {}: {:#?}", prose.blocks, prose.opened);
        let words = prose.words.len() * 1000 <= prose.comments * 2;
        assert!(words, "of {}: {:#?}", prose.comments, prose.words);
    }
}

#[test]
fn bad_prose_is_found() {
    let mut prose = Prose::default();
    let text = "/// Who is there.\n/// And who else.\nfn x() {}\n/// Whoops, a word that begins alike.\n// Nobody knows.\n";
    prose.read("x.rs", text);
    assert_eq!(
        (prose.blocks, prose.opened.len()),
        (2, 1),
        "{:?}",
        prose.opened
    );
    assert_eq!(
        (prose.comments, prose.words.len()),
        (4, 3),
        "{:?}",
        prose.words
    );
}

#[test]
fn public_items_have_an_example() {
    let examples = Examples::of(&sources::all());
    assert!(examples.items > 60, "{}", examples.items);
    assert!(examples.missing.is_empty(), "{:#?}", examples.missing);
}

#[test]
fn a_missing_example_is_found() {
    let text = r#"/// A row.
///
/// # Examples
///
/// ```
/// assert!(true);
/// ```
#[derive(Debug)]
#[cfg_attr(
    test,
    derive(Clone)
)]
pub struct Row;

/// A column.
#[derive(Debug)]
pub struct Column;

/// A cell.
///
/// # Examples
///
/// ```text
/// not Rust
/// ```
pub enum Cell {
    A,
}

#[doc(hidden)]
pub fn inside() {}

pub(crate) fn private() {}

impl Row {
    pub fn method(&self) {}
}
pub fn bare() {}
"#;
    let mut examples = Examples::default();
    let lines: Vec<&str> = text.lines().collect();
    examples.read("x.rs", &lines);
    assert_eq!(examples.items, 4);
    let missing = [
        "x.rs:17: pub struct Column;",
        "x.rs:26: pub enum Cell {",
        "x.rs:38: pub fn bare() {}",
    ];
    assert_eq!(examples.missing, missing);
}

#[test]
fn files_are_short() {
    let mut lengths: Vec<(usize, PathBuf)> = sources::all()
        .into_iter()
        .map(|source| (source.lines.len(), source.path))
        .collect();
    lengths.sort();
    let at = |share: f64| &lengths[((lengths.len() - 1) as f64 * share) as usize];
    assert!(at(1.0).0 <= 600, "longest: {:?}", at(1.0));
    assert!(at(0.9).0 <= 400, "p90: {:?}", at(0.9));
    assert!(at(0.5).0 <= 180, "median: {:?}", at(0.5));
}

#[test]
fn functions_are_short() {
    let mut lengths = Vec::new();
    for source in sources::all() {
        lengths.extend(
            functions(&source.lines)
                .into_iter()
                .map(|(length, name)| (length, format!("{}: {name}", source.path.display()))),
        );
    }
    lengths.sort();
    let p95 = &lengths[(lengths.len() - 1) * 95 / 100];
    let longest = lengths.last().expect("there are functions");
    assert!(longest.0 <= 80, "longest: {longest:?}");
    assert!(p95.0 <= 45, "p95: {p95:?}");
}

/// Returns the length and the first line of every function. Rustfmt closes a function at the column
/// where it began.
fn functions(lines: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_function = is_code(line)
            && (code.starts_with("fn ") || code.contains(" fn "))
            && code.contains('(')
            && !code.ends_with(';');
        if !is_function {
            continue;
        }
        let indent = line.len() - code.len();
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| *line == end);
        if let Some(length) = length {
            found.push((length + 1, code.to_owned()));
        }
    }
    found
}

#[test]
fn a_name_says_what_a_module_is_for() {
    for source in sources::all() {
        let stem = source
            .path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            !NO_NAMES.contains(&stem.as_str()),
            "{}",
            source.path.display()
        );
        assert_ne!(stem, "mod", "{}", source.path.display());
        let first = source.lines.first().map_or("", String::as_str);
        // The crate's documentation is README.md.
        assert!(
            first.starts_with("//! ") || source.top().is_none(),
            "{} does not say what it is for",
            source.path.display()
        );
    }
}

#[test]
fn unsafe_code_lives_in_three_modules() {
    for source in sources::all() {
        let holds = source
            .lines
            .iter()
            .filter(|line| is_code(line))
            .any(|line| {
                line.contains("unsafe {")
                    || line.contains("unsafe fn")
                    || line.contains("unsafe impl")
            });
        let may = ["audit", "stacks", "state"]
            .map(Some)
            .contains(&source.top());
        assert!(!holds || may, "{}", source.shown());
    }
}

/// A signal to process 1 that comes before is lost. `tests/faults/process1` sends one at each moment
/// after.
#[test]
fn main_holds_the_signals_before_anything_else() {
    let main = include_str!("../../src/main.rs");
    let (_, body) = main.split_once("fn main()").expect("a program has a main");
    let (before, _) = body
        .split_once("headcount::runtime::hold_signals()")
        .expect("it holds the signals");
    let calls: Vec<&str> = before.matches("headcount::").collect();
    assert_eq!(calls.len(), 1, "only that of a guardian: {before}");
    assert!(before.contains("return headcount::service::guardian_main("));
}

#[test]
fn the_root_shows_at_most_fifteen_names() {
    let shown = shown_at_the_root();
    let names: Vec<_> = shown.keys().filter(|name| !name.is_empty()).collect();
    assert!(names.len() <= 15, "{names:?}");
}
