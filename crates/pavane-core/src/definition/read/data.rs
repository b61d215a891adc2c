//! Expressions, templates, durations and schemas: data in which something may be evaluated.

use super::*;
use crate::definition::{DurationSource, Filter, Schema, Segment, Source, Template};
use crate::expression::check_syntax;
use crate::time::Duration;
use crate::value::Value;

impl<'n> Reader<'n> {
    /// A field that is always an expression; `${ }` around it is optional.
    pub(super) fn expression(&mut self, node: &'n Node, path: &str) -> Option<Source> {
        let text = match &node.kind {
            Kind::Str(text) => text.as_str(),
            // `if: true` is an expression, too.
            Kind::Bool(true) => "true",
            Kind::Bool(false) => "false",
            _ => self.text(node, path)?,
        };
        self.source(whole(text).unwrap_or(text), node.at, path)
    }

    fn source(&mut self, text: &str, at: Position, path: &str) -> Option<Source> {
        match check_syntax(text) {
            Ok(()) => Some(Source { text: text.to_owned(), at, reference: path.to_owned() }),
            Err(error) => {
                let message = format!("the expression `{}` is malformed: {}", text.trim(), error.message);
                self.report("D020", at, path, message, None);
                None
            }
        }
    }

    /// A string that is always an expression, or an object with expressions in it: `from`, `as`.
    pub(super) fn transform(&mut self, node: &'n Node, path: &str) -> Option<Template> {
        match &node.kind {
            Kind::Str(_) => self.expression(node, path).map(Template::Expression),
            _ => self.template(node, path),
        }
    }

    /// Data in which only `${ }` is evaluated. Nothing of it that is well-formed is lost when a part is not.
    pub(super) fn template(&mut self, node: &'n Node, path: &str) -> Option<Template> {
        Some(match &node.kind {
            Kind::Str(text) => self.text_template(text, node.at, path)?,
            Kind::Seq(items) => {
                let parts: Vec<Option<Template>> =
                    items.iter().enumerate().map(|(i, item)| self.template(item, &format!("{path}/{i}"))).collect();
                let parts: Vec<Template> = parts.into_iter().collect::<Option<_>>()?;
                if parts.iter().all(|p| matches!(p, Template::Literal(_))) {
                    Template::Literal(node.value())
                } else {
                    Template::List(parts)
                }
            }
            Kind::Map(entries) => {
                let parts: Vec<Option<(String, Template)>> = entries
                    .iter()
                    .map(|(key, value)| {
                        self.template(value, &child(path, &key.name)).map(|template| (key.name.clone(), template))
                    })
                    .collect();
                let parts: Vec<(String, Template)> = parts.into_iter().collect::<Option<_>>()?;
                if parts.iter().all(|(_, p)| matches!(p, Template::Literal(_))) {
                    Template::Literal(node.value())
                } else {
                    Template::Map(parts)
                }
            }
            _ => Template::Literal(node.value()),
        })
    }

    fn text_template(&mut self, text: &str, at: Position, path: &str) -> Option<Template> {
        if let Some(expression) = whole(text) {
            return self.source(expression, at, path).map(Template::Expression);
        }
        let Some(segments) = segments(text) else {
            self.warn_of_missing_braces(text, at, path);
            return Some(Template::Literal(Value::text(text)));
        };
        let read: Vec<Option<Segment>> = segments
            .into_iter()
            .map(|(is_expression, part)| {
                if is_expression {
                    self.source(part, at, path).map(Segment::Expression)
                } else {
                    Some(Segment::Literal(part.to_owned()))
                }
            })
            .collect();
        read.into_iter().collect::<Option<_>>().map(Template::Text)
    }

