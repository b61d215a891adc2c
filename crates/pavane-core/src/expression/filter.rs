//! One compiled expression and the guards around it.
//!
//! Most expressions of a definition never reach jaq ([`super::plain`]). The others run on jaq with a meter
//! ([`super::budget`]): first with a small budget on this thread, and when that is used up once more with a large one
//! on a thread that has the stack for it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jaq_core::load::lex::{Lexer, StrPart};
use jaq_core::load::parse::{BinaryOp, Def, Parser, Term};
use jaq_core::load::{Arena, File, Loader};
use jaq_core::ops::Math;
use jaq_core::{Compiler, Ctx, Exn, Vars};
use jaq_json::Val;

use super::budget::{Budget, INLINE, Jq, LARGE, LARGE_STACK, MAX_LEVELS, MAX_SIZE, MEMORY, Meter, Run, Stop};
use super::functions::{self, fits};
use super::plain::{Merge, Plain};
use super::{Arguments, guard};
use crate::value::{MAX_DEPTH, Value};

/// Outputs of one expression; more are a mistake, or an attack.
const MAX_OUTPUTS: usize = 100_000;
/// Nodes of all outputs together.
pub(super) const MAX_NODES: usize = 1_000_000;
/// Longest text of an expression.
const MAX_TEXT: usize = 64 << 10;

/// An expression that does not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong, and the remedy where one is known.
    pub message: String,
    /// Byte offset in the expression's text, when known.
    pub offset: Option<usize>,
}

/// An evaluation that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// jq's own error, with its message.
    Failed(String),
    /// A limit was reached; says which.
    Limit(String),
    /// The argument may not be read here (…/authorization, 403).
    Denied(String),
}

/// A compiled expression.
pub struct Expression {
    text: String,
    /// Names of the arguments it uses, without `$`, in the order the filter takes them.
    names: Vec<String>,
    code: Code,
    /// What every value of it begins with, as far as its text shows.
    prefix: Prefix,
}

/// The constant beginning of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The beginning.
    pub text: String,
    /// Whether that is all of it.
    pub whole: bool,
}

enum Code {
    Plain(Plain),
    /// What it comes to where no jq is needed, if it may be such, and how jq does it.
    Filter(Option<Merge>, Box<jaq_core::Filter<Jq>>),
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

impl Expression {
    /// Compiles jq text that may name the given variables (without `$`).
    ///
    /// # Errors
    /// Syntax errors, undefined filters and unbound variables.
    pub fn compile(text: &str, variables: &[&str]) -> Result<Expression, CompileError> {
        let mut term = parse(text)?;
        let prefix = prefix(&term);
        if let Some(plain) = Plain::of(&term)
            && plain.argument().is_none_or(|name| variables.contains(&name))
        {
            let names = plain.argument().map(str::to_owned).into_iter().collect();
            return Ok(Expression { text: text.to_owned(), names, code: Code::Plain(plain), prefix });
        }
        let merge = Merge::of(&term);
        let mentioned = guard::variables(&mut term);
        let names: Vec<String> = variables
            .iter()
            .filter(|v| mentioned.iter().any(|m| m.strip_prefix('$') == Some(v)))
            .map(|v| (*v).to_owned())
            .collect();
        guard::guard(&mut term);
        let filter = compile(text, term, &names, variables)?;
        Ok(Expression { text: text.to_owned(), names, code: Code::Filter(merge, Box::new(filter)), prefix })
    }

