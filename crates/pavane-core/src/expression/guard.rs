//! Rewriting of parsed jq so that the meter sees what jaq does in one term: going through containers, comparing, sorting,
//! copying and printing them, taking texts apart. Values are looked at where they are made, so that none becomes deeper
//! or larger (shared parts counted each time) than can be walked. What is put in has names that begin with `__`.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Pattern, Term};
use jaq_core::ops::{Cmp, Math};
use jaq_core::path::{Part, Path};

/// Guards a term and everything in it.
pub(super) fn guard(term: &mut Term<&str>) {
    walk(term, &mut |term| *term = guarded(std::mem::take(term)));
}

/// Guards a term whose subterms are.
fn guarded<'s>(term: Term<&'s str>) -> Term<&'s str> {
    match term {
        Term::Recurse => call("recurse"),
        Term::Str(format, mut parts) => {
            for part in &mut parts {
                if let StrPart::Term(inner) = part {
                    *inner = pipe(std::mem::take(inner), call("__whole"));
                }
            }
            Term::Str(format, parts)
        }
        Term::Arr(Some(_)) => pipe(term, call("__whole")),
        Term::Obj(entries) if !entries.is_empty() => {
            // `{$x}` and `{a}` are no computed keys.
            let entry = |(key, value): (Term<&'s str>, Option<Term<&'s str>>)| match value {
                Some(value) if !is_plain(&key) => (pipe(key, call("__whole")), Some(value)),
                value => (key, value),
            };
            let entries = entries.into_iter().map(entry).collect();
            pipe(Term::Obj(entries), call("__whole"))
        }
        Term::BinOp(left, BinaryOp::Math(math), right) => match function(math) {
            Some(name) if !is_number(&left) && !is_number(&right) || math == Math::Mul => {
                Term::Call(name, vec![*left, *right])
            }
            _ => Term::BinOp(left, BinaryOp::Math(math), right),
        },
        Term::BinOp(left, BinaryOp::Cmp(comparison), right) if !is_plain(&left) && !is_plain(&right) => {
            Term::Call(compared(comparison), vec![*left, *right])
        }
        Term::BinOp(path, BinaryOp::UpdateMath(math), right) => match function(math) {
            Some(name) if !is_number(&right) || math == Math::Mul => {
                let result = Term::Call(name, vec![Term::Id, Term::Var("$__y")]);
                bind(*right, update(*path, BinaryOp::Update, result))
            }
            _ => Term::BinOp(path, BinaryOp::UpdateMath(math), right),
        },
        Term::BinOp(path, operator @ (BinaryOp::Update | BinaryOp::Assign | BinaryOp::UpdateAlt), right) => {
            update(*path, operator, *right)
        }
        Term::Path(inner, path) => guarded_path(inner, path),
        Term::Call(name, arguments) => guarded_call(name, arguments),
        other => other,
    }
}

/// An update: what is put in is counted, and the whole is looked at when it has grown.
fn update<'s>(path: Term<&'s str>, operator: BinaryOp<&'s str>, right: Term<&'s str>) -> Term<&'s str> {
    let right = if is_plain(&right) { right } else { pipe(right, call("__grow")) };
    pipe(Term::BinOp(Box::new(path), operator, Box::new(right)), call("__settle"))
}

