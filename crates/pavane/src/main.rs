//! The `pavane` binary.
fn main() {}
