//! The parts of a runtime: the state folder, telemetry, tokio-console, the admin server and the control
//! socket.
//!
//! A runtime starts its parts without knowing them, in three steps: they claim ports before
//! anything runs, open files before the work runtime exists, and start their threads once the
//! control side runs. Each lives in the module that it is about, along with its methods of
//! [`Builder`](super::builder::Builder).
//!
//! A part ends when it is dropped, except for its exit hooks: the shutdown runs those.
//!
//! A failure in any step drops the runtime that is being built, and with it the parts that have
//! started. What a part cannot do without failing the start, such as writing to a full disk, it
//! logs as a warning instead.

use super::build_error::BuildError;
use super::exit_hook::ExitHook;
use super::output::Output;
use super::plan::Plan;
use super::progress::Progress;
use super::scrapes::Scrapes;
use crate::group::TaskGroup;
use crate::registry::root::Root;
use crate::report::Dump;
use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A part of a runtime: its settings, and from its start on what runs.
pub(crate) trait Part: Any + Send + Sync {
    /// Claims what another process may hold, such as a port. Must start nothing, and leave no trace
    /// if a later part fails.
    ///
    /// # Errors
    ///
    /// Returns an error if it is in use or not available. Called on the thread that builds the
    /// runtime, before any thread of headcount exists.
    fn claim(&mut self) -> Result<(), BuildError> {
        Ok(())
    }

    /// Returns the budget of the part's exit hooks, which run at the same time. The default deadline
    /// of a shutdown has room for it. Zero if the second that it has anyway is enough.
    fn exit_budget(&self) -> Duration {
        Duration::ZERO
    }

    /// Opens what must be there before the first task runs, and adds the part's exit hooks.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system fails to create a thread or a file descriptor. No
    /// task of the root exists yet, so an observer that is set here sees all of them.
    fn open(
        &mut self,
        _start: &Opening<'_>,
        _exit_hooks: &mut Vec<Arc<dyn ExitHook>>,
    ) -> io::Result<()> {
        Ok(())
    }

    /// Starts what needs the control side. It may use the parts that have started earlier.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system fails to create a thread or a file descriptor. Nothing
    /// has the root group yet, so no tracked task runs.
    fn start(&mut self, _start: &Starting<'_>, _earlier: Earlier<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// The state of a start before the work runtime exists.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    /// With the deadline resolved.
    pub(crate) plan: &'a Plan,
    pub(crate) root: &'a Arc<Root>,
}

/// The state of a start once the control side runs.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "admin"),
    expect(dead_code, reason = "only the metrics read all of it")
)]
pub(crate) struct Starting<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) root: &'a Arc<Root>,
    /// The work runtime.
    pub(crate) work: &'a Handle,
    /// True if headcount built the work runtime.
    pub(crate) owns_runtime: bool,
    /// For metrics and the admin server, which keep a clone.
    pub(crate) progress: &'a Arc<Progress>,
    /// It keeps the order of a part's log events and those of the shutdown.
    pub(crate) output: &'a Output,
    /// The admin server notes scrapes here.
    pub(crate) scrapes: &'a Arc<Scrapes>,
    /// The root group. It has no task yet.
    pub(crate) tasks: &'a TaskGroup,
    pub(crate) dumps: &'a Arc<dyn DumpSource>,
}

/// A source of dumps. It is built on top of this module, so it is named by a trait.
pub(crate) trait DumpSource: Debug + Send + Sync {
    /// Takes a dump on a thread of its own, and passes it to `done` there.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses the thread. `done` is dropped then.
    #[cfg_attr(
        not(feature = "admin"),
        expect(dead_code, reason = "only the servers ask for dumps")
    )]
    fn begin(&self, done: Box<dyn FnOnce(Dump) + Send>) -> io::Result<()>;
}

/// The parts of one runtime, in the order in which they start. Dropping it drops them in the
/// reverse order. A part is found by its type, so there is one of each.
pub(crate) struct Parts(Vec<Box<dyn Part>>);

/// The parts that have started before another one. It makes a dependency on a later part impossible
/// to miss: looking it up panics at each start.
#[derive(Clone, Copy)]
pub(crate) struct Earlier<'a>(&'a [Box<dyn Part>]);

// === impl Parts ===

impl Parts {
    /// Takes the parts in the order in which they start.
    pub(crate) fn new(parts: impl Into<Vec<Box<dyn Part>>>) -> Self {
        Self(parts.into())
    }

    /// Claims everything, part by part. See [`Part::claim`]. Ends at the first failure. Ports that
    /// were claimed before are released when the parts are dropped.
    pub(crate) fn claim(&mut self) -> Result<(), BuildError> {
        self.0.iter_mut().try_for_each(|part| part.claim())
    }

    /// Returns the longest budget of the exit hooks. See [`Part::exit_budget`].
    pub(crate) fn exit_budget(&self) -> Duration {
        let budgets = self.0.iter().map(|part| part.exit_budget());
        budgets.max().unwrap_or_default()
    }

    /// Opens the parts. See [`Part::open`].
    pub(crate) fn open(
        &mut self,
        start: &Opening<'_>,
        exit_hooks: &mut Vec<Arc<dyn ExitHook>>,
    ) -> io::Result<()> {
        self.0
            .iter_mut()
            .try_for_each(|part| part.open(start, exit_hooks))
    }

    /// Starts the parts. See [`Part::start`].
    pub(crate) fn start(&mut self, start: &Starting<'_>) -> io::Result<()> {
        for at in 0..self.0.len() {
            let (earlier, rest) = self.0.split_at_mut(at);
            rest[0].start(start, Earlier(earlier))?;
        }
        Ok(())
    }

    /// Returns the part of this type. Panics if the build has no such part; the features decide
    /// that, not the settings.
    pub(crate) fn get<P: Part>(&self) -> &P {
        Earlier(&self.0).get()
    }

    /// Returns the part of this type, to change its settings.
    pub(crate) fn get_mut<P: Part>(&mut self) -> &mut P {
        let mut parts = self.0.iter_mut();
        parts
            .find_map(|part| (&mut **part as &mut dyn Any).downcast_mut())
            .expect("a runtime has all parts of this build")
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

// === impl Earlier ===

impl<'a> Earlier<'a> {
    /// Returns the part of this type.
    pub(crate) fn get<P: Part>(self) -> &'a P {
        let mut parts = self.0.iter();
        parts
            .find_map(|part| (&**part as &dyn Any).downcast_ref())
            .expect("a part uses only parts that start before it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Noting(u8, Sender<(&'static str, u8)>);

    impl Noting {
        fn note(&self, step: &'static str) {
            self.1.send((step, self.0)).expect("the test listens");
        }
    }

    impl Part for Noting {
        fn claim(&mut self) -> Result<(), BuildError> {
            self.note("claim");
            Ok(())
        }
    }

    impl Drop for Noting {
        fn drop(&mut self) {
            self.note("drop");
        }
    }

    #[test]
    fn the_first_part_to_start_is_the_last_to_be_dropped() {
        let (tell, told) = channel();
        let all: [Box<dyn Part>; 2] =
            [Box::new(Noting(1, tell.clone())), Box::new(Noting(2, tell))];
        let mut parts = Parts::new(all);
        parts.claim().expect("they refuse nothing");
        drop(parts);
        let order: Vec<_> = told.iter().collect();
        assert_eq!(
            order,
            [("claim", 1), ("claim", 2), ("drop", 2), ("drop", 1)]
        );
    }
}
