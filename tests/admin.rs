//! The admin pages and the logs: what they say is what happened, and nobody can hurt a server through them.

mod cli_support;

#[path = "admin/exposition.rs"]
mod exposition;
#[path = "admin/hostile.rs"]
mod hostile;
#[path = "admin/logs.rs"]
mod logs;
#[path = "admin/pages.rs"]
mod pages;
#[path = "admin/served.rs"]
mod served;
#[path = "admin/support.rs"]
mod support;
#[path = "admin/weights.rs"]
mod weights;
