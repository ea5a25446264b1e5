//! Tasks that wait in many ways. Each line with a mark is where one of them waits, and the mark says
//! what for, as `headcount tree` has to say it.
//!
//! It prints its pid once all tasks are spawned.

use std::future::{Future, pending, poll_fn};
use std::ops::AsyncFnOnce;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use tokio::sync::{
    Barrier, Mutex, Notify, OnceCell, RwLock, Semaphore, broadcast, mpsc, oneshot, watch,
};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{interval, sleep, timeout};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

tokio::task_local! {
    static NAME: u32;
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    for task in locks()
        .into_iter()
        .chain(channels())
        .chain(shapes())
        .chain(sockets())
    {
        tokio::spawn(task);
    }
    println!("{}", std::process::id());
    pending::<()>().await;
}

fn locks() -> Vec<Boxed<()>> {
    vec![
        Box::pin(mutex()),
        Box::pin(read_lock()),
        Box::pin(write_lock()),
        Box::pin(semaphore()),
        Box::pin(barrier()),
        Box::pin(notify()),
        Box::pin(once()),
    ]
}

fn channels() -> Vec<Boxed<()>> {
    vec![
        Box::pin(oneshot_channel()),
        Box::pin(bounded()),
        Box::pin(full()),
        Box::pin(unbounded()),
        Box::pin(change()),
        Box::pin(news()),
        Box::pin(Inbox::new().run()),
        Box::pin(closed()),
    ]
}

fn shapes() -> Vec<Boxed<()>> {
    vec![
        Box::pin(handle()),
        Box::pin(blocking()),
        Box::pin(set()),
        Box::pin(timer()),
        Box::pin(tick()),
        Box::pin(limited()),
        Box::pin(selects()),
        Box::pin(selects_a_part()),
        Box::pin(selects_in_order()),
        Box::pin(joins()),
        Box::pin(boxed()),
        Box::pin(nested(3)),
        Box::pin(method()),
        Box::pin(by_hand()),
        Box::pin(several()),
        Box::pin(local()),
        Box::pin(unlimited()),
        Box::pin(closure()),
        Box::pin(polled()),
        Box::pin(generic(7_u64)),
        Box::pin(keeps()),
        Box::pin(blocks()),
        Box::pin(deep(500)),
        Box::pin(crowd()),
    ]
}

fn sockets() -> Vec<Boxed<()>> {
    vec![
        Box::pin(accepts()),
        Box::pin(reads()),
        Box::pin(writes()),
        Box::pin(datagram()),
        Box::pin(unix()),
        Box::pin(input()),
        Box::pin(child()),
        Box::pin(output()),
    ]
}

async fn mutex() {
    let lock = Mutex::new(0);
    let _held = lock.lock().await;
    let _second = lock.lock().await; // mark: a Mutex, perhaps held by task
}

async fn read_lock() {
    let lock = RwLock::new(0);
    let _held = lock.write().await;
    let _second = lock.read().await; // mark: an RwLock, perhaps held by task
}

async fn write_lock() {
    let lock = RwLock::new(0);
    let _held = lock.read().await;
    let _second = lock.write().await; // mark: an RwLock, perhaps held by task
}

async fn semaphore() {
    let permits = Semaphore::new(3);
    let _held = permits.acquire_many(2).await;
    let _more = permits.acquire_many(2).await; // mark: a permit of a Semaphore (
}

async fn barrier() {
    Barrier::new(2).wait().await; // mark: a Barrier
}

async fn notify() {
    Notify::new().notified().await; // mark: a Notify
}

async fn once() {
    let cell = OnceCell::new();
    cell.get_or_init(pending::<u32>).await; // mark: nothing (it is pending for ever)
}

async fn oneshot_channel() {
    let (_sender, receiver) = oneshot::channel::<u8>();
    receiver.await.ok(); // mark: a oneshot channel of u8, perhaps from task
}

async fn bounded() {
    let (_sender, mut receiver) = mpsc::channel::<String>(1);
    receiver.recv().await; // mark: a message in a channel of String, with 1 sender
}

async fn full() {
    let (sender, _receiver) = mpsc::channel::<u8>(1);
    sender.send(1).await.ok();
    sender.send(2).await.ok(); // mark: room in a bounded channel
}

