//! Rewriting of parsed jq so that the meter sees what jaq does in one term: `..`, string repetition, big products and
//! the printing of shared values.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Pattern, Term};
use jaq_core::ops::Math;
use jaq_core::path::Part;

/// Guards a term and everything in it.
pub(super) fn guard(term: &mut Term<&str>) {
    walk(term, &mut |term| match term {
        Term::Recurse => *term = Term::Call("recurse", Vec::new()),
        Term::Str(_, parts) => {
            for part in parts {
                if let StrPart::Term(inner) = part {
                    let printed = std::mem::take(inner);
                    let fit = Box::new(Term::Call("__fit", Vec::new()));
                    *inner = Term::BinOp(Box::new(printed), BinaryOp::Pipe(None), fit);
                }
            }
        }
        Term::BinOp(_, BinaryOp::Math(Math::Mul), _) => {
            if let Term::BinOp(left, _, right) = std::mem::take(term) {
                *term = Term::Call("__mul", vec![*left, *right]);
            }
        }
        Term::BinOp(_, BinaryOp::UpdateMath(Math::Mul), _) => {
            if let Term::BinOp(path, _, right) = std::mem::take(term) {
                let product = Term::Call("__mul", vec![Term::Id, Term::Var("$__y")]);
                let update = Term::BinOp(path, BinaryOp::Update, Box::new(product));
                *term = Term::BinOp(right, BinaryOp::Pipe(Some(Pattern::Var("$__y"))), Box::new(update));
            }
        }
        _ => {}
    });
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
