//! States and outcomes of tasks, exact in every race, and what the report makes of them.

mod budgets;
mod counters;
mod ends;
mod groups;
mod names;
mod order;
mod panics;
mod required;
mod starts;
