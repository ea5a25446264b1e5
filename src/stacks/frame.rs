//! One call of a stack, or one await of a chain: a function, with file and line if there is debug
//! information.

/// One call of a stack, or one await of a chain.
///
/// `Display` shows it as `function (file:line)`. File and line need debug information in the
/// program; without it they are `None`.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use headcount::ThreadKind;
///
/// let budget = Duration::from_millis(100);
/// let runtime = headcount::Runtime::builder().close_budget(budget).print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     tasks.spawn_thread("watcher", ThreadKind::Tracked, || loop {
///         std::thread::park();
///     });
/// });
/// let mut lingering = report.close.threads.iter();
/// let watcher = lingering.find(|row| row.name == "watcher").expect("it never ends");
/// let calls: Vec<String> = watcher.stack.iter().map(|frame| frame.to_string()).collect();
/// # #[cfg(feature = "stacks")]
/// assert!(calls.iter().any(|call| call.contains("park")), "{calls:?}");
/// # drop(calls);
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub struct Frame {
    /// The function. The name of an await has no `{{closure}}` at its end, which is how the
    /// compiler names the body of an `async fn`. A thread's stack that was not symbolized has
    /// addresses here, such as `0x55d0c8a21010`.
    pub function: String,
    /// The source file. It begins with the package for a dependency
    /// (`tokio-1.54.1/src/sync/oneshot.rs`), and is as the compiler recorded it otherwise.
    pub file: Option<String>,
    /// The line, counted from 1.
    pub line: Option<u32>,
    /// In words what a task waits for here, such as `a Mutex`. Known of the innermost await of a
    /// chain, if it is a future of tokio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

// === impl Frame ===

impl Frame {
    /// Returns the frame of a function without debug information.
    pub(crate) fn bare(function: impl Into<String>) -> Self {
        Self {
            function: function.into(),
            file: None,
            line: None,
            waits_for: None,
        }
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.function)?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " ({file}:{line})"),
            (Some(file), None) => write!(f, " ({file})"),
            (None, _) => Ok(()),
        }
    }
}
