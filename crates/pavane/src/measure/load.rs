//! Load: a closed loop keeps as many going as it is told, an open loop begins them at a fixed rate, whatever becomes of
//! those before. In the open loop a time begins when it was due, so that one that had to wait for its turn is not
//! forgiven (no coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Keeps `in_flight` of them going until `count` are done, numbered from 0; gives what each came to, and how long all took.
///
/// # Errors
/// The first that failed.
pub async fn closed<T, F, Fut>(in_flight: u64, count: u64, one: F) -> Result<(Vec<T>, Duration), String>
where
    T: Send + 'static,
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<T, String>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let workers: Vec<_> = (0..in_flight.min(count))
        .map(|_| {
            let (one, next) = (one.clone(), next.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok::<_, String>(done);
                    }
                    done.push(one(number).await?);
                }
            })
        })
        .collect();
    let mut done = Vec::new();
    for worker in workers {
        done.extend(worker.await.map_err(|e| e.to_string())??);
    }
    Ok((done, began.elapsed()))
}

/// Begins `count` of them at `rate` in a second, each with its number and the moment it is due; gives what each came to,
/// in their order, and how long all took.
///
/// # Errors
/// The first that failed.
pub async fn open<T, F, Fut>(rate: f64, count: u64, one: F) -> Result<(Vec<T>, Duration), String>
where
    T: Send + 'static,
    F: Fn(u64, Instant) -> Fut + Send,
    Fut: Future<Output = Result<T, String>> + Send + 'static,
{
    let began = Instant::now();
    let mut begun = Vec::new();
    for number in 0..count {
        let due = began + Duration::from_secs_f64(number as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        begun.push(tokio::spawn(one(number, due)));
    }
    let mut done = Vec::new();
    for one in begun {
        done.push(one.await.map_err(|e| e.to_string())??);
    }
    Ok((done, began.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_open_loop_does_not_wait_for_those_before() -> Result<(), String> {
        // Each takes ten times as long as the next is away: all the same they are due at the rate.
        let one = |number: u64, due: Instant| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok((number, due))
        };
        let (done, took) = open(200.0, 10, one).await?;
        let first = done.first().map(|(_, due)| *due).ok_or("none")?;
        let last = done.last().map(|(_, due)| *due).ok_or("none")?;
        assert_eq!(last - first, Duration::from_millis(45));
        assert!(took >= Duration::from_millis(95) && took < Duration::from_millis(450), "{took:?}");
        assert!(done.iter().map(|(number, _)| *number).eq(0..10));
        Ok(())
    }

    #[tokio::test]
    async fn the_closed_loop_stops_at_its_count() -> Result<(), String> {
        let (mut done, _) = closed(3, 10, |number| async move { Ok(number) }).await?;
        done.sort_unstable();
        assert!(done.into_iter().eq(0..10));
        let failed = closed(3, 10, |number| async move { if number == 4 { Err("no".to_owned()) } else { Ok(()) } });
        assert_eq!(failed.await.map(drop), Err("no".to_owned()));
        Ok(())
    }
}
