//! An encoder of spans as OTLP bytes, which encodes what the tasks of a kind have in common once
//! and copies it from then on.
//!
//! The encoding of a protobuf message is the concatenation of its fields, in any order:
//! <https://protobuf.dev/programming-guides/encoding>. So a span is the cached bytes of its kind
//! and end, followed by the fields of the single task. Field numbers are those of
//! `opentelemetry/proto/trace/v1/trace.proto`.
//!
//! The layout of a request, where the head is written last:
//!
//! ```text
//! │ room │ 1: resource_spans │ resource │ 2: scope_spans │ scope │ 2: span │ 2: span │ …
//!        └────────────── head, of a known length ──────────────┘
//! ```
//!
//! A protobuf message states the length of a field before its content, so the length of all spans
//! is needed first. The head is therefore built in a buffer of its own and copied in front of the
//! spans. The unused bytes before it are sliced off, without a copy of the spans.
//!
//! Field order within a span differs from that of the schema, and cached and single fields are
//! repeated fields of one message. Every protobuf decoder accepts that; one that parses by position
//! would not.

use super::exemplars::Noting;
use super::pipe::Writing;
use super::record::{Moment, SpanEnd, SpanRecord, TaskRecord, flags, text};
use super::scope;
use crate::registry::clock;
use crate::registry::observer::Origin;
use hyper::body::Bytes;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::cell::RefCell;
use std::{mem, ptr};

/// The capacity, in bytes, that the buffer of one span keeps for the next.
///
/// A span with many log events may be larger than usual by far. Its memory must not stay with the
/// thread.
const KEPT: usize = 512 * 1024;
/// The expected size of a span, in bytes, to reserve the buffer of a request.
///
/// It is an estimate: a request that exceeds it grows its buffer.
const ABOUT: usize = 384;
/// The most bytes of a protobuf varint.
///
/// A varint has 7 bits in each byte, so 64 bits need 10.
const LONGEST_VARINT: usize = 10;

/// The cached bytes that many spans have in common, one cache per thread.
///
/// Only the exporting thread encodes outside of tests, so there is one cache in a process with one
/// exporter.
#[derive(Default)]
struct Shared {
    /// The buffer for one span. A span is built here because its length precedes it in the request.
    one: Vec<u8>,
    /// The cached bytes by kind and end; empty if not encoded yet. The registry bounds the number
    /// of kinds. An entry is written once and never changes, because kinds do not.
    kinds: Vec<[Vec<u8>; SpanEnd::COUNT]>,
    /// The thread of the previous span. Consecutive spans are mostly of one thread.
    thread: &'static str,
    /// The encoded attribute for that thread. It is one attribute; a repeated field may occur in
    /// several parts of a message.
    thread_bytes: Vec<u8>,
}

thread_local! {
    /// Borrowed for the whole of [`spans`], which does not call itself.
    static SHARED: RefCell<Shared> = RefCell::default();
}

/// Encodes the request that exports these spans, and notes their exemplars.
///
/// The order of the records is kept. It holds the lock of the exemplars throughout.
pub(super) fn spans(records: Vec<SpanRecord>, context: &Writing<'_>) -> Bytes {
    let scope = ScopeSpans {
        scope: Some(scope()),
        ..ScopeSpans::default()
    };
    let resource = ResourceSpans {
        resource: Some(context.resource.clone()),
        ..ResourceSpans::default()
    };
    let (scope, resource) = (scope.encode_to_vec(), resource.encode_to_vec());
    // The head contains the length of the spans. It is written last, into room that is left for it.
    let room = resource.len() + scope.len() + 2 * (1 + LONGEST_VARINT);
    SHARED.with_borrow_mut(|shared| {
        let mut request = Vec::with_capacity(room + records.len() * ABOUT);
        request.resize(room, 0);
        let mut exemplars = context.exemplars.lock();
        for record in records {
            shared.put(record, context.now, &mut exemplars, &mut request);
        }
        let scope_spans = scope.len() + request.len() - room;
        let mut before = Vec::with_capacity(room);
        let resource_spans = resource.len() + head_len(scope_spans) + scope_spans;
        put_head(1, resource_spans, &mut before);
        before.extend(resource);
        put_head(2, scope_spans, &mut before);
        before.extend(scope);
        let begin = room - before.len();
        request[begin..room].copy_from_slice(&before);
        Bytes::from(request).slice(begin..)
    })
}

/// Notes the task as an exemplar, if it has ended.
///
/// A lingering task has no duration yet, and is in no bucket of the histogram.
fn note(record: &TaskRecord, now: Moment, exemplars: &mut Noting<'_>) {
    if let SpanEnd::Ended(_) = record.end {
        let nanos = clock::nanos_between(record.started, record.ended);
        exemplars.note(record.kind, record.ids, nanos, now.unix(record.ended));
    }
}

