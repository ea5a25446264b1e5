//! A parser for the part of PromQL that the rules need: the series that an expression queries, and
//! its labels.

/// A series that an expression queries.
#[derive(Debug, PartialEq)]
pub(super) struct Selector<'a> {
    /// Empty if the name is given only by `__name__`.
    pub(super) name: &'a str,
    /// Labels that are matched.
    pub(super) labels: Vec<&'a str>,
    /// The text between `[` and `]`.
    pub(super) window: Option<&'a str>,
    /// The text before the selector.
    pub(super) before: &'a str,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Metrics that Prometheus itself provides.
pub(super) const OWN: [&str; 2] = ["up", "ALERTS"];

/// Returns whether the word is a metric of this project, of the process, of a recording rule, or of
/// Prometheus itself.
fn is_metric(word: &str) -> bool {
    OWN.contains(&word)
        || word.starts_with("headcount_")
        || word.starts_with("process_")
        || word.contains(':') && word.contains("headcount_")
}

/// Returns the end of a quoted text, given the rest after its first quote.
fn end_of_text(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    rest.len()
}

/// Returns every series that an expression queries, in order.
pub(super) fn selectors(expr: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = expr[at..].chars().next() {
        let rest = &expr[at..];
        let begin = at;
        if c == '"' {
            at += 1 + end_of_text(&rest[1..]);
            continue;
        }
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        at += name.len();
        if name.is_empty() && c != '{' {
            at += c.len_utf8();
        } else if name.is_empty() || is_metric(name) {
            let (labels, length) = matchers(&expr[at..]);
            at += length;
            let (window, length) = window(&expr[at..]);
            at += length;
            found.push(Selector {
                name,
                labels,
                window,
                before: expr[..begin].trim_end(),
            });
        }
    }
    found
}

/// Returns the labels in `{…}`, and the length of that text.
fn matchers(rest: &str) -> (Vec<&str>, usize) {
    let mut labels = Vec::new();
    if !rest.starts_with('{') {
        return (labels, 0);
    }
    let mut at = 1;
    while let Some(c) = rest[at..].chars().next() {
        if c == '}' {
            return (labels, at + 1);
        }
        if c == '"' {
            at += 1 + end_of_text(&rest[at + 1..]);
            continue;
        }
        let length = rest[at..].find(|c| !is_name(c)).unwrap_or(0);
        if length > 0 {
            labels.push(&rest[at..at + length]);
        }
        at += length.max(c.len_utf8());
    }
    (labels, at)
}

fn window(rest: &str) -> (Option<&str>, usize) {
    match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => (Some(inside), inside.len() + 2),
        None => (None, 0),
    }
}

/// Returns the labels after `by`, `without`, `on`, `ignoring`, `group_left` and `group_right`.
pub(super) fn grouped(expr: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in expr.match_indices('(') {
        let before = expr[..at].trim_end();
        let begin = before.rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
        let words = [
            "by",
            "without",
            "on",
            "ignoring",
            "group_left",
            "group_right",
        ];
        if words.contains(&&before[begin..]) {
            let inside = expr[at + 1..].split(')').next().expect("a part");
            found.extend(
                inside
                    .split(',')
                    .map(str::trim)
                    .filter(|name| !name.is_empty()),
            );
        }
    }
    found
}

#[test]
fn a_selector_is_found_with_all_its_parts() {
    let expr = r#"sum by (job, le) (rate(headcount_a_bucket{job=~"a, } b", instance!="x"}[5m])) and on () up > time()"#;
    let found = selectors(expr);
    assert_eq!(
        found[0],
        Selector {
            name: "headcount_a_bucket",
            labels: vec!["job", "instance"],
            window: Some("5m"),
            before: "sum by (job, le) (rate(",
        }
    );
    assert_eq!((found[1].name, found.len()), ("up", 2));
    assert_eq!(grouped(expr), ["job", "le"]);
}

#[test]
fn a_selector_without_a_name_is_one() {
    let found = selectors(r#"label_values({__name__=~"headcount_a|headcount_b"}, job)"#);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name, &*found[0].labels), ("", &["__name__"][..]));
}
