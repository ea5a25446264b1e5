//! Tests of the OTLP push: spans, log records and metrics of the report, as a collector receives
//! them.

mod bad;
mod logs;
mod sink;
mod spans;
