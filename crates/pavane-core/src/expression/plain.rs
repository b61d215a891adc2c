//! Expressions that need no jq: constants, paths, and objects put together from them. Most of the data flow of a workflow
//! is these: `.order.id`, `$input + { reservationId: .id }`.
//!
//! They are read off jq's own syntax tree. What they give is what jq gives; where that would be an error, or is not obvious,
//! an object is left to jq ([`Merge::evaluate`]).

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Term};
use jaq_core::ops::Math;
use jaq_core::path::{Opt, Part};
use jaq_json::Val;

use super::filter::MAX_NODES;
use super::functions::fits;
use super::{Arguments, Fault};
use crate::value::{MAX_DEPTH, Value};

/// Objects that are merged here. Each may be as large as data can be: more of them are for jq, which counts their memory.
const MAX_MERGED: usize = 8;

/// A constant or a path.
pub(super) enum Plain {
    Constant(Value),
    /// An argument (or the input), then properties.
    Path(Option<String>, Vec<String>),
}

/// Objects of which each sets members of what comes before it: at least one.
pub(super) struct Merge(Vec<Object>);

enum Object {
    /// One that is there.
    Known(Plain),
    /// One that is made.
    New(Vec<(String, Plain)>),
}

impl Plain {
    pub fn of(term: &Term<&str>) -> Option<Plain> {
        match term {
            Term::Id => Some(Plain::Path(None, Vec::new())),
            Term::Var(name) => Some(Plain::Path(Some(name.strip_prefix('$')?.to_owned()), Vec::new())),
            Term::Num(text) => text.parse().ok().map(|n: i64| Plain::Constant(Value::integer(n))),
            Term::Str(None, parts) => literal(parts).map(|text| Plain::Constant(Value::text(text))),
            Term::Call(name, arguments) if arguments.is_empty() => match *name {
                "true" => Some(Plain::Constant(true.into())),
                "false" => Some(Plain::Constant(false.into())),
                "null" => Some(Plain::Constant(Value::NULL)),
                _ => None,
            },
            Term::Path(inner, path) => {
                let Some(Plain::Path(argument, mut names)) = Plain::of(inner) else { return None };
                for (part, optional) in &path.0 {
                    match (part, optional) {
                        (Part::Index(Term::Str(None, parts)), Opt::Essential) => names.push(literal(parts)?),
                        _ => return None,
                    }
                }
                Some(Plain::Path(argument, names))
            }
            _ => None,
        }
    }

    /// The argument that it begins with.
    pub fn argument(&self) -> Option<&str> {
        match self {
            Plain::Constant(_) => None,
            Plain::Path(argument, _) => argument.as_deref(),
        }
    }

    /// Whether every text in what it gives stands in the data of the task, or is one of its own of ASCII characters.
    pub fn only_copies(&self) -> bool {
        match self {
            Plain::Constant(value) => value.as_str().is_none_or(str::is_ascii),
            Plain::Path(argument, _) => matches!(argument.as_deref(), None | Some("input" | "output" | "context")),
        }
    }

    pub fn evaluate(&self, input: &Value, arguments: &dyn Arguments) -> Result<Value, Fault> {
        match self {
            Plain::Constant(value) => Ok(value.clone()),
            Plain::Path(argument, path) => {
                let start = match argument {
                    Some(name) => arguments.get(name)?,
                    None => input.clone(),
                };
                path.iter().try_fold(start, |value, name| property(&value, name))
            }
        }
    }
}

impl Merge {
    pub fn of(term: &Term<&str>) -> Option<Merge> {
        let mut objects = Vec::new();
        collect(term, &mut objects)?;
        Some(Merge(objects))
    }

    /// As for [`Plain::only_copies`], also when it is jq that merges: with an object among them, what is no object is an error or
    /// nothing.
    pub fn only_copies(&self) -> bool {
        let made = self.0.iter().any(|object| matches!(object, Object::New(_)));
        made && self.0.iter().all(|object| match object {
            Object::Known(known) => known.only_copies(),
            Object::New(members) => members.iter().all(|(name, member)| name.is_ascii() && member.only_copies()),
        })
    }

    /// The merged object; nothing when it is jq's to say what comes of it.
    ///
    /// # Errors
    /// Arguments denied.
    pub fn evaluate(&self, input: &Value, arguments: &dyn Arguments) -> Result<Option<Value>, Fault> {
        let plain = |plain: &Plain| match plain.evaluate(input, arguments) {
            Ok(value) => Ok(Some(value)),
            Err(Fault::Failed(_) | Fault::Limit(_)) => Ok(None),
            Err(denied @ Fault::Denied(_)) => Err(denied),
        };
        let mut merged: Option<Val> = None;
        for object in &self.0 {
            let next = match object {
                Object::Known(known) => plain(known)?,
                Object::New(members) => {
                    let members = members.iter().map(|(name, member)| Ok(plain(member)?.map(|value| (name, value))));
                    members.collect::<Result<Option<Vec<_>>, Fault>>()?.map(Value::object)
                }
            };
            let Some(Value(next @ Val::Obj(_))) = next else { return Ok(None) };
            merged = match merged {
                None => Some(next),
                // What jq does with two objects.
                Some(before) => (before + next).ok(),
            };
        }
        Ok(merged.filter(|merged| fits(merged, &mut { MAX_NODES }, MAX_DEPTH)).map(Value))
    }
}

