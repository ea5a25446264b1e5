//! Programs that use common libraries and shut down cleanly: their reports must contain no
//! findings.
//!
//! `innocent NAME` prints "ready" when the library has done its work, and SIGTERM stops it.

mod other_runtime;

use headcount::{Report, Runtime, TaskGroup};
use std::process::{ExitCode, Termination};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Long enough to symbolize in a debug build on a busy machine; expected threads end the layer
/// early.
const AMPLE: Duration = Duration::from_secs(30);

/// Short, because the remaining threads do not end.
const SHORT: Duration = Duration::from_millis(300);

/// Kept until the process ends, as services do.
static KEPT: OnceLock<Box<dyn Send + Sync>> = OnceLock::new();

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let report = match name.as_str() {
        "rayon" => run(AMPLE, rayon_pool),
        "rayon-in-use" => run(SHORT, rayon_job),
        "tracing-appender" => run(AMPLE, tracing_appender_worker),
        "reqwest" => run(AMPLE, reqwest_client),
        "notify" => run(AMPLE, notify_watcher),
        "postgres" => run(AMPLE, postgres),
        "other-runtime" => run(AMPLE, other_runtime::in_a_static),
        "local-pool" => run(AMPLE, other_runtime::local_pool),
        "local-pool-in-use" => run(SHORT, other_runtime::local_pool_at_work),
        "own-local-runtime" => run(SHORT, other_runtime::on_an_own_thread),
        "other-runtime-in-use" => run(SHORT, other_runtime::at_work),
        other => panic!("no program '{other}'"),
    };
    report.report()
}

fn run(close: Duration, main: impl AsyncFnOnce(TaskGroup)) -> Report {
    let runtime = Runtime::builder()
        .name("innocent")
        .worker_threads(2)
        .drain_budget(AMPLE)
        .cancel_budget(AMPLE)
        .close_budget(close)
        .build()
        .expect("the system has threads");
    runtime.run(async |tasks| {
        let group = tasks.clone();
        main(tasks).await;
        println!("ready");
        group.draining().await;
    })
}

fn keep(what: impl Send + Sync + 'static) {
    assert!(KEPT.set(Box::new(what)).is_ok(), "one is kept");
}

async fn rayon_pool(tasks: TaskGroup) {
    let sums = tasks.spawn_blocking("sum", || {
        rayon::join(|| (0..1000).sum::<u64>(), || (0..2000).sum::<u64>())
    });
    assert_eq!(sums.await.expect("it ends"), (499_500, 1_999_000));
}

async fn rayon_job(_tasks: TaskGroup) {
    let (begun, begins) = tokio::sync::oneshot::channel();
    rayon::spawn(|| resize_images(begun));
    begins.await.expect("it begins");
}

fn resize_images(begun: tokio::sync::oneshot::Sender<()>) {
    begun.send(()).expect("the receiver waits");
    std::thread::sleep(Duration::from_secs(24 * 60 * 60)); // mark: at work in rayon
}

async fn tracing_appender_worker(_tasks: TaskGroup) {
    let (writer, guard) = tracing_appender::non_blocking(std::io::sink());
    tracing_subscriber::fmt().with_writer(writer).init();
    tracing::info!("begun");
    keep(guard);
}

/// Answers one request, on a thread of the runtime.
async fn serve_one(listener: TcpListener) {
    let (mut client, _) = listener.accept().await.expect("a client connects");
    let mut request = [0; 1024];
    let length = client.read(&mut request).await.expect("loopback");
    assert!(request[..length].starts_with(b"GET / "));
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    client.write_all(answer).await.expect("loopback");
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

async fn reqwest_client(tasks: TaskGroup) {
    let (listener, port) = listen().await;
    tasks.spawn("server", serve_one(listener));
    // A host name, so that the client's own runtime resolves it on its blocking pool.
    let ask = tasks.spawn_blocking("ask", move || {
        let client = reqwest::blocking::Client::new();
        let answer = client.get(format!("http://localhost:{port}/")).send();
        let text = answer.and_then(reqwest::blocking::Response::text);
        assert_eq!(text.expect("it is answered"), "ok");
        client
    });
    keep(ask.await.expect("it is answered"));
}

async fn notify_watcher(_tasks: TaskGroup) {
    use notify::Watcher;
    let mut watcher = notify::recommended_watcher(|_| {}).expect("inotify");
    watcher
        .watch(
            std::path::Path::new("."),
            notify::RecursiveMode::NonRecursive,
        )
        .expect("the folder is there");
    keep(watcher);
}

/// Serves just enough of PostgreSQL for a client to connect: protocol 3.0, no password, and one
/// empty query.
async fn serve_postgres(mut client: TcpStream) {
    let length = client.read_u32().await.expect("a startup message");
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await.expect("loopback");
    let authenticated = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];
    let ready = [b'Z', 0, 0, 0, 5, b'I'];
    client.write_all(&authenticated).await.expect("loopback");
    client.write_all(&ready).await.expect("loopback");
    let mut query = [0; 6];
    client.read_exact(&mut query).await.expect("a query");
    assert_eq!(query, [b'Q', 0, 0, 0, 5, 0]);
    let empty = [b'I', 0, 0, 0, 4];
    client.write_all(&empty).await.expect("loopback");
    client.write_all(&ready).await.expect("loopback");
    // Runs until the client disconnects.
    client.read_to_end(&mut Vec::new()).await.ok();
}

async fn postgres(tasks: TaskGroup) {
    let (listener, port) = listen().await;
    tasks.spawn("server", async move {
        let (client, _) = listener.accept().await.expect("the client comes");
        serve_postgres(client).await;
    });
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(port)
        .user("innocent")
        .connect(tokio_postgres::NoTls)
        .await
        .expect("it is accepted");
    // The connection ends with its client.
    tasks.spawn("connection", async move {
        connection.await.expect("it is closed in order");
    });
    client.batch_execute("").await.expect("it is answered");
    let group = tasks.clone();
    tasks.spawn("queries", async move {
        group.draining().await;
        drop(client);
    });
}
