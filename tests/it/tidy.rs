//! The repository's own rules, held against the sources: who may import whom, and how long things may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module may use the modules before it in this list, and no others.
const MODULES: [&str; 14] = [
    "task",
    "threads",
    "audit",
    "registry",
    "group",
    "report",
    "shutdown",
    "state",
    "telemetry",
    "control",
    "runtime",
    "testing",
    "service",
    "main",
];
const NO_NAMES: [&str; 7] = [
    "util", "utils", "common", "helpers", "manager", "core", "prelude",
];

struct Source {
    path: PathBuf,
    /// The module of the table that it belongs to; `None` for `lib.rs`.
    module: Option<String>,
    /// Without tests.
    lines: Vec<String>,
}

/// Every source of the library and the binary, tests left out.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            if name.starts_with("tests") || name == "loom.rs" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") {
                found.push(source(&root, path));
            }
        }
    }
    assert!(found.len() > 30, "the sources are there");
    found
}

fn source(root: &Path, path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).expect("a source is text");
    let code = text.split("#[cfg(test)]\nmod ").next().expect("a part");
    let inside = path.strip_prefix(root).expect("it is in src");
    let first = inside.iter().next().expect("a name").to_string_lossy();
    let module = first.trim_end_matches(".rs").to_owned();
    Source {
        lines: code.lines().map(str::to_owned).collect(),
        module: (module != "lib").then_some(module),
        path,
    }
}

fn is_code(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}

/// What `lib.rs` shows of which module: a name at the root stands for its module.
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

/// The modules that a source names after `crate::`.
fn used(source: &Source, shown: &BTreeMap<String, String>) -> BTreeSet<String> {
    let code: Vec<&str> = source
        .lines
        .iter()
        .filter(|line| is_code(line))
        .map(String::as_str)
        .collect();
    let code = code.join("\n");
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().expect("a part"),
            None => rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .expect("a part"),
        };
        for name in names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let name = name.split("::").next().expect("a part");
            let module = shown.get(name).map_or(name, String::as_str);
            used.insert(module.to_owned());
        }
    }
    used
}

#[test]
fn a_module_uses_only_those_above_it() {
    let shown = shown_at_the_root();
    let place = |module: &str| MODULES.iter().position(|known| *known == module);
    for source in sources() {
        let Some(module) = &source.module else {
            continue;
        };
        let own = place(module).unwrap_or_else(|| panic!("{module} is not in the table"));
        for other in used(&source, &shown) {
            let theirs = place(&other)
                .unwrap_or_else(|| panic!("{}: what is crate::{other}?", source.path.display()));
            assert!(
                theirs <= own,
                "{} uses {other}, which stands below {module}",
                source.path.display()
            );
        }
    }
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
    for source in sources() {
        if source.module.as_deref() != Some("service") {
            continue;
        }
        for other in used(&source, &shown) {
            let allowed = other == "service" || public.contains(other.as_str());
            assert!(allowed, "{} uses {other}", source.path.display());
        }
    }
}

#[test]
fn files_are_short() {
    let mut lengths: Vec<(usize, PathBuf)> = sources()
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
    for source in sources() {
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

/// Length and first line of every function. Rustfmt closes a function at the column where it began.
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
    for source in sources() {
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
            first.starts_with("//! ") || source.module.is_none(),
            "{} does not say what it is for",
            source.path.display()
        );
    }
}

#[test]
fn unsafe_code_lives_under_audit_alone() {
    for source in sources() {
        let holds = source
            .lines
            .iter()
            .filter(|line| is_code(line))
            .any(|line| {
                line.contains("unsafe {")
                    || line.contains("unsafe fn")
                    || line.contains("unsafe impl")
            });
        let may = source
            .path
            .components()
            .any(|part| part.as_os_str() == "audit");
        assert!(!holds || may, "{}", source.path.display());
    }
}

#[test]
fn the_root_shows_at_most_fifteen_names() {
    let shown = shown_at_the_root();
    let names: Vec<_> = shown.keys().filter(|name| !name.is_empty()).collect();
    assert!(names.len() <= 15, "{names:?}");
}
