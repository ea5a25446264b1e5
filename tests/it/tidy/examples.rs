//! Examples of public items, as far as text shows them.
//!
//! Types, traits and free functions need an example of their own. Methods, constants and fields do
//! not: the example of their type may show them.

use super::sources::Source;
use std::fs;

/// The beginnings of items that need an example.
const ITEMS: [&str; 7] = [
    "pub struct ",
    "pub enum ",
    "pub trait ",
    "pub fn ",
    "pub const fn ",
    "pub async fn ",
    "pub unsafe fn ",
];
/// Words after the fence of a code block that rustdoc does not compile as Rust.
const NOT_COMPILED: [&str; 4] = ["ignore", "text", "toml", "sh"];

/// The public items of some files that documentation shows.
#[derive(Default)]
pub(crate) struct Examples {
    pub(crate) items: usize,
    /// Items without an example, by place.
    pub(crate) missing: Vec<String>,
}

impl Examples {
    pub(crate) fn of(sources: &[Source]) -> Self {
        let mut examples = Self::default();
        let shown = |source: &&Source| !matches!(source.top(), Some("service" | "main"));
        for source in sources.iter().filter(shown) {
            // `Source::lines` ends at the first test module, which may be declared at the top.
            let text = fs::read_to_string(&source.path).expect("a source is text");
            let lines: Vec<&str> = text.lines().collect();
            examples.read(&source.shown(), &lines);
        }
        examples
    }

    /// Reads the items at the outermost level of a file, which is that without indentation.
    pub(crate) fn read(&mut self, file: &str, lines: &[impl AsRef<str>]) {
        let mut docs: Vec<&str> = Vec::new();
        let mut is_hidden = false;
        let mut in_attribute = false;
        for (at, line) in lines.iter().enumerate() {
            let line = line.as_ref();
            in_attribute |= line.starts_with("#[");
            if in_attribute {
                is_hidden |= line.contains("doc(hidden)");
                in_attribute = !line.ends_with(']');
            } else if let Some(text) = line.strip_prefix("///") {
                docs.push(text.trim());
            } else if !line.starts_with("//") {
                if !is_hidden && ITEMS.iter().any(|item| line.starts_with(item)) {
                    self.items += 1;
                    if !has_example(&docs) {
                        self.missing.push(format!("{file}:{}: {line}", at + 1));
                    }
                }
                docs.clear();
                is_hidden = false;
            }
        }
    }
}

/// Returns whether there is a section `# Examples` with a code block that rustdoc compiles.
fn has_example(docs: &[&str]) -> bool {
    let mut section = docs.iter().skip_while(|line| **line != "# Examples");
    let fence = section.find_map(|line| line.strip_prefix("```"));
    fence.is_some_and(|words| {
        let mut words = words.split(',');
        !words.any(|word| NOT_COMPILED.contains(&word.trim()))
    })
}
