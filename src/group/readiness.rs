//! Readiness: whether the service should receive work, and what the application has to say about it.

use super::TaskGroup;

// === impl TaskGroup ===

impl TaskGroup {
    /// Returns whether the service should receive work.
    ///
    /// It is true while no shutdown has begun, no required task has ended, no required task is
    /// stalled, that is, late with its heartbeat, and nothing is [not ready](Self::set_unready). Use
    /// it to answer a readiness probe. It turns false before the first group is told to drain.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// assert!(tasks.is_ready());
    /// tasks.stop("sold out");
    /// tasks.draining().await;
    /// assert!(!tasks.is_ready());
    /// # });
    /// ```
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let root = &self.inner.root;
        !root.is_stopping()
            && !root.has_lost_required()
            && !root.has_stalled_required()
            && root.unready.first().is_none()
    }

    /// Makes the whole service not ready because of `what`, until [`set_ready`](Self::set_ready) is
    /// called for it. Readiness probes show the reason. A second call replaces the reason.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// tasks.set_unready("cache", "still loading");
    /// assert!(!tasks.is_ready());
    /// tasks.set_ready("cache");
    /// assert!(tasks.is_ready());
    /// # });
    /// ```
    pub fn set_unready(&self, what: &str, why: &str) {
        self.inner.root.unready.set(what, Some(why));
    }

    /// Returns what the service is [not ready](Self::set_unready) for, each with the reason, in
    /// alphabetical order.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// tasks.set_unready("cache", "still loading");
    /// assert_eq!(tasks.unready(), [("cache".to_owned(), "still loading".to_owned())]);
    /// # });
    /// ```
    #[must_use]
    pub fn unready(&self) -> Vec<(String, String)> {
        self.inner.root.unready.all()
    }

    /// Ends what [`set_unready`](Self::set_unready) said of `what`.
    pub fn set_ready(&self, what: &str) {
        self.inner.root.unready.set(what, None);
    }
}