async fn unbounded() {
    let (_sender, mut receiver) = mpsc::unbounded_channel::<u8>();
    let _second = _sender.clone();
    receiver.recv().await; // mark: a message in a channel of u8, with 2 senders
}

async fn closed() {
    let (sender, _receiver) = mpsc::channel::<u8>(1);
    sender.closed().await; // mark: a channel to be closed
}

async fn change() {
    let (_sender, mut receiver) = watch::channel(0);
    receiver.changed().await.ok(); // mark: a change in a watch channel
}

async fn news() {
    let (_sender, mut receiver) = broadcast::channel::<u8>(1);
    receiver.recv().await.ok(); // mark: a message in a broadcast channel
}

struct Inbox {
    _sender: mpsc::Sender<u16>,
    receiver: mpsc::Receiver<u16>,
}

impl Inbox {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Self {
            _sender: sender,
            receiver,
        }
    }

    async fn run(mut self) {
        while self.receiver.recv().await.is_some() {} // mark: a message in a channel of u16, with 1 sender
    }
}

async fn handle() {
    tokio::spawn(pending::<()>()).await.ok(); // mark: a JoinHandle of task
}

async fn blocking() {
    let park = || loop {
        std::thread::park();
    };
    tokio::task::spawn_blocking(park).await.ok(); // mark: a JoinHandle
}

async fn set() {
    let mut tasks = JoinSet::new();
    tasks.spawn(pending::<()>());
    tasks.join_next().await; // mark: a task of a JoinSet of task
}

async fn timer() {
    sleep(DAY).await; // mark: a timer, due in 23h59m
}

async fn tick() {
    let mut ticks = interval(DAY);
    ticks.tick().await;
    ticks.tick().await; // mark: the next tick of an interval, due in 23h59m
}

async fn limited() {
    let (_sender, receiver) = oneshot::channel::<u32>();
    timeout(DAY, receiver).await.ok(); // mark: a oneshot channel of u32
}

async fn selects() {
    let (_sender, mut receiver) = mpsc::channel::<i8>(1);
    tokio::select! { // mark: a message in a channel of i8, with 1 sender or a timer, due in 23h59m
        _ = receiver.recv() => {}
        () = sleep(DAY) => {}
    }
}

async fn selects_a_part() {
    let (notify, is_limited) = (Notify::new(), std::hint::black_box(false));
    let (_sender, mut receiver) = mpsc::channel::<[u8; 3]>(1);
    tokio::select! { // mark: a message in a channel of [u8; 3], with 1 sender
        biased;
        () = sleep(DAY), if is_limited => {}
        () = notify.notified(), if is_limited => {}
        _ = receiver.recv() => {}
    }
}

async fn selects_in_order() {
    let notify = Notify::new();
    loop {
        tokio::select! { // mark: a Notify
            biased;
            () = notify.notified() => {}
        }
    }
}

async fn joins() {
    let first = async {
        let (_sender, receiver) = oneshot::channel::<i16>();
        receiver.await.ok(); // mark: a oneshot channel of i16
    };
    let second = async {
        sleep(2 * DAY).await; // mark: a timer, due in 1d23h
    };
    tokio::join!(first, second);
}

async fn boxed() {
    let future: Boxed<()> = Box::pin(async {
        Notify::new().notified().await; // mark: a Notify
    });
    future.await;
}

async fn nested(levels: u32) {
    match levels {
        0 => sleep(3 * DAY).await, // mark: a timer, due in 2d23h
        levels => Box::pin(nested(levels - 1)).await,
    }
}

trait Load: Send + Sync {
    fn load(&self) -> Boxed<u32>;
}

struct Db;

impl Load for Db {
    fn load(&self) -> Boxed<u32> {
        Box::pin(async {
            let (_sender, receiver) = oneshot::channel::<u32>();
            receiver.await.unwrap_or_default() // mark: a oneshot channel of u32
        })
    }
}

async fn method() {
    let db: Arc<dyn Load> = Arc::new(Db);
    db.load().await;
}

/// A future that is written by hand around another one.
struct Around<F>(Option<Pin<Box<F>>>);

impl<F: Future> Future for Around<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.0
            .as_mut()
            .expect("it is polled before it ends")
            .as_mut()
            .poll(context)
    }
}

