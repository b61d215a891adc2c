//! `pavane serve` and `pavane dev`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::{Done, Failure, OK};
use crate::config::Config;
use crate::gateway::take_up_changes;
use crate::server::{Running, Storage};

/// How often `dev` looks for changed files.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration.
    #[arg(short, long, default_value = "pavane.yaml")]
    config: PathBuf,
    /// Roles to take; this version serves them all in one process.
    #[arg(long)]
    role: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Folder with workflows and perhaps a pavane.yaml.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

impl Serve {
    pub async fn run(self) -> Done {
        if let Some(role) = self.role.filter(|role| role != "engine") {
            return Err(Failure::wrong(format!(
                "--role {role}: this version of Pavane serves everything in one process"
            )));
        }
        let config = Config::read(&self.config).map_err(Failure::all)?;
        let running =
            Running::open(config, Storage::Configured, Vec::new(), BTreeMap::new()).await.map_err(Failure::all)?;
        let address = running.serve().await.map_err(Failure::failed)?;
        let deployed = match running.engine.definitions().len() {
            1 => "1 workflow".to_owned(),
            many => format!("{many} workflows"),
        };
        println!("pavane serves at http://{address} ({deployed} deployed)");
        serve_gateway(&running, self.config).await?;
        running.until_stopped().await.map_err(Failure::failed)?;
        Ok(OK)
    }
}

/// Serves the gateway, if there is one, says where, and has it follow its file.
async fn serve_gateway(running: &Running, file: PathBuf) -> Result<(), Failure> {
    let address = running.serve_gateway().await.map_err(Failure::failed)?;
    if let (Some(address), Some(gateway)) = (address, running.gateway()) {
        println!("its gateway serves at http://{address}");
        tokio::spawn(take_up_changes(gateway.clone(), file));
    }
    Ok(())
}

impl Dev {
    pub async fn run(self) -> Done {
        let settings = self.folder.join("pavane.yaml");
        let mut config =
            if settings.is_file() { Config::read(&settings).map_err(Failure::all)? } else { Config::default() };
        let kept = self.folder.join(".pavane");
        std::fs::create_dir_all(&kept).map_err(|e| Failure::wrong(format!("{}: {e}", kept.display())))?;
        config.store.sqlite.path = kept.join("dev.db");
        config.workflows.clear();
        let running =
            Running::open(config, Storage::Configured, Vec::new(), BTreeMap::new()).await.map_err(Failure::all)?;
        let address = running.serve().await.map_err(Failure::failed)?;
        println!(
            "pavane serves {} at http://{address}; changes are taken up when they are saved",
            self.folder.display()
        );
        let mut seen = BTreeMap::new();
        // Routes name workflows: those are taken up first.
        self.take_up(&running, &mut seen).await;
        serve_gateway(&running, settings).await?;
        let watch = async {
            loop {
                self.take_up(&running, &mut seen).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = watch => {}
            stopped = running.until_stopped() => stopped.map_err(Failure::failed)?,
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
                Err(problems) => eprintln!("{}", problems.trim_end()),
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
