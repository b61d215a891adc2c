//! Expressions under their budget: attacks that must end, and ordinary jq that must mean what jq means.
//!
//! `fixtures/expression/attacks.txt` holds an expression a line, after how it ends: `value`, `error` (jq's own), `limit`
//! or `refused` (it does not compile). `PAVANE_BLESS=1` writes the first column anew. The allocator is the product's,
//! because the limits of memory live there; it also tells how much one evaluation held at its peak.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use pavane_core::expression::{Arguments, Counting, Expression, Fault};
use pavane_core::{Timestamp, Value};

#[global_allocator]
static ALLOCATOR: Counting<Peak> = Counting(Peak);

/// The system's allocator, with a mark of the most that was ever held.
struct Peak;
static LIVE: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);

fn count(bytes: i64) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    MOST.fetch_max(live, Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call is handed on unchanged")]
// SAFETY: all requirements of the trait are those of the system's allocator.
unsafe impl GlobalAlloc for Peak {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What one evaluation may hold at its worst: the limit, and what one function may make of it before it is looked at.
const MOST_MEMORY: i64 = 512 << 20;

/// The stack of the threads that evaluate in the product.
const STACK: usize = 2 << 20;

const NOW: Timestamp = Timestamp(1_767_225_600_500);

struct Named(Vec<(&'static str, Value)>);

impl Arguments for Named {
    fn get(&self, name: &str) -> Result<Value, Fault> {
        let found = self.0.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.clone()).ok_or_else(|| Fault::Failed(format!("${name} has no value")))
    }

    fn now(&self) -> Timestamp {
        NOW
    }
}

fn evaluate(text: &str, input: &Value) -> Result<Value, String> {
    let expression = Expression::compile(text, &["x"]).map_err(|e| format!("refused: {}", e.message))?;
    expression.evaluate(input, &Named(vec![("x", Value::integer(7))])).map_err(|fault| match fault {
        Fault::Failed(why) => format!("error: {why}"),
        Fault::Limit(why) => format!("limit: {why}"),
        Fault::Denied(why) => format!("denied: {why}"),
    })
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/expression").join(name)
}

/// Arrays in arrays, as deep as input may be.
fn deep() -> Value {
    (0..120).fold(Value::integer(1), |inner, _| Value::array([inner]))
}

/// How an attack ends, on a thread like those of the product.
fn attack(text: &str) -> (String, i64) {
    let text = text.to_owned();
    let run = move || {
        let input = deep();
        let before = LIVE.load(Relaxed);
        MOST.store(before, Relaxed);
        let end = match evaluate(&text, &input) {
            Ok(_) => "value".to_owned(),
            Err(why) => why.split(':').next().unwrap_or_default().to_owned(),
        };
        (end, MOST.load(Relaxed) - before)
    };
    std::thread::Builder::new().stack_size(STACK).spawn(run).unwrap().join().unwrap()
}

#[test]
fn every_attack_ends_within_the_budget() {
    let path = file("attacks.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut given, mut greedy) = (String::new(), Vec::new());
    for line in text.lines() {
        let Some((_, expression)) = line.split_once('\t') else {
            given.push_str(&format!("{line}\n"));
            continue;
        };
        let (end, most) = attack(expression);
        given.push_str(&format!("{end}\t{expression}\n"));
        if most > MOST_MEMORY {
            greedy.push(format!("{} MiB: {expression}", most >> 20));
        }
    }
    if std::env::var_os("PAVANE_BLESS").is_some() {
        std::fs::write(&path, &given).unwrap();
    }
    assert!(greedy.is_empty(), "{greedy:#?}");
    assert!(text.lines().filter(|line| line.contains('\t')).count() >= 52);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), given);
}

fn inputs() -> Vec<Value> {
    let texts = [
        r#"{"a":{"b":1},"list":[3,1,2],"objects":[{"k":"a","n":1},{"k":"b","n":2},{"k":"a","n":3}],"text":"Hello World"}"#,
        "{}",
        "null",
        "[1,[2,3],{\"a\":4}]",
        "\"text\"",
        "5",
        "true",
    ];
    texts.iter().map(|text| Value::parse(text.as_bytes()).unwrap()).collect()
}

/// jaq as it comes, without any guard.
fn plain(text: &str, input: &Value) -> Result<Value, String> {
    use jaq_core::data::JustLut;
    use jaq_core::load::{Arena, File, Loader};
    use jaq_core::{Compiler, Ctx, Vars};
    let arena = Arena::default();
    let loader = Loader::new(jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs()));
    let modules = loader.load(&arena, File { code: text, path: () }).map_err(|_| "load".to_owned())?;
    let natives = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let filter = Compiler::<_, JustLut<jaq_json::Val>>::default()
        .with_funs(natives)
        .with_global_vars(["$x"])
        .compile(modules)
        .map_err(|_| "compile".to_owned())?;
    let context = Ctx::<JustLut<jaq_json::Val>>::new(&filter.lut, Vars::new([jaq_json::Val::from(7_isize)]));
    let outputs: Result<Vec<_>, _> = filter.id.run((context, input.0.clone())).collect();
    let mut outputs = outputs.map_err(|_| "error".to_owned())?;
    Ok(match outputs.len() {
        0 => Value::NULL,
        1 => Value(outputs.swap_remove(0)),
        _ => Value::array(outputs.into_iter().map(Value)),
    })
}

#[test]
fn ordinary_expressions_give_what_jaq_gives() {
    let text = std::fs::read_to_string(file("ordinary.txt")).unwrap();
    let mut wrong = Vec::new();
    let mut values = 0;
    for expression in text.lines().filter(|line| !line.starts_with("# ")) {
        for input in inputs() {
            let (ours, theirs) = (evaluate(expression, &input), plain(expression, &input));
            values += usize::from(theirs.is_ok());
            match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) if ours.to_json() == theirs.to_json() => {}
                // What jaq itself does not know, we may.
                (_, Err(why)) if why == "compile" => {}
                (Err(_), Err(_)) => {}
                _ => wrong.push(format!("{expression} on {input:?}: {ours:?}, but jaq gives {theirs:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(values > 400, "only {values} evaluations gave a value");
}

#[test]
fn what_reaches_outside_is_refused_with_its_place() {
    for (text, offset) in [
        ("env", Some(0)),
        ("1 + env.PATH", Some(4)),
        ("$ENV", Some(0)),
        ("[input]", Some(1)),
        ("[inputs]", Some(1)),
        (". | debug", Some(4)),
        ("debug(\"x\")", Some(0)),
        ("stderr", Some(0)),
        ("halt", Some(0)),
        ("halt_error", Some(0)),
        ("localtime", Some(0)),
        ("$__prog_args", Some(0)),
        ("nope", Some(0)),
        (". +", None),
    ] {
        let error = Expression::compile(text, &[]).unwrap_err();
        assert_eq!(error.offset, offset, "{text}: {error:?}");
    }
    for text in ["import \"a\" as a; a::b", "include \"a\"; .", "def f: f"] {
        assert!(Expression::compile(text, &[]).is_err(), "{text}");
    }
}

#[test]
fn now_is_the_recorded_time_and_outputs_become_one_value() {
    for (text, expected) in [
        ("now", "1767225600.5"),
        ("[now, now] | unique | length", "1"),
        ("empty", "null"),
        ("1", "1"),
        ("1, 2", "[1,2]"),
        ("[1, 2]", "[1,2]"),
        ("(1, 2), empty", "[1,2]"),
        ("null, empty", "null"),
    ] {
        assert_eq!(evaluate(text, &Value::NULL).unwrap().to_json(), expected, "{text}");
    }
}
