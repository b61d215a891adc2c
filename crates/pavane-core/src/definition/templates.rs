//! Expressions, data that may hold expressions, and durations.
//!
//! Two kinds of field exist. Some are always expressions, with or without `${ }`; everywhere else only `${ }` makes
//! one. Text with embedded expressions is interpolated where `${` is followed by white space, so that `${HOME}` in a
//! shell text survives.

use super::node::Kind;
use super::reader::{Place, Reader};
use super::{DurationSource, Filter, Position, Schema, Segment, Source, Template, codes};
use crate::expression::check_syntax;
use crate::time::Duration;
use crate::value::Value;

/// Longest duration in milliseconds: ten thousand years, so that additions cannot overflow.
const MAX_MILLIS: f64 = 3.2e14;

impl Reader<'_> {
    /// A field that is always an expression; `${ }` around it is optional.
    pub fn expression(&mut self, place: &Place<'_>, what: &str) -> Option<Source> {
        // A bare `true` is a boolean to YAML, though its author means the expression.
        if let Kind::Bool(value) = place.node.kind {
            return Some(source(place, &value.to_string()));
        }
        let text = self.string(place, what)?;
        self.source(place, whole(text).unwrap_or(text))
    }

    /// Data in which `${ }` texts at any depth are expressions.
    pub fn template(&mut self, place: &Place<'_>) -> Option<Template> {
        let before = self.errors;
        let template = match &place.node.kind {
            Kind::Str(text) => self.text_template(place, text)?,
            Kind::Seq(_) => {
                let items: Vec<_> = place.items().iter().filter_map(|item| self.template(item)).collect();
                match items.iter().all(|item| matches!(item, Template::Literal(_))) {
                    true => Template::Literal(place.node.to_value()),
                    false => Template::List(items),
                }
            }
            Kind::Map(_) => {
                let entries: Vec<_> = place
                    .entries()
                    .iter()
                    .filter_map(|(key, value)| Some((key.name.clone(), self.template(value)?)))
                    .collect();
                match entries.iter().all(|(_, value)| matches!(value, Template::Literal(_))) {
                    true => Template::Literal(place.node.to_value()),
                    false => Template::Map(entries),
                }
            }
            _ => Template::Literal(place.node.to_value()),
        };
        (self.errors == before).then_some(template)
    }

    /// A template that must be an object, or one expression that gives it.
    pub fn object_template(&mut self, place: &Place<'_>, what: &str) -> Option<Template> {
        let expression = place.text().is_some_and(|text| whole(text).is_some());
        if !expression && !matches!(place.node.kind, Kind::Map(_)) {
            self.wrong_type(place, what, "an object or an expression in `${ }`");
            return None;
        }
        self.template(place)
    }

    /// A text that may be or hold an expression.
    pub fn string_template(&mut self, place: &Place<'_>, what: &str) -> Option<Template> {
        self.string(place, what)?;
        self.template(place)
    }

    /// `input` (with `from`), `output` or `export` (with `as`).
    pub fn filter(&mut self, place: Option<Place<'_>>, what: &str, transform: &'static str) -> Filter {
        let Some(fields) = place.and_then(|p| self.fields(&p, what, &["schema", transform])) else {
            return Filter::default();
        };
        Filter {
            schema: fields.get("schema").and_then(|p| self.schema(&p)),
            transform: fields.get(transform).and_then(|p| match p.node.kind {
                Kind::Map(_) | Kind::Seq(_) => self.template(&p),
                _ => self.expression(&p, &format!("`{transform}`")).map(Template::Expression),
            }),
        }
    }

    /// An object of units, an ISO 8601 text, or an expression in `${ }`.
    pub fn duration(&mut self, place: &Place<'_>, what: &str) -> Option<DurationSource> {
        if let Some(expression) = place.text().and_then(whole) {
            return self.source(place, expression).map(DurationSource::Expression);
        }
        self.fixed_duration(place, what).map(DurationSource::Fixed)
    }

    /// A duration that must be known when the definition is read.
    pub fn fixed_duration(&mut self, place: &Place<'_>, what: &str) -> Option<Duration> {
        match &place.node.kind {
            Kind::Str(text) => match Duration::parse(text.trim()) {
                Ok(duration) => Some(duration),
                Err(message) => {
                    self.report_at(codes::DURATION, place, message)
                        .help("write `PT30S`, or an object such as `{ seconds: 30 }`");
                    None
                }
            },
            Kind::Map(_) => self.duration_object(place, what),
            _ => {
                self.wrong_type(place, what, "a duration")
                    .help("write an ISO 8601 text such as `PT30S`, or an object such as `{ seconds: 30 }`");
                None
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the range is tested first")]
    fn duration_object(&mut self, place: &Place<'_>, what: &str) -> Option<Duration> {
        let units = [("days", 8.64e7), ("hours", 3.6e6), ("minutes", 6e4), ("seconds", 1e3), ("milliseconds", 1.0)];
        let fields = self.fields(place, what, &units.map(|(name, _)| name))?;
        let mut total = 0.0;
        for (name, length) in units {
            let Some(unit) = fields.get(name) else { continue };
            match unit.node.to_value().as_f64() {
                Some(number) if number >= 0.0 => total += number * length,
                Some(_) => {
                    self.report_at(codes::DURATION, &unit, format!("`{name}` cannot be negative"))
                        .help("a duration is zero or longer");
                }
                None => {
                    self.wrong_type(&unit, &format!("`{name}`"), "a number");
                }
            }
        }
        if place.node.entries().is_empty() || total >= MAX_MILLIS {
            let message = format!("{what} needs at least one unit, and at most ten thousand years in all");
            self.report_at(codes::DURATION, place, message).help("write for example `{ seconds: 30 }`");
            return None;
        }
        Some(Duration::from_millis(total.round() as i64))
    }

    fn schema(&mut self, place: &Place<'_>) -> Option<Schema> {
        let fields = self.fields(place, "a schema", &["format", "document", "resource"])?;
        if let Some(format) = fields.get("format")
            && let Some(text) = self.string(&format, "`format`")
            && text.split(':').next() != Some("json")
        {
            self.report_at(codes::WRONG_VALUE, &format, format!("schema format `{text}` is not supported"))
                .help("write the schema as JSON Schema, `format: json`");
        }
        match self.exactly_one(place, "a schema", &["document", "resource"])? {
            "document" => fields.get("document").map(|p| Schema::Inline {
                document: p.node.to_value(),
                at: p.node.at,
                reference: p.reference,
            }),
            _ => {
                let resource = fields.get("resource")?;
                let inner = self.fields(&resource, "`resource`", &["name", "endpoint"])?;
                let endpoint = self.required(&inner, "`resource`", "endpoint")?;
                let uri = endpoint.get("uri").unwrap_or(endpoint);
                let text = self.string(&uri, "the URI of a schema")?;
                if whole(text).is_some() {
                    self.report_at(codes::WRONG_VALUE, &uri, "the URI of a schema cannot be an expression")
                        .why("the schema is fetched once, when the definition is deployed")
                        .help("write the URI itself");
                    return None;
                }
                Some(Schema::Resource { uri: text.to_owned(), at: uri.node.at, reference: uri.reference })
            }
        }
    }

    fn text_template(&mut self, place: &Place<'_>, text: &str) -> Option<Template> {
        if let Some(expression) = whole(text) {
            return self.source(place, expression).map(Template::Expression);
        }
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, after) = (&rest[..start], &rest[start + 2..]);
            literal.push_str(before);
            match after.starts_with(char::is_whitespace).then(|| closing_brace(after)).flatten() {
                Some(end) => {
                    if !literal.is_empty() {
                        segments.push(Segment::Literal(std::mem::take(&mut literal)));
                    }
                    segments.push(Segment::Expression(self.source(place, after[..end].trim())?));
                    rest = &after[end + 1..];
                }
                None => {
                    literal.push_str("${");
                    rest = after;
                }
            }
        }
        if segments.is_empty() {
            self.warn_of_literal(place, text);
            return Some(Template::Literal(Value::text(text)));
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Some(Template::Text(segments))
    }

    /// `.name` and `$name` are texts here, though people who know the always-expression fields write them.
    fn warn_of_literal(&mut self, place: &Place<'_>, text: &str) {
        let looks = text.strip_prefix(['.', '$']).is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && rest.chars().all(|c| c.is_ascii_alphanumeric() || "_.[]".contains(c))
        });
        if looks {
            self.report_at(codes::LITERAL_EXPRESSION, place, format!("`{text}` is a literal text here"))
                .why("only `${ }` makes an expression of a value in data")
                .help(format!("write `${{ {text} }}` if the expression was meant"));
        }
    }

    fn source(&mut self, place: &Place<'_>, text: &str) -> Option<Source> {
        let source = source(place, text.trim());
        match check_syntax(&source.text) {
            Ok(()) => Some(source),
            Err(error) => {
                let at = self.position_in(place.node.at, &source.text, error.offset);
                self.report(codes::EXPRESSION, at, &place.reference, error.message)
                    .help(format!("check the jq text: {}", source.text));
                None
            }
        }
    }

    /// The place of a byte of an expression, when the whole expression stands on the scalar's line as it is.
    fn position_in(&self, at: Position, expression: &str, offset: Option<usize>) -> Position {
        let exact = || {
            let line = self.lines.get(usize::try_from(at.line).ok()?.checked_sub(1)?)?;
            let skipped = usize::try_from(at.column).ok()?.checked_sub(1)?;
            let from = line.char_indices().nth(skipped)?.0;
            let found = from + line.get(from..)?.find(expression)? + offset?;
            let column = line.get(..found)?.chars().count() + 1;
            Some(Position { line: at.line, column: u64::try_from(column).ok()? })
        };
        exact().unwrap_or(at)
    }
}

