//! Test of a program that is built in release: its calls are inlined, and its debug information is line
//! tables alone.

use crate::program::Program;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = include_str!("released/main.rs");

/// Builds the program as a package of its own, and returns the command that runs it. The first build
/// takes a minute or more, the next one seconds.
fn built() -> Command {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("released");
    let root = env!("CARGO_MANIFEST_DIR");
    let manifest = format!(
        r#"
        [package]
        name = "released"
        version = "0.0.0"
        edition = "2024"

        [dependencies]
        headcount = {{ path = "{root}", default-features = false, features = ["stacks"] }}
        tokio = {{ version = "1", features = ["sync"] }}

        [profile.release]
        debug = "line-tables-only"

        [workspace]
        "#
    );
    std::fs::create_dir_all(folder.join("src")).expect("the folder of tests is ours");
    for (file, text) in [("Cargo.toml", manifest.as_str()), ("src/main.rs", SOURCE)] {
        std::fs::write(folder.join(file), text).expect("the folder is ours");
    }
    // The versions that are there already.
    std::fs::copy(
        Path::new(root).join("Cargo.lock"),
        folder.join("Cargo.lock"),
    )
    .expect("a copy");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--release", "--offline"]);
    build.args(["--target-dir", "target"]).current_dir(&folder);
    // Without the flags of this package, which another one would not have.
    let built = build.env("RUSTFLAGS", "").status().expect("cargo runs");
    assert!(built.success());
    Command::new(folder.join("target/release/released"))
}

/// Returns the marked line as a report shows it.
fn line(mark: &str) -> String {
    let mut lines = SOURCE.lines();
    let index = lines.position(|line| line.ends_with(&format!("// mark: {mark}")));
    format!("src/main.rs:{}", index.expect("a mark") + 1)
}

/// The chain was `async fn (…/mutex.rs:455) ← async fn (…)`.
#[test]
#[ignore = "builds the library again, in release"]
fn a_task_of_a_release_build_is_shown_with_what_it_awaits() {
    let ended = Program::start(built()).end();
    ended.assert_code(0);
    let report = ended.stderr.join("\n");
    let [leaf, middle, root] = ["leaf", "middle", "root"].map(line);
    let chain = format!(
        ", waiting for a Mutex ← async fn ({leaf}) ← async fn ({middle}) ← released::serve ({root})"
    );
    assert!(report.contains(&chain), "{chain}: {report}");
    let verdict = format!("lookup ({leaf}), waiting for a Mutex, held the stop for ");
    assert!(report.contains(&verdict), "{report}");
}
