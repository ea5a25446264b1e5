//! Text of others on its way to a terminal, a log or a report: the output of child processes, names,
//! and what is written in a configuration.
//!
//! Such text is untrusted. [`plain`] takes the power over a terminal from it, and
//! [`without_user_info`] the passwords in URLs. Neither is for data: JSON keeps names as they are.

use std::borrow::Cow;
use std::ops::Range;

/// The character in place of one that is not shown.
const HIDDEN: char = char::REPLACEMENT_CHARACTER;
/// Words after which a secret is assigned, in lower case.
#[cfg(feature = "admin")]
const SECRETS: [&str; 9] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "authorization",
    "credential",
];
/// The text in place of user info and of secrets.
const NO_USER_INFO: &str = "…";

/// Returns the text as one line that is safe to show.
///
/// Replaced with U+FFFD are control characters other than the tab (C0 with ESC, CR and LF; DEL; C1),
/// line and paragraph separators, and the controls of bidirectional text, which can make a text
/// look like another one (<https://trojansource.codes>). The number of characters stays the same.
///
/// # Examples
///
/// ```
/// use headcount::text::plain;
///
/// assert_eq!(plain("GET /orders"), "GET /orders");
/// assert_eq!(plain("\u{1b}[2Jall is well\r"), "\u{fffd}[2Jall is well\u{fffd}");
/// ```
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    replaced(text, is_safe)
}

/// Returns lines of a log as [`plain`] does, but keeps line feeds.
///
/// If `colours` is true, escape sequences that set colours are kept too. The caller must have
/// written them: in text of others they are escaped by the formatter of the log.
#[cfg(any(test, feature = "otel"))]
#[must_use]
pub(crate) fn plain_lines(text: &str, colours: bool) -> Cow<'_, str> {
    let is_safe = |c| is_safe(c) || c == '\n';
    if !colours || !text.contains('\u{1b}') {
        return replaced(text, is_safe);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        shown.push_str(&replaced(&rest[..at], is_safe));
        let length = colour(&rest[at..]);
        match length {
            0 => shown.push(HIDDEN),
            length => shown.push_str(&rest[at..at + length]),
        }
        rest = &rest[at + length.max(1)..];
    }
    shown.push_str(&replaced(rest, is_safe));
    Cow::Owned(shown)
}

