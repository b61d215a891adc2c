//! Availability: orders come at a steady rate while each service, and the server, is killed and started again once a
//! minute. An order counts as answered when its client has its output within five seconds of when it was due.

use std::time::{Duration, Instant};

use pavane::measure::load;
use pavane_core::definition::Mode;

use super::Arguments;
use super::house::{House, Switches};
use super::order::{Client, PATIENCE};
use super::report::Table;

/// Orders offered in a second: far from what the server can do, so that a kill is what is measured.
const RATE: f64 = 20.0;

/// What is killed is started again after it was away so long, as by a supervisor.
const AWAY: Duration = Duration::from_millis(500);

/// Each member is killed once in so long.
const TURN: f64 = 60.0;

/// The goal, in percent.
const GOAL: f64 = 99.9;

/// Kills, restarts, and tells what clients saw.
pub async fn table(arguments: &Arguments, modes: &[Mode]) -> Result<Table, String> {
    let minutes = if arguments.quick { arguments.minutes.min(0.5) } else { arguments.minutes };
    let columns = ["minutes", "kills", "orders", "answered %", "late or not", "p50 ms", "p99 ms", "longest ms"];
    let mut table = Table::new("Availability: everything is killed once a minute", &columns);
    table.note(&format!("answered: within {} s of when it was due; goal {GOAL} %", PATIENCE.as_secs()));
    for mode in modes {
        let mut house = House::open(*mode, Switches::default()).await?;
        let client = Client::new(&house, 1_024).impatient();
        let count = (RATE * minutes * TURN) as u64;
        let placing = client.clone();
        let load =
            tokio::spawn(async move { load::open(RATE, count, move |n, due| placing.clone().place(n, due)).await });
        let kills = kill(&mut house, Instant::now() + Duration::from_secs_f64(minutes * TURN)).await?;
        let (ended, _) = load.await.map_err(|e| e.to_string())??;
        let unanswered = ended.iter().filter(|order| order.end.is_err()).count();
        let times = super::times(&ended)?;
        let wrong = house.audit(&client, &ended).await?;
        let share = 100.0 * (1.0 - unanswered as f64 / (ended.len() as f64).max(1.0));
        table.row(
            *mode,
            wrong,
            [
                minutes,
                kills as f64,
                ended.len() as f64,
                share,
                unanswered as f64,
                times.value_at_quantile(0.5) as f64 / 1e3,
                times.value_at_quantile(0.99) as f64 / 1e3,
                times.max() as f64 / 1e3,
            ],
        );
    }
    Ok(table)
}

/// Kills one member after the other, evenly over each minute, until a moment; gives how many. All run at the end.
async fn kill(house: &mut House, until: Instant) -> Result<u64, String> {
    let pause = Duration::from_secs_f64(TURN / house.members.len() as f64);
    let mut kills = 0;
    // The first comes when there is a load.
    let mut next = Instant::now() + pause / 2;
    for turn in 0.. {
        // The last one has time to come back while there is still a load.
        if next + pause / 2 > until {
            return Ok(kills);
        }
        tokio::time::sleep_until(next.into()).await;
        next += pause;
        let at = turn % house.members.len();
        let member = house.members.get_mut(at).ok_or("nobody to kill")?;
        member.kill()?;
        tokio::time::sleep(AWAY).await;
        member.restart().await?;
        kills += 1;
    }
    Ok(kills)
}