// === impl Shared ===

impl Shared {
    /// Appends one span to the request.
    ///
    /// The buffer is taken out of `self` meanwhile, because the caches are borrowed too. If
    /// encoding panicked, the next span would start with an empty one.
    fn put(
        &mut self,
        record: SpanRecord,
        now: Moment,
        exemplars: &mut Noting<'_>,
        spans: &mut Vec<u8>,
    ) {
        let mut one = mem::take(&mut self.one);
        match record {
            SpanRecord::Task(record) => {
                note(&record, now, exemplars);
                self.task(record, now, &mut one);
            }
            SpanRecord::Made(data) => one.extend(Span::from(*data).encode_to_vec()),
            SpanRecord::Written(written) => one.extend(written.encode_to_vec()),
        }
        put_bytes(2, &one, spans);
        one.clear();
        one.shrink_to(KEPT);
        self.one = one;
    }

    /// Appends the fields of the span of a task.
    ///
    /// The numbers are those of the message `Span`: 1 trace id, 2 span id, 4 parent, 7 start, 8
    /// end, 9 attribute, 11 event, 16 flags.
    fn task(&mut self, mut record: TaskRecord, now: Moment, out: &mut Vec<u8>) {
        out.extend(self.of_kind(&record));
        if !record.thread.is_empty() {
            out.extend(self.of_thread(record.thread));
        }
        put_bytes(1, &record.ids.trace.to_be_bytes(), out);
        put_bytes(2, &record.ids.span.to_be_bytes(), out);
        let is_remote = match record.origin {
            Origin::Root(_) => false,
            Origin::Child(parent, is_remote) => {
                put_bytes(4, &parent.to_be_bytes(), out);
                is_remote
            }
        };
        put_fixed64(7, now.unix(record.started), out);
        put_fixed64(8, now.unix(record.ended), out);
        encode_key(16, WireType::ThirtyTwoBit, out);
        out.extend(flags(is_remote).to_le_bytes());
        put_id(record.id.get(), out);
        if record.rare.is_none() {
            for (name, at) in record.lifecycle() {
                put_event(name, now.unix(at), out);
            }
        } else {
            let events = record.all_events(now);
            put_part(
                &Span {
                    events,
                    ..Span::default()
                },
                out,
            );
        }
        if let Some(rare) = record.rare_parts() {
            put_part(&rare, out);
        }
    }

    /// Returns the bytes that are common to the kind and the end of a record.
    ///
    /// Encodes them at the first record of the kind with that end. Later records copy them.
    fn of_kind(&mut self, record: &TaskRecord) -> &[u8] {
        let number = record.kind.number as usize;
        if number >= self.kinds.len() {
            self.kinds.resize_with(number + 1, Default::default);
        }
        let known = &mut self.kinds[number][record.end.number()];
        if known.is_empty() {
            *known = record.shared().encode_to_vec();
        }
        known
    }

    /// Returns the bytes of the attribute `thread.name`.
    fn of_thread(&mut self, name: &'static str) -> &[u8] {
        // Thread names are leaked once each, so comparing addresses suffices.
        if !ptr::eq(self.thread, name) {
            self.thread = name;
            let attributes = vec![text("thread.name", name)];
            let span = Span {
                attributes,
                ..Span::default()
            };
            self.thread_bytes = span.encode_to_vec();
        }
        &self.thread_bytes
    }
}

/// Appends the fields of a span that has only some of them.
///
/// Default values are not written by protobuf, so the part does not override fields that are
/// already there; its repeated fields are appended to theirs.
fn put_part(part: &Span, out: &mut Vec<u8>) {
    out.extend(part.encode_to_vec());
}

/// Appends a field of bytes or text.
fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_head(field, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Returns the length of the key and the length prefix of a field with a number below 16.
///
/// Such a number fits into one byte together with the type of the field.
fn head_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64)
}

