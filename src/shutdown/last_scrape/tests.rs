use super::*;
use crate::audit::Baseline;
use crate::control::exit_hook::ExitHooks;
use crate::control::owned_runtime::OwnedRuntime;
use crate::control::scrapes::{Scrape, Scrapes};
use crate::registry::root::Root;
use crate::report::{Reason, Report};
use crate::runtime::Builder;
use crate::shutdown::Control;
use std::net::Ipv4Addr;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

const SECOND: Duration = Duration::from_secs(1);

fn by_scraper(begun: Instant) -> Scrape {
    Scrape {
        from: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        begun,
        declared: true,
    }
}

/// A process that is being stopped, with scrapes on record and a deadline that is never reached.
struct Stopping {
    control: Control,
    scrapes: Arc<Scrapes>,
    report: Receiver<Report>,
    _runtime: tokio::runtime::Runtime,
}

impl Stopping {
    fn new(hold: Duration, scraped: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("the system has descriptors");
        let mut plan = Builder::new().print(false).signals(false).plan;
        plan.deadline = SECOND * 10_000;
        plan.scrape_hold = hold;
        let scrapes = Arc::new(Scrapes::default());
        if scraped {
            scrapes.note(by_scraper(Instant::now()));
        }
        let hooks = ExitHooks {
            list: Vec::new(),
            scrapes: Arc::clone(&scrapes),
        };
        let (root, owned) = (Root::new(), Arc::new(OwnedRuntime::new(None)));
        let handle = runtime.handle().clone();
        let control = Control::start(plan, &root, Baseline::take(), &owned, handle, hooks)
            .expect("the system has threads");
        control.stop(Reason::Requested("done".to_owned()));
        Self {
            report: control.report().expect("asked once"),
            control,
            scrapes,
            _runtime: runtime,
        }
    }

    /// Waits until the wait for a scrape has begun, and checks that the report is held back meanwhile.
    #[track_caller]
    fn assert_held(&mut self) {
        let begun = Instant::now();
        while self.scrapes.waits() == 0 {
            assert!(begun.elapsed() < SECOND * 60, "the wait has not begun");
            std::thread::yield_now();
        }
        assert_eq!(self.report.try_recv(), Err(TryRecvError::Empty));
    }

    fn end(self) {
        self.report.blocking_recv().expect("it ends");
        self.control.release();
    }
}

const FOR_EVER: Duration = Duration::from_secs(5_000);

#[test]
fn the_process_stays_until_a_final_scrape() {
    let mut stopping = Stopping::new(FOR_EVER, true);
    stopping.assert_held();
    // It began before the report was final and ended after it, so it does not show the report.
    stopping.scrapes.note(by_scraper(Instant::now() - FOR_EVER));
    assert_eq!(stopping.report.try_recv(), Err(TryRecvError::Empty));
    stopping.scrapes.note(by_scraper(Instant::now()));
    stopping.end();
}

#[test]
fn a_signal_ends_the_wait_for_a_scrape() {
    let mut stopping = Stopping::new(FOR_EVER, true);
    stopping.assert_held();
    let signal = Message::Signal(15);
    stopping.control.inbox.send(signal).expect("it listens");
    stopping.end();
}

#[test]
fn the_wait_for_a_scrape_is_limited() {
    Stopping::new(Duration::from_millis(20), true).end();
}

#[test]
fn there_is_no_wait_without_a_scraper_or_with_the_hold_disabled() {
    Stopping::new(FOR_EVER, false).end();
    Stopping::new(Duration::ZERO, true).end();
}
