//! The standard's conformance features, run through the public interface.
fn main() {}