/// Calls of functions that do much for one term.
fn guarded_call<'s>(name: &'s str, mut arguments: Vec<Term<&'s str>>) -> Term<&'s str> {
    match (name, arguments.len()) {
        ("sort", 0) => pipe(call("__whole"), Term::Call(name, arguments)),
        ("sort_by" | "min_by_or_empty" | "max_by_or_empty" | "group_by", 1) => {
            let key = pipe(std::mem::take(&mut arguments[0]), call("__whole"));
            let sorted = pipe(call("__touch"), Term::Call(name, vec![key]));
            if name == "group_by" { pipe(sorted, call("__whole")) } else { sorted }
        }
        ("key_values", 0) => pipe(call("__touch"), pipe(Term::Call(name, arguments), call("__whole"))),
        ("path_value", 1) => pipe(Term::Call(name, arguments), call("__whole")),
        ("matches" | "split_matches" | "split_", 2) => pipe(call("__searched"), Term::Call(name, arguments)),
        ("explode", 0) => pipe(call("__letters"), Term::Call(name, arguments)),
        ("fromjson", 0) => pipe(call("__json"), Term::Call(name, arguments)),
        ("contains" | "indices" | "bsearch" | "has", 1) => {
            let other = std::mem::take(&mut arguments[0]);
            let pay = match name {
                "has" => call("__touch"),
                _ => Term::Call("__product", vec![Term::Var("$__y")]),
            };
            let other = if is_plain(&other) { other } else { pipe(other, call("__whole")) };
            bind(other, pipe(pay, Term::Call(name, vec![Term::Var("$__y")])))
        }
        (
            "length" | "utf8bytelength" | "trim" | "ltrim" | "rtrim" | "keys_unsorted" | "reverse" | "implode"
            | "startswith" | "endswith" | "ltrimstr" | "rtrimstr",
            _,
        ) => pipe(call("__touch"), Term::Call(name, arguments)),
        _ => Term::Call(name, arguments),
    }
}

/// `.[]` and `.[from:to]` go through a container or text for one term, so it is touched first. A path is cut for that.
/// Parts that are computed see the input of the whole path: after a cut they need it by a name.
fn guarded_path<'s>(inner: Box<Term<&'s str>>, mut path: Path<Term<&'s str>>) -> Term<&'s str> {
    for (part, _) in &mut path.0 {
        if let Part::Index(index) = part
            && !is_plain(index)
        {
            *index = pipe(std::mem::take(index), call("__whole"));
        }
    }
    let goes_through = |part: &Part<Term<&str>>| matches!(part, Part::Range(..));
    let made = matches!(*inner, Term::Arr(None)) || matches!(&*inner, Term::Obj(entries) if entries.is_empty());
    if made || !path.0.iter().any(|(part, _)| goes_through(part)) {
        return Term::Path(inner, path);
    }
    let cut = path.0.iter().skip(1).any(|(part, _)| goes_through(part));
    let named = cut && path.0.iter().any(|(part, _)| computed(part));
    let mut done: Term<&'s str> = *inner;
    let mut parts = Vec::new();
    for (mut part, optional) in path.0 {
        if goes_through(&part) {
            if !parts.is_empty() {
                done = Term::Path(Box::new(done), Path(std::mem::take(&mut parts)));
            }
            let touched = Term::IfThenElse(vec![(call("__touched"), Term::Id)], None);
            done = if matches!(done, Term::Id) { touched } else { pipe(done, touched) };
        }
        if named {
            let of_input = |term: &mut Term<&'s str>| {
                if !is_plain(term) {
                    *term = pipe(Term::Var("$__input"), std::mem::take(term));
                }
            };
            match &mut part {
                Part::Index(index) => of_input(index),
                Part::Range(from, to) => [from, to].into_iter().flatten().for_each(of_input),
            }
        }
        parts.push((part, optional));
    }
    let done = Term::Path(Box::new(done), Path(parts));
    if !named {
        return done;
    }
    let input = BinaryOp::Pipe(Some(Pattern::Var("$__input")));
    Term::BinOp(Box::new(Term::Id), input, Box::new(done))
}

/// Whether a part depends on the input of its path.
fn computed(part: &Part<Term<&str>>) -> bool {
    match part {
        Part::Index(index) => !is_plain(index),
        Part::Range(from, to) => [from, to].into_iter().flatten().any(|bound| !is_plain(bound)),
    }
}

fn call(name: &str) -> Term<&str> {
    Term::Call(name, Vec::new())
}

fn pipe<'s>(left: Term<&'s str>, right: Term<&'s str>) -> Term<&'s str> {
    Term::BinOp(Box::new(left), BinaryOp::Pipe(None), Box::new(right))
}

/// `value as $__y | body`
fn bind<'s>(value: Term<&'s str>, body: Term<&'s str>) -> Term<&'s str> {
    Term::BinOp(Box::new(value), BinaryOp::Pipe(Some(Pattern::Var("$__y"))), Box::new(body))
}

