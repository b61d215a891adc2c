//! What each kind of task does; one file a kind. `do` and `set` are one line each in [`super::machine`].

mod call;
mod emit;
mod for_;
mod fork;
mod listen;
mod raise;
mod run;
mod switch;
mod try_;
mod wait;
