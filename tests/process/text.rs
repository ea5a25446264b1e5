//! What differs from run to run in what headcount prints is taken out, so that whole lines can be compared.

/// The programs' own text: a place in them is shown by the mark that its line ends with.
const SOURCES: [(&str, &str); 10] = [
    ("tests/process/scenario.rs", include_str!("scenario.rs")),
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

/// What every report says without `tokio_unstable`, and one of nothing untracked only then.
const NONE_UNTRACKED: &str =
    "├─ untracked tasks: spawn sites not observed, built without tokio_unstable (estimated: 0)";

/// The text with each of its lines [`steady`].
pub(crate) fn steady_lines(lines: &[String]) -> String {
    let seen = lines
        .iter()
        .filter(|line| cfg!(tokio_unstable) || *line != NONE_UNTRACKED)
        .filter(|line| !is_of_stack(line));
    without_note(seen.map(|line| steady(line) + "\n").collect())
}

/// Whether the line is of a stack, which is there with the feature `stacks` alone, and differs by how the program was
/// optimised; tests of their own look at stacks.
pub(crate) fn is_of_stack(line: &str) -> bool {
    let content = line.trim_start_matches(|c| "│├└─ ".contains(c));
    let depth = line.chars().count() - content.chars().count();
    let others = ["at ", "(this stack is ", "(no stack: ", "the stack of tid "];
    let more = content.strip_prefix("… ").map(without_digits);
    let is_cut = more.is_some_and(|more| more.starts_with(" more"));
    let is_frame = content
        .split_once(' ')
        .is_some_and(|(number, frame)| !frame.starts_with(' ') && number.parse::<usize>().is_ok());
    depth > 3 && (is_frame || is_cut || others.iter().any(|other| content.starts_with(other)))
}

/// A dump ends with what is not observed, which without `tokio_unstable` is one line more; with it the threads come last.
fn without_note(text: String) -> String {
    const NOTE: &str = "└─ untracked tasks: not observed, built without tokio_unstable\n";
    let Some((before, after)) = text.split_once(NOTE) else {
        return text;
    };
    let threads = before.lines().position(|line| line.ends_with(" threads"));
    let lines = before.lines().enumerate().map(|(at, line)| {
        let line = match threads {
            Some(threads) if at == threads => line.replacen('├', "└", 1),
            Some(threads) if at > threads => line.replacen("│  ", "  ", 1),
            _ => line.to_owned(),
        };
        line + "\n"
    });
    lines.collect::<String>() + after
}

/// The line with times as `T`, numbers of threads and processes as `N`, spawn sites as `<mark>`, wide gaps as two
/// spaces. Budgets, which follow "of", stay.
pub(crate) fn steady(line: &str) -> String {
    // Known with the feature `stacks` alone; tests of its own look at it.
    let line = match line.split_once(", awaiting ") {
        Some((line, _)) => line,
        None => line,
    };
    steady_but_locks(&without_lock(line))
}

/// The same, with what the stack tells of what a thread waits for.
pub(crate) fn steady_but_locks(line: &str) -> String {
    let line = without_waits(line);
    let mut steady = String::new();
    let mut before = "";
    for word in line.split_inclusive(' ') {
        let text = word.trim_end();
        if text.is_empty() && steady.ends_with("  ") {
            continue;
        }
        steady += &match before {
            "of" => text.to_owned(),
            "(tid" | "process" | "pid" => number(text),
            // The thread that closes the runtime may be among them, or have just gone.
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

/// In a dump, where threads come and go: what each waits for becomes `waits`.
fn without_waits(line: &str) -> String {
    let is_of_dump = line.contains("─ \"");
    match (line.split_once(")  "), line.rsplit_once(", age ")) {
        (Some((head, _)), Some((_, tail))) if is_of_dump => format!("{head})  waits, age {tail}"),
        _ => line.to_owned(),
    }
}

/// What only the stack tells of a futex becomes what the kernel says.
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

/// `0x7f12ab,` becomes `A,`.
fn address(word: &str) -> Option<String> {
    let rest = word.strip_prefix("0x")?;
    Some(format!(
        "A{}",
        rest.trim_start_matches(|c: char| c.is_ascii_hexdigit())
    ))
}

/// What comes after the digits at the beginning.
pub(crate) fn without_digits(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_ascii_digit())
}

/// Digits at the beginning become `N`.
fn number(word: &str) -> String {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() < word.len() {
        format!("N{rest}")
    } else {
        word.to_owned()
    }
}

/// `0.1s`, `1.001s,`, `201ms`, `96µs` and `1m05s` become `T`.
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

/// `pid=17` becomes `pid=N`.
fn pid(word: &str) -> Option<String> {
    Some(format!("pid={}", number(word.strip_prefix("pid=")?)))
}

/// A place in headcount's own sources, without the line.
fn source(word: &str) -> Option<String> {
    let (file, place) = word.split_once(".rs:")?;
    let rest = place.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
    file.starts_with("src/service")
        .then(|| format!("{file}.rs{rest}"))
}

/// A place in the programs, by the mark of the line.
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

/// The function around a marked line, and `file:line`.
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
fn only_what_differs_is_taken_out() {
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
fn lines_of_stacks_are_told_from_others() {
    for line in [
        "│  │     0 recv",
        "│        11 db::read (src/db.rs:112)",
        "│        … 8 more, down to run (src/db.rs:80)",
        "│        … 58 more, of the runtime",
        "│        … 5 more, of libraries",
        "│  │  └─ 0 recv",
        "│  │  └─ at libc.so.6+0x101829 ← orders+0x8e2101",
        "   │  ├─ (no stack: it ended)",
        "   │  └─ the stack of tid 17",
    ] {
        assert!(is_of_stack(line), "{line}");
    }
    for line in [
        "├─ 1 drain    5ms of 1s",
        "└─ 8 threads",
        "│  ├─ 17  cat",
        "│  └─ ✗ thread \"pg-reader\" (tid 17, unknown)",
        "│  └─ … and 3 more kinds",
    ] {
        assert!(!is_of_stack(line), "{line}");
    }
}
