//! An axum service with handlers that hang. It makes the requests itself, and prints its pid once all of them hang.
//!
//! It uses nothing of headcount: `headcount tree` has to find out from outside which handler hangs, and on what.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

struct App {
    stock: Mutex<u32>,
    entered: mpsc::Sender<()>,
    silent: std::net::SocketAddr,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let (entered, mut entries) = mpsc::channel(16);
    // A server that accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let app = Arc::new(App {
        stock: Mutex::new(0),
        entered,
        silent: silent.local_addr()?,
    });
    let keeper = tokio::spawn(keep_stock(Arc::clone(&app)));
    entries.recv().await;
    let paths = ["quote", "stock", "either", "slow", "several"];
    let routes = Router::new()
        .route("/quote", get(quote))
        .route("/stock", get(stock))
        .route("/either", get(either))
        .route("/slow", get(slow))
        .route("/several", get(several))
        .with_state(Arc::clone(&app));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let mut clients = Vec::new();
    for path in paths {
        let mut client = TcpStream::connect(address).await?;
        let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.write_all(request.as_bytes()).await?;
        clients.push(client);
        entries.recv().await;
    }
    println!("{}", std::process::id());
    server.await.expect("the server does not panic")?; // mark: main
    drop((clients, keeper, silent));
    Ok(())
}

/// Holds the lock of the stock for ever.
async fn keep_stock(app: Arc<App>) {
    let _stock = app.stock.lock().await;
    app.entered.send(()).await.expect("main receives");
    pending::<()>().await; // mark: keeper
}

/// Waits for an answer of a task that waits for a server.
async fn quote(State(app): State<Arc<App>>) -> String {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(fetch(app, sender));
    let price: u32 = receiver.await.unwrap_or_default(); // mark: quote
    price.to_string()
}

async fn fetch(app: Arc<App>, answer: oneshot::Sender<u32>) {
    let mut server = TcpStream::connect(app.silent).await.expect("it listens");
    app.entered.send(()).await.expect("main receives");
    let price = server.read_u32().await.unwrap_or_default(); // mark: fetch
    answer.send(price).ok();
}

/// Waits for a lock that another task holds.
async fn stock(State(app): State<Arc<App>>) -> String {
    app.entered.send(()).await.expect("main receives");
    let stock = app.stock.lock().await; // mark: stock
    stock.to_string()
}

/// Waits for one of two channels.
async fn either(State(app): State<Arc<App>>) -> String {
    let (_kept, first) = oneshot::channel::<u32>();
    let (_sender, mut second) = mpsc::channel::<u32>(1);
    app.entered.send(()).await.expect("main receives");
    tokio::select! { // mark: either
        first = first => first.unwrap_or_default().to_string(),
        second = second.recv() => second.unwrap_or_default().to_string(),
    }
}

/// Waits for a timer within a timeout.
async fn slow(State(app): State<Arc<App>>) -> String {
    app.entered.send(()).await.expect("main receives");
    let day = Duration::from_secs(24 * 60 * 60);
    let slept = tokio::time::timeout(2 * day, tokio::time::sleep(day)).await; // mark: slow
    format!("{slept:?}")
}

/// Waits for tasks of its own.
async fn several(State(app): State<Arc<App>>) -> String {
    let mut tasks = JoinSet::new();
    tasks.spawn(pending::<()>());
    tasks.spawn(pending::<()>());
    app.entered.send(()).await.expect("main receives");
    tasks.join_next().await; // mark: several
    String::new()
}
