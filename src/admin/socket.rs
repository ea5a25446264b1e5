//! The control socket as a part of a runtime: a Unix socket for the user of the process, with the
//! routes of the admin server and those of `verbs`.
//!
//! A connection is served as one of the admin server is, with the same limits. Its peer is the process
//! that connected, so each process has a share of the places. A process of another user is
//! disconnected before anything is read, root excepted.
//!
//! A socket that cannot be made is a warning, and the service runs without it. `file` chooses the
//! path, checks the folder and removes the file at the end.

mod file;

pub use file::control_sockets;

use super::dumps::Dumps;
use super::hosts::Hosts;
use super::places::Peer;
use super::routes::State;
use super::server::Listener;
use super::verbs::Controls;
use crate::control::builder::Builder;
use crate::control::part::{Earlier, Part, Starting};
use crate::telemetry::TelemetryPart;
use file::SocketFile;
use rustix::process::geteuid;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// The control socket of a runtime, if it has one.
#[derive(Debug, Default)]
pub(crate) struct SocketPart {
    /// The setting.
    place: Place,
    /// The running server.
    server: Option<Server>,
}

/// The place of the socket.
#[derive(Debug, Default)]
enum Place {
    /// No socket was asked for.
    #[default]
    Nowhere,
    /// The first free one of [`control_sockets`].
    Default,
    /// The path that the service chose.
    At(PathBuf),
}

/// The running server. Dropping it removes the file, then ends the thread, which is not waited for.
#[derive(Debug)]
struct Server {
    file: SocketFile,
    /// Nothing is ever sent on it.
    #[expect(dead_code, reason = "its end is what ends the thread")]
    stop: oneshot::Sender<()>,
}

/// A listener that accepts processes of the own user and of root.
struct OwnUser {
    listener: UnixListener,
    user: u32,
}

// === impl Builder ===

impl Builder {
    /// Serves the control socket at this path. Default: no control socket.
    ///
    /// It is a Unix socket with mode 0600, which only the user of the process and root may use. It
    /// answers the requests of the [admin server](Builder::admin), shows whole command lines in dumps, and
    /// answers these:
    ///
    /// - `GET /api/logs`: the last lines of [child processes](crate::telemetry::Child::printed)
    /// - `POST /stop`: begins the shutdown
    /// - `POST /stop?process=NAME`, `POST /start?process=NAME`, `POST /restart?process=NAME`: asks the
    ///   task that runs this [child process](crate::telemetry::Child::requests), and waits for its answer
    ///   for at most 4 s
    /// - `POST /drain?group=PATH`, `POST /cancel?group=PATH`: ends the tasks of the groups with
    ///   this path, waits for them for at most 4 s, and answers how many are left
    ///
    /// The folder must exist, belong to this user or to root, and not let other users replace the
    /// file. A socket that another process still serves is left alone; one that a killed process left
    /// behind is replaced. If there can be no socket, headcount logs a warning and runs without it.
    ///
    /// The server runs on its own thread, so it answers even when every worker is blocked, and while
    /// the shutdown runs. The file is removed at the end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::{Read as _, Write as _};
    /// # use std::os::unix::net::UnixStream;
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let path = folder.join("orders.sock");
    /// let runtime = headcount::Runtime::builder().control_socket(&path).print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     let mut client = UnixStream::connect(&path)?;
    ///     write!(client, "POST /stop HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    ///     tasks.draining().await;
    ///     Ok::<(), std::io::Error>(())
    /// });
    /// assert!(report.to_text(false).contains("stopping (control socket)"));
    /// assert!(!path.exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn control_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.parts.get_mut::<SocketPart>().place = Place::At(path.into());
        self
    }

    /// Serves the control socket at its usual path, where the commands of `headcount` look for it.
    ///
    /// See [`Builder::control_socket`] for its requests, and
    /// [`control_sockets`](crate::runtime::control_sockets) for the path.
    /// [`Runtime::control_socket`](crate::Runtime::control_socket) returns the path in use.
    ///
    /// # Examples
    ///
    /// ```
    /// let runtime = headcount::Runtime::builder().default_control_socket().print(false).build()?;
    /// if let Some(path) = runtime.control_socket() {
    ///     assert!(path.exists());
    /// }
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn default_control_socket(mut self) -> Self {
        self.parts.get_mut::<SocketPart>().place = Place::Default;
        self
    }
}

// === impl SocketPart ===

impl SocketPart {
    /// Returns the path of the running server.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.server.as_ref().map(|server| server.file.path())
    }
}

impl Part for SocketPart {
    /// Makes the socket and starts its thread, or logs why there is none. Never fails.
    fn start(&mut self, start: &Starting<'_>, earlier: Earlier<'_>) -> io::Result<()> {
        let made = match &self.place {
            Place::Nowhere => return Ok(()),
            Place::Default => file::bind_default(),
            Place::At(path) => file::bind_at(path),
        };
        let state = State {
            metrics: earlier.get::<TelemetryPart>().metrics().clone(),
            // Browsers cannot connect, so names do not matter; clients such as curl send one.
            hosts: Hosts::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &[]),
            dumps: Dumps::private(Arc::clone(start.dumps)),
            events: Arc::default(),
            controls: Some(Controls::new(start.tasks.clone())),
        };
        let served = made.and_then(|(listener, file)| {
            let register = || {
                Ok(OwnUser {
                    listener: UnixListener::from_std(listener)?,
                    user: geteuid().as_raw(),
                })
            };
            // A reader of the socket is no scraper.
            let on_scrape = Arc::new(|_| {});
            let stop = super::start("headcount-socket", register, state, on_scrape)
                .map_err(|error| format!("there is no control socket: {error}"))?;
            Ok(Server { file, stop })
        });
        match served {
            Ok(server) => self.server = Some(server),
            Err(warning) => {
                let warn = move || tracing::warn!(target: "headcount::control", "{warning}");
                start.output.log(warn);
            }
        }
        Ok(())
    }
}

// === impl OwnUser ===

impl OwnUser {
    /// Returns the process at the other end, or `None` if it is another user's. The kernel notes
    /// both when the process connects (unix(7), `SO_PEERCRED`).
    fn peer(&self, stream: &UnixStream) -> Option<Peer> {
        let peer = stream.peer_cred().ok()?;
        let is_allowed = peer.uid() == self.user || peer.uid() == 0;
        is_allowed.then(|| Peer::Process(peer.pid().unwrap_or(0)))
    }
}

impl Listener for OwnUser {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if let Some(peer) = self.peer(&stream) {
                return Ok((stream, peer));
            }
        }
    }
}
