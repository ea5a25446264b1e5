//! Removes the values that differ between runs from headcount's output, so that whole lines can be
//! compared.

/// The programs' own sources: a location in them is replaced by the mark at the end of its line.
const SOURCES: [(&str, &str); 11] = [
    ("tests/process/scenario.rs", include_str!("scenario.rs")),
    (
        "tests/process/scenario/boxed.rs",
        include_str!("scenario/boxed.rs"),
    ),
    (
        "tests/process/hangs/dependency.rs",
        include_str!("hangs/dependency.rs"),
    ),
    (
        "tests/process/hangs/foreign.rs",
        include_str!("hangs/foreign.rs"),
    ),
    ("tests/process/hangs/host.rs", include_str!("hangs/host.rs")),
    (
        "tests/process/hangs/peers.rs",
        include_str!("hangs/peers.rs"),
    ),
    (
        "tests/process/hangs/tasks.rs",
        include_str!("hangs/tasks.rs"),
    ),
    (
        "tests/process/hangs/threads.rs",
        include_str!("hangs/threads.rs"),
    ),
    (
        "tests/process/hangs/workers.rs",
        include_str!("hangs/workers.rs"),
    ),
    (
        "tests/process/innocent/main.rs",
        include_str!("innocent/main.rs"),
    ),
    (
        "tests/process/innocent/other_runtime.rs",
        include_str!("innocent/other_runtime.rs"),
    ),
];

/// Returns the text after applying [`steady`] to each line.
pub(crate) fn steady_lines(lines: &[String]) -> String {
    let seen = lines
        .iter()
        .filter(|line| !is_of_stack(line) && !is_verdict(line));
    seen.map(|line| steady(line) + "\n").collect()
}

/// Returns whether the line is the verdict of a report. It depends on stacks.
pub(crate) fn is_verdict(line: &str) -> bool {
    let content = line.trim_start_matches(' ');
    line.len() - content.len() == 3 && !content.starts_with(['│', '├', '└'])
}

/// Returns whether the line belongs to a stack. Stacks need the feature `stacks` and differ with
/// optimization; other tests check them.
pub(crate) fn is_of_stack(line: &str) -> bool {
    let content = line.trim_start_matches(|c| "│├└─ ".contains(c));
    let depth = line.chars().count() - content.chars().count();
    let others = [
        "at ",
        "(this stack is ",
        "(no stack: ",
        "same stack as tid ",
    ];
    let more = content.strip_prefix("… ").map(without_digits);
    let is_cut = more.is_some_and(|more| more.starts_with(" more"));
    let is_frame = content
        .split_once(' ')
        .is_some_and(|(number, frame)| !frame.starts_with(' ') && number.parse::<usize>().is_ok());
    depth > 3 && (is_frame || is_cut || others.iter().any(|other| content.starts_with(other)))
}

/// Returns the line with times as `T`, thread and process ids as `N`, spawn sites as `<mark>`, and
/// wide gaps as two spaces. Budgets, which follow "of", stay.
pub(crate) fn steady(line: &str) -> String {
    // What a task awaits is present only with the feature `stacks`, and the type of its future
    // otherwise; other tests check them.
    let cut = [
        ", awaiting ",
        ", waiting for ",
        ", always ready",
        ", future ",
        ", closure ",
    ];
    let end = cut.iter().filter_map(|cut| line.find(cut)).min();
    let line = &line[..end.unwrap_or(line.len())];
    steady_but_locks(&without_lock(&without_type(line)))
}

/// Removes the type of untracked tasks, which needs the feature `stacks` and time.
fn without_type(line: &str) -> String {
    let Some((before, of)) = line.split_once("untracked ×") else {
        return line.to_owned();
    };
    let Some((count, text)) = of.split_once("  ") else {
        return line.to_owned();
    };
    let end = text.find("spawned ").or_else(|| text.find(", "));
    let row = format!(
        "{before}untracked ×{count}  {}",
        &text[end.unwrap_or(text.len())..]
    );
    row.trim_end().to_owned()
}

