//! The `headcount` command. Everything but the choice of the entry point is in `headcount::service`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "guardian") {
        // headcount starts itself with this argument to guard child processes. It is internal, so it is
        // not in `--help`.
        return headcount::service::guardian_main(arguments);
    }
    // As process 1, headcount would lose every signal that comes before it has handlers. If the handlers
    // cannot be installed, the runtime says so when it is built.
    headcount::runtime::hold_signals().ok();
    headcount::service::cli::main()
}
