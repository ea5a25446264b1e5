//! The names of types, shortened for readers.
//!
//! The compiler writes a type with all its paths and parameters. The type of a task's future says
//! which function the task runs, even where no stack can be read: `orders::import::{{closure}}` is
//! the future of `async fn import`.

/// The most characters of a name that is shown with its type parameters.
const WHOLE: usize = 80;
/// The most characters of a name that is shown.
const CUT: usize = 100;
/// Types that only hold a future, up to their first parameter.
const HOLDERS: [&str; 6] = [
    "&mut ",
    "core::pin::Pin<",
    "alloc::boxed::Box<",
    "core::panic::unwind_safe::AssertUnwindSafe<",
    "core::mem::manually_drop::ManuallyDrop<",
    "tracing::instrument::Instrumented<",
];
/// The crates of the standard library, whose types are known without their paths.
const STANDARD: [&str; 3] = ["core::", "alloc::", "std::"];

/// Returns the name of a type without types that only hold another one, without the compiler's
/// parts such as `{{closure}}`, and without the paths of the standard library. The parameters of a
/// long name are left out.
pub(crate) fn shortened(name: &str) -> String {
    let mut name = name.trim();
    while let Some(inner) = held(name) {
        name = inner;
    }
    let plain = without_paths(&without_braces(name));
    let short = match plain.chars().count() > WHOLE {
        true => without_parameters(&plain),
        false => plain,
    };
    match short.char_indices().nth(CUT) {
        Some((end, _)) => format!("{}…", &short[..end]),
        None => short,
    }
}

/// Returns the future or closure, shortened, that a function polls, if that is its only type
/// parameter: `orders::load` for `poll<orders::load::{async_fn_env#0}>`.
pub(super) fn polled(function: &str) -> Option<String> {
    let (_, parameters) = function.split_once('<')?;
    let only = first(parameters);
    let is_only = parameters[only.len()..].starts_with('>');
    let is_future = ["::{async_", "::{closure"]
        .iter()
        .any(|part| only.contains(part));
    let name = (is_only && is_future).then(|| shortened(only))?;
    name.contains("::").then_some(name)
}

/// Returns the first parameter of a type that only holds it.
fn held(name: &str) -> Option<&str> {
    let inner = HOLDERS
        .iter()
        .find_map(|holder| name.strip_prefix(holder))?;
    let inner = match name.starts_with('&') {
        true => inner,
        false => first(inner),
    };
    (!inner.is_empty()).then(|| inner.trim())
}

/// Returns the text up to the comma or the bracket that ends the first parameter.
fn first(parameters: &str) -> &str {
    let mut depth = 0_i32;
    let mut before = ' ';
    let end = parameters.find(|c| {
        match c {
            '<' | '(' | '[' => depth += 1,
            // The arrow of a function's type is no bracket.
            '>' if before == '-' => {}
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
        before = c;
        depth < 0 || depth == 0 && c == ','
    });
    &parameters[..end.unwrap_or(parameters.len())]
}

/// Removes the parts of paths that the compiler makes, such as `::{{closure}}` and
/// `::{async_fn_env#0}`.
pub(crate) fn without_braces(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('{') {
        plain += before.strip_suffix("::").unwrap_or(before);
        let end = after.find('}').map_or(after.len(), |end| end + 1);
        rest = after[end..].trim_start_matches('}');
    }
    plain + rest
}

/// Removes the modules before the types of the standard library.
fn without_paths(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        let path = rest.find(|c: char| !is_of_path(c)).unwrap_or(rest.len());
        let (path, other) = rest.split_at(path);
        let is_standard = STANDARD.iter().any(|start| path.starts_with(start));
        short += match path.rsplit_once("::") {
            Some((_, last)) if is_standard && !last.is_empty() => last,
            _ => path,
        };
        let next = other.find(is_of_path).unwrap_or(other.len());
        short += &other[..next];
        rest = &other[next..];
    }
    short
}

/// Returns whether the character may be in a path.
fn is_of_path(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == ':'
}

/// Replaces what is within the outermost angle brackets with `…`.
pub(crate) fn without_parameters(name: &str) -> String {
    let mut short = String::new();
    let mut depth = 0_i32;
    let mut before = ' ';
    for c in name.chars() {
        if c == '>' && before != '-' {
            depth -= 1;
        }
        if depth == 0 {
            short.push(c);
        }
        if c == '<' {
            if depth == 0 {
                short.push('…');
            }
            depth += 1;
        }
        before = c;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::{polled, shortened};

    #[test]
    fn a_future_is_named_by_its_function() {
        for (name, short) in [
            ("orders::import::{{closure}}", "orders::import"),
            ("orders::main::{{closure}}::{{closure}}", "orders::main"),
            ("orders::db::load::{async_fn_env#0}", "orders::db::load"),
            ("orders::keep<u8>::{{closure}}", "orders::keep<u8>"),
            ("orders::keep::{async_fn_env#0}<u8>", "orders::keep<u8>"),
            (
                "<orders::Db as orders::Load>::run::{{closure}}",
                "<orders::Db as orders::Load>::run",
            ),
            ("", ""),
        ] {
            assert_eq!(shortened(name), short, "{name}");
        }
    }

    #[test]
    fn a_function_that_polls_one_future_names_it() {
        for (function, future) in [
            ("poll<orders::load::{async_fn_env#0}>", Some("orders::load")),
            (
                "poll<&mut orders::load::{async_fn_env#0}>",
                Some("orders::load"),
            ),
            (
                "<core::pin::Pin<&mut orders::load::{closure#0}>>::poll",
                Some("orders::load"),
            ),
            (
                "poll<orders::load::{async_fn_env#0}, orders::save::{async_fn_env#0}>",
                None,
            ),
            ("poll<orders::Load>", None),
            ("poll<{async_block_env#0}>", None),
            ("poll", None),
        ] {
            assert_eq!(polled(function).as_deref(), future, "{function}");
        }
    }

    #[test]
    fn a_type_that_holds_another_one_is_left_out() {
        let boxed = "core::pin::Pin<alloc::boxed::Box<orders::run::{{closure}}>>";
        assert_eq!(shortened(boxed), "orders::run");
        let lent = "core::pin::Pin<&mut orders::run::{{closure}}>";
        assert_eq!(shortened(lent), "orders::run");
        let erased = "core::pin::Pin<alloc::boxed::Box<dyn core::future::future::Future<Output = \
                      core::result::Result<(), std::io::error::Error>> + core::marker::Send>>";
        assert_eq!(
            shortened(erased),
            "dyn Future<Output = Result<(), Error>> + Send"
        );
        let timed = "tokio::time::timeout::Timeout<orders::run::{{closure}}>";
        assert_eq!(
            shortened(timed),
            "tokio::time::timeout::Timeout<orders::run>"
        );
    }

    #[test]
    fn a_long_name_has_no_parameters_and_an_end() {
        let layers = "tower::A<".repeat(20) + "fn(u8) -> u8" + &">".repeat(20) + "::run";
        assert_eq!(shortened(&layers), "tower::A<…>::run");
        let path = "module::".repeat(20) + "run";
        assert_eq!(shortened(&path).chars().count(), 101);
        assert_eq!(shortened("a<b"), "a<b");
        assert_eq!(shortened("a{b"), "a");
    }
}
