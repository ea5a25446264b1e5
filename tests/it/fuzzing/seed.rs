//! A small program with all that `headcount` reads of debug information, as the seed of a fuzz test.
//!
//! It is compiled without the standard library, so that the file has some kibibytes.

#![no_std]
#![no_main]

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

pub trait Load {
    fn load(&self) -> u32;
}

pub struct Db<const N: usize> {
    pub rows: [u32; N],
    pub next: Option<&'static Db<N>>,
}

impl<const N: usize> Load for Db<N> {
    fn load(&self) -> u32 {
        self.rows.iter().sum()
    }
}

pub enum Shape {
    Point,
    Line(u64),
    Area { width: u16, height: u16 },
}

pub union Word {
    pub number: u64,
    pub bytes: [u8; 8],
}

/// Waits once.
pub struct Once(bool);

impl Future for Once {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u32> {
        if core::mem::replace(&mut self.0, true) { Poll::Ready(1) } else { Poll::Pending }
    }
}

pub async fn outer(shape: Shape, load: &dyn Load) -> u32 {
    let first = inner(7_u64).await;
    let word = Word { number: 7 };
    let second = Once(false).await;
    first + second + load.load() + unsafe { word.number } as u32 + matches!(shape, Shape::Point) as u32
}

pub async fn inner<T>(kept: T) -> u32 {
    let number = Once(false).await;
    drop(kept);
    number
}

static DB: Db<3> = Db { rows: [1, 2, 3], next: None };

#[inline(never)]
pub fn poll<F: Future<Output = u32>>(future: Pin<&mut F>) -> u32 {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(number) => number,
        Poll::Pending => 0,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let shape = Shape::Area { width: 1, height: 2 };
    let mut future = core::pin::pin!(outer(shape, &DB));
    loop {
        core::hint::black_box(poll(future.as_mut()));
        core::hint::black_box(Shape::Line(1));
    }
}

/// The core library refers to it, although nothing unwinds.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}
