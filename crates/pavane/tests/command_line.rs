//! The command line as scripts use it: exit codes, and what `-o json` prints.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::path::{Path, PathBuf};

use serde_json::json;
use support::{Process, Served, config, errors, pavane};

const HEAD: &str = "document: { dsl: '1.0.3', namespace: t, name: work, version: '1.0.0' }\n";

fn write(folder: &Path, name: &str, body: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, format!("{HEAD}{body}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_run_tells_its_end_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good.yaml", "do: [ { give: { set: { twice: '${ .n * 2 }' } } } ]");
    let bad = write(
        folder.path(),
        "bad.yaml",
        "do: [ { stop: { raise: { error: { type: 'https://example.com/full', status: 409, title: Full } } } } ]",
    );
    let wrong = write(folder.path(), "wrong.yaml", "do: [ { a: { sett: {} } } ]");
    let long = write(folder.path(), "long.yaml", "do: [ { rest: { wait: { hours: 1 } } } ]");
    let secret = write(
        folder.path(),
        "secret.yaml",
        "use: { secrets: [ key ] }\ndo: [ { give: { set: { is: '${ $secrets.key.part }' } } } ]",
    );
    let event =
        write(folder.path(), "event.yaml", "do: [ { hear: { listen: { to: { one: { with: { type: t.told } } } } } } ]");
    let told = r#"{"specversion":"1.0","id":"1","source":"s","type":"t.told","data":{"n":7}}"#;
    for (arguments, code, status, output) in [
        (vec![good.as_str(), "--input", r#"{"n":21}"#], 0, "completed", json!({ "twice": 42 })),
        (vec![&bad], 1, "faulted", json!(null)),
        (vec![&long, "--timeout", "100ms"], 3, "waiting", json!(null)),
        (vec![&secret, "--secret", r#"key={"part":"x"}"#], 0, "completed", json!({ "is": "x" })),
        (vec![&event, "--event", told], 0, "completed", json!([{ "n": 7 }])),
    ] {
        let run = pavane(&[&["run", "-o", "json"], arguments.as_slice()].concat()).await;
        assert_eq!(run.status.code(), Some(code), "{arguments:?}: {}", errors(&run));
        let result = support::json(&run);
        assert_eq!((&result["status"], &result["output"]), (&json!(status), &output), "{arguments:?}");
        assert!(result["id"].is_string() && result["compensation"]["status"].is_string(), "{result:#}");
        assert_eq!(result["error"].is_object(), status == "faulted", "{result:#}");
    }
    for arguments in
        [vec![wrong.as_str()], vec!["absent.yaml"], vec![&good, "--input", "{"], vec![&good, "--resolve", "x"]]
    {
        let run = pavane(&[&["run"], arguments.as_slice()].concat()).await;
        assert_eq!(run.status.code(), Some(2), "{arguments:?}");
        assert!(!errors(&run).is_empty());
    }
    // A file's name where its text belongs.
    let run = pavane(&["run", &good, "--input", &good]).await;
    assert!(errors(&run).contains(&format!("the file is meant by `@{good}`")), "{}", errors(&run));
}

#[tokio::test]
async fn every_example_of_the_standard_is_checked() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("PAVANE_CONFORMANCE_DIR") {
        Some(folder) => root.join(folder),
        None => root.join("../shared/conformance"),
    };
    let entries = std::fs::read_dir(folder.join("examples")).expect("set PAVANE_CONFORMANCE_DIR");
    let files: Vec<String> = entries.map(|e| e.unwrap().path().to_str().unwrap().to_owned()).collect();
    assert!(!files.is_empty());
    for file in files.iter().filter(|file| file.ends_with(".yaml")) {
        let check = pavane(&["check", "-o", "json", file]).await;
        let result = support::json(&check);
        // Some examples use what this version names as not built yet; whatever it finds, it says where and what.
        let clean = result["clean"].as_bool().unwrap();
        assert_eq!(check.status.code(), Some(if clean { 0 } else { 2 }), "{file}");
        for diagnostic in result["diagnostics"].as_array().unwrap() {
            assert!(diagnostic["line"].as_u64().is_some_and(|line| line > 0), "{file}: {diagnostic}");
            assert!(diagnostic["code"].as_str().is_some_and(|code| !code.is_empty()), "{file}: {diagnostic}");
        }
        assert_ne!(clean, result["diagnostics"].to_string().contains(r#""severity":"error""#), "{file}");
    }
}

#[tokio::test]
async fn commands_operate_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "")).await;
    let file = write(folder.path(), "work.yaml", "do: [ { rest: { wait: { hours: 1 } } } ]");
    let at = ["-o", "json", "--server", &served.url];
    let ask = async |arguments: &[&str]| pavane(&[arguments, &at].concat()).await;
    assert_eq!(ask(&["deploy", &file]).await.status.code(), Some(0));
    let started = support::json(&ask(&["start", "t/work"]).await);
    let id = started["id"].as_str().unwrap();
    assert_eq!(ask(&["start", "t/work", "--wait", "1s"]).await.status.code(), Some(3), "it waits for an hour");
    for (arguments, code) in [
        (vec!["start", "t/play"], 2),
        (vec!["start", "nonsense"], 2),
        (vec!["show", "nobody"], 1),
        (vec!["events", "nobody", "--follow"], 1),
        (vec!["suspend", id], 0),
        (vec!["resume", id], 0),
        (vec!["cancel", id], 0),
        (vec!["cancel", id], 1),
        (vec!["services"], 0),
        (vec!["emit", r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#], 0),
        (vec!["emit", "{}"], 1),
    ] {
        let done = ask(&arguments).await;
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", errors(&done));
    }
    let followed = ask(&["events", id, "--follow"]).await;
    assert!(String::from_utf8_lossy(&followed.stdout).contains("workflow.cancelled"), "{}", errors(&followed));
    assert_eq!(support::json(&ask(&["show", id]).await)["instance"]["status"], "cancelled");
    let listed = support::json(&ask(&["ps", "--status", "cancelled"]).await);
    assert_eq!(listed["instances"].as_array().map(Vec::len), Some(1), "{listed:#}");
    let nobody = pavane(&["ps", "--server", "http://127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(errors(&nobody).contains("pavane serve"), "{}", errors(&nobody));
}

#[tokio::test]
async fn dev_takes_up_changes_and_keeps_what_was_when_they_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    config(folder.path(), "");
    write(folder.path(), "work.yaml", "do: [ { give: { set: { n: 1 } } } ]");
    let mut served = Served::of(Process::start(&["dev", folder.path().to_str().unwrap()])).await;
    let path = "/api/v1/workflows/t/work/instances";
    let wait = [("prefer", "wait=20")];
    served.process.line("deployed t/work").await;
    assert_eq!(served.ask("POST", path, &wait, "{}").await.body["output"], json!({ "n": 1 }));
    write(folder.path(), "work.yaml", "do: [ { give: { sett: { n: 2 } } } ]");
    // A second definition is taken up after the broken one was looked at: its name follows in the order of the folder.
    std::fs::write(
        folder.path().join("zeta.yaml"),
        "document: { dsl: '1.0.3', namespace: t, name: zeta, version: '1.0.0' }\ndo: [ { a: { set: {} } } ]\n",
    )
    .unwrap();
    served.process.line("deployed t/zeta").await;
    assert_eq!(served.ask("POST", path, &wait, "{}").await.body["output"], json!({ "n": 1 }));
    write(folder.path(), "work.yaml", "do: [ { give: { set: { n: 3 } } } ]");
    served.process.line("deployed t/work").await;
    assert_eq!(served.ask("POST", path, &wait, "{}").await.body["output"], json!({ "n": 3 }));
}

#[tokio::test]
async fn check_and_explain_say_what_fits_which_mode() {
    let folder = tempfile::tempdir().unwrap();
    let fixed = write(
        folder.path(),
        "fixed.yaml",
        "do: [ { a: { call: http, with: { method: get, endpoint: 'http://stock/<&>' } } } ]",
    );
    let free = write(
        folder.path(),
        "free.yaml",
        "do: [ { a: { call: http, with: { method: get, endpoint: '${ .url }' } } } ]",
    );
    let endless =
        write(folder.path(), "endless.yaml", "do: [ { hear: { listen: { to: { one: { with: { type: t } } } } } } ]");
    let services = config(folder.path(), "services: { payment: { url: 'http://127.0.0.1:9' } }\n");
    let services = services.to_str().unwrap();
    for (arguments, code, part) in [
        (vec!["check", free.as_str()], 0, "1 of 1 clean"),
        (vec!["check", &free, "--mode", "orchestration"], 0, "1 of 1 clean"),
        (vec!["check", &free, "--mode", "both"], 2, "error[P101]"),
        (vec!["check", &fixed, "--mode", "choreography"], 0, "1 of 1 clean"),
        (vec!["check", &fixed, "--mode", "choreography", "--config", services], 2, "error[P102]"),
        (vec!["check", &fixed, "--mode", "ballet"], 2, ""),
        (vec!["check", &endless, "--mode", "both"], 0, "warning[W305]"),
        (vec!["check", &endless], 0, "1 of 1 clean; 0 errors, 1 warnings"),
        (vec!["explain", &fixed], 0, "1 call, 2 messages, 2 of them one after the other"),
        (vec!["explain", &fixed, "--format", "json"], 0, r#""messages": 2"#),
        (vec!["explain", &fixed, "--format", "mermaid"], 0, "p0 -->|\"a\"| p1"),
        (vec!["explain", &fixed, "--format", "json"], 0, r#""slices": ["#),
        (vec!["explain", &fixed], 0, "  2 stock    w   .    1    1"),
        (vec!["explain", &fixed], 0, "a fails          2     2      1       0  faulted"),
        (vec!["explain", &fixed], 0, "output of /do/a\n    stock (makes)"),
        (vec!["explain", &fixed, "--format", "svg"], 0, "</svg>"),
        (vec!["explain", &free], 2, ""),
        (vec!["explain", &fixed, "--config", services], 2, ""),
        (vec!["explain", "absent.yaml"], 2, ""),
    ] {
        let run = pavane(&arguments).await;
        assert_eq!(run.status.code(), Some(code), "{arguments:?}: {}", errors(&run));
        let output = String::from_utf8_lossy(&run.stdout);
        assert!(output.contains(part), "{arguments:?}: {output}");
        assert_eq!(errors(&run).is_empty(), code == 0 || arguments[0] == "check" && !part.is_empty(), "{arguments:?}");
    }
    let refused = errors(&pavane(&["run", &free, "--mode", "choreography"]).await);
    assert!(refused.contains("P101") && refused.contains("help:"), "{refused}");
}

#[tokio::test]
async fn dead_letters_are_listed_and_an_unknown_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "services: { payment: { url: 'http://127.0.0.1:9' } }\n")).await;
    let listed = pavane(&["redrive", "--server", &served.url]).await;
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "there are no dead letters");
    for id in ["payment:1", "nobody:1", "nonsense"] {
        let refused = pavane(&["redrive", id, "--server", &served.url]).await;
        assert_eq!(refused.status.code(), Some(2), "{id}");
        assert!(errors(&refused).contains(&format!("there is no dead letter {id}")), "{}", errors(&refused));
    }
}

#[tokio::test]
async fn a_bare_definition_with_a_schema_elsewhere_is_choreographed_over_the_hosts_it_names() {
    use std::io::{Read, Write};
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    // Ends with the process. Whatever is asked, it answers with a schema.
    std::thread::spawn(move || {
        for mut stream in server.incoming().map_while(Result::ok) {
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\nconnection: close\r\n\r\n{\"type\":\"object\"}";
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let schema = format!("input: {{ schema: {{ resource: {{ endpoint: 'http://{at}/schema' }} }} }}");
    let call = format!("do: [ {{ a: {{ call: http, with: {{ method: get, endpoint: 'http://{at}/a' }} }} }} ]");
    let file = write(folder.path(), "schema.yaml", &format!("{schema}\n{call}"));
    let run = pavane(&["run", &file, "--mode", "choreography", "--tasks", "-o", "json"]).await;
    let result = support::json(&run);
    assert_eq!(
        (&result["status"], &result["output"]),
        (&json!("completed"), &json!({ "type": "object" })),
        "{result:#}"
    );
    assert_eq!(result["tasks"][0]["service_name"], "127.0.0.1");
}
