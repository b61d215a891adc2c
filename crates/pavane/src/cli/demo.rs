//! `pavane demo` and `pavane demo-services`.

use std::path::PathBuf;

use clap::Args;

use super::{Done, FAILED, Failure, ModesArgument, OK};
use crate::demo::services::{self, Behaviour, NAMES};
use crate::demo::{self, Settings};

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many orders.
    #[arg(long, default_value_t = 1_000)]
    orders: usize,
    /// Mode to run them in.
    #[arg(long, value_enum, default_value = "both")]
    mode: ModesArgument,
    /// How many at the same time; all of them by default.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Payments declined, in percent.
    #[arg(long, default_value_t = 5.0)]
    fail_rate: f64,
    /// Go on serving when done.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub async fn run(self) -> Done {
        if !(0.0..=100.0).contains(&self.fail_rate) || self.orders == 0 {
            return Err(Failure::wrong("give at least one order, and a --fail-rate between 0 and 100"));
        }
        let settings = Settings {
            orders: self.orders,
            in_flight: self.in_flight.unwrap_or(self.orders).max(1),
            declined: self.fail_rate,
            modes: self.mode.modes(),
            keep: self.keep,
        };
        let clean = demo::run(settings).await.map_err(Failure::failed)?;
        Ok(if clean { OK } else { FAILED })
    }
}

#[derive(Debug, Args)]
pub(crate) struct DemoServices {
    /// First of five ports; 0 for any free ones.
    #[arg(long, default_value_t = 9_001)]
    port: u16,
    /// Payments declined, in percent.
    #[arg(long, default_value_t = 5.0)]
    declined: f64,
    /// Payments that answer 503 at first, in percent.
    #[arg(long, default_value_t = 3.0)]
    unavailable: f64,
    /// Shipments that fail, in percent.
    #[arg(long, default_value_t = 1.0)]
    unshippable: f64,
    /// Answers lost after the work was done, in percent.
    #[arg(long, default_value_t = 0.0)]
    lost: f64,
    /// How long each call takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    latency: u64,
    /// Keep the books in this folder.
    #[arg(long)]
    ledger: Option<PathBuf>,
}

impl DemoServices {
    pub async fn run(self) -> Done {
        let behaviour = Behaviour {
            declined: self.declined,
            unavailable: self.unavailable,
            unshippable: self.unshippable,
            lost: self.lost,
            latency: self.latency,
            ..Behaviour::default()
        };
        let ports = std::array::from_fn(|i| if self.port == 0 { 0 } else { self.port.saturating_add(i as u16) });
        if let Some(folder) = &self.ledger {
            std::fs::create_dir_all(folder).map_err(|e| Failure::wrong(format!("{}: {e}", folder.display())))?;
        }
        let running = services::start(ports, &behaviour, self.ledger).await.map_err(Failure::failed)?;
        for (name, address) in NAMES.iter().zip(running.addresses) {
            println!("{name} http://{address}");
        }
        println!("ready");
        // Ends with the process.
        std::future::pending::<()>().await;
        Ok(OK)
    }
}
