//! Await chains in text: `, waiting for a Mutex ← look_up (src/cache.rs:18) ← serve (src/http.rs:9)`.
//!
//! They are for readers, so they are bounded: the functions of the program are shown, and those of
//! libraries between them are counted. The data ([`super::TaskRow::awaits`]) has every await.

use super::stack::{is_address, is_of_program};
use super::{Frame, KindRow, count};
use crate::stacks::awaits::type_name::without_parameters;
use crate::task::TaskKind;

/// The most chains of awaits that are shown of a task.
const CHAINS: usize = 3;
/// The most functions of a chain that are shown, without the first.
const SHOWN: usize = 6;
/// The most characters of a function's name.
const FUNCTION: usize = 60;

/// Returns what a task waits for, with the chains of awaits that lead there. Empty if it is not
/// known. Of a task that is always ready it says that, how often it was polled, and where it yields.
pub(crate) fn awaiting(awaits: Option<&[Vec<Frame>]>, always_ready: Option<u64>) -> String {
    if let Some(polls) = always_ready {
        return ready(polls, awaits.unwrap_or_default());
    }
    let Some(chains) = awaits else {
        return String::new();
    };
    if chains.is_empty() {
        return ", awaiting a future that registered no waker, so nothing can wake it".to_owned();
    }
    match joined(chains, text) {
        chains if chains.is_empty() => chains,
        chains => format!(", {chains}"),
    }
}

/// Returns that a task is always ready, and the chains that lead to the places where it yields.
fn ready(polls: u64, chains: &[Vec<Frame>]) -> String {
    let ready = match polls {
        0 => ", always ready when it was asked".to_owned(),
        n => {
            let times = count(n, "time");
            format!(", always ready: polled {times} while draining, never waits")
        }
    };
    // It waits for nothing, so there are no words for it.
    let yields = |chain: &[Frame]| {
        let (leaf, outer) = chain.split_first()?;
        Some(outwards(short(leaf).to_string(), outer))
    };
    match joined(chains, yields) {
        chains if chains.is_empty() => ready,
        chains => format!("{ready}, yields in {chains}"),
    }
}

/// Returns the texts of the first chains, joined by "or".
fn joined(chains: &[Vec<Frame>], text: impl Fn(&[Frame]) -> Option<String>) -> String {
    let chains = chains.iter().filter_map(|chain| text(chain));
    let mut texts: Vec<String> = chains.collect();
    texts.dedup();
    texts.truncate(CHAINS);
    texts.join(" or ")
}

/// Returns the type of the future or closure of a task, if neither a stack nor a chain says what it
/// does.
pub(super) fn future(task: &KindRow) -> String {
    let has_names = task.stack.iter().any(|frame| !is_address(frame));
    if has_names || task.awaits().is_some() || task.future.is_empty() {
        return String::new();
    }
    let word = match task.kind {
        TaskKind::Blocking => "closure",
        _ => "future",
    };
    format!(", {word} {}", task.future)
}

/// Returns the text of one chain; `None` if it is empty.
fn text(chain: &[Frame]) -> Option<String> {
    let (leaf, outer) = chain.split_first()?;
    let leaf = match &leaf.waits_for {
        Some(words) => format!("waiting for {words}"),
        None => format!("awaiting {}", short(leaf)),
    };
    Some(outwards(leaf, outer))
}

/// Returns the text of a chain with this text of its leaf.
fn outwards(leaf: String, outer: &[Frame]) -> String {
    let mut parts = vec![leaf];
    let program: Vec<usize> = (0..outer.len())
        .filter(|at| is_of_program(&outer[*at]))
        .collect();
    // The innermost ones, and the task's own.
    let shown = |place: usize| place + 1 < SHOWN || place + 1 == program.len();
    let mut next = 0;
    for (_, at) in program
        .iter()
        .enumerate()
        .filter(|(place, _)| shown(*place))
    {
        parts.extend(left_out(&outer[next..*at]));
        parts.push(short(&outer[*at]).to_string());
        next = at + 1;
    }
    parts.extend(left_out(&outer[next..]));
    parts.join(" ← ")
}

