//! What unknown threads were started with: rules go by it, and nobody waits for a thread that a rule expects.

use super::symbols::{Calls, Symbols};
use crate::audit::{Audited, ThreadKey};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

/// Those that end within it are not looked at: names cost more than all else that the last layer does.
const SETTLE: Duration = Duration::from_millis(10);

/// The threads that were asked about, each once.
#[derive(Debug)]
pub(super) struct Roots {
    begun: Instant,
    asked: HashSet<ThreadKey>,
    coming: Option<UnboundedReceiver<Calls>>,
}

// === impl Roots ===

impl Roots {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            asked: HashSet::new(),
            coming: None,
        }
    }

    /// Begins to look for those that nobody registered.
    pub(super) fn ask(&mut self, lingering: &[Audited], symbols: &mut Symbols) {
        let is_busy = self.coming.is_some() || self.begun.elapsed() < SETTLE;
        if is_busy || !cfg!(feature = "stacks") {
            return;
        }
        let unknown = lingering.iter().filter(|thread| thread.known.is_none());
        let keys: Vec<ThreadKey> = unknown
            .map(|thread| thread.os.key)
            .filter(|key| self.asked.insert(*key))
            .collect();
        if !keys.is_empty() {
            self.coming = Some(symbols.roots(keys));
        }
    }

    /// Waits so long, or until something was found.
    pub(super) async fn wait(&mut self, pause: Duration) -> Vec<Calls> {
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
        found
    }
}
