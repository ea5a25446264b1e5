//! What unknown threads were started with: rules go by it, and nobody waits for a thread that a rule expects.

use super::symbols::{Root, Symbols};
use crate::audit::{Audited, ThreadKey};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

/// Those that end within it are not looked at: names cost more than all else that the last layer does.
const SETTLE: Duration = Duration::from_millis(10);

/// The threads that were asked about: each once, and one that ran at that moment again after twice the time.
#[derive(Debug)]
pub(super) struct Roots {
    begun: Instant,
    asked: HashSet<ThreadKey>,
    read: HashSet<ThreadKey>,
    /// How long after the beginning those that were not read are asked about again.
    again: Duration,
    coming: Option<UnboundedReceiver<Root>>,
}

// === impl Roots ===

impl Roots {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            asked: HashSet::new(),
            read: HashSet::new(),
            again: SETTLE * 2,
            coming: None,
        }
    }

    /// Begins to look for those that nobody registered.
    pub(super) fn ask(&mut self, lingering: &[Audited], symbols: &mut Symbols) {
        let now = self.begun.elapsed();
        let is_busy = self.coming.is_some() || now < SETTLE;
        if is_busy || !cfg!(feature = "stacks") {
            return;
        }
        let is_again = now >= self.again;
        let unknown = lingering.iter().filter(|thread| thread.known.is_none());
        let keys: Vec<ThreadKey> = unknown
            .map(|thread| thread.os.key)
            .filter(|key| self.asked.insert(*key) || (is_again && !self.read.contains(key)))
            .collect();
        if is_again {
            self.again = now * 2;
        }
        if !keys.is_empty() {
            self.coming = Some(symbols.roots(keys));
        }
    }

    /// Waits so long, or until something was found.
    pub(super) async fn wait(&mut self, pause: Duration) -> Vec<(ThreadKey, Vec<String>)> {
        let Some(coming) = &mut self.coming else {
            sleep(pause).await;
            return Vec::new();
        };
        let mut found = Vec::new();
        match timeout(pause, coming.recv()).await {
            Ok(Some(first)) => {
                found.push(first);
                while let Ok(next) = coming.try_recv() {
                    found.push(next);
                }
            }
            Ok(None) => self.coming = None,
            // Not yet.
            Err(_) => {}
        }
        let exact = found.iter().filter(|(_, _, is_exact)| *is_exact);
        self.read.extend(exact.map(|(key, ..)| *key));
        found
            .into_iter()
            .map(|(key, calls, _)| (key, calls))
            .collect()
    }
}

#[cfg(all(test, feature = "stacks", target_os = "linux"))]
mod tests {
    use super::*;
    use crate::audit::{self, Baseline};
    use crate::threads;
    use std::sync::mpsc::channel;
    use tokio::sync::mpsc::unbounded_channel;

    /// One that ran and did not answer in time was waited for as long as the layer has, whatever rule expects it.
    #[tokio::test]
    async fn a_thread_that_was_not_read_is_asked_about_again_and_then_no_more() {
        let baseline = Baseline::take();
        let (tell, told) = channel();
        let (_hold, held) = channel::<()>();
        let thread = std::thread::Builder::new().spawn(move || {
            tell.send(threads::own_tid()).expect("the test waits");
            // Until the test is over.
            held.recv().ok();
        });
        thread.expect("a thread");
        let tid = told.recv().expect("it begins");
        let threads = || -> Vec<Audited> {
            let threads = audit::threads(&baseline).into_iter();
            threads.filter(|thread| thread.os.key.tid == tid).collect()
        };
        let (mut roots, mut symbols) = (Roots::new(), Symbols::new(0));
        while roots.coming.is_none() {
            tokio::task::yield_now().await;
            roots.ask(&threads(), &mut symbols);
        }
        // The answer is none.
        roots.coming = Some(unbounded_channel().1);
        assert!(roots.wait(SETTLE).await.is_empty());
        let late = Instant::now() + Duration::from_secs(60);
        while roots.read.is_empty() {
            assert!(Instant::now() < late, "it is not asked about again");
            roots.ask(&threads(), &mut symbols);
            roots.wait(Duration::from_millis(1)).await;
        }
        while roots.coming.is_some() {
            roots.wait(SETTLE).await;
        }
        roots.again = Duration::ZERO;
        roots.ask(&threads(), &mut symbols);
        assert!(roots.coming.is_none(), "it was read");
    }
}
