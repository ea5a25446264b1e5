//! A program that continues after its report.

use crate::program::{ready, start};
use rustix::process::Signal;

#[test]
fn after_the_report_sigterm_has_its_default_effect_again() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut program = ready(&["goes-on"]);
        program.signal(Signal::TERM);
        assert_eq!(program.line(), "over");
        program.stop(signal).assert_killed_by(signal);
    }
}

#[test]
fn a_second_runtime_answers_to_signals_as_the_first_did() {
    let ended = ready(&["runs-twice"]).stop(Signal::TERM);
    ended.assert_code(0);
    assert!(
        ended
            .errors()
            .contains("headcount test: stopping (SIGTERM)\n"),
        "{ended:#?}"
    );
}

#[test]
fn the_deadline_ends_with_the_report() {
    let ended = start(&["goes-on-for-a-while"]).end();
    ended.assert_code(0);
    assert_eq!(ended.stdout, ["over", "still there"]);
}
