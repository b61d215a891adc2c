//! `pavane serve` and `pavane dev`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Done, Failure, OK};
use crate::config::Config;
use crate::log;
use crate::server::{Asked, Running};
use crate::stores::Storage;

/// Where a participant listens when nobody says where.
pub(super) const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// How often a server looks whether its configuration has changed.
const LOOK_AT_SETTINGS: Duration = Duration::from_secs(1);

/// How often `dev` looks for changed files.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration.
    #[arg(short, long, default_value = "pavane.yaml")]
    config: PathBuf,
    /// What this process is: everything, or the participant of one service.
    #[arg(long, value_enum, default_value_t = Role::Engine)]
    role: Role,
    /// The service whose participant it is.
    #[arg(long, required_if_eq("role", "participant"))]
    service: Option<String>,
    /// Where it listens, in place of `listen.admin`; a participant listens on a free port unless told otherwise.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Engine, bus, and the participants that are not in processes of their own.
    Engine,
    /// The participant of a service with `participant: remote`, attached to the bus of the engine's process.
    Participant,
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Folder with workflows and perhaps a pavane.yaml.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

impl Serve {
    pub async fn run(self) -> Done {
        let file = Followed::now(&self.config);
        let mut config = Config::read(&self.config).map_err(Failure::all)?;
        log::decide(config.log.format);
        match (self.role, self.service) {
            (Role::Participant, Some(service)) => {
                // Callbacks come to the engine's process, and the hub passes them on: that has one address, and this one
                // may have another at each start.
                config.callbacks.url = config.callback_url();
                config.listen.admin = self.listen.unwrap_or(ANY_PORT);
                participant(config, &service, file).await
            }
            (_, Some(_)) => Err(Failure::wrong("--service goes with --role participant")),
            (_, None) => {
                config.listen.admin = self.listen.unwrap_or(config.listen.admin);
                engine(config, file, self.listen).await
            }
        }
    }
}

async fn engine(config: Config, file: Followed<'_>, listen: Option<SocketAddr>) -> Done {
    let running =
        Running::open(config, Storage::Configured, Vec::new(), BTreeMap::new()).await.map_err(Failure::all)?;
    let addresses = running.serve().await.map_err(Failure::failed)?;
    let deployed = match running.engine.definitions().len() {
        1 => "1 workflow".to_owned(),
        many => format!("{many} workflows"),
    };
    let bus = addresses.bus.map(|bus| format!("; participants attach at http://{bus}")).unwrap_or_default();
    let (hung_up, asked) = (hung_up()?, Asked::hear().map_err(Failure::failed)?);
    println!("pavane serves at http://{} ({deployed} deployed){bus}", addresses.admin);
    serve_gateway(&running).await?;
    until_stopped(&running, file, listen, hung_up, asked).await
}

async fn participant(config: Config, service: &str, file: Followed<'_>) -> Done {
    let listen = Some(config.listen.admin);
    let running = Running::open_participant(config, service).await.map_err(Failure::all)?;
    let addresses = running.serve().await.map_err(Failure::failed)?;
    let (hung_up, asked) = (hung_up()?, Asked::hear().map_err(Failure::failed)?);
    println!(
        "pavane is the participant of {service} at http://{} (/readyz tells whether it is attached)",
        addresses.admin
    );
    until_stopped(&running, file, listen, hung_up, asked).await
}

/// A configuration that is followed.
struct Followed<'a> {
    file: &'a Path,
    /// When it had been changed before it was read: what was written since is taken up.
    seen: Option<SystemTime>,
}

impl Followed<'_> {
    /// To be called before the file is read.
    fn now(file: &Path) -> Followed<'_> {
        Followed { file, seen: changed(file) }
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// Told by SIGHUP, from now on.
fn hung_up() -> Result<Signal, Failure> {
    signal(SignalKind::hangup()).map_err(|e| Failure::failed(format!("SIGHUP cannot be heard: {e}")))
}

/// Reads the configuration again whenever its file has changed, and at each SIGHUP. `adapt` does what was done to it at the
/// start.
async fn follow(running: &Running, followed: Followed<'_>, adapt: impl Fn(&mut Config), mut hung_up: Signal) {
    let Followed { file, mut seen } = followed;
    let mut last = None;
    loop {
        let asked = tokio::select! {
            Some(()) = hung_up.recv() => true,
            () = tokio::time::sleep(LOOK_AT_SETTINGS) => false,
        };
        let now = changed(file);
        // One that is being written is left alone until it stands still.
        let stands = now == std::mem::replace(&mut last, now);
        if !asked && (now.is_none() || now == seen || !stands) {
            continue;
        }
        seen = now;
        match take_up(running, file, &adapt).await {
            Ok(told) => tell(&format!("{}: {told}", file.display())),
            Err(problems) => {
                complain(&problems);
                log::notice(&format!("{}: the server goes on as it was", file.display()));
            }
        }
    }
}

