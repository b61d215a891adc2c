//! Egress: where calls of workflows may go that name no configured service.
//!
//! An author, or data, may write any address into an endpoint: of the machine itself, of the network behind it, of a cloud's
//! metadata (server-side request forgery). What is judged is never the name but the address that is connected to: a name
//! is looked up once, and the connection is made to what was judged, so that a name which stands for something else a
//! moment later gains nothing. Redirects, OpenAPI documents and schemas come by here as calls do.
//!
//! What the operator has named is free: the URLs of services, by host and port, and where names are told to lead.

use std::collections::BTreeSet;
use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use pavane_core::units::Block;
use serde::Deserialize;

use crate::services::{Services, port};

/// `egress:` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressSettings {
    /// Whether addresses that are no public ones are refused.
    pub deny_private: bool,
    /// Blocks of them that may be called all the same.
    pub allow: Vec<Block>,
}

impl EgressSettings {
    /// Whether they say what they mean.
    ///
    /// # Errors
    /// What is wrong, with a remedy.
    pub fn check(&self) -> Result<(), String> {
        match self.allow.is_empty() || self.deny_private {
            true => Ok(()),
            false => {
                Err("egress.allow: without `deny_private: true` everything may be called: set that, too, or leave \
                          this out"
                    .into())
            }
        }
    }
}

/// Addresses that are not public, and what they are called (IANA's special-purpose registries, RFC 6890). A mapped IPv6
/// address is in the block of its IPv4 address.
const DENIED: [(&str, Block); 30] = [
    ("unspecified", v4([0, 0, 0, 0], 8)),
    ("private", v4([10, 0, 0, 0], 8)),
    ("carrier NAT", v4([100, 64, 0, 0], 10)),
    ("loopback", v4([127, 0, 0, 0], 8)),
    ("link-local", v4([169, 254, 0, 0], 16)),
    ("private", v4([172, 16, 0, 0], 12)),
    ("reserved", v4([192, 0, 0, 0], 24)),
    ("documentation", v4([192, 0, 2, 0], 24)),
    ("reserved", v4([192, 88, 99, 0], 24)),
    ("private", v4([192, 168, 0, 0], 16)),
    ("benchmarking", v4([198, 18, 0, 0], 15)),
    ("documentation", v4([198, 51, 100, 0], 24)),
    ("documentation", v4([203, 0, 113, 0], 24)),
    ("multicast", v4([224, 0, 0, 0], 4)),
    ("reserved", v4([240, 0, 0, 0], 4)),
    ("unspecified", v6([0, 0, 0, 0, 0, 0, 0, 0], 128)),
    ("loopback", v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    ("reserved", v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96)),
    ("local translation", v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)),
    ("reserved", v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64)),
    ("reserved", v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23)),
    ("documentation", v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32)),
    ("documentation", v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20)),
    ("reserved", v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16)),
    ("unique-local", v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)),
    ("link-local", v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    ("site-local", v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10)),
    ("multicast", v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
    ("reserved", v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2)),
    ("reserved", v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 2)),
];

const fn v4([a, b, c, d]: [u8; 4], bits: u32) -> Block {
    Block::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits)
}

const fn v6(segments: [u16; 8], bits: u32) -> Block {
    let [a, b, c, d, e, f, g, h] = segments;
    Block::new(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), bits)
}

/// The IPv4 address that a translator or a tunnel would make of an IPv6 address: what such an address reaches.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let pair = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // NAT64 (RFC 6052), and the addresses that were to be compatible (RFC 4291).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => Some(pair(high, low)),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => Some(pair(high, low)),
        _ => None,
    }
}

/// Where calls may go.
#[derive(Debug)]
pub(super) struct Egress {
    settings: EgressSettings,
    /// Host, in lower case, and port of what the operator has named.
    named: RwLock<BTreeSet<(String, u16)>>,
}

/// An address that is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is a {kind} address, and such are not called (`egress.deny_private`): make it a service of the \
     configuration, or add its block to `egress.allow`"
)]
pub(super) struct Denied {
    address: IpAddr,
    kind: &'static str,
}

impl Egress {
    pub fn new(settings: EgressSettings) -> Egress {
        Egress { settings, named: RwLock::default() }
    }

    /// From now on the operator has named these services.
    pub fn name(&self, services: &Services) {
        let named = services.iter().flat_map(|service| service.places()).collect();
        *self.named.write().unwrap_or_else(PoisonError::into_inner) = named;
    }

    /// Whether the operator has named where a URI leads, or does not care.
    pub fn is_named(&self, uri: &Uri) -> bool {
        let named = || {
            let place = (uri.host().unwrap_or_default().to_ascii_lowercase(), port(uri));
            self.named.read().unwrap_or_else(PoisonError::into_inner).contains(&place)
        };
        !self.settings.deny_private || named()
    }

    /// Judges a host that is an address as such.
    pub fn judge_literal(&self, host: &str) -> Result<(), Denied> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse().map_or(Ok(()), |address| self.judge(address))
    }

    /// Judges an address.
    pub fn judge(&self, address: IpAddr) -> Result<(), Denied> {
        let reached = [Some(address), embedded(address)];
        let reached = || reached.into_iter().flatten();
        let allowed = |address| self.settings.allow.iter().any(|block| block.contains(address));
        if !self.settings.deny_private || reached().any(allowed) {
            return Ok(());
        }
        let kind = |address| DENIED.iter().find(|(_, block)| block.contains(address)).map(|(kind, _)| *kind);
        match reached().find_map(kind) {
            Some(kind) => Err(Denied { address, kind }),
            None => Ok(()),
        }
    }
}

