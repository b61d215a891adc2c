//! The reader: fixtures (a document and the diagnostics it gives), the pages of the codes, and texts broken at random.
//!
//! `PAVANE_BLESS=1` writes the diagnostics of the fixtures anew; look at the difference before committing it.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::path::{Path, PathBuf};

use pavane_core::definition::{Consumption, DurationSource, MAX_TEXT, Mode, TaskKind, Template, Then, codes, read};
use pavane_core::program::{Program, Resources};
use proptest::prelude::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/definition")
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors")
}

/// Documents among the fixtures, by name.
fn documents() -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap()))
        .collect();
    found.sort();
    found
}

fn check(name: &str, text: &str) -> Result<(), String> {
    let given: String = read(name, text).diagnostics.iter().map(ToString::to_string).collect();
    let expected = fixtures().join(name).with_extension("txt");
    if std::env::var_os("PAVANE_BLESS").is_some() {
        std::fs::write(&expected, &given).unwrap();
    }
    let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
    if wanted == given { Ok(()) } else { Err(format!("{name}: expected\n{wanted}\ngot\n{given}")) }
}

#[test]
fn every_fixture_gives_its_diagnostics() {
    let documents = documents();
    assert!(documents.len() >= 8);
    let wrong: Vec<_> = documents.iter().filter_map(|(name, text)| check(name, text).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_has_a_page_whose_example_gives_it() {
    let index = std::fs::read_to_string(pages().join("README.md")).unwrap();
    for (code, title) in codes::ALL {
        let page = std::fs::read_to_string(pages().join(format!("{code}.md"))).unwrap_or_default();
        assert!(page.starts_with(&format!("# {code}: {title}\n")), "page of {code}");
        assert!(page.contains("\n## Remedy\n"), "remedy of {code}");
        assert!(index.contains(&format!("| [{code}]({code}.md) | {title} |")), "index of {code}");
        // No example could show a text over the limit.
        let example = match page.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")) {
            Some((example, _)) => example.to_owned(),
            None => "#".repeat(MAX_TEXT + 1),
        };
        let reading = read("example.yaml", &example);
        let mut given: Vec<_> = reading.diagnostics.iter().map(|d| d.code).collect();
        if let (Some(definition), false) = (&reading.definition, reading.has_errors()) {
            let services = ["inventory", "payment", "shipping", "notification"].map(str::to_owned).into();
            let wanted = if code.starts_with('P') { Mode::Choreography } else { Mode::Orchestration };
            let compiled = match wanted {
                Mode::Orchestration => Program::compile(definition, &Resources::new()),
                Mode::Choreography => Program::choreograph(definition, &Resources::new(), &services),
            };
            match compiled {
                Ok(program) => given.extend(program.advice(definition).iter().map(|d| d.code)),
                Err(problems) => given.extend(problems.iter().map(|d| d.code)),
            }
        }
        assert!(given.contains(code), "the example of {code} gives {given:?}");
        assert!(given.iter().all(|other| other == code), "the example of {code} also gives {given:?}");
    }
}

#[test]
fn pages_of_unknown_codes_do_not_linger() {
    for entry in std::fs::read_dir(pages()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let code = name.trim_end_matches(".md");
        // Other rooms keep their pages here too, under other letters.
        if code.starts_with('D') {
            assert!(codes::ALL.iter().any(|(known, _)| *known == code), "{name}");
        }
    }
}

#[test]
fn the_model_holds_what_the_document_says() {
    let text = std::fs::read_to_string(fixtures().join("order-fulfilment.yaml")).unwrap();
    let definition = read("order.yaml", &text).definition.unwrap();
    let names: Vec<_> = definition.tasks.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["reserve", "pay", "fulfil", "confirm"]);
    let TaskKind::Try(pay) = &definition.tasks[1].kind else { panic!("pay is a try") };
    assert_eq!(pay.body[0].reference, "/do/1/pay/try/0/charge");
    assert_eq!(pay.body[0].pavane.compensate.as_ref().unwrap().function, "refundPayment");
    assert_eq!(pay.retry.as_ref().unwrap().max_retries, Some(3));
    assert_eq!(pay.errors[0].1.to_json(), "503");
    let TaskKind::Fork { branches, compete: false } = &definition.tasks[2].kind else { panic!("fulfil is a fork") };
    assert_eq!(branches[1].reference, "/do/2/fulfil/fork/branches/1/notify");
    assert_eq!(definition.functions["releaseStock"].reference, "/use/functions/releaseStock");
}

#[test]
fn forms_of_values_are_told_apart() {
    let text = r#"
document: { dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }
do:
  - a/b~c: { set: { whole: '${ .a }', text: 'Hello ${ .name }, ${HOME}', list: [ 1, '${ .x }' ] } }
  - choose:
      switch: [ { other: { then: a/b~c } }, { one: { when: .x == 1, then: exit } } ]
  - pause: { wait: { seconds: 0.5 } }
  - hear: { listen: { to: { any: [], until: '${ false }' } } }
  - each: { for: { in: .pets }, do: [] }
"#;
    let reading = read("t.yaml", text);
    assert_eq!(reading.diagnostics, []);
    let tasks = reading.definition.unwrap().tasks;
    assert_eq!(tasks[0].reference, "/do/0/a~1b~0c");
    let TaskKind::Set(Template::Map(entries)) = &tasks[0].kind else { panic!("{:?}", tasks[0].kind) };
    assert!(matches!(&entries[0].1, Template::Expression(s) if s.text == ".a" && s.at.line == 4));
    assert!(matches!(&entries[1].1, Template::Text(segments) if segments.len() == 3));
    assert!(matches!(&entries[2].1, Template::List(items) if matches!(items[0], Template::Literal(_))));
    let TaskKind::Switch(cases) = &tasks[1].kind else { panic!("{:?}", tasks[1].kind) };
    assert_eq!((cases[0].name.as_str(), cases[1].name.as_str()), ("one", "other"));
    assert!(cases[1].when.is_none());
    assert_eq!(cases[1].then, Then::Task("a/b~c".to_owned()));
    let TaskKind::Wait(DurationSource::Fixed(wait)) = &tasks[2].kind else { panic!("{:?}", tasks[2].kind) };
    assert_eq!(wait.millis, 500);
    let TaskKind::Listen(listen) = &tasks[3].kind else { panic!("{:?}", tasks[3].kind) };
    assert!(matches!(&listen.to, Consumption::Any { filters, until: Some(_) } if filters.is_empty()));
    let TaskKind::For(each) = &tasks[4].kind else { panic!("{:?}", tasks[4].kind) };
    assert_eq!((each.each.as_str(), each.at.as_str()), ("item", "index"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Cut, doubled and overwritten texts give diagnostics or a definition, never a panic.
    #[test]
    fn broken_texts_never_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n]{0,6}"), 1..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let documents = documents();
        let mut text: Vec<char> = which.get(&documents).1.chars().collect();
        for (place, length, with) in edits {
            let from = place.index(text.len() + 1);
            let to = (from + length).min(text.len());
            text.splice(from..to, with.chars());
        }
        if truncate {
            text.truncate(cut.index(text.len() + 1));
        }
        let text: String = text.into_iter().collect();
        let reading = read("broken.yaml", &text);
        let ordered = reading.diagnostics.windows(2).all(|pair| pair[0].at <= pair[1].at);
        prop_assert!(ordered);
        prop_assert!(reading.definition.is_some() || reading.has_errors());
    }
}