fn source(place: &Place<'_>, text: &str) -> Source {
    Source { text: text.to_owned(), at: place.node.at, reference: place.reference.clone() }
}

/// The expression inside a text that is `${ … }` as a whole. A brace that never closes counts as whole too, so that
/// the mistake is reported and not taken for data.
pub(super) fn whole(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("${")?;
    let expression = inner.strip_suffix('}')?;
    match closing_brace(inner) {
        Some(end) => (end == expression.len()).then_some(expression),
        None => Some(expression),
    }
    .map(str::trim)
}

/// Byte offset of the `}` that closes a `${`, given the text after it. Knows jq's strings, interpolation and comments.
fn closing_brace(text: &str) -> Option<usize> {
    // What is open, innermost last: `{`, `(` of an interpolation, `p` another parenthesis, `"` a string.
    let mut open: Vec<char> = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if open.last() == Some(&'"') {
            match c {
                '"' => drop(open.pop()),
                '\\' if chars.next().is_some_and(|(_, c)| c == '(') => open.push('('),
                _ => {}
            }
            continue;
        }
        match c {
            '"' | '{' => open.push(c),
            '(' => open.push('p'),
            ')' if matches!(open.last(), Some('(' | 'p')) => drop(open.pop()),
            '}' if open.is_empty() => return Some(at),
            '}' if open.last() == Some(&'{') => drop(open.pop()),
            '#' => drop(chars.by_ref().find(|(_, c)| *c == '\n')),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_expressions_are_told_from_embedded_ones() {
        for (text, expected) in [
            ("${ .a }", Some(".a")),
            ("${.a}", Some(".a")),
            (" ${\n .a\n} ", Some(".a")),
            ("${ {a: 1} }", Some("{a: 1}")),
            (r#"${ "}\("}")" }"#, Some(r#""}\("}")""#)),
            ("${ .a } and ${ .b }", None),
            ("a ${ .b }", None),
            (".a", None),
            ("${ {a }", Some("{a")),
            ("${ .a # } \n }", Some(".a # }")),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }
}