/// Looks names up, and leaves out what may not be called, if there is such.
#[derive(Clone, Debug)]
pub(super) struct Guarded<R> {
    resolver: R,
    egress: Option<Arc<Egress>>,
}

impl<R> Guarded<R> {
    pub fn new(resolver: R, egress: Option<Arc<Egress>>) -> Guarded<R> {
        Guarded { resolver, egress }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

/// A name being looked up.
type Resolving = Pin<Box<dyn Future<Output = Result<std::vec::IntoIter<SocketAddr>, BoxError>> + Send>>;

impl<R> tower_service::Service<Name> for Guarded<R>
where
    R: tower_service::Service<Name>,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send + 'static,
{
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Resolving;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.resolver.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Resolving {
        let (resolving, egress) = (self.resolver.call(name), self.egress.clone());
        Box::pin(async move {
            let (mut fine, mut denied) = (Vec::new(), None);
            for address in resolving.await.map_err(Into::into)? {
                match egress.as_ref().map_or(Ok(()), |egress| egress.judge(address.ip())) {
                    Ok(()) => fine.push(address),
                    Err(why) => denied = Some(why),
                }
            }
            match denied {
                Some(denied) if fine.is_empty() => Err(denied.into()),
                _ => Ok(fine.into_iter()),
            }
        })
    }
}

/// The refusal behind a failed request, if it is one.
pub(super) fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Denied> {
    match error.downcast_ref() {
        Some(denied) => Some(denied),
        None => error.source().and_then(refusal),
    }
}

#[cfg(test)]
mod tests {
    use tower_service::Service;

    use super::*;

    fn egress(allow: &[&str]) -> Egress {
        let allow = allow.iter().map(|block| Block::parse(block).unwrap()).collect();
        Egress::new(EgressSettings { deny_private: true, allow })
    }

    #[test]
    fn only_public_addresses_are_called() {
        let strict = egress(&[]);
        for (address, kind) in [
            ("127.0.0.1", Some("loopback")),
            ("127.255.255.254", Some("loopback")),
            ("0.0.0.0", Some("unspecified")),
            ("10.1.2.3", Some("private")),
            ("172.16.0.1", Some("private")),
            ("172.31.255.255", Some("private")),
            ("172.32.0.1", None),
            ("192.168.0.1", Some("private")),
            ("169.254.169.254", Some("link-local")),
            ("100.64.0.1", Some("carrier NAT")),
            ("100.128.0.1", None),
            ("192.0.2.7", Some("documentation")),
            ("198.51.100.7", Some("documentation")),
            ("203.0.113.7", Some("documentation")),
            ("198.19.0.1", Some("benchmarking")),
            ("224.0.0.1", Some("multicast")),
            ("255.255.255.255", Some("reserved")),
            ("93.184.216.34", None),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("::ffff:10.0.0.1", Some("private")),
            ("::ffff:93.184.216.34", None),
            ("::127.0.0.1", Some("loopback")),
            ("64:ff9b::10.0.0.1", Some("private")),
            ("64:ff9b::93.184.216.34", None),
            ("64:ff9b:1::1", Some("local translation")),
            ("2002:7f00:1::", Some("loopback")),
            ("2002:5db8:d822::1", None),
            ("2001::1", Some("reserved")),
            ("2001:db8::1", Some("documentation")),
            ("fc00::1", Some("unique-local")),
            ("fdff::1", Some("unique-local")),
            ("fe80::1", Some("link-local")),
            ("fec0::1", Some("site-local")),
            ("ff02::1", Some("multicast")),
            ("2606:2800:220:1:248:1893:25c8:1946", None),
        ] {
            let got = strict.judge(address.parse().unwrap()).err().map(|denied| denied.kind);
            assert_eq!(got, kind, "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_called_by_whatever_way_it_is_reached() {
        let egress = egress(&["10.1.0.0/16", "fd00::/8"]);
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("10.2.2.3", false),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::10.1.2.3", true),
            ("fd12::1", true),
            ("fc12::1", false),
        ] {
            assert_eq!(egress.judge(address.parse().unwrap()).is_ok(), allowed, "{address}");
        }
    }

    /// Answers each look-up with the next of its lists.
    struct Rebinding(Vec<Vec<SocketAddr>>);

    impl Service<Name> for Rebinding {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, std::io::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Name) -> Self::Future {
            std::future::ready(Ok(self.0.remove(0).into_iter()))
        }
    }

    #[tokio::test]
    async fn each_look_up_is_judged_and_what_is_judged_is_what_is_connected_to() {
        let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 80);
        let (public, inner) = (at("93.184.216.34"), at("127.0.0.1"));
        let answers = vec![vec![public], vec![inner, public], vec![inner], vec![]];
        let mut guarded = Guarded::new(Rebinding(answers), Some(Arc::new(egress(&[]))));
        let mut look_up = async || match guarded.call("rebinding.example".parse().unwrap()).await {
            Ok(addresses) => Ok(addresses.collect::<Vec<_>>()),
            Err(error) => Err(refusal(&*error).cloned()),
        };
        assert_eq!(look_up().await, Ok(vec![public]));
        assert_eq!(look_up().await, Ok(vec![public]), "what may not be called is left out");
        assert_eq!(look_up().await, Err(Some(Denied { address: inner.ip(), kind: "loopback" })));
        assert_eq!(look_up().await, Ok(vec![]), "a name for nothing is not refused by a rule");
    }
}