/// Returns the length of the escape sequence at the start of the text if it sets a colour, else 0:
/// `ESC [`, digits and semicolons, `m` (ECMA-48, "SGR").
#[cfg(any(test, feature = "otel"))]
fn colour(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("\u{1b}[") else {
        return 0;
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
    match end.filter(|end| rest[*end..].starts_with('m')) {
        Some(end) => "\u{1b}[".len() + end + 1,
        None => 0,
    }
}

/// Returns the text without user names and passwords before a host, as in
/// `postgres://user:password@db/orders`.
///
/// They are found wherever they stand in the text, also without a scheme (`user:password@db`). The
/// rest is as it was.
///
/// # Examples
///
/// ```
/// use headcount::text::without_user_info;
///
/// let shown = without_user_info("psql postgres://me:secret@db:5432/orders");
/// assert_eq!(shown, "psql postgres://…@db:5432/orders");
/// assert_eq!(without_user_info("mail me@example.org"), "mail me@example.org");
/// ```
#[must_use]
pub fn without_user_info(text: &str) -> Cow<'_, str> {
    let found = user_info(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    for at in found {
        shown.push_str(&text[from..at.start]);
        shown.push_str(NO_USER_INFO);
        from = at.end;
    }
    shown.push_str(&text[from..]);
    Cow::Owned(shown)
}

/// Returns the byte ranges of user names and passwords before a host, in the order of the text.
///
/// # Examples
///
/// ```
/// assert_eq!(headcount::text::user_info("http://a:b@c/ http://d/"), [7..10]);
/// ```
#[must_use]
pub fn user_info(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    if !text.contains('@') {
        return found;
    }
    let ends = |c: char| c.is_whitespace() || "\"'`<>".contains(c);
    let mut start = 0;
    for word in text.split(ends) {
        let mut from = 0;
        for end in starts_of_urls(word).chain([word.len()]) {
            if let Some(at) = user_info_of(&word[from..end]) {
                found.push(start + from + at.start..start + from + at.end);
            }
            from = end;
        }
        // The separators may have several bytes.
        start += word.len();
        start += text[start..].chars().next().map_or(0, char::len_utf8);
    }
    found
}

/// Returns the indices in a word at which a URL with a scheme begins after a separator, as in a list
/// of brokers or in a query.
///
/// A colon and an at sign are no separators, because they may be part of a password.
fn starts_of_urls(word: &str) -> impl Iterator<Item = usize> {
    let in_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let start = move |(at, _)| word[..at].trim_end_matches(in_scheme).len();
    let separators = [',', ';', '=', '|', '&', '?', '/', '(', '[', '{', '#'];
    let is_start = move |start: &usize| word[..*start].ends_with(separators);
    word.match_indices("://").map(start).filter(is_start)
}

/// Returns the range of the user info in a word, or the part of one URL in it, without white space
/// and quotes. If it has several, one range spans them.
fn user_info_of(word: &str) -> Option<Range<usize>> {
    let scheme = word.find("://").map(|at| at + "://".len());
    let start = scheme.unwrap_or_else(|| {
        // As in `DSN=user:password@db`, or in a list.
        let before = &word[..word.find('@').unwrap_or(0)];
        before
            .rfind(['=', ',', '(', '[', '{'])
            .map_or(0, |at| at + 1)
    });
    let rest = &word[start..];
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let last = |text: &str| text.rfind('@');
    let end = match last(&rest[..authority]) {
        Some(end) => end,
        // A password with an unescaped slash is no URL, but it is still a password.
        None => {
            let (_, port) = rest[..authority].split_once(':')?;
            let is_port = port.chars().all(|c| c.is_ascii_digit());
            (!is_port).then(|| last(rest))??
        }
    };
    let has_password = rest[..end].contains(':');
    (scheme.is_some() || has_password).then(|| start..start + end)
}

/// Returns the text without the values after words that announce a secret, as in `password=…` and
/// `Authorization: Bearer …`.
///
/// It knows a few words in English, and no secret by its look.
#[cfg(feature = "admin")]
pub(crate) fn without_secrets(text: &str) -> Cow<'_, str> {
    let lower = text.to_ascii_lowercase();
    let found = SECRETS.iter().flat_map(|word| lower.match_indices(word));
    let mut found: Vec<_> = found
        .filter_map(|(at, word)| value_at(text, at + word.len()))
        .collect();
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    found.sort_by_key(|value| value.start);
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    for value in found {
        if value.start < from {
            continue;
        }
        shown.push_str(&text[from..value.start]);
        shown.push_str(NO_USER_INFO);
        from = value.end;
    }
    shown.push_str(&text[from..]);
    Cow::Owned(shown)
}

