//! The schema and its versions: numbered SQL files, each applied once, in a transaction of its own.
//!
//! `user_version` of the file tells how many were applied, `application_id` that the file is ours. A file of a newer
//! program is refused, never guessed at. Start at [`migrate`].

use rusqlite::{Connection, TransactionBehavior};

use super::failed;
use crate::Error;

/// Every step from an empty file to the present schema; the position is the version. Only ever append.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_listings.sql"),
    include_str!("migrations/0003_messages.sql"),
    include_str!("migrations/0004_locations.sql"),
    include_str!("migrations/0005_parts.sql"),
];

/// Marks a file as Pavane's (the letters `PAVN`): another program's database is never migrated by accident.
const APPLICATION: i64 = 0x5041_564e;

/// Brings the file up to the last of `migrations`.
pub(super) fn migrate(connection: &mut Connection, path: &str, migrations: &[&str]) -> Result<(), Error> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let (application, found, tables) = identity(connection).map_err(|e| failed(path, &e))?;
    if tables > 0 && application != APPLICATION {
        return Err(Error::Failed {
            path: path.to_owned(),
            reason: "this SQLite database belongs to another program: name another store with `store.sqlite.path`"
                .into(),
        });
    }
    if found > known {
        return Err(Error::Newer { path: path.to_owned(), found, known });
    }
    for (version, sql) in (1_i64..).zip(migrations).filter(|(version, _)| *version > found) {
        step(connection, version, sql).map_err(|e| failed(path, &e))?;
        tracing::info!(path, version, "schema brought up to date");
    }
    if found < known {
        // Tables that were made anew are in the log as a whole; it need not keep their size.
        let moved = connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()));
        moved.map_err(|e| failed(path, &e))?;
    }
    Ok(())
}

/// Application id, version and number of tables.
fn identity(connection: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables = connection.query_row("select count(*) from sqlite_schema", [], |row| row.get(0))?;
    Ok((application, version, tables))
}

/// One migration: the change and its number are durable together.
fn step(connection: &mut Connection, version: i64, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDED: &str = "alter table instance_row add column note text not null default 'none'";

    fn version(connection: &Connection) -> i64 {
        identity(connection).unwrap().1
    }

    #[test]
    fn rows_of_an_older_schema_survive_a_migration() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, "t", &MIGRATIONS[..1]).unwrap();
        connection.execute_batch(include_str!("../../tests/fixtures/rows-1.sql")).unwrap();
        migrate(&mut connection, "t", &[MIGRATIONS[0], ADDED]).unwrap();
        assert_eq!(version(&connection), 2);
        let (uid, note): (String, String) =
            connection.query_row("select uid, note from instance_row", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!((uid.as_str(), note.as_str()), ("0193f0a0-0000-7000-8000-000000000001", "none"));
        // A second run finds nothing to do: the step is not applied twice.
        migrate(&mut connection, "t", &[MIGRATIONS[0], ADDED]).unwrap();
    }

    #[test]
    fn a_migration_that_fails_leaves_the_version_before() {
        let mut connection = Connection::open_in_memory().unwrap();
        let broken = "create table half (x); insert into nowhere values (1);";
        assert!(migrate(&mut connection, "t", &[MIGRATIONS[0], broken]).is_err());
        assert_eq!(version(&connection), 1);
        let half: i64 =
            connection.query_row("select count(*) from sqlite_schema where name = 'half'", [], |r| r.get(0)).unwrap();
        assert_eq!(half, 0);
    }

    #[test]
    fn newer_and_foreign_files_are_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, "t", &[MIGRATIONS, &[ADDED]].concat()).unwrap();
        let error = migrate(&mut connection, "t", MIGRATIONS).unwrap_err();
        assert!(matches!(error, Error::Newer { found: 6, known: 5, .. }), "{error}");

        let mut foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("create table customer (id integer)").unwrap();
        let error = migrate(&mut foreign, "t", MIGRATIONS).unwrap_err();
        assert!(error.to_string().contains("belongs to another program"), "{error}");
    }
}
