//! The prefix of a line that a child process has printed: `name │ line`, with a colour for each name.

use anstyle::{AnsiColor, Style};

/// The colours of names. Red and yellow are left to errors and warnings.
const COLOURS: [AnsiColor; 8] = [
    AnsiColor::Cyan,
    AnsiColor::Green,
    AnsiColor::Blue,
    AnsiColor::Magenta,
    AnsiColor::BrightCyan,
    AnsiColor::BrightGreen,
    AnsiColor::BrightBlue,
    AnsiColor::BrightMagenta,
];
/// The widest column of names. Longer names are written as they are.
const WIDEST: usize = 24;

/// The column of names.
#[derive(Debug, Clone)]
pub(crate) struct Prefix {
    /// The width of the column, in characters.
    width: usize,
    colours: bool,
}

// === impl Prefix ===

impl Prefix {
    /// Creates a column that is wide enough for these names, as far as the bound allows.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>, colours: bool) -> Self {
        let lengths = names.into_iter().map(|name| name.chars().count());
        let width = lengths.filter(|length| *length <= WIDEST).max();
        Self {
            width: width.unwrap_or(0),
            colours,
        }
    }

    /// Returns the prefix of a line of the process `name`.
    pub(crate) fn before(&self, name: &str) -> String {
        let width = self.width;
        if !self.colours {
            return format!("{name:width$} │ ");
        }
        let style = style(name);
        format!("{style}{name:width$} │{style:#} ")
    }
}

/// Returns the colour of a name, which is the same in each run.
fn style(name: &str) -> Style {
    // FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): the hashes of `std` may change.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let colour = COLOURS[hash as usize % COLOURS.len()];
    Style::new().fg_color(Some(colour.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_aligned_up_to_a_width() {
        let long = "x".repeat(WIDEST + 1);
        let prefix = Prefix::of(["db", "server", &long], false);
        assert_eq!(prefix.before("db"), "db     │ ");
        assert_eq!(prefix.before("server"), "server │ ");
        assert_eq!(prefix.before(&long), format!("{long} │ "));
    }

    #[test]
    fn a_colour_ends_before_the_line() {
        let prefix = Prefix::of(["db"], true);
        let before = prefix.before("db");
        assert!(before.starts_with("\u{1b}["), "{before:?}");
        assert!(before.ends_with("db │\u{1b}[0m "), "{before:?}");
        assert_ne!(style("a"), style("b"));
    }
}
