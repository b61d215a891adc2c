//! Which processes run for one mode: the services, a process each, and those of Pavane: a server that holds the engine and all
//! participants, or one with the engine, and each participant beside its service.
//!
//! Each mode has a layout of its own, with stores of its own, so that nothing one mode leaves behind is on the other's bill.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::client;
use super::service::Done;
use super::subject::{Answering, Subject};
use crate::demo::services::{Behaviour, Books};
use crate::measure::pool::Pool;
use crate::measure::process::{Process, Used};

/// Connections of the load to the engine: half of the 1,024 files that a process may have open on most systems. An
/// instance that finds none free waits for one; its time goes on.
const CONNECTIONS: usize = 512;

/// How long a process may take until it is ready: far longer than any should.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often somebody who waits for a process looks.
const LOOK: Duration = Duration::from_millis(20);

/// The command of a service's process.
const COMPARED: &str = "compare-service";

/// What the services are like.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    /// How long each call takes.
    pub time: Duration,
    /// Decides who is unlucky.
    pub seed: u64,
    /// Whether the demo's services refuse some orders.
    pub failures: bool,
}

/// Where the participants of a choreographed workflow run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Participants {
    /// In the engine's process.
    Here,
    /// Each in a process of its own, beside its service.
    Processes,
}

/// A process that can be started again at the same address.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name in the report.
    pub name: String,
    /// What starts it again.
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where a service tells what it did.
    control: Option<SocketAddr>,
    /// Whose participant it is.
    participant_of: Option<String>,
    /// What earlier processes at this place used.
    past: Used,
}

/// The processes of one mode.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The services, when they are ours.
    pub services: Vec<Member>,
    /// Pavane's processes; the first is where instances are started.
    pub pavane: Vec<Member>,
    /// The load's connections.
    pub client: Pool,
    /// Connections for those who look, which are not counted.
    pub admin: Pool,
    folder: PathBuf,
}

impl Layout {
    /// Starts services and server in a folder of their own, and deploys the workflow.
    ///
    /// # Errors
    /// What could not be started, with the end of its log.
    pub async fn open(
        subject: &Subject,
        services: &Services,
        participants: Participants,
        folder: &Path,
    ) -> Result<Layout, String> {
        let told = |e: std::io::Error| format!("{}: {e}", folder.display());
        std::fs::create_dir_all(folder.join("books")).map_err(told)?;
        let mut members = Vec::new();
        if subject.answering != Answering::Configured {
            for name in &subject.participants {
                let (member, addresses) = Member::start(name, service(subject, services, name, folder), folder).await?;
                members.push(Member { control: addresses.get(1).copied(), ..member });
            }
        }
        let config = folder.join("pavane.yaml");
        let mut settings = settings(subject, &members, participants);
        for (number, (_, text)) in subject.texts.iter().enumerate() {
            std::fs::write(folder.join(definition(number)), text).map_err(told)?;
        }
        let write = |settings: &Value| std::fs::write(&config, settings.to_string()).map_err(told);
        write(&settings)?;
        let arguments =
            ["serve", "--log", "error", "--config", &config.display().to_string()].map(str::to_owned).to_vec();
        let (server, addresses) = Member::start("engine", arguments, folder).await?;
        // Started again, it is where its clients know it to be.
        let gateway = *addresses.last().ok_or("the engine tells no address")?;
        let bus = addresses.get(1).unwrap_or(&gateway);
        settings["listen"] = json!({ "admin": server.address, "bus": bus, "gateway": gateway });
        write(&settings)?;
        let (client, admin) = (Pool::new(gateway, CONNECTIONS), Pool::new(server.address, 2));
        let mut pavane = vec![server];
        if participants == Participants::Processes {
            for service in &subject.participants {
                pavane.push(Member::participant(service, &config, folder).await?);
            }
        }
        Ok(Layout { services: members, pavane, client, admin, folder: folder.to_owned() })
    }

