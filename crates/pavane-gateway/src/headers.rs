//! Headers between client and service: what ends at a hop, what the gateway adds, and what nobody may smuggle in.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pavane_core::units::Block;

use crate::upstream::balance;

/// Headers that are about one connection (RFC 9110, section 7.6.1, and what older software sends).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const OLD_HOP_BY_HOP: [&str; 2] = ["keep-alive", "proxy-connection"];

/// What a proxy says about the client; believed of trusted ones only.
const FORWARDED: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-real-ip",
    "x-forwarded-prefix",
];

/// The name under which a request is known in logs on both sides.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a trusted proxy.
const MAX_REQUEST_ID: usize = 128;

/// Removes what is about the connection it came by. `TE: trailers` is what gRPC needs and harms nobody.
pub(crate) fn end_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let trailers = tokens(headers, header::TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    named.iter().chain(&HOP_BY_HOP).for_each(|name| drop(headers.remove(name)));
    OLD_HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(*name)));
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// Whether a request asks to go on as a WebSocket. Other upgrades end at the gateway: `h2c` above all would let a
/// client speak past it.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    tokens(headers, header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"))
        && headers.get_all(header::UPGRADE).iter().count() == 1
        && headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Removes what only the gateway may say: names of its own, and names with underscores, which some services cannot tell
/// from those with hyphens.
pub(crate) fn remove_reserved(headers: &mut HeaderMap) {
    let reserved = |name: &HeaderName| name.as_str().starts_with("pavane-") || name.as_str().contains('_');
    let names: Vec<HeaderName> = headers.keys().filter(|name| reserved(name)).cloned().collect();
    names.iter().for_each(|name| drop(headers.remove(name)));
}

/// The client's address: the peer's, or what trusted proxies say, asked from the nearest on.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Block]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.iter().any(|block| block.contains(client)) {
        return client;
    }
    let hops: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    for hop in hops.into_iter().rev() {
        if !trusted.iter().any(|block| block.contains(client)) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break,
        }
    }
    client
}

/// What is known about the way a request came.
pub(crate) struct Came<'a> {
    pub peer: IpAddr,
    pub host: &'a str,
    pub tls: bool,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
}

/// Tells the service where the request came from, in both spellings.
pub(crate) fn forward(headers: &mut HeaderMap, came: &Came<'_>) {
    if !came.trusted {
        FORWARDED.iter().for_each(|name| drop(headers.remove(*name)));
    }
    let proto = if came.tls { "https" } else { "http" };
    let peer = came.peer.to_canonical();
    append(headers, "x-forwarded-for", &peer.to_string());
    // What the first proxy saw is what the client asked for.
    for (name, value) in [("x-forwarded-host", came.host), ("x-forwarded-proto", proto)] {
        if !headers.contains_key(name)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let node = if peer.is_ipv6() { format!("\"[{peer}]\"") } else { peer.to_string() };
    append(headers, "forwarded", &format!("for={node};host=\"{}\";proto={proto}", came.host));
}

fn append(headers: &mut HeaderMap, name: &'static str, value: &str) {
    let before: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    let whole = if before.is_empty() { value.to_owned() } else { format!("{}, {value}", before.join(", ")) };
    if let Ok(whole) = HeaderValue::from_str(&whole) {
        headers.insert(HeaderName::from_static(name), whole);
    }
}

/// The request's id: that of a trusted proxy, or a new one.
pub(crate) fn request_id(headers: &HeaderMap, trusted: bool) -> HeaderValue {
    let plain = |v: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&v.len())
            && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b))
    };
    headers.get(REQUEST_ID).filter(|_| trusted).filter(plain).cloned().unwrap_or_else(new_id)
}

