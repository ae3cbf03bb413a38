//! The capture alone, on the running kernel: labelled programs arrive here, others do not.

#[path = "kernel/approvals.rs"]
mod approvals;
#[path = "kernel/exec.rs"]
mod exec;
#[path = "kernel/flows.rs"]
mod flows;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/options.rs"]
mod options;
#[path = "kernel/sweep.rs"]
mod sweep;
