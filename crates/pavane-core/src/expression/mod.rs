//! jq runtime expressions: compiled once at deploy, run with a budget.

mod allocator;
mod budget;
mod filter;
mod functions;
mod guard;
mod plain;
mod schema;
mod template;

pub use allocator::Counting;
pub use filter::{CompileError, Expression, Fault, check_syntax};
pub use schema::{Schema, Violation};
pub use template::Template;

use crate::time::Timestamp;
use crate::value::Value;

/// What an expression may name: the standard's arguments and the variables in scope. Asked only for what the
/// expression really names, so that nothing is built in vain.
pub trait Arguments {
    /// The value of `$name` (given without `$`). A name that passed compilation but has no value here is a fault.
    ///
    /// # Errors
    /// A [`Fault`] that says why the argument is not to be had, such as a secret that is denied.
    fn get(&self, name: &str) -> Result<Value, Fault>;

    /// The recorded time of the step: what jq's `now` gives.
    fn now(&self) -> Timestamp;
}
