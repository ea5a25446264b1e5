//! Tests of the states and outcomes of tasks, exact in every race, and of their place in the
//! report.

mod budgets;
mod counters;
mod ends;
mod groups;
mod names;
mod order;
mod panics;
mod required;
mod starts;
mod turns;
