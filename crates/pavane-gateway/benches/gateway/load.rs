//! The load: each connection sends a request, reads its answer, and sends the next. As little work as can be, so that
//! the cores are left to whoever is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Options;

/// Longest time that is told apart, in microseconds.
const LONGEST: u64 = 60_000_000;

/// The order that is placed.
const ORDER: &str = r#"{"orderId":"o-00000017","items":[{"sku":"lute","quantity":1,"price":1900},{"sku":"strings","quantity":6,"price":12}],"total":1972,"address":{"name":"Ada Lovelace","street":"Rue de la Danse 4","city":"Padova","country":"IT"},"email":"ada@example.com"}"#;

/// What is asked for, and for how long.
pub struct Plan {
    pub seconds: f64,
    pub warm: f64,
    pub connections: usize,
    pub path: String,
    /// Set for orders, which are posted: more headers of the request, each with its line end.
    pub order: Option<&'static str>,
}

impl Plan {
    pub fn of(options: &Options) -> Plan {
        Plan {
            seconds: options.number("--seconds", 1.0),
            warm: options.number("--warm", 0.0),
            connections: options.whole("--connections", 1),
            path: options.text("--path").unwrap_or("/").to_owned(),
            order: options.text("--order").map(|headers| &*headers.to_owned().leak()),
        }
    }

    pub fn arguments(&self) -> Vec<String> {
        let mut arguments =
            vec!["--seconds".to_owned(), self.seconds.to_string(), "--warm".to_owned(), self.warm.to_string()];
        arguments.extend([
            "--connections".to_owned(),
            self.connections.to_string(),
            "--path".to_owned(),
            self.path.clone(),
        ]);
        arguments.extend(self.order.into_iter().flat_map(|headers| ["--order".to_owned(), headers.to_owned()]));
        arguments
    }

    /// The request as it is sent: what a client sends beside what is needed.
    fn request(&self) -> Vec<u8> {
        let common = "host: shop.example\r\nuser-agent: bench/1.0\r\naccept: */*\r\naccept-encoding: gzip, br\r\n";
        match self.order {
            None => format!("GET {} HTTP/1.1\r\n{common}\r\n", self.path),
            Some(headers) => format!(
                "POST {} HTTP/1.1\r\n{common}{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{ORDER}",
                self.path,
                ORDER.len()
            ),
        }
        .into_bytes()
    }
}

/// Runs the load; says `counting` when the warm-up is over, and gives what it counted.
pub async fn run(plan: Plan, to: SocketAddr) -> serde_json::Value {
    let request: &'static [u8] = plan.request().leak();
    let (counting, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..plan.connections).map(|_| tokio::spawn(client(to, request, counting.clone(), ended.clone()))).collect();
    tokio::time::sleep(Duration::from_secs_f64(plan.warm)).await;
    println!("counting");
    counting.store(true, Ordering::Relaxed);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(plan.seconds)).await;
    ended.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let mut times = Histogram::<u64>::new_with_max(LONGEST, 3).expect("a histogram");
    for client in clients {
        times.add(client.await.expect("a client")).expect("of the same kind");
    }
    json!({
        "requests": times.len(),
        "seconds": seconds,
        "p50": times.value_at_quantile(0.5),
        "p99": times.value_at_quantile(0.99),
    })
}

/// One connection. Gives the times of its requests in microseconds.
async fn client(
    to: SocketAddr,
    request: &'static [u8],
    counting: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
) -> Histogram<u64> {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let mut times = Histogram::new_with_max(LONGEST, 3).expect("a histogram");
    let mut buffer = vec![0; 16 << 10];
    while !ended.load(Ordering::Relaxed) {
        let began = Instant::now();
        stream.write_all(request).await.expect("it is sent");
        let mut filled = 0;
        let mut whole = None;
        while whole.is_none_or(|whole| filled < whole) {
            let count = stream.read(buffer.get_mut(filled..).expect("room")).await.expect("an answer");
            assert!(count > 0, "the connection was closed");
            filled += count;
            whole = whole.or_else(|| length(buffer.get(..filled).expect("what was read")));
        }
        if counting.load(Ordering::Relaxed) {
            times.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    times
}

/// Bytes of head and body, once the head is there. An answer that is not 200 ends the bench.
fn length(read: &[u8]) -> Option<usize> {
    let head = read.windows(4).position(|end| end == b"\r\n\r\n")?;
    let text = std::str::from_utf8(read.get(..head)?).expect("a head");
    assert!(text.starts_with("HTTP/1.1 200 "), "{}", String::from_utf8_lossy(read));
    let name = "content-length: ";
    let line = text.lines().find(|line| line.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name)));
    let body: usize = line.expect("its length").get(name.len()..).expect("a length").trim().parse().expect("a number");
    Some(head + 4 + body)
}
