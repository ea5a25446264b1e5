//! The phases of a start, for a runtime that headcount owns and for one that it attaches to.
//!
//! A start goes from [`Bound`] through [`Opened`] to [`Started`]. Ports are claimed first, because
//! that is the step most likely to fail, and nothing has been started by then. Then come the
//! baseline, the state folder, telemetry, the work runtime, the control side, and last the servers.
//!
//! ```text
//!  Builder ──► Bound ──► Opened ──► Started
//!              ports     baseline   control side
//!                        root       servers
//!                        state
//! ```
//!
//! Each phase consumes the one before, so a step cannot be taken twice or out of order. A failure
//! drops what was made so far: the parts in reverse order, and with them the claimed ports and the
//! state folder.

use crate::audit::Baseline;
use crate::control::build_error::BuildError;
use crate::control::exit_hook::ExitHooks;
use crate::control::owned_runtime::OwnedRuntime;
use crate::control::part::{DumpSource, Opening, Parts, Starting};
use crate::control::plan::Plan;
use crate::group::{Budgets, TaskGroup};
use crate::registry::root::Root;
use crate::registry::{clock, panics};
use crate::shutdown::Control;
use crate::stacks;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// The part of the default deadline that comes after the layers, for the report. With
/// [`FOR_EXIT_HOOKS`] and the default layers of 8 s it makes 9.5 s.
const FOR_THE_REPORT: Duration = Duration::from_millis(500);
/// The part of the default deadline for the exit hooks, such as the final flush, if none needs more.
const FOR_EXIT_HOOKS: Duration = Duration::from_secs(1);

/// The phase in which the settings are checked and the ports are claimed, and nothing runs yet.
pub(super) struct Bound {
    /// The checked settings, with the deadline filled in.
    plan: Plan,
    /// The parts, with their ports claimed.
    parts: Parts,
}

/// The phase before the work runtime exists. The baseline is taken, and the state folder is open.
pub(super) struct Opened {
    plan: Plan,
    /// The threads and children that the audit at the end will expect.
    baseline: Baseline,
    /// The root of the registry, to which the hooks of the work runtime refer.
    root: Arc<Root>,
    /// The hooks of the parts that are open, in the order of the parts.
    exit_hooks: ExitHooks,
    parts: Parts,
}

/// The phase in which everything runs.
pub(super) struct Started {
    /// The root group, which keeps the control side alive.
    pub(super) tasks: TaskGroup,
    /// The control side, already running.
    pub(super) control: Arc<Control>,
    /// The parts, all started.
    pub(super) parts: Parts,
}

// === impl Bound ===

impl Bound {
    /// Checks the plan, and claims what the parts need.
    ///
    /// # Errors
    ///
    /// Returns an error if the layers do not fit into the deadline, or if a part fails to claim.
    pub(super) fn new(
        plan: Plan,
        deadline: Option<Duration>,
        mut parts: Parts,
    ) -> Result<Self, BuildError> {
        let plan = fit(plan, deadline, parts.exit_budget())?;
        parts.claim()?;
        Ok(Self { plan, parts })
    }

    /// Installs the panic hook, warms up what is slow on its first use, takes the baseline, and
    /// opens the parts.
    ///
    /// The order matters: the panic hook comes before user code can panic, and what starts threads
    /// comes before the baseline, so that these threads are expected at the end. Blocks for the
    /// disk of the state folder.
    pub(super) fn open(self) -> Result<Opened, BuildError> {
        let Self { plan, mut parts } = self;
        panics::install();
        // The first reading calibrates the clock, which takes some milliseconds: not to be paid by
        // the first task.
        clock::raw();
        if cfg!(feature = "stacks") {
            // Before the baseline is taken, because it may start threads.
            stacks::prepare();
        }
        let baseline = Baseline::take();
        let root = Root::new();
        for (what, why) in &plan.unready {
            root.unready.set(what, Some(why));
        }
        let mut exit_hooks = ExitHooks::default();
        let opening = Opening {
            plan: &plan,
            root: &root,
        };
        parts
            .open(&opening, &mut exit_hooks.list)
            .map_err(BuildError::System)?;
        Ok(Opened {
            plan,
            baseline,
            root,
            exit_hooks,
            parts,
        })
    }
}

// === impl Opened ===

impl Opened {
    pub(super) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Starts the control side for the runtime of `work`, then the parts.
    ///
    /// The control side starts before the parts, because they log and report through it. Only the
    /// parts have the root group until they have started, and they start no task in it.
    pub(super) fn start(
        self,
        owned: &Arc<OwnedRuntime>,
        work: &Handle,
    ) -> Result<Started, BuildError> {
        let Self {
            plan,
            baseline,
            root,
            exit_hooks,
            mut parts,
        } = self;
        let budgets = Budgets {
            drain: plan.drain,
            cancel: plan.cancel,
        };
        let scrapes = Arc::clone(&exit_hooks.scrapes);
        let control = Control::start(
            plan.clone(),
            &root,
            baseline,
            owned,
            work.clone(),
            exit_hooks,
        )
        .map(Arc::new)
        .map_err(BuildError::System)?;
        let tasks = TaskGroup::root(Arc::clone(&root), work.clone(), control.side(), budgets);
        let dumps: Arc<dyn DumpSource> = Arc::new(control.dumper().clone());
        let starting = Starting {
            plan: &plan,
            root: &root,
            work,
            owns_runtime: owned.is_ours,
            progress: control.progress(),
            output: control.output(),
            scrapes: &scrapes,
            tasks: &tasks,
            dumps: &dumps,
        };
        parts.start(&starting).map_err(BuildError::System)?;
        Ok(Started {
            tasks,
            control,
            parts,
        })
    }
}

/// Sets the deadline of a plan, and checks that the layers fit into it. Durations are limited to
/// [`clock::LONGEST`], and the deadline to five times that, so that adding them to an `Instant`
/// cannot overflow.
///
/// A deadline that is too short is refused here, since a report that cannot be made would be
/// noticed only at the first shutdown.
fn fit(
    mut plan: Plan,
    deadline: Option<Duration>,
    exit_budget: Duration,
) -> Result<Plan, BuildError> {
    for budget in [
        &mut plan.pre_drain,
        &mut plan.drain,
        &mut plan.cancel,
        &mut plan.close,
    ] {
        *budget = clock::LONGEST.min(*budget);
    }
    let layers = [plan.pre_drain, plan.drain, plan.cancel, plan.close]
        .into_iter()
        .fold(Duration::ZERO, Duration::saturating_add);
    let after = FOR_THE_REPORT.saturating_add(exit_budget.max(FOR_EXIT_HOOKS));
    plan.deadline = deadline
        .unwrap_or(layers.saturating_add(after))
        .min(clock::LONGEST * 5);
    if layers > plan.deadline {
        return Err(BuildError::DeadlineTooShort {
            pre_drain: plan.pre_drain,
            drain: plan.drain,
            cancel: plan.cancel,
            close: plan.close,
            deadline: plan.deadline,
        });
    }
    Ok(plan)
}