fn complain(problems: &[String]) {
    problems.iter().for_each(|problem| log::complain(problem));
}

/// Writes a line, if anybody still reads: whoever started the server may have closed its output since.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Reads the configuration again and takes up what can be; says so.
async fn take_up(running: &Running, file: &Path, adapt: impl Fn(&mut Config)) -> Result<String, Vec<String>> {
    let mut config = Config::read(file)?;
    adapt(&mut config);
    let bus = running.bus_address();
    let problems = running.reload(&config).await?;
    complain(&problems);
    let mut told = match problems.is_empty() {
        true => "services, workflows and routes are taken up".to_owned(),
        false => "services are taken up, and workflows and routes but for what was just told".to_owned(),
    };
    let keys = running.needs_restart(&config);
    if !keys.is_empty() {
        told.push_str(&format!("; {} at the next start only", keys.join(", ")));
    }
    if let Some(opened) = running.bus_address().filter(|_| bus.is_none()) {
        told.push_str(&format!("; participants attach at http://{opened}"));
    }
    Ok(told)
}

/// Serves until it is stopped, and follows its configuration. `listen` was given in place of `listen.admin`.
async fn until_stopped(
    running: &Running,
    file: Followed<'_>,
    listen: Option<SocketAddr>,
    hung_up: Signal,
    asked: Asked,
) -> Done {
    let adapt = |config: &mut Config| config.listen.admin = listen.unwrap_or(config.listen.admin);
    tokio::select! {
        stopped = running.until_stopped(asked) => stopped.map_err(Failure::failed)?,
        () = follow(running, file, adapt, hung_up) => {}
    }
    Ok(OK)
}

/// Serves the gateway, if there is one, and says where.
async fn serve_gateway(running: &Running) -> Result<(), Failure> {
    if let Some(address) = running.serve_gateway().await.map_err(Failure::failed)? {
        println!("its gateway serves at http://{address}");
    }
    Ok(())
}

impl Dev {
    pub async fn run(self) -> Done {
        let settings = self.folder.join("pavane.yaml");
        let followed = Followed::now(&settings);
        let mut config =
            if settings.is_file() { Config::read(&settings).map_err(Failure::all)? } else { Config::default() };
        let kept = self.folder.join(".pavane");
        std::fs::create_dir_all(&kept).map_err(|e| Failure::wrong(format!("{}: {e}", kept.display())))?;
        let adapt = |config: &mut Config| {
            config.store.sqlite.path = kept.join("dev.db");
            config.workflows.clear();
        };
        adapt(&mut config);
        log::decide(config.log.format);
        let (hung_up, asked) = (hung_up()?, Asked::hear().map_err(Failure::failed)?);
        let running =
            Running::open(config, Storage::Configured, Vec::new(), BTreeMap::new()).await.map_err(Failure::all)?;
        let address = running.serve().await.map_err(Failure::failed)?.admin;
        println!(
            "pavane serves {} at http://{address}; changes are taken up when they are saved",
            self.folder.display()
        );
        let mut seen = BTreeMap::new();
        // Routes name workflows: those are taken up first.
        self.take_up(&running, &mut seen).await;
        serve_gateway(&running).await?;
        let watch = async {
            loop {
                self.take_up(&running, &mut seen).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = watch => {}
            () = follow(&running, followed, adapt, hung_up) => {}
            stopped = running.until_stopped(asked) => stopped.map_err(Failure::failed)?,
        }
        Ok(OK)
    }

    /// Deploys what is new or changed. A definition that is wrong is told and left as it was.
    async fn take_up(&self, running: &Running, seen: &mut BTreeMap<PathBuf, SystemTime>) {
        for file in definitions(&self.folder).into_iter().chain(definitions(&self.folder.join("workflows"))) {
            let Ok(changed) = file.metadata().and_then(|m| m.modified()) else { continue };
            if seen.insert(file.clone(), changed) == Some(changed) {
                continue;
            }
            match running.deploy(&file, true).await {
                Ok(d) if d.created => {
                    println!("deployed {}/{} {} ({})", d.namespace, d.name, d.version, file.display())
                }
                Ok(_) => {}
                Err(problems) => log::notice(problems.trim_end()),
            }
        }
    }
}

/// Files of a folder that are definitions.
fn definitions(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"))
        .filter(|path| path.file_name().is_none_or(|name| name != "pavane.yaml"))
        .collect();
    files.sort();
    files
}
