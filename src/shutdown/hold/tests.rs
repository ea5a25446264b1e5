use super::*;
use crate::audit::Baseline;
use crate::registry::root::Root;
use crate::report::{Reason, Report};
use crate::runtime::Builder;
use crate::shutdown::ending::Endings;
use crate::shutdown::{Control, Owned};
use std::net::Ipv4Addr;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

const SECOND: Duration = Duration::from_secs(1);
const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn scraped_at(seconds: &[u32]) -> (Scrapes, Instant) {
    let (scrapes, start) = (Scrapes::default(), Instant::now());
    for second in seconds {
        scrapes.note(by_scraper(start + SECOND * *second));
    }
    (scrapes, start)
}

fn by_scraper(begun: Instant) -> Scrape {
    by(ONE, begun)
}

fn by(from: IpAddr, begun: Instant) -> Scrape {
    Scrape {
        from,
        begun,
        declared: true,
    }
}

fn by_anybody(begun: Instant) -> Scrape {
    Scrape {
        declared: false,
        ..by_scraper(begun)
    }
}

/// What is expected of the only one who scrapes.
fn expected(scrapes: &Scrapes, now: Instant) -> Expected {
    let peers = scrapes.peers();
    assert!(peers.len() < 2, "{peers:?}");
    peers
        .first()
        .map_or(Expected::Nobody, |peer| peer.expected(now))
}

fn interval(scrapes: &Scrapes) -> Option<Duration> {
    scrapes.peers().first()?.interval()
}

#[test]
fn without_a_scrape_nobody_is_expected() {
    let (scrapes, start) = scraped_at(&[]);
    assert_eq!(expected(&scrapes, start), Expected::Nobody);
}

#[test]
fn the_next_scrape_is_expected_after_the_learned_interval_and_a_fifth() {
    let (scrapes, start) = scraped_at(&[0, 10, 20]);
    assert_eq!(interval(&scrapes), Some(SECOND * 10));
    let due = Expected::Due {
        at: start + SECOND * 30,
        latest: start + SECOND * 32,
    };
    assert_eq!(expected(&scrapes, start + SECOND * 21), due);
    assert_eq!(expected(&scrapes, start + SECOND * 31), due);
}

#[test]
fn who_does_not_say_that_it_is_a_scraper_is_one_when_it_comes_again() {
    let (scrapes, start) = (Scrapes::default(), Instant::now());
    scrapes.note(by_anybody(start));
    assert_eq!(expected(&scrapes, start + SECOND), Expected::Nobody);
    scrapes.note(by_anybody(start + SECOND * 10));
    assert_eq!(interval(&scrapes), Some(SECOND * 10));
    let due = Expected::Due {
        at: start + SECOND * 20,
        latest: start + SECOND * 22,
    };
    assert_eq!(expected(&scrapes, start + SECOND * 11), due);
}

#[tokio::test]
async fn beside_a_scraper_that_says_so_nobody_else_counts() {
    let (scrapes, start) = (Scrapes::default(), Instant::now());
    scrapes.note(by_anybody(start));
    scrapes.note(by_anybody(start + SECOND * 2));
    scrapes.note(by_scraper(start + SECOND * 3));
    assert_eq!(interval(&scrapes), None);
    scrapes.note(by_scraper(start + SECOND * 33));
    scrapes.note(by_anybody(start + SECOND * 40));
    assert_eq!(interval(&scrapes), Some(SECOND * 30));
    let waits = scrapes.all_begun_after(start + SECOND * 35, &[ONE]);
    assert!(tokio::time::timeout(Duration::ZERO, waits).await.is_err());
}

#[test]
fn a_second_scraper_does_not_make_the_interval_short() {
    let (scrapes, _) = scraped_at(&[0, 10, 12, 13, 20, 30]);
    assert_eq!(interval(&scrapes), Some(SECOND * 10));
}

#[test]
fn a_scraper_that_is_late_is_awaited_and_one_that_is_gone_is_not() {
    let (scrapes, start) = scraped_at(&[0, 10]);
    let late = start + SECOND * 25;
    let due = Expected::Due {
        at: late,
        latest: late + SECOND * 10,
    };
    assert_eq!(expected(&scrapes, late), due);
    assert_eq!(expected(&scrapes, start + SECOND * 41), Expected::Nobody);
}