/// Returns the range of the value that is assigned to the word which ends at `end`: after the rest of
/// the word, a colon or an equals sign, and the scheme of an `Authorization` header.
#[cfg(feature = "admin")]
fn value_at(text: &str, end: usize) -> Option<Range<usize>> {
    let rest = &text[end..];
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-".contains(c));
    let rest = rest.trim_start_matches(['"', '\'', ' ']);
    let rest = rest
        .strip_prefix(['=', ':'])?
        .trim_start_matches([' ', '=', '>']);
    let schemes = ["bearer ", "basic ", "token "];
    let scheme = schemes.iter().find(|scheme| {
        let start = rest.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let rest = &rest[scheme.map_or(0, |scheme| scheme.len())..];
    let quote = rest.chars().next().filter(|c| "\"'".contains(*c));
    let value = rest.trim_start_matches(['"', '\'']);
    let length = match quote {
        Some(quote) => value.find(quote),
        None => value.find(|c: char| c.is_whitespace() || "\"'`&,;<>)]}".contains(c)),
    };
    let start = text.len() - value.len();
    let length = length.unwrap_or(value.len());
    (length > 0).then(|| start..start + length)
}

/// Returns whether a character is shown as it is.
fn is_safe(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(c, '\u{2028}' | '\u{2029}');
    c == '\t' || !(c.is_control() || reorders || breaks)
}

/// Returns the text with [`HIDDEN`] in place of each character that is not safe.
fn replaced(text: &str, is_safe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&is_safe) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|c| if is_safe(c) { c } else { HIDDEN });
    Cow::Owned(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_or_reorders_text_is_replaced() {
        for c in [
            '\r', '\n', '\u{1b}', '\u{8}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{2028}',
        ] {
            assert_eq!(plain(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        for text in ["", "tab\there", "äöü 漢字 🦀 ├─ ✗"] {
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn lines_of_a_log_keep_their_ends_and_the_colours_of_the_log() {
        let line = "\u{1b}[32m INFO\u{1b}[0m a\rb\u{1b}[2Jc\n";
        assert_eq!(
            plain_lines(line, true),
            "\u{1b}[32m INFO\u{1b}[0m a\u{fffd}b\u{fffd}[2Jc\n"
        );
        assert_eq!(
            plain_lines(line, false),
            "\u{fffd}[32m INFO\u{fffd}[0m a\u{fffd}b\u{fffd}[2Jc\n"
        );
        assert_eq!(plain_lines("\u{1b}", true), "\u{fffd}");
    }

    #[cfg(feature = "admin")]
    #[test]
    fn values_after_a_word_for_a_secret_are_left_out() {
        for (text, shown) in [
            ("password=abc next", "password=… next"),
            ("DB_PASSWORD: abc", "DB_PASSWORD: …"),
            (
                "{\"client_secret\":\"a b\",\"x\":1}",
                "{\"client_secret\":\"…\",\"x\":1}",
            ),
            ("GET /?token=abc&page=2", "GET /?token=…&page=2"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer …"),
            (
                "api_key='abc' secret_token => abc",
                "api_key='…' secret_token => …",
            ),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
        for text in [
            "",
            "3 tokens read",
            "wrong password",
            "password=",
            "ä secret: ",
        ] {
            assert_eq!(without_secrets(text), text);
        }
    }

    #[test]
    fn user_info_is_found_wherever_it_stands() {
        for (text, shown) in [
            ("https://user:pass@host/path", "https://…@host/path"),
            ("https://token@host", "https://…@host"),
            (
                "DSN=postgres://u:p@db:5432/x?a=b@c",
                "DSN=postgres://…@db:5432/x?a=b@c",
            ),
            (
                "a \"http://u:p@b\" 'ftp://v:w@x' z",
                "a \"http://…@b\" 'ftp://…@x' z",
            ),
            ("user:pass@db:5432", "…@db:5432"),
            ("--to=user:pass@db", "--to=…@db"),
            ("http://user:p/ss@host/", "http://…@host/"),
            ("http://user:p@ss@host/", "http://…@host/"),
            ("ä http://ä:ö@host", "ä http://…@host"),
            (
                "--brokers=amqp://u:p1@h1,amqp://u2:p2@h2",
                "--brokers=amqp://…@h1,amqp://…@h2",
            ),
            (
                "amqp://h1:5672,amqp://u:p@h2;v:q@h3,http://h4",
                "amqp://h1:5672,amqp://…@h3,http://h4",
            ),
            (
                "u:p@h,http://h2/?to=http://v:q@x",
                "…@h,http://h2/?to=http://…@x",
            ),
            ("me@example.org,http://u:p@h", "me@example.org,http://…@h"),
            ("http://u:p://x@host", "http://…@host"),
            ("=://,://a:b@c", "=://,://…@c"),
        ] {
            assert_eq!(without_user_info(text), shown);
        }
        for text in [
            "me@example.org",
            "http://host/@scope/name",
            "http://host:8080/a@b",
            "127.0.0.1:5432",
            "at 12:30 @ noon",
            "",
        ] {
            assert_eq!(without_user_info(text), text);
        }
    }
}
