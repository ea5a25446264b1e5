use super::*;
use std::net::Ipv4Addr;

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

/// Returns the expectation for the only scraper.
fn expected(scrapes: &Scrapes, now: Instant) -> Expected {
    let peers = scrapes.peers();
    assert!(peers.len() < 2, "{peers:?}");
    peers
        .first()
        .map_or(Expected::Nothing, |peer| peer.expected(now))
}

fn interval(scrapes: &Scrapes) -> Option<Duration> {
    scrapes.peers().first()?.interval()
}

#[test]
fn without_a_scrape_none_is_expected() {
    let (scrapes, start) = scraped_at(&[]);
    assert_eq!(expected(&scrapes, start), Expected::Nothing);
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
fn a_client_that_does_not_declare_itself_is_a_scraper_from_its_second_scrape_on() {
    let (scrapes, start) = (Scrapes::default(), Instant::now());
    scrapes.note(by_anybody(start));
    assert_eq!(expected(&scrapes, start + SECOND), Expected::Nothing);
    scrapes.note(by_anybody(start + SECOND * 10));
    assert_eq!(interval(&scrapes), Some(SECOND * 10));
    let due = Expected::Due {
        at: start + SECOND * 20,
        latest: start + SECOND * 22,
    };
    assert_eq!(expected(&scrapes, start + SECOND * 11), due);
}

#[tokio::test]
async fn while_a_declared_scraper_is_present_no_other_client_counts() {
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
fn a_late_scraper_is_awaited_and_one_that_is_gone_is_not() {
    let (scrapes, start) = scraped_at(&[0, 10]);
    let late = start + SECOND * 25;
    let due = Expected::Due {
        at: late,
        latest: late + SECOND * 10,
    };
    assert_eq!(expected(&scrapes, late), due);
    assert_eq!(expected(&scrapes, start + SECOND * 41), Expected::Nothing);
}

#[test]
fn after_a_single_scrape_the_next_may_come_within_a_minute() {
    let (scrapes, start) = scraped_at(&[0]);
    assert_eq!(expected(&scrapes, start + SECOND), Expected::Sometime);
    assert_eq!(expected(&scrapes, start + SECOND * 61), Expected::Nothing);
}

#[tokio::test]
async fn each_of_two_scrapers_gets_a_final_scrape() {
    let (scrapes, start) = (Scrapes::default(), Instant::now());
    for second in [0, 10, 20] {
        scrapes.note(by(ONE, start + SECOND * second));
        scrapes.note(by(OTHER, start + SECOND * (second + 7)));
    }
    let now = start + SECOND * 28;
    let both = Awaited::Peers(vec![ONE, OTHER], start + SECOND * 39);
    assert_eq!(scrapes.awaited(now, now + SECOND * 60), both);
    // The scrape of the second scraper is due too late. A scraper that is gone is not waited for.
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
fn of_many_scrapers_the_latest_are_remembered() {
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
async fn a_scrape_that_began_too_early_does_not_count() {
    let (scrapes, start) = scraped_at(&[0]);
    let waits = scrapes.all_begun_after(start + SECOND, &[ONE]);
    tokio::pin!(waits);
    let now = Duration::ZERO;
    assert!(tokio::time::timeout(now, &mut waits).await.is_err());
    scrapes.note(by_scraper(start + SECOND));
    waits.await;
}
