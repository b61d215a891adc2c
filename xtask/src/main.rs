//! The one door for automation: `cargo xtask test|tidy|bench|ctk`.
fn main() {}
