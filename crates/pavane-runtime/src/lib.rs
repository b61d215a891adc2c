//! The async shell of Pavane: it loads, decides, commits, and only then performs.
//!
//! Start reading at [`Engine`], the handle everybody else holds. It must not know a workflow rule: those are in
//! `pavane-core`. It must not know SQL: that is in `pavane-store`.

pub mod effects;
mod engine;
pub mod services;

pub use engine::*;
