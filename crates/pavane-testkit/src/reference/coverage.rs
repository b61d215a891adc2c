//! Which documents the reference can judge. What it does not know it must not guess.

use pavane_core::definition::{Definition, DurationSource, Filter, Retry, Task, TaskKind, Template, UriSource};

/// Why a definition is outside of what the reference knows; none when it is covered.
pub fn outside(definition: &Definition) -> Option<&'static str> {
    if has_schema(&definition.input) || has_schema(&definition.output) {
        return Some("a schema");
    }
    if definition.input.transform.is_some() || definition.output.transform.is_some() {
        return Some("a transformation of the workflow's input or output");
    }
    if !definition.timeout.as_ref().is_none_or(fixed) {
        return Some("a computed timeout");
    }
    let plain = |task: &Task| {
        matches!(task.kind, TaskKind::Http(_))
            && task.timeout.is_none()
            && task.pavane.compensate.is_none()
            && task.condition.is_none()
    };
    let undoes = |name: &String| definition.functions.get(name).is_some_and(plain);
    list(&definition.tasks, &undoes).or_else(|| definition.functions.values().find_map(|task| one(task, &undoes)))
}

fn list(tasks: &[Task], undoes: &dyn Fn(&String) -> bool) -> Option<&'static str> {
    tasks.iter().find_map(|task| one(task, undoes))
}

fn one(task: &Task, undoes: &dyn Fn(&String) -> bool) -> Option<&'static str> {
    if [&task.input, &task.output, &task.export].into_iter().any(has_schema) {
        return Some("a schema");
    }
    if !task.timeout.as_ref().is_none_or(fixed) {
        return Some("a computed timeout");
    }
    if let Some(compensate) = &task.pavane.compensate {
        if !matches!(task.kind, TaskKind::Http(_)) || !undoes(&compensate.function) {
            return Some("a compensation of or by something else than an HTTP call");
        }
        if compensate.retry.is_some() {
            return Some("a retry policy of a compensation");
        }
    }
    let own = match &task.kind {
        TaskKind::Http(call) => match &call.endpoint.uri {
            UriSource::Text(text) if text.contains('{') => Some("a URI template"),
            _ if call.endpoint.authentication.is_some() || call.headers.is_some() || call.query.is_some() => {
                Some("headers, a query or authentication of a call")
            }
            _ => None,
        },
        TaskKind::OpenApi(_) => Some("call: openapi"),
        TaskKind::Listen(_) => Some("listen"),
        TaskKind::Wait(duration) if !fixed(duration) => Some("a computed duration"),
        TaskKind::Try(attempt) if attempt.retry.as_ref().is_some_and(unknown) => Some("a limit of time of a retry"),
        TaskKind::Emit(Template::Expression(_)) => Some("a computed event"),
        _ => None,
    };
    own.or_else(|| task.lists().into_iter().find_map(|tasks| list(tasks, undoes)))
}

fn has_schema(filter: &Filter) -> bool {
    filter.schema.is_some()
}

fn fixed(duration: &DurationSource) -> bool {
    matches!(duration, DurationSource::Fixed(_))
}

/// Policies that time decides, or that never end.
fn unknown(retry: &Retry) -> bool {
    retry.attempt_timeout.is_some()
        || retry.max_duration.is_some()
        || retry.max_retries.is_none()
        || !retry.delay.as_ref().is_none_or(fixed)
}