/// A UUID of version 7. Nobody may rely on its being hard to guess, so that its chance need not come from the system at each
/// request: it follows from a number drawn once and a count.
fn new_id() -> HeaderValue {
    static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(2, Ordering::Relaxed);
    let mut chance = [0; 10];
    let numbers = [count, count + 1].map(|count| balance::mix(SEED.wrapping_add(count)).to_le_bytes());
    chance.iter_mut().zip(numbers.as_flattened()).for_each(|(byte, number)| *byte = *number);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or_default();
    let mut text = uuid::Uuid::encode_buffer();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &chance).into_uuid();
    HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)).unwrap_or(HeaderValue::from_static("-"))
}

/// Bytes of all names and values.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &[(&'static str, &str)]) -> HeaderMap {
        text.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn what_is_about_a_connection_ends_with_it() {
        for (before, after) in [
            (vec![("connection", "close, x-secret"), ("x-secret", "1"), ("x-open", "2")], vec![("x-open", "2")]),
            (vec![("te", "trailers, deflate")], vec![("te", "trailers")]),
            (vec![("te", "gzip")], vec![]),
            (vec![("upgrade", "h2c"), ("http2-settings", "AA"), ("connection", "upgrade, http2-settings")], vec![]),
            (vec![("transfer-encoding", "chunked"), ("keep-alive", "timeout=5")], vec![]),
            (
                vec![("proxy-authorization", "Basic eA=="), ("authorization", "Basic eQ==")],
                vec![("authorization", "Basic eQ==")],
            ),
        ] {
            let mut headers = map(&before);
            end_hop(&mut headers);
            assert_eq!(headers, map(&after), "{before:?}");
        }
    }

    #[test]
    fn only_a_websocket_goes_on() {
        for (headers, goes_on) in [
            (vec![("connection", "Upgrade"), ("upgrade", "WebSocket")], true),
            (vec![("connection", "keep-alive, upgrade"), ("upgrade", "websocket")], true),
            (vec![("connection", "upgrade"), ("upgrade", "h2c")], false),
            (vec![("connection", "upgrade"), ("upgrade", "websocket, h2c")], false),
            (vec![("upgrade", "websocket")], false),
        ] {
            assert_eq!(wants_websocket(&map(&headers)), goes_on, "{headers:?}");
        }
    }

    #[test]
    fn a_client_is_believed_only_through_trusted_proxies() {
        let trusted = [Block::parse("10.0.0.0/8").unwrap()];
        for (peer, said, client_is) in [
            ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
            ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("10.0.0.1", "6.6.6.6, nonsense, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            let headers = map(&[("x-forwarded-for", said)]);
            let found = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found.to_string(), client_is, "{peer} {said}");
        }
    }

    #[test]
    fn what_is_said_about_the_client_is_replaced_or_continued() {
        let said = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https"), ("x-real-ip", "6.6.6.6")];
        let came = |trusted| Came { peer: "10.0.0.1".parse().unwrap(), host: "a.example:80", tls: false, trusted };
        let mut headers = map(&said);
        forward(&mut headers, &came(false));
        assert_eq!(
            (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
            (&"10.0.0.1".parse().unwrap(), &"http".parse().unwrap())
        );
        assert!(!headers.contains_key("x-real-ip"));
        assert_eq!(headers["forwarded"], "for=10.0.0.1;host=\"a.example:80\";proto=http");
        let mut headers = map(&said);
        forward(&mut headers, &came(true));
        assert_eq!(
            (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
            (&"1.1.1.1, 10.0.0.1".parse().unwrap(), &"https".parse().unwrap())
        );
    }

    #[test]
    fn no_two_requests_have_one_id() {
        let ids: std::collections::HashSet<HeaderValue> = (0..10_000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            let id: uuid::Uuid = id.to_str().unwrap().parse().unwrap();
            assert_eq!(id.get_version_num(), 7);
        }
    }

    #[test]
    fn names_of_the_gateway_and_ambiguous_ones_are_removed() {
        let mut headers =
            map(&[("pavane-caller", "root"), ("x_forwarded_for", "1.1.1.1"), ("content_length", "0"), ("x-fine", "1")]);
        remove_reserved(&mut headers);
        assert_eq!(headers, map(&[("x-fine", "1")]));
    }
}
