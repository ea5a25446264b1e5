//! Which file of the crate uses which: `use` declarations and paths in the code, followed through re-exports.

use super::sources::Source;
use std::collections::{BTreeMap, BTreeSet, HashMap};

type Path = Vec<String>;

/// The files of the crate by module, and what each imports.
pub(crate) struct Imports<'a> {
    sources: &'a [Source],
    by_module: HashMap<&'a [String], usize>,
    /// For each file, the names that its `use` declarations bring in, with their absolute paths.
    names: Vec<HashMap<String, Path>>,
}

impl<'a> Imports<'a> {
    pub(crate) fn of(sources: &'a [Source]) -> Self {
        let by_module: HashMap<&[String], usize> = sources
            .iter()
            .enumerate()
            .map(|(at, source)| (source.module.as_slice(), at))
            .collect();
        let mut imports = Self {
            sources,
            by_module,
            names: Vec::new(),
        };
        imports.names = sources
            .iter()
            .map(|source| {
                let mut names = HashMap::new();
                for tree in trees(&source.code()) {
                    for (path, name) in leaves(&tree) {
                        if let Some(path) = imports.absolute(source, &path) {
                            names.insert(name, path);
                        }
                    }
                }
                names
            })
            .collect();
        imports
    }

    /// For each file, the files that define what it uses, itself excepted.
    pub(crate) fn edges(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        self.edges_by(|path| self.file(path, 0))
    }

    /// For each file, the files that it names, itself excepted. Those may only pass a name on.
    pub(crate) fn named(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        self.edges_by(|path| Some(self.by_module[&path[..self.known(path)?]]))
    }

    fn edges_by(
        &self,
        file: impl Fn(&[String]) -> Option<usize>,
    ) -> BTreeMap<usize, BTreeSet<usize>> {
        let edges = self.sources.iter().enumerate().map(|(at, source)| {
            let code = source.code();
            let declared = trees(&code);
            let declared = declared.iter().flat_map(|tree| leaves(tree));
            let paths = declared.map(|(path, _)| path).chain(inline(&code));
            let used = paths
                .filter_map(|path| self.absolute(source, &path))
                .filter_map(|path| file(&path))
                .filter(|used| *used != at);
            (at, used.collect())
        });
        edges.collect()
    }

    /// The absolute path of one as `source` writes it; `None` if it is of another crate.
    fn absolute(&self, source: &Source, path: &[String]) -> Option<Path> {
        let mut base = source.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let mut child = base.clone();
                child.push(first.to_owned());
                self.by_module.get(child.as_slice())?;
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// Returns the number of parts of an absolute path that name a file.
    fn known(&self, path: &[String]) -> Option<usize> {
        (0..=path.len())
            .rev()
            .find(|length| self.by_module.contains_key(&path[..*length]))
    }

    /// The file that defines what an absolute path names.
    fn file(&self, path: &[String], depth: usize) -> Option<usize> {
        let known = self.known(path)?;
        let at = self.by_module[&path[..known]];
        // A name that this file only passes on.
        match path.get(known).and_then(|name| self.names[at].get(name)) {
            Some(further) if depth < 8 && further != path => self.file(further, depth + 1),
            _ => Some(at),
        }
    }
}

/// Returns whether one of two modules contains the other.
pub(crate) fn is_kin(a: &Source, b: &Source) -> bool {
    a.module.starts_with(&b.module) || b.module.starts_with(&a.module)
}

/// The circles of a graph: its strongly connected parts of more than one node.
pub(crate) fn circles(edges: &BTreeMap<usize, BTreeSet<usize>>) -> Vec<Vec<usize>> {
    let reach = |from: usize| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for to in edges.get(&at).into_iter().flatten() {
                if seen.insert(*to) {
                    next.push(*to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<usize, BTreeSet<usize>> =
        edges.keys().map(|from| (*from, reach(*from))).collect();
    let mut found: Vec<Vec<usize>> = Vec::new();
    for (from, to) in &reached {
        let circle: Vec<usize> = to
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(from)))
            .collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

/// The trees of all `use` declarations.
fn trees(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let starts = rest[..at]
            .chars()
            .next_back()
            .is_none_or(char::is_whitespace);
        rest = &rest[at + 4..];
        if starts && let Some(end) = rest.find(';') {
            let tree: String = rest[..end].split_whitespace().collect::<Vec<_>>().join(" ");
            if tree
                .chars()
                .all(|c| c.is_alphanumeric() || "_:{}, *".contains(c))
            {
                found.push(tree);
                rest = &rest[end..];
            }
        }
    }
    found
}

/// The paths of a tree, each with the name that it brings in.
fn leaves(tree: &str) -> Vec<(Path, String)> {
    let tree = tree.trim();
    let (head, list) = match tree.split_once('{') {
        Some((head, list)) => (head, list.strip_suffix('}').unwrap_or(list)),
        None => {
            let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
            let mut path: Path = path
                .split("::")
                .map(|part| part.trim().to_owned())
                .collect();
            if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                path.pop();
            }
            let name = if alias.is_empty() {
                path.last().cloned().unwrap_or_default()
            } else {
                alias.to_owned()
            };
            return vec![(path, name)];
        }
    };
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("one at least").push(c);
    }
    parts
        .iter()
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| leaves(&format!("{head}{}", part.trim())))
        .collect()
}

/// Paths in the code: all that have two parts or more.
fn inline(code: &str) -> Vec<Path> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c: char| !is_path(c))
        .filter(|path| path.contains("::"))
        .map(|path| path.split("::").map(str::to_owned).collect::<Path>())
        .filter(|path| path.len() > 1 && path.iter().all(|part| !part.is_empty()))
        .collect()
}
