//! What is pushed to a collector: spans, log records and the numbers of the report, as a collector gets them.

mod bad;
mod logs;
mod sink;
mod spans;