/// Returns the line like [`steady`], but keeps what the stack shows about a lock.
pub(crate) fn steady_but_locks(line: &str) -> String {
    let line = without_waits(line);
    let mut steady = String::new();
    let (mut before, mut is_in_tids) = ("", false);
    for word in line.split_inclusive(' ') {
        let text = word.trim_end();
        is_in_tids = before == "(tids" || is_in_tids && !text.ends_with(')');
        if text.is_empty() && steady.ends_with("  ") {
            continue;
        }
        steady += &match before {
            "of" => text.to_owned(),
            "(tid" | "(pid" | "process" | "pid" => number(text),
            _ if is_in_tids => number(text),
            // The thread that closes the runtime may or may not be counted.
            "ended," => number(text),
            _ => site(text)
                .or_else(|| source(text))
                .or_else(|| pid(text))
                .or_else(|| address(text))
                .unwrap_or_else(|| time(text)),
        };
        steady += &word[text.len()..];
        before = text;
    }
    steady
}

/// Replaces the wait reasons in a dump, where threads come and go, with `waits`.
fn without_waits(line: &str) -> String {
    let is_of_dump = line.contains("─ \"");
    match (line.split_once(")  "), line.rsplit_once(", age ")) {
        (Some((head, _)), Some((_, tail))) if is_of_dump => format!("{head})  waits, age {tail}"),
        _ => line.to_owned(),
    }
}

/// Replaces details of a futex that only the stack shows with the kernel's description.
fn without_lock(line: &str) -> String {
    let Some((head, waits)) = line.split_once(")  ") else {
        return line.to_owned();
    };
    let told = ["parked", "waiting for a condition"]
        .iter()
        .find_map(|told| waits.strip_prefix(told));
    let mutex = waits.strip_prefix("waiting for a mutex (futex ");
    match (told, mutex.and_then(|rest| rest.split_once(')'))) {
        (Some(rest), _) => format!("{head})  waiting on futex 0x0{rest}"),
        (_, Some((address, rest))) => format!("{head})  waiting on futex {address}{rest}"),
        _ => line.to_owned(),
    }
}

/// Replaces `0x7f12ab,` with `A,`.
fn address(word: &str) -> Option<String> {
    let rest = word.strip_prefix("0x")?;
    Some(format!(
        "A{}",
        rest.trim_start_matches(|c: char| c.is_ascii_hexdigit())
    ))
}

/// Returns the text after its leading digits.
pub(crate) fn without_digits(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_ascii_digit())
}

/// Replaces leading digits with `N`.
fn number(word: &str) -> String {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() < word.len() {
        format!("N{rest}")
    } else {
        word.to_owned()
    }
}

/// Replaces `0.1s`, `1.001s,`, `201ms`, `96µs` and `1m05s` with `T`.
fn time(word: &str) -> String {
    let bare = word.trim_end_matches([',', ')', ':']);
    let number = bare.trim_end_matches(|c: char| "µmshd".contains(c));
    let is_time = number.len() < bare.len()
        && number.starts_with(|c: char| c.is_ascii_digit())
        && number
            .chars()
            .all(|c| c.is_ascii_digit() || "mh.".contains(c));
    match word.strip_prefix('(') {
        Some(rest) => format!("({}", time(rest)),
        None if is_time => format!("T{}", &word[bare.len()..]),
        None => word.to_owned(),
    }
}

/// Replaces `pid=17` with `pid=N`.
fn pid(word: &str) -> Option<String> {
    Some(format!("pid={}", number(word.strip_prefix("pid=")?)))
}

/// Removes the line from a location in headcount's own sources.
fn source(word: &str) -> Option<String> {
    let (file, place) = word.split_once(".rs:")?;
    let rest = place.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
    file.starts_with("src/service")
        .then(|| format!("{file}.rs{rest}"))
}

