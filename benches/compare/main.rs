//! headcount compared with its peers, in one run, as ratios to bare tokio.
//!
//! `cargo bench --bench compare -- [MEASURE…] [--write FILE] [--repetitions N] [--black-box]`, where a measure is
//! one of `spawn`, `poll`, `hooks`, `spans`, `memory`, `cancel`, `list`, `dump`, `scrape`,
//! `shutdown`, `exit`, `steady`, `churn`, `stacks`; by default, all run.
//! Without `cargo bench` (that is, under `cargo test --benches`), everything runs once with small
//! sizes, which shows that it works but measures nothing.
//!
//! Only ratios within one run are meaningful: variants alternate, repetition by repetition, so that
//! a noisy machine affects all of them alike. `../README.md` has the reasons and the latest
//! figures.

mod cancel;
mod child;
mod churn;
#[cfg(feature = "otel")]
mod collector;
mod dump;
#[cfg(feature = "otel")]
mod exit;
mod harness;
mod headcount;
mod hooks;
mod latency;
mod list;
mod memory;
mod peers;
mod poll;
mod rounds;
#[cfg(feature = "admin")]
mod scrape;
mod shutdown;
#[cfg(feature = "otel")]
mod spans;
mod spawn;
mod stacks;
#[cfg(feature = "otel")]
mod steady;
mod table;

use harness::Scale;
use std::{env, fs, process::ExitCode};
use table::Section;

type Measure = fn(&Scale) -> Vec<Section>;

/// The measures and their names on the command line.
const MEASURES: &[(&str, Measure)] = &[
    ("spawn", spawn::measure),
    ("poll", poll::measure),
    ("hooks", hooks::measure),
    #[cfg(feature = "otel")]
    ("spans", spans::measure),
    ("memory", memory::measure),
    ("cancel", cancel::measure),
    ("list", list::measure),
    ("dump", dump::measure),
    #[cfg(feature = "admin")]
    ("scrape", scrape::measure),
    ("shutdown", shutdown::measure),
    #[cfg(feature = "otel")]
    ("exit", exit::measure),
    #[cfg(feature = "otel")]
    ("steady", steady::measure),
    ("churn", churn::measure),
    ("stacks", stacks::measure),
];

struct Arguments {
    measures: Vec<String>,
    write: Option<String>,
    repetitions: Option<usize>,
    black_box: bool,
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(figures) = child::run_if_asked() {
        let figures: Vec<String> = figures.iter().map(f64::to_string).collect();
        println!("{}", figures.join(" "));
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("compare: {problem}");
            return ExitCode::from(2);
        }
    };
    let _boxed = arguments.black_box.then(headcount::boxed);
    let mut scale = if arguments.bench {
        Scale::FULL
    } else {
        Scale::SMOKE
    };
    scale.repetitions = arguments.repetitions.unwrap_or(scale.repetitions);
    let mut text = table::heading(&scale);
    print!("{text}");
    for &(name, measure) in MEASURES {
        if arguments.selects(name) {
            for section in measure(&scale) {
                let section = section.to_markdown();
                print!("{section}");
                text.push_str(&section);
            }
        }
    }
    if let Some(path) = arguments.write
        && let Err(error) = fs::write(&path, text)
    {
        eprintln!("compare: cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

// === impl Arguments ===

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            measures: Vec::new(),
            write: None,
            repetitions: None,
            black_box: false,
            bench: false,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => parsed.bench = true,
                "--black-box" => parsed.black_box = true,
                "--write" => parsed.write = Some(arguments.next().ok_or("--write takes a file")?),
                "--repetitions" => {
                    let number = arguments.next().and_then(|text| text.parse().ok());
                    let number = number.filter(|number| *number > 0);
                    parsed.repetitions = Some(number.ok_or("--repetitions takes a number")?);
                }
                name if MEASURES.iter().any(|(measure, _)| *measure == name) => {
                    parsed.measures.push(argument);
                }
                other => {
                    let known = MEASURES
                        .iter()
                        .map(|(name, _)| *name)
                        .collect::<Vec<_>>()
                        .join(", ");
                    return Err(format!("`{other}` is none of {known}"));
                }
            }
        }
        Ok(parsed)
    }

    fn selects(&self, name: &str) -> bool {
        self.measures.is_empty() || self.measures.iter().any(|measure| measure == name)
    }
}