    /// Whether the expression names `$name`.
    pub fn names(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// Whether every text in what it gives stands in the data of the task, or is one of its own of ASCII characters: it
    /// puts none together.
    pub fn only_copies(&self) -> bool {
        match &self.code {
            Code::Plain(plain) => plain.only_copies(),
            Code::Filter(merge, _) => merge.as_ref().is_some_and(Merge::only_copies),
        }
    }

    /// Whether its value may differ between two evaluations of the same step on the same data: it names the time, or
    /// what this host says of itself.
    pub fn is_fleeting(&self) -> bool {
        match &self.code {
            Code::Plain(Plain::Path(Some(name), path)) => match name.as_str() {
                "task" => path.first().is_none_or(|first| first == "startedAt"),
                name => name == "runtime",
            },
            Code::Plain(Plain::Constant(_) | Plain::Path(None, _)) => false,
            Code::Filter(..) => {
                let mut words = self.text.split(|c: char| !c.is_alphanumeric() && c != '_');
                self.names("task") || self.names("runtime") || words.any(|word| word == "now")
            }
        }
    }

    /// The text every value of the expression begins with, as far as that can be seen without running it.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Runs the expression on `input`. No output is null, one is that value, more are an array.
    ///
    /// # Errors
    /// jq errors, limits reached, arguments denied.
    pub fn evaluate(&self, input: &Value, arguments: &dyn Arguments) -> Result<Value, Fault> {
        match &self.code {
            Code::Plain(plain) => plain.evaluate(input, arguments),
            Code::Filter(merge, filter) => {
                let merged = merge.as_ref().map(|merge| merge.evaluate(input, arguments)).transpose()?.flatten();
                if let Some(merged) = merged {
                    return Ok(merged);
                }
                let values =
                    self.names.iter().map(|name| arguments.get(name).map(|v| v.0)).collect::<Result<Vec<_>, _>>()?;
                let now = arguments.now().0 as f64 / 1_000.0;
                run(filter, &values, &input.0, now)
            }
        }
    }
}

/// Checks the syntax alone: what can be said before the variables in scope are known.
///
/// # Errors
/// Lexical and grammatical errors.
pub fn check_syntax(text: &str) -> Result<(), CompileError> {
    parse(text).map(|_| ())
}

/// Parses on a thread's own terms: nesting deeper than a definition can need is refused before the parser recurses.
pub(super) fn parse(text: &str) -> Result<Term<&str>, CompileError> {
    let error = |message: String, at: Option<&str>| CompileError { message, offset: at.map(|at| offset(text, at)) };
    if text.len() > MAX_TEXT {
        return Err(error(format!("it is longer than {MAX_TEXT} bytes"), None));
    }
    if nesting(text) > MAX_DEPTH {
        return Err(error(format!("its brackets nest deeper than {MAX_DEPTH}"), None));
    }
    if text.trim().is_empty() {
        return Err(error("it is empty".into(), None));
    }
    let tokens = Lexer::new(text).lex().map_err(|errors| {
        let (expected, at) = errors.first().map_or(("another text", ""), |(e, at)| (e.as_str(), *at));
        error(format!("{expected} is expected here: `{}`", clip(at)), Some(at))
    })?;
    Parser::new(&tokens).parse(|parser| parser.term()).map_err(|errors| {
        let (expected, at) = errors.first().map_or(("another text", None), |(e, at)| (e.as_str(), at.map(|t| t.0)));
        match at {
            Some(at) => error(format!("{expected} is expected before `{}`", clip(at)), Some(at)),
            None => error(format!("{expected} is missing at its end"), None),
        }
    })
}

fn compile<'s>(
    text: &'s str,
    term: Term<&'s str>,
    names: &[String],
    variables: &[&str],
) -> Result<jaq_core::Filter<Jq>, CompileError> {
    let main = Def { name: "__main", args: Vec::new(), body: term };
    let prelude = Lexer::new(functions::PRELUDE).lex().ok();
    let prelude =
        prelude.as_deref().and_then(|tokens| Parser::new(tokens).parse(|p| p.defs()).ok()).unwrap_or_default();
    let definitions = jaq_core::defs()
        .chain(jaq_std::defs())
        .chain(jaq_json::defs())
        .filter(|d| !functions::DENIED_DEFINITIONS.contains(&d.name))
        .chain(prelude)
        .map(|mut d| {
            guard::guard(&mut d.body);
            d
        })
        .chain([main]);
    let natives = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let natives = natives.filter(|f| !functions::DENIED.contains(&f.0)).chain(functions::own());
    let arena = Arena::default();
    let modules = Loader::new(definitions)
        .load(&arena, File { code: "__main", path: () })
        .map_err(|_| CompileError { message: "it cannot be loaded".into(), offset: None })?;
    let globals: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
    Compiler::<_, Jq>::default()
        .with_funs(natives)
        .with_global_vars(globals.iter().map(String::as_str))
        .compile(modules)
        .map_err(|errors| {
            undefined(text, variables, errors.iter().flat_map(|(_, e)| e).map(|(name, kind)| (*name, kind.as_str())))
        })
}

fn undefined<'e>(text: &str, variables: &[&str], mut errors: impl Iterator<Item = (&'e str, &'e str)>) -> CompileError {
    let Some((name, kind)) = errors.next() else {
        return CompileError { message: "it does not compile".into(), offset: None };
    };
    let known: Vec<String> = variables.iter().map(|v| format!("${v}")).collect();
    let message = if name.starts_with('$') {
        format!("{name} is not defined here; in scope are {}", known.join(", "))
    } else if functions::DENIED.contains(&name) || functions::DENIED_DEFINITIONS.contains(&name) {
        format!("`{name}` does not exist in workflows: an expression only computes from its data")
    } else {
        format!("the {kind} `{name}` is not defined")
    };
    CompileError { message, offset: Some(offset(text, name)).filter(|at| *at < text.len()) }
}

