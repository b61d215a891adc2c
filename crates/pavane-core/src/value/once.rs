//! Data that holds the same values many times, written with each value once.
//!
//! What travels with a token is its data at several moments: each task's output is mostly its input with something
//! added. While [`writing`], a [`Value`] is written as its position in a list; an object that begins like one before it
//! is in the list as that one's position and what is different. While [`reading`] that list, positions become values
//! again, which share what they shared. Both hold for the thread that they were called on.
//!
//! The list is a JSON array. `[value]` is a value; `[position, {…}]` is the object at `position` with these members set.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use ahash::HashMap;
use jaq_json::{Map, Num, Val};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::aside::Aside;
use super::buffer::Buffer;
use super::{Texts, Value, text};

/// How many objects before a new one it is compared with.
const COMPARED: usize = 8;

/// More values than most lists have.
const MANY: usize = 8;

/// Values that are looked through rather than looked up.
const FEW: usize = 24;

/// The most members that all objects together may have which are made from another one: a short list could otherwise
/// become any amount of memory. Far more than a message of the permitted size leads to.
const MAX_MEMBERS: usize = 1 << 24;

thread_local! {
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Plain) };
}

enum Mode {
    /// Values are written and read as they are.
    Plain,
    Writing(Box<Writer>),
    Reading(Vec<Value>),
}

/// What was written so far.
#[derive(Default)]
struct Writer {
    /// Kept, so that no other value gets the address of one of these.
    values: Vec<Value>,
    /// Those of the beginning that were asked for. Of the others none is.
    wanted: Vec<bool>,
    text: Buffer,
    null: Option<u32>,
    positions: Positions,
    /// Objects, the newest last.
    objects: Vec<u32>,
    /// Texts that need not be written again.
    known: Texts,
    /// Those of the values that are whole in the list.
    whole: Texts,
}

/// Where values are, by what tells them apart. Few are found faster one by one.
#[derive(Default)]
struct Positions {
    few: Vec<((usize, usize), u32)>,
    more: HashMap<(usize, usize), u32>,
}

impl Positions {
    fn get(&self, key: (usize, usize)) -> Option<u32> {
        let few = self.few.iter().find(|(at, _)| *at == key).map(|(_, position)| *position);
        few.or_else(|| if self.more.is_empty() { None } else { self.more.get(&key).copied() })
    }

    fn insert(&mut self, key: (usize, usize), position: u32) {
        if self.few.len() < FEW {
            self.few.push((key, position));
        } else {
            self.more.insert(key, position);
        }
    }
}

/// What a list begins with, for the next one that begins so.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Beginning(Aside<Option<Arc<Begun>>>);

/// Values and the text of their list as far as they go, without its end.
type Begun = (Vec<Value>, Vec<u8>);

/// What was written with each value once.
pub(crate) struct Written<R> {
    /// The list, as JSON.
    pub list: Buffer,
    /// What `write` gave.
    pub done: R,
    /// The texts of values that stand in the list whole.
    pub texts: Texts,
    /// What the list begins with.
    pub beginning: Beginning,
}

/// Writes with each value once. `first` puts values into the list that others are likely to begin with; what one before began
/// with is taken over if all of it is among them. `known` are texts of values that stood in it whole.
pub(crate) fn writing<R>(
    known: &Texts,
    beginning: &Beginning,
    first: impl Fn(),
    write: impl FnOnce() -> R,
) -> Written<R> {
    let begin = |beginning: &Beginning| within(Mode::Writing(Box::new(Writer::new(known, beginning))), &first).0;
    let mut begun = begin(beginning);
    if matches!(&begun, Mode::Writing(writer) if writer.wanted.contains(&false)) {
        begun = begin(&Beginning::default());
    }
    let beginning = match &begun {
        Mode::Writing(writer) if writer.values.len() > writer.wanted.len() => {
            Beginning(Aside(Some(Arc::new((writer.values.clone(), writer.text.to_vec())))))
        }
        _ => beginning.clone(),
    };
    let (mode, done) = within(begun, write);
    let (mut text, texts) = match mode {
        Mode::Writing(writer) => (writer.text, writer.whole),
        Mode::Plain | Mode::Reading(_) => {
            let mut none = Buffer::default();
            none.push(b'[');
            (none, Texts::default())
        }
    };
    text.push(b']');
    Written { list: text, done, texts, beginning }
}

/// Reads what was written with such a list.
pub(crate) fn reading<R>(List(values): List, read: impl FnOnce() -> R) -> R {
    within(Mode::Reading(values), read).1
}

