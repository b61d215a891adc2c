//! What every backend demands of a batch before it writes any of it, and the encodings they share.
//!
//! A batch is checked whole first and written after: a batch that does not fit never touches a page, so the batches
//! that share its transaction need no savepoints around them. Start at [`check`].

use pavane_core::Timestamp;
use pavane_core::record::JournalEntry;

use crate::{Commit, Due, Error, OBSERVED, Observed, Query};

/// Rows a listing returns at most: a page that a person can still read and a reader need not hold for long.
const MAX_PAGE: usize = 1_000;

/// [`Due::Now`] among the times, before all of them.
pub(crate) const NOW: i64 = i64::MIN;

/// Checks that `batch` can be written. `last` tells the position of the last journal entry of an instance (0: none),
/// or nothing when the instance does not exist. It is told whether the commit can only be an instance's first.
///
/// # Errors
/// [`Error::Conflict`] for a position that is not the next one, [`Error::Failed`] for rows that belong nowhere, and
/// whatever `last` fails with.
pub(crate) fn check(
    path: &str,
    batch: &[Commit],
    mut last: impl FnMut(&str, bool) -> Result<Option<u64>, Error>,
) -> Result<(), Error> {
    // What the commits before this one in the batch will have done. A batch holds few commits: a list is enough.
    let mut ahead: Vec<(&str, u64)> = Vec::new();
    for commit in batch {
        commit.observed.iter().try_for_each(|row| observed(path, row))?;
        let Some(owner) = owner(path, commit)? else { continue };
        let first = commit.instance.is_some() && commit.entry.as_ref().is_some_and(|entry| entry.seq == 1);
        let at = ahead.iter().position(|(id, _)| *id == owner);
        let known = match at.and_then(|i| ahead.get(i)) {
            Some((_, seq)) => Some(*seq),
            None => last(owner, first)?,
        };
        let mut seq = known.unwrap_or(0);
        if let Some(entry) = &commit.entry {
            if entry.seq != seq + 1 || entry.seq >= OBSERVED {
                return Err(Error::Conflict { instance: owner.to_owned(), seq: entry.seq });
            }
            seq = entry.seq;
        }
        if known.is_none() && commit.instance.is_none() {
            return Err(wrong(path, format!("instance {owner} does not exist, and the commit holds no row for it")));
        }
        match at.and_then(|i| ahead.get_mut(i)) {
            Some(slot) => slot.1 = seq,
            None => ahead.push((owner, seq)),
        }
    }
    Ok(())
}

/// The instance a commit belongs to; nothing when it only publishes. Every row of a commit names the same one.
///
/// # Errors
/// [`Error::Failed`] when rows disagree or a task id is not of the documented form.
pub(crate) fn owner<'a>(path: &str, commit: &'a Commit) -> Result<Option<&'a str>, Error> {
    let entry = commit.entry.as_ref().map(|e| e.workflow_instance_id.as_str());
    let instance = commit.instance.as_ref().map(|i| i.id.as_str());
    let tasks = commit.tasks.iter().map(|t| t.workflow_instance_id.as_str());
    let mut names = entry.into_iter().chain(instance).chain(tasks);
    let Some(owner) = names.next() else {
        return match commit.subscriptions {
            Some(_) => Err(wrong(path, "subscriptions came without a row that names their instance".into())),
            None => Ok(None),
        };
    };
    if let Some(other) = names.find(|name| *name != owner) {
        return Err(wrong(path, format!("one commit holds rows of two instances, {owner} and {other}")));
    }
    let of_entry = commit.entry.as_ref().and_then(|e| e.service_task_id.as_deref());
    for id in commit.tasks.iter().map(|t| t.id.as_str()).chain(of_entry) {
        named(path, owner, id)?;
    }
    Ok(Some(owner))
}

/// Checks what was observed elsewhere.
fn observed(path: &str, observed: &Observed) -> Result<(), Error> {
    match observed {
        Observed::Step(entry) if entry.seq < OBSERVED => {
            let JournalEntry { workflow_instance_id: id, seq, .. } = entry;
            Err(wrong(path, format!("position {seq} of {id} is its own, not one that was observed")))
        }
        Observed::Step(JournalEntry { workflow_instance_id: owner, service_task_id: Some(task), .. }) => {
            named(path, owner, task)
        }
        Observed::Step(_) => Ok(()),
        Observed::Task(task) => named(path, &task.workflow_instance_id, &task.id),
    }
}

fn named(path: &str, owner: &str, task: &str) -> Result<(), Error> {
    match run_number(owner, task) {
        Some(_) => Ok(()),
        None => Err(wrong(path, format!("task id `{task}` is not of the form `{owner}:{{run number}}`"))),
    }
}

/// The run number in a task id `{instance id}:{run number}`; nothing for any other text, `01` and `+1` included.
pub(crate) fn run_number(instance: &str, id: &str) -> Option<u32> {
    let digits = id.strip_prefix(instance)?.strip_prefix(':')?;
    let canonical = digits == "0" || !digits.starts_with(['0', '+']);
    canonical.then(|| digits.parse().ok()).flatten()
}

/// When an instance is due, as a number that sorts.
pub(crate) fn due_to_number(due: Due) -> Option<i64> {
    match due {
        Due::OnInput => None,
        Due::Now => Some(NOW),
        Due::At(Timestamp(at)) => Some(at.max(NOW + 1)),
    }
}

/// The reverse of [`due_to_number`].
pub(crate) fn due_from_number(number: i64) -> Due {
    if number == NOW { Due::Now } else { Due::At(Timestamp(number)) }
}

/// How many rows a listing returns.
pub(crate) fn page_size(query: &Query) -> usize {
    query.limit.clamp(1, MAX_PAGE)
}

/// Reads a cursor: the creation number of the last instance of the page before.
///
/// # Errors
/// [`Error::Cursor`] for a text that no listing gave out.
pub(crate) fn cursor(query: &Query) -> Result<Option<i64>, Error> {
    match query.cursor.as_deref() {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Error::Cursor { text: text.to_owned() }),
    }
}

/// `namespace/name` or `name`, taken apart.
pub(crate) fn workflow(query: &Query) -> Option<(Option<&str>, &str)> {
    let text = query.workflow.as_deref()?;
    Some(text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name)))
}

/// An error that is the caller's, not the medium's: only the batch or query at hand fails.
pub(crate) fn wrong(path: &str, reason: String) -> Error {
    Error::Failed { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_numbers_are_read_in_one_form_only() {
        for (id, expected) in [
            ("i:1", Some(1)),
            ("i:0", Some(0)),
            ("i:4294967295", Some(u32::MAX)),
            ("i:4294967296", None),
            ("i:01", None),
            ("i:+1", None),
            ("i:", None),
            ("i1", None),
            ("j:1", None),
        ] {
            assert_eq!(run_number("i", id), expected, "{id}");
        }
    }

    #[test]
    fn due_times_sort_after_now() {
        let numbers: Vec<_> =
            [Due::Now, Due::At(Timestamp(i64::MIN)), Due::At(Timestamp(0))].map(due_to_number).into_iter().collect();
        assert!(numbers.is_sorted() && numbers[0] != numbers[1], "{numbers:?}");
        assert_eq!(numbers[0].map(due_from_number), Some(Due::Now));
        assert_eq!(due_to_number(Due::OnInput), None);
    }
}
