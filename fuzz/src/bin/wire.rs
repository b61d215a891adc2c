//! What participants and their hub say to each other: what is read is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pavane_bus::wire::{Answers, Definition, Errands, Hello, Moved, Publish, Published, Receive, Told, Welcome};
use pavane_core::engine::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn there_and_back<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_string(&read).expect("what was read can be written");
    let again: T = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).ok(), Some(written));
}

fuzz_target!(|data: &[u8]| {
    // The first byte says what it is to be.
    let Some((kind, data)) = data.split_first() else { return };
    match kind {
        b'a' => there_and_back::<Answers>(data),
        b'd' => there_and_back::<Definition>(data),
        b'e' => there_and_back::<Errands>(data),
        b'h' => there_and_back::<Hello>(data),
        b'm' => there_and_back::<Moved>(data),
        b'p' => there_and_back::<Publish>(data),
        b'q' => there_and_back::<Published>(data),
        b'r' => there_and_back::<Receive>(data),
        b't' => there_and_back::<Told>(data),
        b'w' => there_and_back::<Welcome>(data),
        _ => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            if let Ok(mut message) = Message::from_envelope(text) {
                message.write();
                let written = message.text().expect("what was read can be written").to_owned();
                let mut again: Message = serde_json::from_str(&written).expect("what was written can be read");
                again.write();
                assert_eq!(again.text(), Some(written.as_str()));
            }
        }
    }
});
