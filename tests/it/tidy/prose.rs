//! Plain English in comments, as far as it can be counted.

use std::fs;
use std::path::Path;

/// First words that hide the subject of a sentence.
const OPENERS: [&str; 11] = [
    "What", "Who", "Whoever", "Whom", "Whose", "Whether", "Those", "So many", "So long", "How",
    "The same",
];
/// Words for people, which code and threads are not.
const WORDS: [&str; 6] = ["who", "whoever", "whom", "whose", "nobody", "somebody"];

/// Counts of the comments of some files.
#[derive(Default)]
pub(crate) struct Prose {
    pub(crate) blocks: usize,
    /// Documentation that begins with one of [`OPENERS`], by place.
    pub(crate) opened: Vec<String>,
    pub(crate) comments: usize,
    /// Comments with one of [`WORDS`], by place.
    pub(crate) words: Vec<String>,
}

impl Prose {
    pub(crate) fn of(files: &[impl AsRef<Path>]) -> Self {
        let mut prose = Self::default();
        for file in files {
            let text = fs::read_to_string(file).expect("a source is text");
            prose.read(&file.as_ref().display().to_string(), &text);
        }
        prose
    }

    pub(crate) fn read(&mut self, file: &str, text: &str) {
        let mut marker = "";
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            let place = || format!("{file}:{}: {line}", at + 1);
            let before = marker;
            marker = ["///", "//!"]
                .into_iter()
                .find(|marker| line.starts_with(marker) && !line.starts_with("////"))
                .unwrap_or("");
            let Some(comment) = line.strip_prefix("//") else {
                continue;
            };
            self.comments += 1;
            if words(comment).any(|word| WORDS.contains(&word.to_lowercase().as_str())) {
                self.words.push(place());
            }
            if !marker.is_empty() && marker != before {
                self.blocks += 1;
                let first = line[3..].trim_start();
                let opens = |opener: &&str| {
                    let rest = first.strip_prefix(*opener);
                    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
                };
                if OPENERS.iter().any(opens) {
                    self.opened.push(place());
                }
            }
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}
