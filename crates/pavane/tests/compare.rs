//! `pavane compare`, end to end with the binary and few instances: that it runs, kills, recovers, audits and tells. Its
//! figures mean nothing here.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn both_modes_are_compared_and_a_killed_service_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let saga = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/order-fulfilment/order.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_pavane"))
        .args(["compare", "--rates", "10", "--duration", "1s", "--instances", "20", "--in-flight", "4"])
        .args(["--kill", "service", "--service-time", "1ms", "--report"])
        .arg(folder.path())
        .arg(saga)
        .output()
        .unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}{errors}");
    assert!(told.contains("audit: clean") && told.contains("favours"), "{told}");
    let report: Value = serde_json::from_slice(&std::fs::read(folder.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(report["correctness"]["correct"], true, "{report:#}");
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("When to choose which") && page.ends_with("</html>\n"), "{page}");
    for foreign in ["<script", "src=", "href=", "url(http", "@import"] {
        assert!(!page.contains(foreign), "the page needs nothing else, but has `{foreign}`");
    }
    for tag in ["svg", "table", "div", "tr", "td", "g"] {
        let (open, close) = (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
        assert!(open >= close && close > 0 || open == 0, "<{tag}>: {open} opened, {close} closed");
    }
    let modes = report["modes"].as_array().unwrap();
    assert_eq!([&modes[0]["mode"], &modes[1]["mode"]], ["orchestration", "choreography"]);
    for mode in modes {
        // The warm-up is dropped: of twenty that were due, about ten.
        assert!(mode["rates"][0]["latency_ms"]["count"].as_u64().unwrap() >= 5, "{mode:#}");
        let outage = &mode["outages"][0];
        assert_eq!((&outage["kill"], &outage["victim"]), (&"service".into(), &"orders".into()), "{outage:#}");
        assert!(outage["during"]["due"].as_u64().unwrap() > 0 && outage["restarted_s"].as_f64().unwrap() >= 2.0);
        assert_eq!(outage["during"]["failed_percent"], 0.0, "nothing is lost: {outage:#}");
    }
    // An order is no message orchestrated, and eight choreographed.
    let messages = |mode: usize| modes[mode]["throughput"]["costs"]["messages"].as_f64().unwrap();
    assert_eq!(messages(0), 0.0);
    assert!(messages(1) > 7.0, "{}", messages(1));
    let edits = report["coupling"]["edits"].as_array().unwrap();
    assert!(edits.iter().all(|edit| edit["orchestration"] == serde_json::json!(["engine"])), "{edits:?}");
    assert!(report["verdict"]["findings"].as_array().unwrap().len() >= 8, "{:#}", report["verdict"]);
}

#[test]
fn participants_are_compared_as_processes_and_go_with_their_service() {
    let saga = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/order-fulfilment/order.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_pavane"))
        .args(["compare", "--rates", "10", "--duration", "1s", "--instances", "20", "--in-flight", "4", "-o", "json"])
        .args(["--kill", "service", "--service-time", "1ms", "--participants", "processes"])
        .arg(saga)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["correctness"]["correct"], true, "{report:#}");
    let processes = |mode: usize| report["modes"][mode]["processes"].as_array().unwrap().len();
    assert_eq!((processes(0), processes(1)), (6, 11), "an engine and five services; and five participants");
    let costs = &report["modes"][1]["throughput"]["costs"];
    // What is counted is what all of them did.
    assert!(costs["messages"].as_f64().unwrap() > 7.0 && costs["commits"].as_f64().unwrap() > 5.0, "{costs:#}");
    let outage = &report["modes"][1]["outages"][0];
    assert!(outage["victim"] == "orders" && outage["during"]["failed_percent"] == 0.0, "{outage:#}");
}

#[test]
fn what_cannot_be_compared_is_told_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.yaml");
    std::fs::write(
        &file,
        "document: { dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }\n\
         do: [ a: { call: http, with: { method: get, endpoint: '${ .url }' } } ]\n",
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pavane")).arg("compare").arg(&file).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("it cannot be choreographed") && errors.contains("P101"), "{errors}");
}
