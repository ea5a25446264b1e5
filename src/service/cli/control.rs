//! `headcount start`, `restart`, `stop`, `drain` and `cancel`, and `dump` of a service of headcount:
//! requests to the control socket of another process.
//!
//! A socket is used only if the kernel says that the process listens on it. A command waits at most
//! [`PATIENCE`] for the answer; the service carries a request out even if its client is gone.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::http_client::{Connection, Failure};
use crate::runtime::control_sockets;
use crate::text::{plain, plain_lines};

/// The longest wait for an answer. The service answers a drain or a cancel after at most 4 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer. A dump has at most some thousand rows.
const LARGEST: usize = 64 * 1024 * 1024;

/// The options of `stop`.
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    /// Service to stop, or that runs the process
    pid: u32,
    /// Stop only this process, which the service then leaves stopped
    #[arg(value_name = "NAME")]
    process: Option<String>,
}

/// The options of `start` and `restart`.
#[derive(Debug, clap::Args)]
pub(super) struct Child {
    /// Service that runs the process
    pid: u32,
    /// Name of the process in the configuration
    #[arg(value_name = "NAME")]
    process: String,
}

/// The options of `drain` and `cancel`.
#[derive(Debug, clap::Args)]
pub(super) struct Group {
    /// Process that has the group
    pid: u32,
    /// Path of the group, such as `http/tls`
    group: String,
}

/// The reason why there is no answer, as a sentence.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// There is no socket to ask.
    NoSocket(String),
    /// The socket did not answer, or not as it should.
    Failed(String),
}

/// Runs `headcount stop`, and returns its output. An error is a sentence.
pub(super) fn stop(arguments: &Stop) -> Result<String, String> {
    let pid = arguments.pid;
    if let Some(process) = &arguments.process {
        return child("stop", pid, process);
    }
    let (_, answer) = ask_json(pid, "/stop")?;
    Ok(match answer["begun"] {
        Value::Bool(false) => format!("process {pid}: a shutdown had begun before\n"),
        _ => format!("process {pid}: the shutdown has begun\n"),
    })
}

/// Runs `headcount start`, and returns its output. An error is a sentence.
pub(super) fn start(arguments: &Child) -> Result<String, String> {
    child("start", arguments.pid, &arguments.process)
}

/// Runs `headcount restart`, and returns its output. An error is a sentence.
pub(super) fn restart(arguments: &Child) -> Result<String, String> {
    child("restart", arguments.pid, &arguments.process)
}

/// Asks for a verb about one child process. It is an error if that is not done before the answer.
fn child(verb: &str, pid: u32, process: &str) -> Result<String, String> {
    let path = format!("/{verb}?process={}", encoded(process));
    let (_, answer) = ask_json(pid, &path)?;
    let text = |key: &str| answer[key].as_str().map(|text| plain(text).into_owned());
    let process = text("process").unwrap_or_default();
    match text("outcome") {
        Some(outcome) => Ok(format!("process {pid}: {process}: {outcome}\n")),
        None => {
            let state = text("state").unwrap_or_default();
            Err(format!(
                "process {pid}: {process}: it is {state}; the {verb} goes on"
            ))
        }
    }
}

/// Runs `headcount drain`, and returns its output. An error is a sentence, also if tasks are left.
pub(super) fn drain(arguments: &Group) -> Result<String, String> {
    end(arguments, "drain")
}

/// Runs `headcount cancel`, and returns its output. An error is a sentence, also if tasks are left.
pub(super) fn cancel(arguments: &Group) -> Result<String, String> {
    end(arguments, "cancel")
}

fn end(Group { pid, group }: &Group, verb: &str) -> Result<String, String> {
    let path = format!("/{verb}?group={}", encoded(group));
    let (status, answer) = ask_json(*pid, &path)?;
    let count = |key: &str| answer[key].as_u64().unwrap_or_default();
    let (before, left) = (count("before"), count("left"));
    let group = plain(group);
    let of = match count("groups") {
        0 | 1 => format!("group '{group}'"),
        groups => format!("{groups} groups '{group}'"),
    };
    match status {
        StatusCode::OK => Ok(format!(
            "process {pid}: {of}: no task is left of {before}\n"
        )),
        _ => Err(format!(
            "process {pid}: {of}: {left} left of {before} tasks; the {verb} goes on"
        )),
    }
}

/// Returns the dump that the process takes of itself, as text or JSON.
pub(super) fn dump(pid: u32, json: bool) -> Result<String, Unanswered> {
    let form = if json { "json" } else { "text" };
    let path = format!("/api/dump?format={form}");
    let (status, body) = ask(pid, Method::GET, &path)?;
    let text = String::from_utf8_lossy(&body);
    if status != StatusCode::OK {
        return Err(Unanswered::Failed(refusal(pid, &text)));
    }
    Ok(match text.strip_prefix('{').filter(|_| json) {
        Some(rest) => format!("{{\"by\":\"control socket\",{rest}\n"),
        None => {
            let text = plain_lines(&text, false);
            format!("pid {pid}, read by the control socket\n\n{text}")
        }
    })
}