    /// What the record says of the last instance that faulted: more than the gateway tells its clients.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn last_fault(&self) -> Result<String, String> {
        let path = "/api/v1/instances?status=faulted&limit=1";
        let (_, body) = self.admin.send(self.admin.request(Method::GET, path, &[], &Value::Null)?).await?;
        let page: Value = serde_json::from_slice(&body).unwrap_or_default();
        let error = page.pointer("/instances/0/error").unwrap_or(&Value::Null);
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        Ok(format!("{} {} {}", error["status"], text("title"), text("detail")).trim_end().to_owned())
    }

    /// The numbers of Pavane's processes, added up.
    ///
    /// # Errors
    /// One does not answer.
    pub async fn numbers(&self) -> Result<BTreeMap<String, f64>, String> {
        let mut sums = BTreeMap::new();
        for member in &self.pavane {
            let pool = Pool::new(member.address, 1);
            let (_, text) = pool.send(pool.request(Method::GET, "/metrics", &[], &Value::Null)?).await?;
            for (name, number) in crate::measure::numbers(&String::from_utf8_lossy(&text)) {
                *sums.entry(name).or_insert(0.0) += number;
            }
        }
        Ok(sums)
    }

    /// What goes when the machine of a service does: the service, and the participant that runs beside it.
    pub fn beside(&mut self, service: &str) -> Vec<&mut Member> {
        let services = self.services.iter_mut().filter(|member| member.name == service);
        let participants = self.pavane.iter_mut().filter(|member| member.participant_of.as_deref() == Some(service));
        services.chain(participants).collect()
    }

    /// What each service did since it was last started.
    ///
    /// # Errors
    /// One does not answer.
    pub async fn done(&self) -> Result<Vec<Done>, String> {
        let mut done = Vec::new();
        for service in &self.services {
            done.push(serde_json::from_value(service.ask("/done").await?).map_err(|e| e.to_string())?);
        }
        Ok(done)
    }

    /// The books of the demo's services.
    ///
    /// # Errors
    /// One does not answer.
    pub async fn books(&self) -> Result<Vec<Books>, String> {
        let mut books = Vec::new();
        for service in &self.services {
            books.push(serde_json::from_value(service.ask("/books").await?).map_err(|e| e.to_string())?);
        }
        Ok(books)
    }

    /// Bytes of all files of the stores, logs of the databases included.
    pub fn stored(&self) -> u64 {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        let stores = entries.filter(|entry| entry.file_name().to_string_lossy().contains(".db"));
        stores.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
    }
}

impl Member {
    /// Starts a process; gives all addresses that it tells, too.
    async fn start(name: &str, arguments: Vec<String>, folder: &Path) -> Result<(Member, Vec<SocketAddr>), String> {
        let log = folder.join(format!("{name}.log"));
        let (process, addresses) = spawn(&arguments, &log).await?;
        let address = *addresses.first().ok_or_else(|| format!("{name} tells no address"))?;
        let member = Member {
            name: name.to_owned(),
            arguments,
            log,
            process: Some(process),
            address,
            control: None,
            participant_of: None,
            past: Used::default(),
        };
        Ok((member, addresses))
    }

    /// The participant of a service, attached.
    async fn participant(service: &str, config: &Path, folder: &Path) -> Result<Member, String> {
        let config = config.display().to_string();
        let arguments = ["serve", "--role", "participant", "--service", service, "--listen", "127.0.0.1:0"];
        let arguments = arguments.into_iter().chain(["--log", "error", "--config", &config]).map(str::to_owned);
        let (member, _) = Member::start(&format!("participant of {service}"), arguments.collect(), folder).await?;
        member.attached().await?;
        Ok(Member { participant_of: Some(service.to_owned()), ..member })
    }

    /// Waits until it is ready.
    async fn attached(&self) -> Result<(), String> {
        let (pool, until) = (Pool::new(self.address, 1), Instant::now() + PATIENCE);
        loop {
            let (status, body) = pool.send(pool.request(Method::GET, "/readyz", &[], &Value::Null)?).await?;
            if status.is_success() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{} is not attached: {}", self.name, String::from_utf8_lossy(&body)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let used = process.used();
        self.past.cpu += used.cpu;
        self.past.written += used.written;
        self.past.peak = self.past.peak.max(used.peak);
        process.kill()
    }

    /// Starts it again where it was; gives the moment it was ready.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<Instant, String> {
        let mut arguments = self.arguments.clone();
        for (option, place) in [("--port", self.address.port().to_string()), ("--listen", self.address.to_string())] {
            if let Some(at) = arguments.iter().position(|argument| argument == option)
                && let Some(given) = arguments.get_mut(at + 1)
            {
                *given = place;
            }
        }
        let (process, addresses) = spawn(&arguments, &self.log).await?;
        self.process = Some(process);
        self.control = self.control.and(addresses.get(1).copied());
        if self.participant_of.is_some() {
            self.attached().await?;
        }
        Ok(Instant::now())
    }

    /// What it used, and the processes before it at this place.
    pub fn used(&self) -> Used {
        let now = self.process.as_ref().map(Process::used).unwrap_or_default();
        Used {
            cpu: now.cpu + self.past.cpu,
            rss: now.rss,
            peak: now.peak.max(self.past.peak),
            written: now.written + self.past.written,
        }
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        let control = self.control.ok_or_else(|| format!("{} is no service", self.name))?;
        let control = Pool::new(control, 1);
        let (_, body) = control.send(control.request(Method::GET, path, &[], &Value::Null)?).await?;
        serde_json::from_slice(&body).map_err(|e| format!("{}: {e}", self.name))
    }
}