    /// `.order.id` in a body is text; its author most likely meant the value.
    fn warn_of_missing_braces(&mut self, text: &str, at: Position, path: &str) {
        let path_like = text.strip_prefix('.').or_else(|| text.strip_prefix('$')).is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_alphabetic())
                && rest.chars().all(|c| c.is_ascii_alphanumeric() || "._[]".contains(c))
        });
        if path_like {
            let message = format!("`{text}` is plain text here, not an expression");
            self.report("W001", at, path, message, Some(format!("write `${{ {text} }}` if its value is meant")));
        }
    }

    /// `input`, `output` or `export`.
    pub(super) fn filter(&mut self, task: &'n Node, path: &str, name: &str, transform: &str) -> Filter {
        let Some(node) = task.get(name) else { return Filter::default() };
        let path = child(path, name);
        if self.map(node, &path, &["schema", transform]).is_none() {
            return Filter::default();
        }
        Filter {
            schema: node.get("schema").and_then(|schema| self.schema(schema, &child(&path, "schema"))),
            transform: node.get(transform).and_then(|t| self.transform(t, &child(&path, transform))),
        }
    }

    fn schema(&mut self, node: &'n Node, path: &str) -> Option<Schema> {
        self.map(node, path, &["format", "document", "resource"])?;
        if let Some(format) = self.optional_text(node, path, "format")
            && !(format == "json" || format.starts_with("json:"))
        {
            let message = format!("schemas of the format `{format}` are not understood");
            self.report("D005", node.at, &child(path, "format"), message, Some("use `json`".into()));
        }
        match (node.get("document"), node.get("resource")) {
            (Some(document), None) => {
                Some(Schema::Inline { document: document.value(), at: document.at, reference: child(path, "document") })
            }
            (None, Some(resource)) => self.resource(resource, &child(path, "resource")),
            _ => {
                let message = "a schema has either a `document` or a `resource`".to_owned();
                self.report("D002", node.at, path, message, None);
                None
            }
        }
    }

    fn resource(&mut self, node: &'n Node, path: &str) -> Option<Schema> {
        self.map(node, path, &["name", "endpoint"])?;
        let endpoint = self.required(node, path, "endpoint")?;
        let uri = endpoint.text().or_else(|| endpoint.get("uri").and_then(Node::text));
        match uri.filter(|uri| !uri.contains("${") && !uri.contains('{')) {
            Some(uri) => Some(Schema::Resource { uri: uri.to_owned(), at: endpoint.at, reference: path.to_owned() }),
            None => {
                let message = "the schema's URI must be plain text: it is fetched once, at deployment".to_owned();
                self.report("D005", endpoint.at, &child(path, "endpoint"), message, None);
                None
            }
        }
    }

    /// A duration: an object, ISO 8601, or an expression.
    pub(super) fn duration(&mut self, node: &'n Node, path: &str) -> Option<DurationSource> {
        match &node.kind {
            Kind::Str(text) => match whole(text) {
                Some(expression) => self.source(expression, node.at, path).map(DurationSource::Expression),
                None => match Duration::parse(text) {
                    Ok(duration) => Some(DurationSource::Fixed(duration)),
                    Err(message) => {
                        self.report("D021", node.at, path, message, None);
                        None
                    }
                },
            },
            Kind::Map(_) => self.fixed_duration(node, path).map(DurationSource::Fixed),
            _ => {
                self.wrong_type(node, path, "a duration (such as `{ seconds: 5 }` or PT5S)");
                None
            }
        }
    }

    /// A duration that no expression gives.
    pub(super) fn fixed_duration(&mut self, node: &'n Node, path: &str) -> Option<Duration> {
        if let Kind::Str(_) = &node.kind {
            return match self.duration(node, path)? {
                DurationSource::Fixed(duration) => Some(duration),
                DurationSource::Expression(_) => {
                    self.report("D021", node.at, path, "an expression is not possible here".into(), None);
                    None
                }
            };
        }
        const UNITS: [(&str, f64); 5] = [
            ("days", 86_400_000.0),
            ("hours", 3_600_000.0),
            ("minutes", 60_000.0),
            ("seconds", 1_000.0),
            ("milliseconds", 1.0),
        ];
        let entries = self.map(node, path, &UNITS.map(|(name, _)| name))?;
        let mut millis = 0.0;
        for (key, value) in entries {
            let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == key.name) else { continue };
            match value.value().as_f64().filter(|n| *n >= 0.0) {
                Some(amount) => millis += amount * unit,
                None => self.wrong_type(value, &child(path, &key.name), "a number that is not negative"),
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "a float saturates when it is cast")]
        Some(Duration::from_millis(millis as i64))
    }
}

/// The expression of a text that is one from end to end.
fn whole(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("${")?.strip_suffix('}')?;
    // `${ .a } and ${ .b }` begins and ends like one, but is two.
    (closing(&text.trim()[2..]) == Some(inner.len())).then_some(inner)
}

/// Text with embedded expressions: whether each part is one. `${` counts only with white space behind it, so that a
/// shell's `${HOME}` stays what it is. `None` when there is no expression.
fn segments(text: &str) -> Option<Vec<(bool, &str)>> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut from = 0;
    while let Some(at) = rest[from..].find("${").map(|at| from + at) {
        let inner = &rest[at + 2..];
        let end = closing(inner).filter(|_| inner.starts_with(char::is_whitespace));
        let Some(end) = end else {
            from = at + 2;
            continue;
        };
        parts.push((false, &rest[..at]));
        parts.push((true, &inner[..end]));
        rest = &inner[end + 1..];
        from = 0;
    }
    if parts.is_empty() {
        return None;
    }
    parts.push((false, rest));
    Some(parts.into_iter().filter(|(is_expression, part)| *is_expression || !part.is_empty()).collect())
}

/// Where the brace that closes an expression stands; braces in jq's strings do not count, those in `\( )` do.
fn closing(text: &str) -> Option<usize> {
    // What is open: braces and brackets of expressions, and strings.
    let mut open: Vec<u8> = Vec::new();
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (open.last(), byte) {
            (Some(b'"'), b'\\') => {
                if let Some((_, b'(')) = bytes.next() {
                    open.push(b'(');
                }
            }
            (Some(b'"'), b'"') => {
                open.pop();
            }
            (Some(b'"'), _) => {}
            (_, b'"' | b'{' | b'(' | b'[') => open.push(byte),
            (None, b'}') => return Some(at),
            (Some(_), b'}' | b')' | b']') => {
                open.pop();
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_found_in_text() {
        for (text, expected) in [
            ("${ .a }", Some(" .a ")),
            ("  ${.a}\n", Some(".a")),
            ("${ {a: \"}\", b: \"\\(.x + \"}\")\"} }", Some(" {a: \"}\", b: \"\\(.x + \"}\")\"} ")),
            ("${ .a } and ${ .b }", None),
            ("a ${ .b }", None),
            ("${ .a", None),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
        assert_eq!(
            segments("Hello ${ .name }, ${HOME} is ${ \"}\" }!"),
            Some(vec![(false, "Hello "), (true, " .name "), (false, ", ${HOME} is "), (true, " \"}\" "), (false, "!")])
        );
        assert_eq!(segments("no ${expression} here"), None);
    }
}
