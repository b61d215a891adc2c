//! Answers compressed for clients that take it: gzip, as it streams.
//!
//! Routes say so one by one: where an answer holds a secret beside what a client may choose, its length tells about the
//! secret (BREACH).

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};

use super::{Filter, Later, Next};
use crate::body::{Body, BoxError};
use crate::exchange::Exchange;
use crate::table::Route;

/// Smaller answers are not worth it: they fit into one packet as they are.
const LEAST: u64 = 1_024;

/// Media types that become smaller.
const WORTH_IT: [&str; 7] = [
    "application/json",
    "application/problem+json",
    "application/javascript",
    "application/xml",
    "image/svg+xml",
    "application/yaml",
    "application/x-ndjson",
];

/// Compression.
pub(super) struct Compress;

impl Filter for Compress {
    fn applies(&self, route: &Route) -> bool {
        route.compress
    }

    fn call(&self, exchange: Box<Exchange>, next: Next) -> Later<'_> {
        Box::pin(async move {
            let takes = takes_gzip(exchange.request.headers());
            let mut answer = next.run(exchange).await;
            if !worth_it(answer.status(), answer.headers())
                || answer.body().size_hint().upper().is_some_and(|most| most < LEAST)
            {
                return answer;
            }
            // True of the answer that is not compressed, too.
            answer.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
            if !takes {
                return answer;
            }
            let (mut parts, body) = answer.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            parts.headers.remove(header::ACCEPT_RANGES);
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            weaken(&mut parts.headers);
            let encoder = GzEncoder::new(Vec::new(), Compression::fast());
            http::Response::from_parts(parts, Body::new(Gzip { inner: body, encoder: Some(encoder) }))
        })
    }
}

/// Whether a client takes gzip: by name, or as one of all.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    for item in values.flat_map(|v| v.split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|p| p.strip_prefix("q=")).map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
        if name.eq_ignore_ascii_case("gzip") {
            return quality > 0.0;
        }
        any |= name == "*" && quality > 0.0;
    }
    any
}

fn worth_it(status: StatusCode, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Events must come one by one.
    let kind = kind != "text/event-stream" && (kind.starts_with("text/") || WORTH_IT.contains(&kind.as_str()));
    let as_it_stands =
        headers.get_all(header::CACHE_CONTROL).iter().any(|v| v.to_str().is_ok_and(|v| v.contains("no-transform")));
    kind && !as_it_stands
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE)
        && !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The compressed answer is another one: its tag says "the same in meaning".
fn weaken(headers: &mut HeaderMap) {
    let tag = headers.get(header::ETAG).and_then(|v| v.to_str().ok()).filter(|tag| tag.starts_with('"'));
    if let Some(weak) = tag.and_then(|tag| HeaderValue::try_from(format!("W/{tag}")).ok()) {
        headers.insert(header::ETAG, weak);
    }
}

/// A body that is compressed piece by piece.
struct Gzip {
    inner: Body,
    /// None at the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
            let data = match frame.transpose() {
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(frame) => frame.map(Frame::into_data),
            };
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(None) };
            let bytes = match data {
                Some(Ok(data)) => {
                    // Flushed, so that what was sent is there, and not only what is convenient.
                    encoder.write_all(&data)?;
                    encoder.flush()?;
                    std::mem::take(encoder.get_mut())
                }
                // Trailers are about the bytes before.
                Some(Err(_)) => continue,
                None => self.encoder.take().map(GzEncoder::finish).transpose()?.unwrap_or_default(),
            };
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_gzip_or_not() {
        for (accept, takes) in [
            ("gzip", true),
            ("br, gzip;q=0.5", true),
            ("GZIP", true),
            ("*", true),
            ("*;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accept))]);
            assert_eq!(takes_gzip(&headers), takes, "{accept}");
        }
    }
}