/// Does something in another mode, and returns what that has become.
fn within<R>(mode: Mode, work: impl FnOnce() -> R) -> (Mode, R) {
    /// Puts back what was there also when `work` panics: the thread may go on with other work.
    struct Before(Option<Mode>);
    impl Drop for Before {
        fn drop(&mut self) {
            if let Some(before) = self.0.take() {
                MODE.set(before);
            }
        }
    }
    let mut before = Before(Some(MODE.replace(mode)));
    let done = work();
    (MODE.replace(before.0.take().unwrap_or(Mode::Plain)), done)
}

/// The position to write instead of a value; nothing when it is to be written as it is.
pub(crate) fn position(value: &Value) -> Option<u32> {
    MODE.with_borrow_mut(|mode| match mode {
        Mode::Writing(writer) => Some(writer.position(value)),
        Mode::Plain | Mode::Reading(_) => None,
    })
}

/// Whether a position is to be read instead of a value.
pub(super) fn is_reading() -> bool {
    MODE.with_borrow(|mode| matches!(mode, Mode::Reading(_)))
}

/// The value at a position of the list that is being read.
pub(super) fn at(position: u32) -> Option<Value> {
    MODE.with_borrow(|mode| match mode {
        Mode::Reading(values) => values.get(position as usize).cloned(),
        Mode::Plain | Mode::Writing(_) => None,
    })
}

impl Writer {
    fn new(known: &Texts, Beginning(beginning): &Beginning) -> Writer {
        let mut writer = Writer { known: known.clone(), ..Writer::default() };
        writer.values.reserve(MANY);
        writer.objects.reserve(MANY);
        writer.positions.few.reserve(MANY);
        match beginning.as_deref() {
            None => writer.text.push(b'['),
            Some((values, list)) => {
                writer.text.extend_from_slice(list);
                for (value, position) in values.iter().zip(0..) {
                    if let Some(key) = identity(&value.0) {
                        writer.positions.insert(key, position);
                    }
                    writer.note(value, position);
                }
                writer.wanted = vec![false; values.len()];
            }
        }
        writer
    }

    /// A value is in the list now.
    fn note(&mut self, value: &Value, position: u32) {
        match &value.0 {
            Val::Null => self.null = Some(position),
            Val::Obj(_) => self.objects.push(position),
            _ => {}
        }
        self.values.push(value.clone());
    }

    fn position(&mut self, value: &Value) -> u32 {
        let key = identity(&value.0);
        let known = if value.is_null() { self.null } else { key.and_then(|key| self.positions.get(key)) };
        if let Some(known) = known {
            self.want(known);
            return known;
        }
        let like = self.like(&value.0);
        let position = match like {
            Some((position, changes)) if changes.is_empty() => {
                self.want(position);
                position
            }
            _ => self.append(value, like),
        };
        if let Some(key) = key {
            self.positions.insert(key, position);
        }
        position
    }

    fn want(&mut self, position: u32) {
        if let Some(wanted) = self.wanted.get_mut(position as usize) {
            *wanted = true;
        }
    }

    fn append(&mut self, value: &Value, like: Option<(u32, Vec<usize>)>) -> u32 {
        // A list of so many values does not fit into memory.
        let position = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        if position > 0 {
            self.text.push(b',');
        }
        self.text.push(b'[');
        match (&value.0, like) {
            (Val::Obj(map), Some((base, changes))) => {
                self.text.extend_from_slice(base.to_string().as_bytes());
                for (nth, index) in changes.into_iter().enumerate() {
                    self.text.extend_from_slice(if nth == 0 { b",{" } else { b"," });
                    if let Some((key, member)) = map.get_index(index) {
                        text::write_member(key, member, &mut self.text);
                    }
                }
                self.text.push(b'}');
            }
            _ => self.append_whole(value),
        }
        self.text.push(b']');
        self.note(value, position);
        position
    }

    fn append_whole(&mut self, value: &Value) {
        if let Some(text) = self.known.of(value) {
            self.text.extend_from_slice(text.as_bytes());
            self.whole.take_from(&self.known, value);
            return;
        }
        let start = self.text.len();
        text::write(&value.0, &mut self.text);
        if let Some(Ok(text)) = self.text.get(start..).map(std::str::from_utf8) {
            self.whole.keep(&value.0, text);
        }
    }

    /// An object before this one whose members are its first ones, most of them with the same values; and the positions
    /// of the members that are different or new.
    fn like(&self, value: &Val) -> Option<(u32, Vec<usize>)> {
        let Val::Obj(map) = value else { return None };
        let found = self.objects.iter().rev().take(COMPARED).filter_map(|position| {
            let Val::Obj(before) = &self.values.get(*position as usize)?.0 else { return None };
            if before.len() > map.len() {
                return None;
            }
            let mut changes = Vec::new();
            for (index, ((key, new), (old_key, old))) in map.iter().zip(before.iter()).enumerate() {
                // Keys that are no strings become strings, which may make two of one.
                if !matches!((key, old_key), (Val::TStr(key), Val::TStr(old)) if key == old) {
                    return None;
                }
                if !same(new, old) {
                    changes.push(index);
                }
            }
            let alike = before.len() - changes.len();
            changes.extend(before.len()..map.len());
            let strings = changes.iter().all(|index| matches!(map.get_index(*index), Some((Val::TStr(_), _))));
            (strings && (alike > 0 || changes.is_empty())).then_some((*position, changes))
        });
        found.min_by_key(|(_, changes)| changes.len())
    }
}