fn collect(term: &Term<&str>, objects: &mut Vec<Object>) -> Option<()> {
    match term {
        Term::BinOp(left, BinaryOp::Math(Math::Add), right) => {
            collect(left, objects)?;
            collect(right, objects)?;
        }
        Term::Obj(entries) => {
            let member = |(key, value): &(Term<&str>, Option<Term<&str>>)| match key {
                Term::Str(None, parts) => Some((literal(parts)?, Plain::of(value.as_ref()?)?)),
                _ => None,
            };
            objects.push(Object::New(entries.iter().map(member).collect::<Option<_>>()?));
        }
        term => objects.push(Object::Known(Plain::of(term)?)),
    }
    (objects.len() <= MAX_MERGED).then_some(())
}

fn literal(parts: &[StrPart<&str, Term<&str>>]) -> Option<String> {
    parts.iter().map(|part| if let StrPart::Str(text) = part { Some(*text) } else { None }).collect()
}

/// jq's `.name`: null for null and for a missing property, an error for anything but an object.
fn property(value: &Value, name: &str) -> Result<Value, Fault> {
    match &value.0 {
        Val::Null => Ok(Value::NULL),
        Val::Obj(_) => Ok(value.get(name).unwrap_or_default()),
        _ => Err(Fault::Failed(format!("cannot index {} with {:?}", crate::value::excerpt(value), name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::Expression;
    use crate::time::Timestamp;

    struct Named(Value);

    impl Arguments for Named {
        fn get(&self, name: &str) -> Result<Value, Fault> {
            match name {
                "input" => Ok(self.0.clone()),
                _ => Err(Fault::Denied(format!("${name} may not be read"))),
            }
        }

        fn now(&self) -> Timestamp {
            Timestamp(0)
        }
    }

    #[test]
    fn what_puts_no_texts_together_is_told_from_what_may() {
        let known = ["input", "output", "context", "secrets", "workflow", "item"];
        for (text, copies) in [
            (".", true),
            (".id", true),
            ("$context.a.b", true),
            ("\"x\"", true),
            ("7", true),
            ("$input + { id: .id, n: 1, s: \"x\" }", true),
            (". + {}", true),
            ("{ a: $output }", true),
            // Two texts become one.
            ("$input + .id", false),
            (".a + \"x\"", false),
            ("\"a\\(.b)\"", false),
            (".a | tostring", false),
            ("$secrets.k", false),
            ("{ k: $secrets.k }", false),
            // What the author wrote, and variables that may hold anything.
            ("$workflow.definition.do", false),
            ("$item", false),
            ("\"\u{fdd0}k\u{fdd1}\"", false),
            ("{ \"\u{fdd0}k\u{fdd1}\": 1 }", false),
            ("{ k: \"\u{fdd0}k\u{fdd1}\" }", false),
        ] {
            assert_eq!(Expression::compile(text, &known).unwrap().only_copies(), copies, "{text}");
        }
    }

    #[test]
    fn it_comes_to_what_jq_makes_of_it() {
        let expressions = [
            "$input + { id: .id }",
            "{ a: 1, \"b c\": .id, a: $input.x, n: null, t: true, s: \"x\\u00e9\\n\" }",
            "{}",
            ". + {}",
            "{} + .",
            "$input.x + { y: .id.z }",
            ". + . + { a: . }",
            "{ a: .id } + { a: $input }",
            "$input + .id",
            "(. + { id: 5 }) + $input",
            ". + { secret: $secrets }",
            "{ id }",
            "{ (.id): 1 }",
            "{ a: .id? }",
        ];
        let values =
            ["{}", r#"{"id":"i","x":{"y":1,"z":2}}"#, r#"{"x":null,"id":{"z":[1]}}"#, "null", "[1]", "\"s\"", "7"];
        let values = values.map(|json| Value::parse(json.as_bytes()).unwrap());
        let compile = |text: &str| Expression::compile(text, &["input", "secrets"]).unwrap();
        let mut merged = 0;
        for text in expressions {
            // The same, in a form that is jq's.
            let (ours, jqs) = (compile(text), compile(&format!("({text}) | .")));
            for (input, named) in values.iter().flat_map(|input| values.iter().map(move |named| (input, named))) {
                let result = |expression: &Expression| {
                    expression.evaluate(input, &Named(named.clone())).map(|value| value.to_json())
                };
                assert_eq!(result(&ours), result(&jqs), "{text} of {} with {}", input.to_json(), named.to_json());
                let ours = super::super::filter::parse(text).ok().and_then(|term| Merge::of(&term));
                let ours = ours.and_then(|merge| merge.evaluate(input, &Named(named.clone())).ok().flatten());
                merged += usize::from(ours.is_some());
            }
        }
        assert!(merged > 100, "{merged} needed no jq");
    }

    #[test]
    fn what_is_large_or_deep_is_for_jq() {
        let parse = |text: &str| Merge::of(&super::super::filter::parse(text).unwrap());
        assert!(parse(&["."; MAX_MERGED].join(" + ")).is_some());
        assert!(parse(&["."; MAX_MERGED + 1].join(" + ")).is_none());
        let deep = (1..MAX_DEPTH).fold(Value::empty_object(), |inner, _| Value::object([("a", inner)]));
        let grow = parse("{ a: . }").unwrap();
        assert_eq!(grow.evaluate(&deep, &Named(Value::NULL)), Ok(None));
        assert!(grow.evaluate(&deep.get("a").unwrap(), &Named(Value::NULL)).unwrap().is_some());
    }
}