/// Where a part of the text stands in it; its length when the part is none of it.
fn offset(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize).filter(|at| *at <= text.len()).unwrap_or(text.len())
}

fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn clip(text: &str) -> String {
    text.chars().take(20).collect()
}

/// What a term's value begins with when it is a text: literals, what they are joined to, what a pipe ends in.
fn prefix(term: &Term<&str>) -> Prefix {
    match term {
        Term::Str(None, parts) => {
            let constant = |part: &StrPart<&str, Term<&str>>| match part {
                StrPart::Str(text) => Some((*text).to_owned()),
                StrPart::Char(char) => Some(char.to_string()),
                StrPart::Term(_) => None,
            };
            let known: Vec<String> = parts.iter().map_while(constant).collect();
            Prefix { text: known.concat(), whole: known.len() == parts.len() }
        }
        Term::BinOp(left, BinaryOp::Math(Math::Add), right) => match prefix(left) {
            Prefix { text, whole: true } => {
                let rest = prefix(right);
                Prefix { text: text + &rest.text, whole: rest.whole }
            }
            left => left,
        },
        Term::BinOp(_, BinaryOp::Pipe(_), right) => prefix(right),
        _ => Prefix::default(),
    }
}

fn run(filter: &jaq_core::Filter<Jq>, values: &[Val], input: &Val, now: f64) -> Result<Value, Fault> {
    match attempt(filter, values, input, now, INLINE) {
        Err(stop @ (Stop::Memory | Stop::Size)) => Err(limit(&stop)),
        Err(Stop::Terms | Stop::Stack) => std::thread::scope(|scope| {
            let large = || attempt(filter, values, input, now, LARGE).unwrap_or_else(|stop| Err(limit(&stop)));
            match std::thread::Builder::new().name("jq".into()).stack_size(LARGE_STACK).spawn_scoped(scope, large) {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err(Fault::Failed("the evaluation broke off".into()))),
                Err(_) => Err(limit(&Stop::Terms)),
            }
        }),
        Ok(result) => result,
    }
}

fn limit(stop: &Stop) -> Fault {
    Fault::Limit(match stop {
        Stop::Terms => format!("the expression was stopped after {} terms: does it loop for ever?", LARGE.terms),
        Stop::Stack => {
            format!("the expression was stopped: it recurses deeper than {} MiB of stack", LARGE.stack >> 20)
        }
        Stop::Size => {
            format!("the expression was stopped: a value has more than {MAX_SIZE} parts or {MAX_LEVELS} levels")
        }
        Stop::Memory => format!("the expression was stopped: its values take more than {} MiB", MEMORY >> 20),
    })
}

/// One run. `Err` is a limit that a larger budget may lift.
fn attempt(
    filter: &jaq_core::Filter<Jq>,
    values: &[Val],
    input: &Val,
    now: f64,
    budget: Budget,
) -> Result<Result<Value, Fault>, Stop> {
    let meter = Meter::new(&filter.lut, budget, now);
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut outputs = Vec::new();
        let mut nodes = MAX_NODES;
        let context = Ctx::new(Run(&meter), Vars::new(values.iter().cloned()));
        for output in filter.id.run::<Jq>((context, input.clone())) {
            let output = match output {
                Ok(output) => output,
                Err(exception) => return Err(Fault::Failed(message(exception))),
            };
            if !fits(&output, &mut nodes, MAX_DEPTH) || outputs.len() >= MAX_OUTPUTS {
                return Err(Fault::Limit(format!(
                    "the result is too large: at most {MAX_OUTPUTS} outputs, {MAX_NODES} values and {MAX_DEPTH} levels are kept"
                )));
            }
            outputs.push(output);
        }
        Ok(match outputs.len() {
            0 => Value::NULL,
            1 => Value(outputs.swap_remove(0)),
            _ => Value(outputs.into_iter().collect()),
        })
    }));
    match run {
        Ok(result) => Ok(result),
        Err(payload) => match payload.downcast::<Stop>() {
            Ok(stop) => Err(*stop),
            // A defect of the jq engine must not take the instance's neighbours with it.
            Err(payload) if payload.is::<String>() || payload.is::<&str>() => {
                Ok(Err(Fault::Failed("the expression engine failed on this expression".into())))
            }
            Err(payload) => resume_unwind(payload),
        },
    }
}

fn message(exception: Exn<'_, Val>) -> String {
    match exception.get_err() {
        Ok(error) => {
            let value = Value(error.into_val());
            value.as_str().map_or_else(|| value.to_json(), |text| text.chars().take(500).collect())
        }
        Err(_) => "the expression broke off".into(),
    }
}