/// Appends the key and the length prefix of a field.
fn put_head(field: u32, len: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// Appends a field of 64 fixed bits.
fn put_fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(field, WireType::SixtyFourBit, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends the attribute `headcount.task.id`.
///
/// It is a `KeyValue` with an `AnyValue`, written by hand: the lengths of both are computed instead
/// of encoding them separately. An id above `i64::MAX` would be read as a negative number.
fn put_id(id: u64, out: &mut Vec<u8>) {
    const KEY: &[u8] = b"headcount.task.id";
    let value = 1 + encoded_len_varint(id);
    // A short field has one byte for its key and one for its length.
    put_head(9, (2 + KEY.len()) + (2 + value), out);
    put_bytes(1, KEY, out);
    put_head(2, value, out);
    encode_key(3, WireType::Varint, out);
    encode_varint(id, out);
}

/// Appends an event without attributes.
///
/// `name` must be shorter than 128 bytes, since its length is counted as one byte. All lifecycle
/// events are.
fn put_event(name: &str, unix: u64, out: &mut Vec<u8>) {
    put_head(11, (1 + size_of::<u64>()) + (2 + name.len()), out);
    put_fixed64(1, unix, out);
    put_bytes(2, name.as_bytes(), out);
}

#[cfg(test)]
mod tests {
    use super::super::exemplars::Exemplars;
    use super::super::record::{Rare, link};
    use super::*;
    use crate::registry::kind::{self, Options};
    use crate::registry::observer::Ids;
    use crate::task::{TaskId, TaskKind, TaskOutcome};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use std::panic::Location;

    fn record(id: u64, end: SpanEnd) -> TaskRecord {
        let options = Options::of(TaskKind::Async);
        let path = kind::intern_path(kind::ROOT_PATH, "encoded");
        let kind = kind::intern(path, "task", Location::caller(), &options, || "").kind;
        TaskRecord {
            ids: Ids {
                trace: u128::from(id),
                span: 7,
            },
            origin: Origin::Root(None),
            id: TaskId(id),
            kind,
            started: clock::raw(),
            polled: None,
            told: None,
            ended: clock::raw(),
            end,
            thread: "",
            rare: None,
        }
    }

    /// Decodes the request as a collector does, and returns its spans.
    fn read(records: Vec<TaskRecord>) -> Vec<Span> {
        let context = Writing {
            resource: &Resource::default(),
            now: Moment::now(),
            exemplars: &Exemplars::default(),
        };
        let bytes = spans(
            records.into_iter().map(SpanRecord::Task).collect(),
            &context,
        );
        let request = ExportTraceServiceRequest::decode(&*bytes).expect("it is a request");
        let [resource] = &*request.resource_spans else {
            panic!("one resource: {request:?}");
        };
        assert_eq!(resource.resource, Some(Resource::default()));
        let [scope] = &*resource.scope_spans else {
            panic!("one scope: {request:?}");
        };
        assert_eq!(
            scope.scope.as_ref().map(|scope| &*scope.name),
            Some("headcount")
        );
        scope.spans.clone()
    }

    fn attribute(span: &Span, key: &str) -> Vec<Value> {
        let of_key = span.attributes.iter().filter(|pair| pair.key == key);
        of_key
            .filter_map(|pair| pair.value.clone()?.value)
            .collect()
    }

    #[test]
    fn ids_and_names_of_any_length_survive_the_encoding() {
        let name: &'static str = "t".repeat(300).leak();
        for id in [1, 127, 128, 1 << 35, i64::MAX as u64] {
            let records = [name, "short", ""].map(|thread| TaskRecord {
                thread,
                ..record(id, SpanEnd::Ended(TaskOutcome::Completed))
            });
            let read = read(Vec::from(records));
            for (span, thread) in read.iter().zip([Some(name), Some("short"), None]) {
                let thread: Vec<_> = thread
                    .map(|name| Value::StringValue(name.into()))
                    .into_iter()
                    .collect();
                assert_eq!(attribute(span, "thread.name"), thread);
                assert_eq!(
                    attribute(span, "headcount.task.id"),
                    [Value::IntValue(id as i64)]
                );
                assert_eq!(span.trace_id, u128::from(id).to_be_bytes());
                assert_eq!(span.name, "task encoded/task");
            }
            assert_eq!(read.len(), 3);
        }
    }

    #[test]
    fn links_errors_and_parents_belong_to_their_own_span() {
        let cause = Ids { trace: 3, span: 4 };
        let completed = SpanEnd::Ended(TaskOutcome::Completed);
        let failed = SpanEnd::Ended(TaskOutcome::Failed);
        let records = vec![
            record(1, completed),
            TaskRecord {
                origin: Origin::Root(Some(cause)),
                ..record(2, completed)
            },
            TaskRecord {
                rare: Some(Box::new(Rare {
                    error: Some("no disk".into()),
                    ..Rare::default()
                })),
                origin: Origin::Child(9, true),
                ..record(3, failed)
            },
            record(4, completed),
        ];
        let read = read(records);
        let links: Vec<_> = read.iter().map(|span| span.links.clone()).collect();
        assert_eq!(links, [vec![], vec![link(cause)], vec![], vec![]]);
        let said = |span: &Span| span.status.clone().map(|status| status.message);
        let statuses: Vec<_> = read.iter().map(said).collect();
        assert_eq!(statuses, [None, None, Some("no disk".to_owned()), None]);
        let parents: Vec<_> = read.iter().map(|span| &*span.parent_span_id).collect();
        let none: &[u8] = &[];
        assert_eq!(parents, [none, none, &9_u64.to_be_bytes(), none]);
        let events: Vec<usize> = read
            .iter()
            .map(|span| span.events[0].attributes.len())
            .collect();
        assert_eq!(events, [0, 0, 1, 0]);
    }
}
