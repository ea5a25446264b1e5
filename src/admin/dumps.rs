//! The answer of `/api/dump`: a dump with await chains and stacks, taken on a thread of its own, one at
//! a time.
//!
//! The admin server takes at most one a second, since a dump interrupts threads to read their stacks,
//! and shows no arguments of command lines, which may hold secrets.

use super::answers::{error, later, text, typed};
use crate::control::part::DumpSource;
use crate::report::Dump;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The shortest time between two dumps of the admin server.
const PAUSE: Duration = Duration::from_secs(1);

/// The dumps of one server.
#[derive(Debug)]
pub(crate) struct Dumps {
    source: Arc<dyn DumpSource>,
    /// True if every process may read them, and not only those of the user.
    is_public: bool,
    last: Arc<Mutex<Last>>,
}

/// The last dump.
#[derive(Debug, Clone, Copy)]
enum Last {
    None,
    /// It is being taken, even if its client is gone.
    Begun,
    Ended(Instant),
}

/// A guard that marks a dump as in progress until it is dropped.
struct Dumping(Arc<Mutex<Last>>);

// === impl Dumps ===

impl Dumps {
    /// Creates the dumps of the admin server.
    pub(crate) fn public(source: Arc<dyn DumpSource>) -> Self {
        Self::new(source, true)
    }

    /// Creates the dumps of the control socket.
    pub(crate) fn private(source: Arc<dyn DumpSource>) -> Self {
        Self::new(source, false)
    }

    fn new(source: Arc<dyn DumpSource>, is_public: bool) -> Self {
        Self {
            source,
            is_public,
            last: Arc::new(Mutex::new(Last::None)),
        }
    }

    /// Answers `/api/dump`: JSON, or text with `?format=text`.
    pub(super) async fn answer(&self, query: Option<&str>) -> Response {
        let is_text = match query {
            None | Some("" | "format=json") => false,
            Some("format=text") => true,
            Some(_) => {
                let allowed = "the only parameter is 'format': json or text";
                return error(StatusCode::BAD_REQUEST, allowed);
            }
        };
        let dumping = match self.begin() {
            Ok(dumping) => dumping,
            Err(why) => return later(StatusCode::TOO_MANY_REQUESTS, why),
        };
        let is_public = self.is_public;
        let (tell, told) = oneshot::channel();
        let begun = self.source.begin(Box::new(move |mut dump| {
            if is_public {
                without_arguments(&mut dump);
            }
            let words = if is_text {
                dump.to_text()
            } else {
                dump.to_json()
            };
            // Before the answer, because its reader may ask for the next dump at once.
            drop(dumping);
            // It fails if the client is gone.
            tell.send(words).ok();
        }));
        if let Err(refused) = begun {
            let why = format!("the system refuses a thread for the dump: {refused}");
            return error(StatusCode::INTERNAL_SERVER_ERROR, &why);
        }
        match told.await {
            Ok(words) if is_text => text(StatusCode::OK, &words),
            Ok(words) => typed(StatusCode::OK, "application/json", words),
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the dump has failed"),
        }
    }

    /// Marks a dump as in progress, or returns the reason why there can be none.
    fn begin(&self) -> Result<Dumping, &'static str> {
        let mut last = locked(&self.last);
        match *last {
            Last::Begun => return Err("a dump is already being taken"),
            Last::Ended(at) if self.is_public && at.elapsed() < PAUSE => {
                return Err("a dump was taken less than a second ago");
            }
            Last::None | Last::Ended(_) => {}
        }
        *last = Last::Begun;
        Ok(Dumping(Arc::clone(&self.last)))
    }
}

/// Cuts the command lines of children to their programs.
fn without_arguments(dump: &mut Dump) {
    for child in dump.children.iter_mut().flatten() {
        let program = child.command.split(' ').next();
        child.command = program.unwrap_or_default().to_owned();
    }
}

/// A poisoned lock is used as it is: it holds one value.
fn locked(last: &Mutex<Last>) -> MutexGuard<'_, Last> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Dumping ===

impl Drop for Dumping {
    fn drop(&mut self) {
        *locked(&self.0) = Last::Ended(Instant::now());
    }
}