/// Starts this binary with other arguments and reads the addresses it prints.
async fn spawn(arguments: &[String], log: &Path) -> Result<(Process, Vec<SocketAddr>), String> {
    let own = std::env::current_exe().map_err(|e| format!("this binary cannot be found: {e}"))?;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
    let file = file.map_err(|e| format!("{}: {e}", log.display()))?;
    let mut command = Command::new(own);
    command.args(arguments).stdin(Stdio::null()).stderr(file);
    let (mut found, gateway) =
        (Vec::new(), arguments.iter().all(|argument| argument != "--role" && argument != COMPARED));
    let addresses = move |line: &str| {
        let words = line.split([' ', ';']).map(|word| word.strip_prefix("http://").unwrap_or(word));
        found.extend(words.filter_map(|word| word.parse::<SocketAddr>().ok()));
        // An engine tells its gateway's address last, in a line of its own.
        (!found.is_empty() && (!gateway || line.contains("gateway"))).then(|| found.clone())
    };
    let started = tokio::task::spawn_blocking(move || Process::start(command, addresses));
    let started = tokio::time::timeout(PATIENCE, started).await;
    let started = started.map_err(|_| format!("it was not ready within {} s", PATIENCE.as_secs()));
    let started = started.and_then(|joined| joined.map_err(|e| e.to_string())).and_then(|started| started);
    started.map_err(|why| {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        let last: String = last.into_iter().rev().map(|line| format!("\n  {line}")).collect();
        format!("{why}{last}")
    })
}

/// The file of a definition, by its number.
fn definition(number: usize) -> String {
    format!("definition-{number}.yaml")
}

/// The arguments of a service's process.
fn service(subject: &Subject, services: &Services, name: &str, folder: &Path) -> Vec<String> {
    let mut arguments = [COMPARED, "--name", name, "--port", "0"].map(str::to_owned).to_vec();
    arguments.extend(["--time".to_owned(), format!("{}ms", services.time.as_millis())]);
    if subject.answering == Answering::Demo {
        let Behaviour { declined, unshippable, .. } = Behaviour::default();
        let (declined, unshippable) = if services.failures { (declined, unshippable) } else { (0.0, 0.0) };
        arguments.extend(["--books".to_owned(), folder.join("books").display().to_string()]);
        arguments.extend(["--seed".to_owned(), services.seed.to_string()]);
        arguments.extend(["--declined".to_owned(), declined.to_string()]);
        arguments.extend(["--unshippable".to_owned(), unshippable.to_string()]);
    }
    arguments
}

/// The configuration of the server: the user's with another listener and store, or one that names our services.
fn settings(subject: &Subject, services: &[Member], participants: Participants) -> Value {
    let mut settings = match &subject.config {
        Some((config, folder)) => absolute(config.clone(), folder),
        None => {
            let services = services.iter().map(|service| {
                let url = format!("http://{}", service.address);
                (service.name.clone(), json!({ "url": url, "idempotency": "key" }))
            });
            json!({ "services": services.collect::<BTreeMap<_, _>>() })
        }
    };
    settings["listen"] = json!({ "admin": "127.0.0.1:0", "bus": "127.0.0.1:0", "gateway": "127.0.0.1:0" });
    settings["bus"] = json!({});
    // On the loopback address, for this process alone.
    settings["admin"] = json!({});
    for service in settings["services"].as_object_mut().into_iter().flat_map(|services| services.values_mut()) {
        service["participant"] = match participants {
            Participants::Here => json!("here"),
            Participants::Processes => json!("remote"),
        };
    }
    settings["store"] = json!({ "sqlite": { "path": "pavane.db" } });
    settings["workflows"] = (0..subject.texts.len()).map(definition).collect();
    for (key, value) in client::routes(&subject.identity) {
        settings[key] = value;
    }
    settings
}

/// A configuration whose paths hold wherever it is read.
fn absolute(mut config: Value, folder: &Path) -> Value {
    let move_to = |path: &mut Value| {
        if let Some(text) = path.as_str() {
            *path = json!(folder.join(text).display().to_string());
        }
    };
    if let Some(ca) = config.pointer_mut("/http/ca") {
        move_to(ca);
    }
    for secret in config.get_mut("secrets").and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut())
    {
        if let Some(file) = secret.get_mut("file") {
            move_to(file);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_configuration_hold_elsewhere() {
        let config =
            json!({ "http": { "ca": "ca.pem" }, "secrets": { "a": { "file": "a.txt" }, "b": { "env": "B" } } });
        let moved = absolute(config, Path::new("/etc/shop"));
        assert_eq!(moved["http"]["ca"], "/etc/shop/ca.pem");
        assert_eq!(moved["secrets"]["a"]["file"], "/etc/shop/a.txt");
        assert_eq!(moved["secrets"]["b"], json!({ "env": "B" }));
    }
}
