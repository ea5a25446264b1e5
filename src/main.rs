//! The `headcount` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "guardian") {
        // What headcount starts itself as, to hold child processes. No word to people: not in `--help`.
        return headcount::service::guardian_main(arguments);
    }
    headcount::service::cli::main()
}