/// Whether a term gives a value that takes no time to walk, wherever it goes.
fn is_plain(term: &Term<&str>) -> bool {
    match term {
        Term::Num(_) | Term::Arr(None) => true,
        Term::Obj(entries) => entries.is_empty(),
        Term::Str(None, parts) => parts.iter().all(|part| matches!(part, StrPart::Str(_) | StrPart::Char(_))),
        Term::Call(name, arguments) => arguments.is_empty() && matches!(*name, "true" | "false" | "null"),
        _ => false,
    }
}

fn is_number(term: &Term<&str>) -> bool {
    matches!(term, Term::Num(_))
}

fn function(math: Math) -> Option<&'static str> {
    match math {
        Math::Add => Some("__add"),
        Math::Sub => Some("__sub"),
        Math::Mul => Some("__mul"),
        Math::Div => Some("__div"),
        Math::Rem => None,
    }
}

fn compared(comparison: Cmp) -> &'static str {
    match comparison {
        Cmp::Eq => "__eq",
        Cmp::Ne => "__ne",
        Cmp::Lt => "__lt",
        Cmp::Le => "__le",
        Cmp::Gt => "__gt",
        Cmp::Ge => "__ge",
    }
}

/// Names of the variables a term mentions, with `$`.
pub(super) fn variables(term: &mut Term<&str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    walk(term, &mut |term| match term {
        Term::Var(name) if !names.iter().any(|n| n == name) => names.push((*name).to_owned()),
        _ => {}
    });
    names
}

/// Visits every subterm, the innermost first.
fn walk<'s>(term: &mut Term<&'s str>, see: &mut dyn FnMut(&mut Term<&'s str>)) {
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_) | Term::Arr(None) => {}
        Term::Str(_, parts) => {
            for part in parts {
                if let StrPart::Term(inner) = part {
                    walk(inner, see);
                }
            }
        }
        Term::Arr(Some(inner)) | Term::Neg(inner) | Term::Label(_, inner) => walk(inner, see),
        Term::Obj(entries) => {
            for (key, value) in entries {
                walk(key, see);
                if let Some(value) = value {
                    walk(value, see);
                }
            }
        }
        Term::BinOp(left, operator, right) => {
            walk(left, see);
            if let BinaryOp::Pipe(Some(pattern)) = operator {
                walk_pattern(pattern, see);
            }
            walk(right, see);
        }
        Term::Fold(_, over, pattern, parts) => {
            walk(over, see);
            walk_pattern(pattern, see);
            parts.iter_mut().for_each(|part| walk(part, see));
        }
        Term::TryCatch(body, handler) => {
            walk(body, see);
            if let Some(handler) = handler {
                walk(handler, see);
            }
        }
        Term::IfThenElse(cases, otherwise) => {
            for (when, then) in cases {
                walk(when, see);
                walk(then, see);
            }
            if let Some(otherwise) = otherwise {
                walk(otherwise, see);
            }
        }
        Term::Def(definitions, body) => {
            definitions.iter_mut().for_each(|definition| walk(&mut definition.body, see));
            walk(body, see);
        }
        Term::Call(_, arguments) => arguments.iter_mut().for_each(|argument| walk(argument, see)),
        Term::Path(inner, path) => {
            walk(inner, see);
            for (part, _) in &mut path.0 {
                match part {
                    Part::Index(index) => walk(index, see),
                    Part::Range(from, to) => [from, to].into_iter().flatten().for_each(|bound| walk(bound, see)),
                }
            }
        }
    }
    see(term);
}

fn walk_pattern<'s>(pattern: &mut Pattern<&'s str>, see: &mut dyn FnMut(&mut Term<&'s str>)) {
    match pattern {
        Pattern::Var(_) => {}
        Pattern::Arr(items) => items.iter_mut().for_each(|item| walk_pattern(item, see)),
        Pattern::Obj(entries) => {
            for (key, value) in entries {
                walk(key, see);
                walk_pattern(value, see);
            }
        }
    }
}
