//! Cost of spans for tasks, compared with tracing-opentelemetry.

use crate::{
    collector,
    harness::{Scale, Variant, interleave},
    headcount::Owned,
    peers::{self, BARE, BARE_AGAIN, Bare, Peer, drive, spawn_and_join},
    rounds::BATCH,
    table::{Limit, Row, Section, Unit},
};
use headcount::telemetry::Telemetry;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::task::JoinHandle;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument as _, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

const PLAIN: &str = "headcount, no telemetry";
const FEW: &str = "headcount, 1 % and bad outcomes";
const ALL: &str = "headcount, everything exported";
const SENT: &str = "headcount, exported to a local collector";
const CHILD: &str = "headcount, 1 %, a user span in each task";
const ALWAYS: &str = "tracing-opentelemetry, always on";
const RATIO: &str = "tracing-opentelemetry, 1 %";
/// Divides the number of tasks for tracing-opentelemetry, which takes many times as long.
const ORDINARY_SHARE: usize = 4;

/// Number of the subscriber's layer that receives spans.
static LISTENS: AtomicU8 = AtomicU8::new(0);

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    vec![one(scale, 0), one(scale, 10)]
}

fn one(scale: &Scale, yields: usize) -> Section {
    let total = (scale.spawned / if yields == 0 { 1 } else { 4 }).max(BATCH);
    let mut variants = variants(total, yields);
    let rows = interleave(&mut variants, scale.repetitions)
        .into_iter()
        .map(|(name, samples)| {
            let share = if name == ALWAYS || name == RATIO {
                ORDINARY_SHARE
            } else {
                1
            };
            Row::new((name, samples.per((total / share).max(BATCH))))
        });
    let section = Section {
        title: format!("Spans, 2 workers, {yields} yields"),
        unit: Unit::Nanoseconds,
        note: "Per task. Nothing is dropped. Spans are encoded as OTLP and discarded, or, in the row with a local \
               collector, sent to a thread of this process, which competes for the same cores.",
        rows: rows.collect(),
    };
    let (few, all) = if yields == 0 {
        (1.25, 2.2)
    } else {
        (1.15, 1.7)
    };
    let section = section
        .limit(FEW, &[Limit::Ratio(few)])
        .limit(ALL, &[Limit::Ratio(all)]);
    if yields == 0 {
        section.limit(CHILD, &[Limit::Ratio(2.0)])
    } else {
        section
    }
}

fn variants(total: usize, yields: usize) -> Vec<Variant> {
    let collector = collector::healthy();
    let child = child(collector);
    let bare = |name| {
        Variant::new(name, move || {
            drive(&peers::pool(2), spawn_and_join(Bare, total, yields))
        })
    };
    let owned = |name, ratio: Option<f64>, is_sent: bool| {
        Variant::new(name, move || {
            let telemetry = ratio.map(|ratio| telemetry(collector, ratio, 2 * total, is_sent));
            let owned = Owned::with_telemetry(2, telemetry.as_ref());
            owned.drive(spawn_and_join(owned.tasks(), total, yields))
        })
    };
    let with_child = Variant::new(CHILD, move || {
        LISTENS.store(1, Ordering::SeqCst);
        let owned = Owned::with_telemetry(2, Some(&child));
        let took = owned.drive(spawn_and_join(InSpan(owned.tasks()), total, yields));
        LISTENS.store(0, Ordering::SeqCst);
        took
    });
    let ordinary = |name, listens| {
        Variant::new(name, move || {
            LISTENS.store(listens, Ordering::SeqCst);
            let total = (total / ORDINARY_SHARE).max(BATCH);
            let took = drive(&peers::pool(2), spawn_and_join(Instrumented, total, yields));
            LISTENS.store(0, Ordering::SeqCst);
            took
        })
    };
    vec![
        bare(BARE),
        bare(BARE_AGAIN),
        owned(PLAIN, None, false),
        owned(FEW, Some(0.01), true),
        owned(ALL, Some(1.0), false),
        owned(SENT, Some(1.0), true),
        with_child,
        ordinary(ALWAYS, 2),
        ordinary(RATIO, 3),
    ]
}

fn telemetry(collector: SocketAddr, ratio: f64, queue: usize, is_sent: bool) -> Telemetry {
    let telemetry = Telemetry::builder()
        .endpoint(&format!("http://{collector}"))
        .sample_ratio(ratio)
        .queue(queue);
    let telemetry = match is_sent {
        true => telemetry,
        false => telemetry.discard(),
    };
    telemetry.build().expect("the address is one")
}

/// Installs the subscriber of the process, and returns the telemetry of its first layer.
fn child(collector: SocketAddr) -> Telemetry {
    static MADE: OnceLock<Telemetry> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let telemetry = telemetry(collector, 0.01, 2048, true);
        let subscriber = tracing_subscriber::registry()
            .with(only(1, telemetry.layer()))
            .with(only(2, ordinary(Sampler::AlwaysOn)))
            .with(only(3, ordinary(Sampler::TraceIdRatioBased(0.01))));
        tracing::subscriber::set_global_default(subscriber).expect("it is the first");
        telemetry
    });
    made.clone()
}

fn only<S>(number: u8, layer: impl Layer<S>) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // Without the level hint, tokio would create its own spans in every variant, although their
    // level is disabled.
    let listens =
        move |_: &Metadata<'_>, _: &Context<'_, S>| LISTENS.load(Ordering::Relaxed) == number;
    layer.with_filter(dynamic_filter_fn(listens).with_max_level_hint(LevelFilter::INFO))
}

fn ordinary<S>(sampler: Sampler) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Nowhere)
        .with_sampler(sampler)
        .build();
    tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"))
}

/// An exporter that discards everything.
#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

/// Spawns a bare task in a span.
struct Instrumented;

impl Peer for Instrumented {
    type Handle = JoinHandle<()>;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        Bare.spawn(task.instrument(tracing::info_span!("task")))
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        Bare.join(handles).await;
    }
}

/// Spawns a peer's task with a user span in it.
struct InSpan<P>(P);

impl<P: Peer> Peer for InSpan<P> {
    type Handle = P::Handle;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        self.0
            .spawn(async move { task.instrument(tracing::info_span!("work")).await })
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        self.0.join(handles).await;
    }
}
