//! What the tests of the binary share: a process and its output, and a server with a configuration of its own.
//!
//! Start reading at [`Process`]. A process ends with its value; nothing listens on a fixed address.

#![allow(dead_code, reason = "each test file uses the part it needs")]

pub mod stub;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pavane::client::{Answer, Server};
use serde_json::Value;
use tokio::sync::mpsc;

/// Far longer than anything a test waits for should take.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A running `pavane`.
pub struct Process {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    stderr: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `pavane` with arguments.
    pub fn start<A: AsRef<OsStr>>(arguments: &[A]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pavane"));
        command.args(arguments);
        Process::spawn(command)
    }

    /// Starts any command that becomes `pavane`.
    pub fn spawn(mut command: Command) -> Process {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (sender, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let stderr = Arc::new(Mutex::new(String::new()));
        let (mut source, sink) = (child.stderr.take().expect("its errors"), stderr.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Process { child, lines, stderr }
    }

    /// The next line of its output that contains a text.
    pub async fn line(&mut self, part: &str) -> String {
        let wanted = async {
            while let Some(line) = self.lines.recv().await {
                if line.contains(part) {
                    return Some(line);
                }
            }
            None
        };
        match tokio::time::timeout(PATIENCE, wanted).await {
            Ok(Some(line)) => line,
            _ => panic!("no line with `{part}`; its errors: {}", self.stderr()),
        }
    }

    /// What it wrote to its standard error up to now.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("`kill` is there").success());
    }

    /// Kills it with SIGKILL: it gets no chance to tidy up.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Waits until it has ended and its output is read to the end.
    pub async fn ended(&mut self) -> ExitStatus {
        let rest = async { while self.lines.recv().await.is_some() {} };
        assert!(tokio::time::timeout(PATIENCE, rest).await.is_ok(), "it does not end; its errors: {}", self.stderr());
        self.child.wait().expect("it ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server on a free port, with its store in a folder.
pub struct Served {
    pub process: Process,
    pub url: String,
    pub http: Server,
}

impl Served {
    /// Starts `pavane serve` with a configuration and waits until it serves.
    pub async fn start(config: &Path) -> Served {
        Served::of(Process::start(&[OsStr::new("serve"), OsStr::new("-c"), config.as_os_str()])).await
    }

    /// A server from a process that is starting.
    pub async fn of(process: Process) -> Served {
        Served::told(process).await.0
    }

    /// A server from a process that is starting, and the line that says where it is.
    pub async fn told(mut process: Process) -> (Served, String) {
        let line = process.line("http://").await;
        let url = line[line.find("http://").expect("it is there")..]
            .split([' ', ';'])
            .next()
            .map(|url| url.trim_end_matches(';').to_owned())
            .expect("an address");
        let http = Server::new(&url);
        (Served { process, url, http }, line)
    }

    /// Asks with a method, a path, headers and a body.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let method: Method = method.parse().expect("a method");
        self.http.ask(method, path, headers, body.into()).await.expect("an answer")
    }

    /// The body of a GET that succeeds.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, &[], "").await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        answer.body
    }

    /// Deploys a definition.
    pub async fn deploy(&self, text: &str) -> Answer {
        self.ask("POST", "/api/v1/workflows", &[("content-type", "application/yaml")], text.to_owned()).await
    }
}

/// Writes a configuration with a free port and a store of its own into a folder; `more` follows as it stands.
pub fn config(folder: &Path, more: &str) -> PathBuf {
    let file = folder.join("pavane.yaml");
    let text = format!("listen: {{ admin: '127.0.0.1:0' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n{more}\n");
    std::fs::write(&file, text).expect("the configuration is written");
    file
}

/// Runs `pavane` to its end, away from the threads that serve the test.
pub async fn pavane(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pavane"));
    command.args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it runs")
}

/// What a run wrote to its standard error.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a run wrote to its standard output, as JSON.
pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {} {}", String::from_utf8_lossy(&output.stdout), errors(output)))
}
