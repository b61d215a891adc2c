//! Reading a definition, compiling it for both modes and explaining it: whatever the document, it is told what is wrong.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use pavane_core::Value;
use pavane_core::definition;
use pavane_core::program::{Program, Resources};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let reading = definition::read("fuzz.yaml", text);
    for diagnostic in &reading.diagnostics {
        assert!(!diagnostic.to_string().is_empty());
    }
    assert!(reading.definition.is_some() || reading.has_errors(), "nothing was read, and nobody says why");
    let (false, Some(definition)) = (reading.has_errors(), reading.definition) else { return };
    let resources: Resources =
        Program::resources_of(&definition).into_iter().map(|uri| (uri, Value::empty_object())).collect();
    let Ok(program) = Program::compile(&definition, &resources) else { return };
    let hosts: BTreeSet<String> = program.hosts().into_iter().collect();
    assert_eq!(
        Program::compile(&definition, &resources).map(|p| p.digest().to_owned()).ok().as_deref(),
        Some(program.digest())
    );
    if let Ok(located) = Program::choreograph(&definition, &resources, &hosts) {
        let _ = located.explain();
    }
});