#[test]
fn after_a_single_scrape_the_next_may_come_within_a_minute() {
    let (scrapes, start) = scraped_at(&[0]);
    assert_eq!(expected(&scrapes, start + SECOND), Expected::Sometime);
    assert_eq!(expected(&scrapes, start + SECOND * 61), Expected::Nobody);
}

#[tokio::test]
async fn of_two_scrapers_each_has_its_last_scrape() {
    let (scrapes, start) = (Scrapes::default(), Instant::now());
    for second in [0, 10, 20] {
        scrapes.note(by(ONE, start + SECOND * second));
        scrapes.note(by(OTHER, start + SECOND * (second + 7)));
    }
    let now = start + SECOND * 28;
    let both = Awaited::Peers(vec![ONE, OTHER], start + SECOND * 39);
    assert_eq!(scrapes.awaited(now, now + SECOND * 60), both);
    // The other's is due too late, and one that is not seen any more is not waited for.
    let end = start + SECOND * 36;
    let first = Awaited::Peers(vec![ONE], start + SECOND * 32);
    assert_eq!(scrapes.awaited(now, end), first);
    let soon = start + SECOND * 29;
    let late = Awaited::TooLate(start + SECOND * 30);
    assert_eq!(scrapes.awaited(now, soon), late);
    let later = start + SECOND * 51;
    let rest = Awaited::Peers(vec![OTHER], later + SECOND * 10);
    assert_eq!(scrapes.awaited(later, later + SECOND * 60), rest);
    let awaited = [ONE, OTHER];
    let waits = scrapes.all_begun_after(now, &awaited);
    tokio::pin!(waits);
    scrapes.note(by(ONE, start + SECOND * 30));
    let so_far = tokio::time::timeout(Duration::ZERO, &mut waits).await;
    assert!(so_far.is_err());
    scrapes.note(by(OTHER, start + SECOND * 37));
    waits.await;
}

#[test]
fn of_many_who_scrape_the_last_are_known() {
    let (scrapes, start) = (Scrapes::default(), Instant::now());
    for last in 0..20 {
        let from = IpAddr::V4(Ipv4Addr::new(10, 0, 1, last));
        scrapes.note(by(from, start + SECOND * u32::from(last)));
    }
    let known: Vec<IpAddr> = scrapes.peers().iter().map(|peer| peer.address).collect();
    let last = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 1, last));
    assert_eq!(known, (12..20).map(last).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_scrape_that_began_before_does_not_count() {
    let (scrapes, start) = scraped_at(&[0]);
    let waits = scrapes.all_begun_after(start + SECOND, &[ONE]);
    tokio::pin!(waits);
    let now = Duration::ZERO;
    assert!(tokio::time::timeout(now, &mut waits).await.is_err());
    scrapes.note(by_scraper(start + SECOND));
    waits.await;
}

/// A process that is stopped, with scrapes and a deadline that does not come.
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
        let mut plan = Builder::new().print(false).signals(false).into_plan();
        plan.deadline = SECOND * 10_000;
        plan.scrape_hold = hold;
        let scrapes = Arc::new(Scrapes::default());
        if scraped {
            scrapes.note(by_scraper(Instant::now()));
        }
        let endings = Endings {
            list: Vec::new(),
            scrapes: Arc::clone(&scrapes),
        };
        let (root, owned) = (Root::new(), Arc::new(Owned::new(None)));
        let handle = runtime.handle().clone();
        let control = Control::start(plan, &root, Baseline::take(), &owned, handle, endings)
            .expect("the system has threads");
        control.stop(Reason::Requested("done".to_owned()));
        Self {
            report: control.report().expect("asked once"),
            control,
            scrapes,
            _runtime: runtime,
        }
    }

    /// Waits until somebody waits for a scrape, and sees that the report is kept meanwhile.
    #[track_caller]
    fn assert_held(&mut self) {
        let begun = Instant::now();
        while self.scrapes.count.receiver_count() == 0 {
            assert!(begun.elapsed() < SECOND * 60, "nobody waits for a scrape");
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
fn the_process_stays_until_it_was_scraped_once_more() {
    let mut stopping = Stopping::new(FOR_EVER, true);
    stopping.assert_held();
    // Begun before the report was final, and answered after: it does not show the report.
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
fn the_wait_for_a_scrape_has_an_end() {
    Stopping::new(Duration::from_millis(20), true).end();
}

#[test]
fn nobody_waits_for_a_scraper_that_was_never_there_or_is_not_wanted() {
    Stopping::new(FOR_EVER, false).end();
    Stopping::new(Duration::ZERO, true).end();
}