/// Cuts the name of the function to [`FUNCTION`] characters: first its type parameters, then the
/// beginning of its path.
fn short(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    let is_long = |name: &str| name.chars().count() > FUNCTION;
    if is_long(&frame.function) {
        frame.function = without_parameters(&frame.function);
    }
    if is_long(&frame.function) {
        let all = frame.function.chars().count();
        let end: String = frame.function.chars().skip(all - FUNCTION).collect();
        let path = end.find("::").unwrap_or(0);
        frame.function = format!("…{}", &end[path..]);
    }
    frame
}

/// Returns the number of frames that are not shown, unless there are none.
fn left_out(frames: &[Frame]) -> Option<String> {
    let more = frames.len();
    let place = match frames.iter().any(is_of_program) {
        true => "more",
        false => "in libraries",
    };
    (more > 0).then(|| format!("… {more} {place}"))
}

#[cfg(test)]
mod tests {
    use super::{Frame, awaiting, text};

    fn at(function: &str, file: &str) -> Frame {
        Frame {
            file: Some(file.to_owned()),
            line: Some(7),
            ..Frame::bare(function)
        }
    }

    fn leaf() -> Frame {
        Frame {
            waits_for: Some("a Mutex".to_owned()),
            ..at(
                "tokio::sync::mutex::Mutex<T>::lock",
                "tokio-1.54.1/src/sync/mutex.rs",
            )
        }
    }

    #[test]
    fn a_chain_shows_the_program_and_counts_what_is_between() {
        let chain = [
            leaf(),
            at("orders::look_up", "src/cache.rs"),
            at("axum::handler::call", "axum-0.8.1/src/handler/mod.rs"),
            at("hyper::proto::poll", "hyper-1.12.0/src/proto/mod.rs"),
            at("orders::serve", "src/http.rs"),
        ];
        assert_eq!(
            text(&chain).as_deref(),
            Some(
                "waiting for a Mutex ← orders::look_up (src/cache.rs:7) ← … 2 in libraries \
                 ← orders::serve (src/http.rs:7)"
            )
        );
        let in_library = [
            at("sqlx::acquire", "sqlx-0.8.1/src/pool.rs"),
            chain[3].clone(),
        ];
        assert_eq!(
            text(&in_library).as_deref(),
            Some("awaiting sqlx::acquire (sqlx-0.8.1/src/pool.rs:7) ← … 1 in libraries")
        );
        assert_eq!(text(&[]), None);
    }

    #[test]
    fn a_long_chain_keeps_both_its_ends() {
        let deep = (0..40).map(|at_| at(&format!("orders::deep_{at_}"), "src/deep.rs"));
        let chain: Vec<Frame> = std::iter::once(leaf()).chain(deep).collect();
        let text = text(&chain).expect("it is not empty");
        assert!(
            text.ends_with(
                "← orders::deep_4 (src/deep.rs:7) ← … 34 more ← orders::deep_39 (src/deep.rs:7)"
            ),
            "{text}"
        );
        let generic = at(
            &format!("orders::run<{}>", "A, ".repeat(100)),
            "src/deep.rs",
        );
        let chain = vec![generic; 100];
        let text = super::text(&chain).expect("it is not empty");
        assert!(text.chars().count() < 600, "{text}");
        let nested = at(
            &format!("orders::{}::run", "deeper::".repeat(20)),
            "src/deep.rs",
        );
        let text = super::text(&[nested]).expect("it is not empty");
        assert!(text.starts_with("awaiting …::deeper::"), "{text}");
        assert!(text.ends_with("::run (src/deep.rs:7)"), "{text}");
    }

    #[test]
    fn a_task_that_is_always_ready_waits_for_nothing() {
        let chain = vec![leaf(), at("orders::poll", "src/poll.rs")];
        let expected = |ready: &str| {
            format!(
                "{ready}, yields in tokio::sync::mutex::Mutex<T>::lock (tokio-1.54.1/src/sync/mutex.rs:7) \
                 ← orders::poll (src/poll.rs:7)"
            )
        };
        let chains = [chain];
        assert_eq!(
            awaiting(Some(&chains), Some(9)),
            expected(", always ready: polled 9 times while draining, never waits")
        );
        assert_eq!(
            awaiting(Some(&chains), Some(0)),
            expected(", always ready when it was asked")
        );
        assert_eq!(
            awaiting(Some(&[]), Some(0)),
            ", always ready when it was asked"
        );
        // Its names came late.
        assert_eq!(
            awaiting(None, Some(9)),
            ", always ready: polled 9 times while draining, never waits"
        );
        assert_eq!(awaiting(None, None), "");
    }
}
