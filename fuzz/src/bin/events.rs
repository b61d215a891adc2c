//! CloudEvents of an HTTP request: what is taken has what every event must have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pavane_core::event;
use pavane_fuzz::{head_and_body, header};

fuzz_target!(|data: &[u8]| {
    let (head, body) = head_and_body(data);
    let mut headers = http::HeaderMap::new();
    for (name, value) in head.into_iter().filter_map(header) {
        if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name), http::HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let texts = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let texts: Vec<(&str, &str)> = texts.collect();
    match event::read(texts.iter().copied(), body) {
        Ok(events) => {
            for event in events {
                assert!(!event.id().is_empty() && !event.source().is_empty() && !event.type_().is_empty());
                let again = pavane_core::Value::parse(event.envelope().to_json().as_bytes());
                assert_eq!(again.as_ref().ok(), Some(event.envelope()), "what is written is what was read");
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
});