/// What two values have in common when they are one value that was cloned.
pub(super) fn identity(value: &Val) -> Option<(usize, usize)> {
    match value {
        Val::Arr(items) => Some((items.as_ptr().addr(), items.len())),
        Val::Obj(map) => Some((std::ptr::from_ref::<Map>(map).addr(), 0)),
        Val::TStr(bytes) | Val::BStr(bytes) => Some((bytes.as_ptr().addr(), bytes.len())),
        Val::Null | Val::Bool(_) | Val::Num(_) => None,
    }
}

/// Whether two values have the same text, as far as that is known without reading large ones.
fn same(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::Num(Num::Int(a)), Val::Num(Num::Int(b))) => a == b,
        (Val::Num(Num::Float(a)), Val::Num(Num::Float(b))) => a.to_bits() == b.to_bits(),
        (Val::TStr(a), Val::TStr(b)) => a == b,
        (Val::Arr(_), Val::Arr(_)) | (Val::Obj(_), Val::Obj(_)) => identity(a) == identity(b),
        _ => false,
    }
}

/// The list of values of something that was written with each once.
pub(crate) struct List(Vec<Value>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Values)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of values, each in an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List, A::Error> {
        let (mut values, mut members): (Vec<Value>, usize) = (Vec::new(), 0);
        while let Some(entry) = list.next_element::<Vec<Value>>()? {
            let nth = values.len();
            let value = match <[Value; 2]>::try_from(entry) {
                Ok([position, changes]) => {
                    let base = position.as_i64().and_then(|at| values.get(usize::try_from(at).ok()?));
                    let (Some(Value(Val::Obj(base))), Val::Obj(changes)) = (base, &changes.0) else {
                        return Err(Error::custom(format!("value {nth} is made from one that is no object before it")));
                    };
                    members += base.len();
                    if members > MAX_MEMBERS {
                        return Err(Error::custom(format!(
                            "objects that are made from others have over {MAX_MEMBERS} members"
                        )));
                    }
                    let mut map = (**base).clone();
                    map.extend(changes.iter().map(|(key, member)| (key.clone(), member.clone())));
                    Value(Val::obj(map))
                }
                Err(entry) => match <[Value; 1]>::try_from(entry) {
                    Ok([value]) => value,
                    Err(_) => return Err(Error::custom(format!("value {nth} is in no array of one or two"))),
                },
            };
            values.push(value);
        }
        Ok(List(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(values: &[Value]) -> (String, String) {
        let nothing = Beginning::default();
        let first = |count: usize| {
            move || {
                for value in values.iter().take(count) {
                    let _ = position(value);
                }
            }
        };
        let write = || serde_json::to_string(values).unwrap();
        let Written { list, done, texts, .. } = writing(&Texts::default(), &nothing, || {}, write);
        // With what is known from the first time it is the same.
        let again = writing(&texts, &nothing, first(values.len() / 2), write);
        assert_eq!((again.list.text(), &again.done), (list.text(), &done));
        // With its beginning the same is read: with one as long, a longer one, and a shorter one.
        for count in [values.len() / 2, values.len(), values.len() / 3] {
            let next = writing(&Texts::default(), &again.beginning, first(count), write);
            // Values that are equal and not the same may stand at other positions.
            assert_eq!(texts_of(&read(next.list.text().unwrap(), &next.done).unwrap()), texts_of(values), "{count}");
        }
        (list.text().unwrap().to_owned(), done)
    }

    fn texts_of(values: &[Value]) -> Vec<String> {
        values.iter().map(Value::to_json).collect()
    }

    fn read(list: &str, rest: &str) -> Result<Vec<Value>, serde_json::Error> {
        reading(serde_json::from_str(list)?, || serde_json::from_str(rest))
    }

    fn value(json: &str) -> Value {
        Value::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let first = value(r#"{"a":{"deep":[1]},"b":"x"}"#);
        let more = first.clone().with("c", Value::integer(3));
        let other = more.clone().with("b", Value::integer(1));
        let (list, rest) = written(&[
            first.clone(),
            Value::NULL,
            more.clone(),
            first.clone(),
            other.clone(),
            Value::NULL,
            more.clone(),
        ]);
        assert_eq!(list, r#"[[{"a":{"deep":[1]},"b":"x"}],[null],[0,{"c":3}],[2,{"b":1}]]"#);
        assert_eq!(rest, "[0,1,2,0,3,1,2]");
        let again = read(&list, &rest).unwrap();
        assert_eq!(again, [first.clone(), Value::NULL, more.clone(), first.clone(), other, Value::NULL, more.clone()]);
        // What was shared is shared again, so that writing it once more gives the same.
        assert_eq!(written(&again), (list, rest));
        // And nothing of it is left when it is done.
        assert_eq!(serde_json::to_string(&first).unwrap(), first.to_json());
        assert_eq!(serde_json::from_str::<Value>("7").unwrap(), Value::integer(7));
    }

    #[test]
    fn what_a_list_begins_with_is_taken_over_whole_or_not_at_all() {
        let (a, b) = (value(r#"{"a":"one"}"#), value(r#"{"b":"two"}"#));
        let put = |values: &[&Value]| values.iter().filter_map(|value| position(value)).collect::<Vec<_>>();
        let written = |beginning: &Beginning, first: &[&Value], all: &[&Value]| {
            let Written { list, done, beginning, .. } =
                writing(&Texts::default(), beginning, || drop(put(first)), || put(all));
            (list.text().unwrap().to_owned(), done, beginning)
        };
        let (list, positions, both) =
            written(&Beginning::default(), &[&a, &b], &[&a, &b, &a.clone().with("c", b.clone())]);
        assert_eq!((&*list, positions), (r#"[[{"a":"one"}],[{"b":"two"}],[0,{"c":{"b":"two"}}]]"#, vec![0, 1, 2]));
        // What only the list before had at its end is in no other.
        assert_eq!(written(&both, &[&a, &b], &[&b]).0, r#"[[{"a":"one"}],[{"b":"two"}]]"#);
        // Nor what is wanted no more: its receiver may not be one who is to see it.
        let (list, positions, one) = written(&both, &[&a], &[&a]);
        assert_eq!((&*list, positions), (r#"[[{"a":"one"}]]"#, vec![0]));
        assert_eq!(written(&one, &[&a, &b], &[&b, &a]).1, [1, 0]);
    }

    #[test]
    fn numbers_that_are_equal_and_not_the_same_stay_as_they_are() {
        let values = [value(r#"{"k":true,"n":1}"#), value(r#"{"k":true,"n":1.0}"#)];
        let (list, rest) = written(&values);
        assert_eq!(texts_of(&read(&list, &rest).unwrap()), [r#"{"k":true,"n":1}"#, r#"{"k":true,"n":1.0}"#]);
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        for (list, rest, why) in [
            ("[[1]]", "[1]", "no value"),
            ("[[1]]", "[-1]", "invalid value"),
            ("[[1]]", "[{}]", "invalid type"),
            ("[[0,{}]]", "[0]", "value 0 is made from one that is no object before it"),
            ("[[1],[0,{}]]", "[0]", "value 1 is made from one that is no object before it"),
            ("[[{}],[0,1]]", "[0]", "value 1 is made from one that is no object before it"),
            ("[[]]", "[0]", "value 0 is in no array of one or two"),
            ("[[1,2,3]]", "[0]", "value 0 is in no array of one or two"),
            ("{}", "[0]", "a list of values"),
        ] {
            let told = read(list, rest).unwrap_err().to_string();
            assert!(told.contains(why), "{list}: {told}");
        }
        let object: Vec<String> = (0..5_000).map(|n| format!("\"{n}\":0")).collect();
        let list = format!("[[{{{}}}]{}]", object.join(","), ",[0,{}]".repeat(5_000));
        assert!(read(&list, "[]").unwrap_err().to_string().contains("members"));
    }

    proptest! {
        /// Whatever is shared by whatever comes before, the same values are read.
        #[test]
        fn what_is_written_is_read(steps in prop::collection::vec((0usize..6, 0usize..6, 0usize..8, -2i64..3), 1..30)) {
            let mut values = vec![Value::empty_object(), Value::text("s")];
            for (kind, from, name, number) in steps {
                let base = values[from % values.len()].clone();
                let name = ["a", "b", "c", "d", "é\"", "", "f", "g"][name];
                values.push(match kind {
                    0 => base.with(name, Value::integer(number)),
                    1 => base.with(name, values[name.len() % values.len()].clone()),
                    2 => Value::array([base, Value::float(number as f64)]),
                    3 => Value::object([(name, base)]),
                    4 => value(&base.to_json()),
                    _ => base,
                });
            }
            let (list, rest) = written(&values);
            let texts = |values: &[Value]| values.iter().map(Value::to_json).collect::<Vec<_>>();
            prop_assert_eq!(texts(&read(&list, &rest).unwrap()), texts(&values));
        }
    }
}