/// Replaces a location in the programs with the mark of its line.
fn site(word: &str) -> Option<String> {
    let (file, place) = word.split_once(".rs:")?;
    let (line, column) = place.split_once(':')?;
    let (_, text) = SOURCES
        .iter()
        .find(|(path, _)| path.strip_suffix(".rs") == Some(file))?;
    let line = text
        .lines()
        .nth(line.parse::<usize>().ok()?.checked_sub(1)?)?;
    let (_, mark) = line.split_once("// mark: ")?;
    let rest = column.trim_start_matches(|c: char| c.is_ascii_digit());
    Some(format!("<{mark}>{rest}"))
}

/// Returns the function around a marked line, and `file:line`.
pub(crate) fn marked(mark: &str) -> (String, String) {
    let ending = format!("// mark: {mark}");
    let places = SOURCES.iter().flat_map(|(path, text)| {
        let lines = text.lines().enumerate();
        lines
            .filter(|(_, line)| line.ends_with(&ending))
            .map(move |(at, _)| (path, text, at))
    });
    let [(path, text, at)] = places.collect::<Vec<_>>()[..] else {
        panic!("not one line with the mark '{mark}'")
    };
    let before: Vec<&str> = text.lines().take(at).collect();
    let name = before.iter().rev().find_map(|line| {
        let (_, rest) = line.split_once("fn ")?;
        rest.split(['(', '<']).next()
    });
    let name = name.expect("a mark is inside a function");
    (name.to_owned(), format!("{path}:{}", at + 1))
}

#[test]
fn only_values_that_vary_are_removed() {
    let (function, place) = marked("accept");
    assert_eq!(function, "ignores_drain");
    for (raw, expected) in [
        (
            "├─ 1 drain    5.002s of 5s     41 of 42 tasks ended",
            "├─ 1 drain  T of 5s  41 of 42 tasks ended",
        ),
        (
            "└─ clean                              total 96µs",
            "└─ clean  total T",
        ),
        (
            "a (tid 17, worker)  sleeping, age 1m05s, cpu 0.0s",
            "a (tid N, worker)  sleeping, age T, cpu T",
        ),
        ("child process 12  cat 12", "child process N  cat 12"),
        (
            "waiting for http/accept (3.1s)",
            "waiting for http/accept (T)",
        ),
        (
            "spawned src/a.rs:1:2, ×3 seconds",
            "spawned src/a.rs:1:2, ×3 seconds",
        ),
        (
            "spawned src/service/a.rs:1:2, ×3",
            "spawned src/service/a.rs, ×3",
        ),
        ("started task=web pid=17", "started task=web pid=N"),
        (
            &format!("started {place}:9, appeared"),
            "started <accept>, appeared",
        ),
        (
            "started tests/process/scenario.rs:1:9",
            "started tests/process/scenario.rs:1:9",
        ),
        (
            "(tid 1, x)  parked, age",
            "(tid N, x)  waiting on futex A, age",
        ),
        (
            "(tid 1, x)  waiting for a mutex (futex 0x12), age",
            "(tid N, x)  waiting on futex A, age",
        ),
    ] {
        assert_eq!(steady(raw), expected);
    }
}

#[test]
fn lines_of_stacks_are_recognized() {
    for line in [
        "│  │     0 recv",
        "│        11 db::read (src/db.rs:112)",
        "│        … 8 more, down to run (src/db.rs:80)",
        "│        … 58 more, in the runtime",
        "│        … 5 more, in libraries",
        "│  │  └─ 0 recv",
        "│  │  └─ at libc.so.6+0x101829 ← orders+0x8e2101",
        "   │  ├─ (no stack: it ended)",
        "   │  └─ same stack as tid 17",
    ] {
        assert!(is_of_stack(line), "{line}");
    }
    for line in [
        "├─ 1 drain    5ms of 1s",
        "└─ 8 threads",
        "│  ├─ 17  cat",
        "│  └─ ✗ thread \"pg-reader\" (tid 17, unknown)",
        "│  └─ … and 3 more",
    ] {
        assert!(!is_of_stack(line), "{line}");
    }
}
