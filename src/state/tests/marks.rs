use super::*;
use crate::state::marker::{Beat, Marker, OUTLIVED, Run, Writer};
use proptest::prelude::{ProptestConfig, any, proptest};

fn marker(folder: &Path) -> Writer {
    let run = Run::new("orders", "1.2.3", Exits::new());
    Writer::begin(&folder.join("run.json"), &run).expect("the folder is ours")
}

fn read(folder: &Path) -> Marker {
    let text = fs::read(folder.join("run.json")).expect("it is there");
    serde_json::from_slice(&text).expect("it is JSON")
}

#[test]
fn fields_written_in_place_are_read_back() {
    let folder = folder();
    let writer = marker(folder.path());
    let found = read(folder.path());
    assert_eq!(found.run.service, "orders");
    assert_eq!(found.run.pid, std::process::id());
    assert_eq!(
        (found.noted(), found.stopping(), found.panic()),
        (None, None, None)
    );
    writer.stopping("SIGTERM").expect("it is open");
    writer.panicking(Some("boom")).expect("it is open");
    writer.ending(Outcome::Lingering).expect("it is open");
    let found = read(folder.path());
    assert_eq!(found.noted(), Some(Outcome::Lingering));
    assert_eq!(found.stopping(), Some("SIGTERM"));
    assert_eq!(found.panic(), Some("boom"));
    for outcome in Outcome::ALL {
        writer.ending(outcome).expect("it is open");
        assert_eq!(read(folder.path()).noted(), Some(outcome));
    }
}

#[test]
fn the_note_of_the_watchdog_is_read_as_forced() {
    let folder = folder();
    let run = start(folder.path());
    run.forced();
    kill(run);
    let next = start(folder.path());
    assert_eq!(previous(&next).shutdown.outcome, Outcome::Forced);
    assert_eq!(previous(&next).shutdown.reason, "deadline");
    assert_eq!(next.exits(), exits(&[(Outcome::Forced, 1)]));
    insta::assert_snapshot!(
        words(previous(&next)),
        @"the previous run (pid N) missed its shutdown deadline and was forced to exit"
    );
}

#[test]
fn a_panic_followed_by_a_heartbeat_was_not_the_end() {
    let folder = folder();
    let writer = marker(folder.path());
    writer.panicking(Some("boom")).expect("it is open");
    assert_eq!(read(folder.path()).panic(), Some("boom"));
    let at = |uptime: Duration| {
        let beat = Beat {
            uptime,
            ..read(folder.path()).beat()
        };
        writer.write_beat(beat).expect("it is open");
    };
    at(crate::state::boot::now() + OUTLIVED / 2);
    assert_eq!(read(folder.path()).panic(), Some("boom"));
    at(crate::state::boot::now() + OUTLIVED);
    assert_eq!(read(folder.path()).panic(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_marker_stays_valid_json_for_any_panic_message(words in any::<String>()) {
        let folder = folder();
        let writer = marker(folder.path());
        let length = fs::metadata(folder.path().join("run.json")).expect("it is there").len();
        writer.panicking(Some(&words)).expect("it is open");
        writer.stopping(&words).expect("it is open");
        read(folder.path());
        let now = fs::metadata(folder.path().join("run.json")).expect("it is there").len();
        assert_eq!(now, length);
    }
}