async fn by_hand() {
    Around(Some(Box::pin(around()))).await;
}

async fn around() {
    let (_sender, receiver) = oneshot::channel::<i32>();
    receiver.await.ok(); // mark: a oneshot channel of i32
}

/// A future that waits for all of a list.
struct All(Vec<Boxed<()>>);

impl Future for All {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let is_ready = |future: &mut Boxed<()>| future.as_mut().poll(context).is_ready();
        let ready = self
            .0
            .iter_mut()
            .map(is_ready)
            .filter(|ready| *ready)
            .count();
        if ready == self.0.len() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

async fn several() {
    All(vec![Box::pin(one_of_several()), Box::pin(one_of_several())]).await;
}

async fn one_of_several() {
    let (_sender, receiver) = oneshot::channel::<i64>();
    receiver.await.ok(); // mark: a oneshot channel of i64
}

async fn local() {
    NAME.scope(7, scoped()).await;
}

async fn scoped() {
    sleep(4 * DAY).await; // mark: a timer, due in 3d23h
}

async fn unlimited() {
    unconstrained(unlimited_inside()).await;
}

async fn unlimited_inside() {
    sleep(5 * DAY).await; // mark: a timer, due in 4d23h
}

async fn closure() {
    called(async |days| {
        sleep(days * DAY).await; // mark: a timer, due in 5d23h
    })
    .await;
}

async fn called(closure: impl AsyncFnOnce(u32)) {
    closure(6).await;
}

async fn polled() {
    let mut timer = Box::pin(sleep(7 * DAY));
    poll_fn(|context| timer.as_mut().poll(context)).await; // mark: a timer, due in 6d23h
}

async fn generic<T: Send>(value: T) {
    let _kept = value;
    sleep(8 * DAY).await; // mark: a timer, due in 7d23h
}

async fn keeps() {
    // Never polled, so it is not registered.
    let _kept = sleep(DAY);
    let mut polled = std::pin::pin!(sleep(2 * DAY));
    poll_fn(|context| Poll::Ready(polled.as_mut().poll(context).is_ready())).await;
    let (_sender, _receiver) = oneshot::channel::<u8>();
    Notify::new().notified().await; // mark: a Notify
}

/// More levels than a walk has.
async fn deep(levels: u32) {
    match levels {
        0 => pending().await,
        levels => Box::pin(deep(levels - 1)).await,
    }
}

/// More futures in one list than are looked at.
async fn crowd() {
    All((0..100)
        .map(|_| Box::pin(one_of_a_crowd()) as Boxed<()>)
        .collect())
    .await;
}

async fn one_of_a_crowd() {
    Notify::new().notified().await;
}

/// Blocks its worker: it runs, and waits for nothing that wakes a task.
async fn blocks() {
    let park = || std::thread::sleep(DAY); // runs: here
    park();
}

async fn accepts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.accept().await.ok(); // mark: a tcp connection to accept on 127.0.0.1:
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).await.expect("it listens");
    (client, listener.accept().await.expect("a client").0)
}

async fn reads() {
    let (mut client, _server) = pair().await;
    client.read_u8().await.ok(); // mark: tcp 127.0.0.1:
}

async fn writes() {
    let (mut client, _server) = pair().await;
    let bytes = vec![0; 1 << 26];
    client.write_all(&bytes).await.ok(); // mark: tcp 127.0.0.1:
}

async fn datagram() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    socket.recv(&mut [0]).await.ok(); // mark: udp on 127.0.0.1:
}

async fn unix() {
    let (mut client, _server) = UnixStream::pair().expect("sockets");
    client.read_u8().await.ok(); // mark: unix (no name) to be readable
}

async fn input() {
    tokio::io::stdin().read_u8().await.ok(); // mark: standard input
}

async fn child() {
    let mut child = cat();
    let _input = child.stdin.take();
    child.wait().await.ok(); // mark: child process
}

async fn output() {
    let mut child = cat();
    let _input = child.stdin.take();
    let mut output = child.stdout.take().expect("it is piped");
    output.read_u8().await.ok(); // mark: a pipe of a child process
}

/// Starts a process that waits for its input.
fn cat() -> tokio::process::Child {
    let mut command = tokio::process::Command::new("cat");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().expect("cat is installed")
}
