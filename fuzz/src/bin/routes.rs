//! The gateway's part of a configuration: whatever stands there, its faults are told with their place.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use pavane_gateway::settings::{GatewaySettings, RouteSettings};
use pavane_gateway::{Located, Setup};

#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    gateway: GatewaySettings,
    #[serde(default)]
    routes: Vec<Located<RouteSettings>>,
    #[serde(default)]
    services: BTreeMap<String, Vec<String>>,
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(mut file) = serde_saphyr::from_str::<File>(text) else { return };
    // They name files of the machine, which are no business of a fuzzer.
    file.gateway.tls = None;
    file.gateway.auth.jwt.clear();
    let setup = Setup { settings: file.gateway, routes: file.routes, services: file.services };
    if let Err(faults) = setup.check() {
        assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.message.is_empty()));
    }
});
