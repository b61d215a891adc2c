//! Statements whose parameters stay bound from one execution to the next. Start at [`Bound`].

use rusqlite::{Connection, Statement, ToSql};

/// A statement whose parameters are bound one by one, and stay bound: SQLite copies each text that is bound, and many columns
/// hold the same text in one row and the next.
pub(super) struct Bound<'c> {
    statement: Statement<'c>,
    /// What is bound to parameters with a usual text, by their numbers.
    usual: Vec<Option<String>>,
}

impl<'c> Bound<'c> {
    pub(super) fn prepare(connection: &'c Connection, sql: &str) -> rusqlite::Result<Bound<'c>> {
        let statement = connection.prepare(sql)?;
        let usual = vec![None; statement.parameter_count() + 1];
        Ok(Bound { statement, usual })
    }

    /// Binds a parameter. Each is always bound by this, or always by [`Bound::bind_usual`].
    pub(super) fn bind(&mut self, number: usize, value: impl ToSql) -> rusqlite::Result<()> {
        self.statement.raw_bind_parameter(number, value)
    }

    /// Binds a parameter to a text that it is likely to have already.
    pub(super) fn bind_usual(&mut self, number: usize, text: &str) -> rusqlite::Result<()> {
        let Some(usual) = self.usual.get_mut(number).filter(|usual| usual.as_deref() != Some(text)) else {
            return Ok(());
        };
        self.statement.raw_bind_parameter(number, text)?;
        let kept = usual.get_or_insert_default();
        kept.clear();
        kept.push_str(text);
        Ok(())
    }

    pub(super) fn execute(&mut self) -> rusqlite::Result<()> {
        self.statement.raw_execute().map(drop)
    }
}