/// Asks for something, and returns the status and the answer. An error is a sentence.
fn ask_json(pid: u32, path: &str) -> Result<(StatusCode, Value), String> {
    let (status, body) = ask(pid, Method::POST, path).map_err(|unanswered| match unanswered {
        Unanswered::NoSocket(why) | Unanswered::Failed(why) => why,
    })?;
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        return Err(refusal(pid, &text));
    }
    let answer = serde_json::from_str(&text);
    let answer = answer.map_err(|error| format!("process {pid} answers no JSON: {error}"))?;
    Ok((status, answer))
}

/// Returns the reason in an error answer, with the groups or processes that exist if it has them.
pub(super) fn refusal(pid: u32, answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    let why = answer["error"].as_str().unwrap_or("refused");
    let known = ["groups", "processes"].iter().find_map(|what| {
        let names = answer[what].as_array()?;
        let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        let more = answer["more"].as_u64().filter(|more| *more > 0);
        let more = more.map(|more| format!("{more} more"));
        names.extend(more.as_deref());
        Some(match names.as_slice() {
            [] => format!("; it has no {what}"),
            names => format!("; its {what}: {}", names.join(", ")),
        })
    });
    let why = format!("process {pid}: {why}{}", known.unwrap_or_default());
    plain(&why).into_owned()
}

/// Returns the answer to a request that reads something. Waits at most `patience` for it.
pub(super) fn read<T: DeserializeOwned>(
    pid: u32,
    path: &str,
    patience: Duration,
) -> Result<T, Unanswered> {
    let (status, body) = ask_within(pid, Method::GET, path, patience)?;
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&body);
        return Err(Unanswered::Failed(refusal(pid, &text)));
    }
    serde_json::from_slice(&body).map_err(|error| {
        let why = format!("process {pid} answers {path} in an unknown form: {error}");
        Unanswered::Failed(why)
    })
}

/// Sends a request to the process, and returns the status and the body of its answer.
pub(super) fn ask(pid: u32, method: Method, path: &str) -> Result<(StatusCode, Bytes), Unanswered> {
    ask_within(pid, method, path, PATIENCE)
}

/// Sends a request to the process, and waits at most `patience` for its answer.
fn ask_within(
    pid: u32,
    method: Method,
    path: &str,
    patience: Duration,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let failed = |why: String| Unanswered::Failed(format!("process {pid}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Full::default())
        .map_err(|error| failed(error.to_string()))?;
    let work = async {
        let stream = connect(pid).await?;
        exchange(stream, request).await.map_err(failed)
    };
    // The timer is made within the runtime.
    let asked = runtime.block_on(async { timeout(patience, work).await });
    asked.unwrap_or_else(|_| {
        let seconds = patience.as_secs_f64();
        Err(failed(format!(
            "its control socket has not answered within {seconds} s"
        )))
    })
}

async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let connection = Connection::over(stream).await;
    let mut connection = connection.map_err(|failure| broken(&failure))?;
    let answer = connection.send(request).await;
    let answer = answer.map_err(|unanswered| broken(&unanswered.failure))?;
    let status = answer.status();
    let body = connection.read(answer.into_body(), LARGEST).await;
    Ok((status, body.map_err(|error| error.to_string())?))
}

/// Returns the words for an exchange that failed.
fn broken(failure: &Failure) -> String {
    match failure {
        Failure::Http(error) => format!("its control socket answers no HTTP: {error}"),
        _ => "the connection to its control socket failed".to_owned(),
    }
}

/// Connects to the control socket of the process.
async fn connect(pid: u32) -> Result<UnixStream, Unanswered> {
    let paths = control_sockets(pid);
    let mut tried = Vec::new();
    for path in &paths {
        match connect_to(path, pid).await {
            Ok(stream) => return Ok(stream),
            Err(why) => tried.push(format!("{}: {why}", path.display())),
        }
    }
    let proc = Path::new("/proc");
    if proc.join("self").exists() && !proc.join(pid.to_string()).exists() {
        return Err(Unanswered::NoSocket(format!("there is no process {pid}")));
    }
    Err(Unanswered::NoSocket(format!(
        "process {pid} has no control socket ({})",
        tried.join("; ")
    )))
}

/// Connects to a socket, and checks that the process listens on it. Another one may have the path.
async fn connect_to(path: &Path, pid: u32) -> Result<UnixStream, String> {
    let stream = UnixStream::connect(path).await.map_err(|error| {
        let word = match error.kind() {
            io::ErrorKind::NotFound => "there is no file",
            io::ErrorKind::ConnectionRefused => "no process listens",
            _ => return error.to_string(),
        };
        word.to_owned()
    })?;
    let peer = stream.peer_cred().map_err(|error| error.to_string())?;
    match peer.pid().map(i32::cast_unsigned) {
        Some(other) if other != pid => Err(format!("process {other} listens")),
        _ => Ok(stream),
    }
}

/// Encodes a value of a query (RFC 3986, section 2.1).
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
